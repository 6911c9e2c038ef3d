"""A small federation to try a hub on: members with keys, a study, consents, frames."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from tests.hub.running import joining, new_folder
from tests.store.servers import new_database

from cohortium.governance.grant import Grant, Rows
from cohortium.hub.folder import HubFolder
from cohortium.hub.registry import Member
from cohortium.hub.runs import Run
from cohortium.hub.service import MIGRATIONS, HubService
from cohortium.identity import Document, Identity
from cohortium.runtime.codec import model_parts
from cohortium.study.read import parse
from cohortium.transport.envelope import INLINE, Frame, Head, seal
from cohortium.types import Params

STUDY = """
[study]
name = "small"
purpose = "Show how it works."

[task]
kind = "binary-classification"
model = "linear"
optimizer = {kind = "sgd", lr = 0.1}

[data]
dataset = "breast-cancer"
target = "malignant"
features = [{name = "age", range = [0, 120]}]

[plan]
rounds = 3
local = {epochs = 1}
"""

DIGEST = parse(STUDY, {}, where="study.toml").digest
MODEL = Params.of({"weight": np.zeros((1, 1), np.float32), "bias": np.zeros(1, np.float32)})
CONTENT = b"".join(bytes(part) for part in model_parts(MODEL))
INITIAL = hashlib.sha256(CONTENT).hexdigest()


def receipt(run: str, party: str, number: int, *, by: Identity) -> Document:
    """Return a receipt; the hub leaves its stamp to whom it concerns."""
    body = {"run": run, "from": party, "host": by.name, "number": number}
    return Document.of("receipt", body | {"serial": 1, "stamp": "00" * 64}, by.signing)


class Clock:
    """A clock that tests set; it stands still unless it `runs`."""

    def __init__(self) -> None:
        self.now, self.runs = time.time(), False

    def __call__(self) -> float:
        return time.time() if self.runs else self.now


@dataclass
class Federation:
    """A hub without its network, and everybody's keys.

    Attributes:
        service: the hub.
        clock: its own.
        identities: who has joined.
        study_keys: behind an honest broker, the keys that sites made for the study.
    """

    service: HubService
    clock: Clock
    identities: dict[str, Identity] = field(default_factory=dict)
    study_keys: dict[str, Identity] = field(default_factory=dict)

    def member(self, name: str) -> Member:
        return self.service.registry.get(name)

    def join(self, name: str, role: str = "site") -> Member:
        """Invite somebody and let them in."""
        invitation, _ = self.service.registry.invite(name, role)
        identity = Identity.create(name, role=role, now=self.clock())
        said = joining(invitation.code, identity, time=self.clock())
        self.service.registry.join(Document.from_json(said["document"]), said["mac"])
        self.identities[name] = identity
        return self.member(name)

    def submit(self, text: str = STUDY) -> str:
        return self.service.studies.submit(self.member("ada"), text, {})

    def grant(self, site: str, digest: str = DIGEST, /, **changes: Any) -> None:
        """Let a site consent."""
        self.service.depot.append(site, INITIAL, 0, chunk=CONTENT, total=len(CONTENT))
        document = self.consent(site, digest, **changes)
        self.service.studies.grant(self.member(site), digest, document)

    def consent(self, site: str, digest: str = DIGEST, /, **changes: Any) -> Document:
        identity = self.identities[site]
        if self.service.settings.broker:
            name = self.service.pseudonyms.of(digest)[site]
            identity = Identity.create(name, role="site", now=self.clock())
            self.study_keys[site] = identity
        ada = self.identities["ada"]
        grant = consent_of(site, identity, digest, ada=ada, now=self.clock())
        return replace(grant, **changes).sign(identity.root)

    def started(self, sites: Sequence[str]) -> Run:
        """Take a study from its submission to its start."""
        digest = self.submit()
        for site in sites:
            self.grant(site, digest)
        return self.service.studies.start(self.member("ada"), digest)

    def frame(
        self,
        run: Run,
        sender: str,
        to: Sequence[str],
        *,
        step: str = "train",
        size: int = 100,
        signer: Identity | None = None,
        number: int = 1,
    ) -> tuple[Frame, bytes]:
        """Return a sealed frame and its ciphertext, as a party's host makes them."""
        head = Head(
            run=run.id,
            sender=sender,
            to=tuple(to),
            number=number,
            kind="release",
            round=1,
            attempt=0,
            step=step,
        )
        hosts = {name if name == "ada" else run.roster.host_of(name) for name in to}  # type: ignore[arg-type]
        receivers = {host: run.certificate(host) for host in hosts}
        signer = signer or self.identities[run.members.get(sender, sender)]
        frame, ciphertext = seal(head, [bytes(size)], signer=signer, receivers=receivers)
        return frame, bytes(ciphertext)

    def post(self, member: str, frame: Frame, ciphertext: bytes = b"") -> bool:
        if ciphertext:
            self.service.depot.append(
                member, frame.blob, 0, chunk=ciphertext, total=len(ciphertext)
            )
        return self.service.mailbox.post(member, frame)

    def seqs(self, member: str, after: int = 0) -> list[int]:
        return [message["seq"] for message in self.service.mailbox.waiting(member, after)]

    def notices(self, member: str) -> list[dict[str, Any]]:
        waiting = self.service.mailbox.waiting(member, 0)
        return [message["notice"] for message in waiting if message["kind"] == "notice"]

    def restarted(self) -> None:
        """Close the hub and open it again, as after a kill: only what is durable is left."""
        folder = self.service.folder
        self.service.engine.dispose()
        self.service = HubService(HubFolder.at(folder.folder), clock=self.clock)


def consent_of(site: str, identity: Identity, digest: str, *, ada: Identity, now: float) -> Grant:
    """Return a consent to the small study."""
    return Grant(
        study=digest,
        site=site,
        certificate=identity.certificate,
        dataset="records",
        fingerprint="0" * 64,
        purpose="Show how it works.",
        researcher=ada.name,
        researcher_root=ada.root.public,
        rows=Rows(103, 10, 20),
        inputs=(1,),
        rounds=3,
        until=now + 3600,
        layout=MODEL.layout,
        initial=MODEL.digest,
        initial_blob=INITIAL,
        environment={"python": "3.11"},
        time=now,
    )


BIG = INLINE + 1000
"""A payload that does not travel in its frame."""


@contextmanager
def federation(folder: Path, backend: str, **settings: Any) -> Iterator[Federation]:
    """A hub with a researcher, ada, and three sites."""
    hub = new_folder(
        folder / "hub", database=new_database(backend, folder, migrations=MIGRATIONS), **settings
    )
    clock = Clock()
    found = Federation(HubService(hub, clock=clock), clock)
    try:
        found.join("ada", "researcher")
        for site in ("a", "b", "c"):
            found.join(site)
        yield found
    finally:
        found.service.close()
