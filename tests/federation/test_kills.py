"""kill -9 at every kind of step on each side: the run ends with the bits of an undisturbed one.

Each fault is one line: whose, where, when. The process dies there as by kill -9, is started again
with the same command, and goes on by itself.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.federation.consortium import EVERYTHING, Consortium

from cohortium.runtime.simulation import simulate

HUB, EAST = "hub", "east"

KILLS: list[tuple[str, dict[str, Any]]] = [
    (EAST, {"at": "work", "when": "before", "step": "train", "round": 1}),
    (EAST, {"at": "work", "when": "after", "step": "train", "round": 2}),
    (EAST, {"at": "work", "when": "before", "step": "evaluate", "round": 2}),
    (EAST, {"at": "journal", "when": "before", "kind": "Done", "step": "train"}),
    (EAST, {"at": "journal", "when": "after", "kind": "Done", "step": "train"}),
    (EAST, {"at": "journal", "when": "before", "kind": "Arrived", "step": "outcome"}),
    (EAST, {"at": "journal", "when": "after", "kind": "Arrived", "step": "consensus"}),
    (EAST, {"at": "journal", "when": "after", "kind": "Done", "step": "evaluate"}),
    (EAST, {"at": "snapshot", "when": "before"}),
    (EAST, {"at": "snapshot", "when": "after"}),
    (EAST, {"at": "post", "when": "before", "kind": "Send", "step": "train"}),
    (EAST, {"at": "post", "when": "after", "kind": "Send", "step": "train"}),
    (EAST, {"at": "deliver", "when": "before", "step": "consensus"}),
    (EAST, {"at": "deliver", "when": "after", "step": "outcome"}),
    (HUB, {"at": "keep", "when": "before", "step": "train", "sender": "east"}),
    (HUB, {"at": "keep", "when": "after", "step": "train", "sender": "south"}),
    (HUB, {"at": "keep", "when": "before", "step": "consensus"}),
    (HUB, {"at": "keep", "when": "after", "step": "consensus"}),
    (HUB, {"at": "keep", "when": "after", "step": "outcome", "round": 2}),
    (HUB, {"at": "hand out", "when": "after"}),
    (HUB, {"at": "journal", "when": "before", "kind": "Arrived", "step": "train"}),
    (HUB, {"at": "journal", "when": "after", "kind": "Arrived", "step": "train"}),
    (HUB, {"at": "journal", "when": "after", "kind": "Arrived", "step": "evaluate", "round": 2}),
    (HUB, {"at": "snapshot", "when": "before"}),
    (HUB, {"at": "snapshot", "when": "after"}),
    (HUB, {"at": "post", "when": "before", "kind": "RoundLog"}),
    (HUB, {"at": "post", "when": "after", "kind": "RoundLog"}),
]
STRUCK = KILLS if EVERYTHING else KILLS[::4]
"""All of them take minutes: `make chaos` strikes everywhere."""

SEEDS = itertools.count(1)


@pytest.fixture(scope="module")
def consortium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Consortium]:
    made = Consortium(tmp_path_factory.mktemp("consortium"))
    try:
        made.set_up()
        made.inside = True
        yield made
    finally:
        made.close()


def expected(made: Consortium, study: Path) -> str:
    return simulate(study, data=made.records, engine="sequential").model.digest


def test_undisturbed_the_bits_are_those_of_a_simulation(consortium: Consortium) -> None:
    study = consortium.write_study(next(SEEDS))
    digest = consortium.begin(study)
    found = consortium.result(digest)
    assert found["digest"] == digest
    assert found["model_digest"] == expected(consortium, study)


@pytest.mark.parametrize(
    ("victim", "fault"), STRUCK, ids=[" ".join(map(str, (v, *f.values()))) for v, f in STRUCK]
)
def test_a_killed_process_goes_on_by_itself(
    victim: str, fault: dict[str, Any], consortium: Consortium
) -> None:
    study = consortium.write_study(next(SEEDS))
    digest = consortium.submit(study)
    consortium.approve(digest)
    if fault["at"] not in ("keep", "hand out"):
        fault = {**fault, "party": {HUB: "@aggregator"}.get(victim, victim)}
    consortium.arm(**fault)
    home = str(consortium.home("ada"))
    consortium.do("study", "start", digest, "--home", home, check=False)
    process = consortium.processes[victim]
    process.died()
    assert consortium.struck
    process.start()
    if victim == HUB:
        consortium.wait_for_hub()
    found = consortium.result(digest)
    assert found["model_digest"] == expected(consortium, study)


def test_everybody_killed_at_once_goes_on(consortium: Consortium) -> None:
    study = consortium.write_study(next(SEEDS), rounds=8)
    digest = consortium.submit(study)
    consortium.approve(digest)
    consortium.arm(at="snapshot", when="after")
    consortium.do("study", "start", digest, "--home", str(consortium.home("ada")), check=False)
    for process in consortium.processes.values():
        process.kill()
    for name in ("east", "hub", "south", "north"):
        consortium.processes[name].start()
    consortium.wait_for_hub()
    found = consortium.result(digest)
    assert found["model_digest"] == expected(consortium, study)
