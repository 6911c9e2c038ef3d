"""Hosts over real seals and journals: the same bits as one process, whatever dies."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.host.post_office import Machine

from cohortium.learning.build import build_task
from cohortium.records import Part, SiteData
from cohortium.runtime.agreeing import work_of
from cohortium.runtime.codec import decode_log
from cohortium.runtime.engine import Federation
from cohortium.runtime.in_process import Sequential
from cohortium.runtime.training import Training
from cohortium.study.bundle import Bundle
from cohortium.study.study import Study
from cohortium.transport.envelope import open_frame
from cohortium.types import PartyId, SiteId, derive_rng

SITES = {"a": 24, "b": 17, "c": 31, "d": 12}
TOPOLOGIES: dict[str, Any] = {
    "star": "star",
    "tree": {"kind": "tree", "groups": {"north": ["a", "b"], "south": ["c", "d"]}},
    "gossip": {"kind": "gossip", "graph": "ring"},
    "cyclic": "cyclic",
    "hybrid": {
        "kind": "hybrid",
        "outer": "star",
        "groups": [
            {"name": "g", "topology": "gossip", "sites": ["a", "b"]},
            {"name": "h", "topology": "star", "sites": ["c", "d"]},
        ],
    },
}


def study(topology: Any = "star", **plan: Any) -> Bundle:
    tables = {
        "study": {"name": "s", "purpose": "To test."},
        "task": {
            "kind": "regression",
            "model": {"kind": "linear", "framework": "numpy"},
            "optimizer": {"kind": "sgd", "lr": 0.1},
            "batch_size": 4,
        },
        "data": {
            "dataset": "d",
            "target": "y",
            "normalize": "none",
            "features": [{"name": f"x{i}", "range": [-9, 9]} for i in range(3)],
            "split": {"test": 0.2, "validation": 0.2},
        },
        "plan": {
            "rounds": 3,
            "local": {"steps": 5},
            "topology": topology,
            "sites": list(SITES),
            **plan,
        },
    }
    return Bundle.of(Study.from_dict(tables))


def records() -> dict[SiteId, SiteData]:
    def part(site: str, use: str, rows: int) -> Part:
        rng = derive_rng(7, site, use)
        x = rng.normal(size=(rows, 3)).astype(np.float32)
        return Part(x, (x @ [1.0, -2.0, 0.5]).astype(np.float32))

    return {
        SiteId(site): SiteData(part(site, "t", n), part(site, "v", 5), part(site, "e", 6))
        for site, n in SITES.items()
    }


def task_of(bundle: Bundle) -> Any:
    task: Any = bundle.study.task
    return build_task(
        kind=task.kind,
        inputs=(3,),
        model=task.model,
        loss=task.loss,
        optimizer=task.optimizer,
        algorithm=bundle.study.plan.algorithm,
        metrics=task.metrics,
        batch_size=task.batch_size,
    )


def machine(folder: Path, bundle: Bundle) -> Machine:
    return Machine(folder, bundle, records(), task_of(bundle))


def undisturbed(made: Machine) -> dict[PartyId, str]:
    """Return the models of the same run in one process, by digest."""
    study_ = made.bundle.study
    training = Training(made.task, made.data, work_of(study_), study_.study.seed)
    federation = Federation(made.run.agreement, training, lambda: made.initial)
    finished = Sequential().run(federation)
    return {party: model.digest for party, model in finished.models.items()}


def models(made: Machine) -> dict[PartyId, str]:
    return {p: h._journaled.actor.model.digest for p, h in made.hosts.items()}


@pytest.fixture
def closing() -> Iterator[list[Machine]]:
    made: list[Machine] = []
    yield made
    for one in made:
        one.close()


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_over_the_network_the_bits_are_those_of_one_process(
    name: str, tmp_path: Path, closing: list[Machine]
) -> None:
    made = machine(tmp_path, study(TOPOLOGIES[name]))
    closing.append(made)
    made.start()
    made.deliver(until=made.ended)
    expected = undisturbed(made)
    found = models(made)
    assert {party: found[party] for party in expected} == expected


@pytest.mark.parametrize("name", TOPOLOGIES)
@pytest.mark.parametrize("seed", range(3))
def test_hosts_that_die_at_any_moment_end_with_the_same_bits(
    name: str, seed: int, tmp_path: Path, closing: list[Machine]
) -> None:
    made = machine(tmp_path, study(TOPOLOGIES[name]))
    closing.append(made)
    rng = random.Random(seed)
    made.start()
    count = 0

    def sometimes_kill() -> bool:
        nonlocal count
        count += 1
        if rng.random() < 0.15 and count < 200:
            party = rng.choice(list(made.hosts))
            made.hosts[party].close()  # what it has not journaled is lost
            made.hosts[party] = made.host(party)
            made.hosts[party].start()
        if rng.random() < 0.1 and made.office.waiting:
            rng.shuffle(made.office.waiting)
            made.office.waiting.append(made.office.waiting[0])
        return made.ended()

    made.deliver(until=sometimes_kill)
    found = models(made)
    expected = undisturbed(made)
    assert {party: found[party] for party in expected} == expected


def test_the_researcher_gets_every_round_and_the_model(
    tmp_path: Path, closing: list[Machine]
) -> None:
    made = machine(tmp_path, study())
    closing.append(made)
    made.start()
    made.deliver(until=made.ended)
    mail = [frame for frame in made.office.frames.values() if frame.to == ("ada",)]
    logs = [frame for frame in mail if frame.kind == "log"]
    opened = [
        decode_log(
            bytes(
                open_frame(
                    frame,
                    made.office.blobs.get(frame.blob, b""),
                    identity=made.researcher,
                    sender=made.hub.certificate,
                )
            )
        )
        for frame in sorted(logs, key=lambda frame: frame.round)
    ]
    assert [log.state.round for log in opened] == [1, 2, 3]
    assert all(log.sent[site] > 0 for log in opened for site in SITES)
    assert opened[-1].evaluation is not None
    assert [frame.sender for frame in mail if frame.kind == "model"] == ["@aggregator"]


def test_a_host_that_wakes_from_an_old_copy_stops(tmp_path: Path, closing: list[Machine]) -> None:
    import shutil

    from cohortium.host.receipts import BehindError

    made = machine(tmp_path, study())
    closing.append(made)
    made.start()
    made.hosts[PartyId("a")].close()
    shutil.copytree(tmp_path / "a", tmp_path / "old")
    made.hosts[PartyId("a")] = made.host(PartyId("a"))
    made.hosts[PartyId("a")].start()
    made.deliver(until=made.ended)
    made.hosts[PartyId("a")].close()
    shutil.rmtree(tmp_path / "a")
    shutil.copytree(tmp_path / "old", tmp_path / "a")
    with pytest.raises(BehindError, match="old copy"):
        made.host(PartyId("a")).start()
