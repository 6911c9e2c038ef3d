"""A small study that was simulated, with the signed papers of a run across hospitals around it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cohortium.governance.grant import Grant, Rows
from cohortium.governance.roster import HUB, make_roster
from cohortium.host.run import HostedRun
from cohortium.identity import Document, Identity
from cohortium.researcher.runs import RunCopy
from cohortium.runtime.codec import encode_log, model_parts
from cohortium.runtime.engine import RoundLog
from cohortium.runtime.result import Result
from cohortium.runtime.simulation import simulate
from cohortium.study.read import parse
from cohortium.transport.envelope import Frame, Head, seal
from cohortium.types import Params, PartyId, derive_rng

NOW = 1_800_000_000.0
ROWS = {"north": 30, "south": 40, "west": 20}
STUDY = """
[study]
name = "small"
purpose = "See a result come across a network."

[task]
kind = "binary-classification"
model = "linear"
optimizer = {kind = "sgd", lr = 0.1}

[plan]
rounds = 3
sites = ["north", "south", "west"]
evaluation_only = ["west"]
local = {epochs = 1}

[[acceptance.criteria]]
metric = "auroc"
at_least = 0.5
"""


@dataclass
class Rounds:
    """Collects what a simulation's rounds showed."""

    logs: list[RoundLog] = field(default_factory=list)

    def run_started(self, title: str, rounds: int) -> None: ...

    def round_closed(self, log: RoundLog) -> None:
        waited = dict.fromkeys(ROWS, log.seconds / 4)
        self.logs.append(replace(log, waited=waited))

    def step_run(self, round_: int, done: int, of: int) -> None: ...


@dataclass(frozen=True)
class Ran:
    """A study that ran, and who took part.

    Attributes:
        result: of the simulation.
        logs: of its rounds, as a closing party sends them.
        run: its papers.
        document: its signed roster.
        hosts: name to keys.
        blobs: the ciphertexts of the frames that were made.
    """

    result: Result
    logs: tuple[RoundLog, ...]
    run: HostedRun
    document: Document
    hosts: dict[str, Identity]
    blobs: dict[str, bytes] = field(default_factory=dict)

    @property
    def models(self) -> dict[PartyId, Params]:
        """The models of the parties that hold one."""
        holders = self.logs[-1].state.models
        own = dict(self.result.models)
        return {party: own.get(party, self.result.model) for party in holders}

    def log_frame(self, log: RoundLog, **changed: Any) -> tuple[Frame, memoryview]:
        """Return the frame of a round, and what is in it."""
        return self.frame("log", log, [encode_log(log)], **changed)

    def model_frame(self, party: str, params: Params, **changed: Any) -> tuple[Frame, memoryview]:
        """Return the frame of a model, and what is in it."""
        parts = [bytes(part) for part in model_parts(params)]
        return self.frame("model", self.logs[-1], parts, sender=party, **changed)

    def frame(
        self,
        kind: str,
        log: RoundLog,
        parts: list[bytes],
        *,
        sender: str = "",
        signer: str = "",
        run: str = "",
    ) -> tuple[Frame, memoryview]:
        sender = sender or self.run.plan.topology.closer
        head = Head(
            run=run or self.run.id,
            sender=sender,
            to=("rosa",),
            number=0,
            kind=kind,  # type: ignore[arg-type]
            round=log.state.round,
            attempt=log.state.attempt,
            step="",
        )
        host = self.hosts[signer or self.run.roster.host_of(PartyId(sender))]
        receivers = {"rosa": self.hosts["rosa"].certificate}
        frame, ciphertext = seal(head, parts, signer=host, receivers=receivers)
        self.blobs[frame.blob] = bytes(ciphertext)
        return frame, memoryview(b"".join(parts))


Run = Callable[..., Ran]


@cache
def run(*changes: tuple[str, str]) -> Ran:
    """Simulate the small study, changed, and put the papers of a real run around it."""
    text = STUDY
    for before, after in changes:
        assert text.count(before) == 1, before
        text = text.replace(before, after)
    bundle = parse(text, {}, where="study.toml")
    rounds = Rounds()
    result = simulate(bundle, records(), engine="sequential", observer=rounds)
    *before_last, last = rounds.logs
    logs = (*(replace(log, evaluation=None) for log in before_last), last)
    hosts = {
        name: Identity.create(name, role=role, now=NOW)
        for name, role in [(HUB, "hub"), ("rosa", "researcher"), *((s, "site") for s in ROWS)]
    }
    consents = [
        (site, grant(bundle.digest, hosts[site], result, rosa=hosts["rosa"])) for site in ROWS
    ]
    roster = make_roster(
        bundle,
        consents,
        hub=hosts[HUB].certificate,
        researcher=hosts["rosa"].certificate,
        nonce="ab" * 16,
        now=NOW,
    )
    document = roster.sign(hosts[HUB].root)
    hosted = HostedRun.of(document, bundle, hub=hosts[HUB].root.public)
    return Ran(result, logs, hosted, document, hosts)


def records() -> dict[str, Any]:
    """Return three hospitals' records."""
    found = {}
    for site, count in ROWS.items():
        x = derive_rng(0, site).normal(size=(count, 2)).astype(np.float32)
        found[site] = (x, (x[:, 0] > 0).astype(np.float32))
    return found


def grant(study: str, site: Identity, result: Result, *, rosa: Identity) -> Document:
    """Return a site's consent."""
    consent = Grant(
        study=study,
        site=site.name,
        certificate=site.certificate,
        dataset="records",
        fingerprint="f" * 64,
        purpose="See a result come across a network.",
        researcher=rosa.name,
        researcher_root=rosa.root.public,
        rows=Rows(result.sites[site.name], 0, ROWS[site.name] - result.sites[site.name]),
        inputs=(2,),
        rounds=100,
        until=NOW + 1e6,
        layout=result.model.layout,
        initial="0" * 64,
        initial_blob="0" * 64,
        environment={"python": "3.11" if site.name == "north" else "3.12", "system": "linux"},
        time=NOW,
    )
    return consent.sign(site.root)


@pytest.fixture
def ran() -> Run:
    """A function that gives a study that ran; see `run`."""
    return run


@pytest.fixture
def copy(tmp_path: Path) -> RunCopy:
    """An empty copy of the small study's run."""
    return RunCopy(tmp_path, run().run)
