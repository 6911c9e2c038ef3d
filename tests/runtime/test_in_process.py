"""In which blocks steps run, and what an engine keeps of a round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from cohortium.learning.task import Trained, TrainJob
from cohortium.plan.plan import Note, State
from cohortium.plan.star import Star
from cohortium.runtime.engine import Federation
from cohortium.runtime.events import Run
from cohortium.runtime.in_process import WINDOW, Sequential, Vectorised
from cohortium.testing.federations import federation
from cohortium.testing.regression import LeastSquares
from cohortium.types import ArraySpec, Layout, PartyId, SiteId

ROWS = {"a": 30, "b": 12, "c": 55, "d": 8}
MB = 1 << 20


class Blocks(LeastSquares):
    """Asks for blocks of `size` sites; fails as a whole where one site is guilty."""

    def __init__(self, size: int, *, guilty: str = "") -> None:
        super().__init__(3)
        self.size, self.guilty = size, guilty

    def block_size(self, job: TrainJob) -> int:
        del job
        return self.size

    def train(self, jobs: Sequence[TrainJob]) -> list[Trained]:
        if self.guilty in [job.site for job in jobs]:
            raise ZeroDivisionError("no luck")
        return super().train(jobs)


class Large(Blocks):
    """Says that its model is `nbytes` large."""

    def __init__(self, size: int, *, nbytes: int) -> None:
        super().__init__(size)
        self.layout = Layout((ArraySpec("w", (nbytes // 4,), "float32"),))


def with_task(made: Federation, task: LeastSquares) -> Federation:
    return replace(made, training=replace(made.training, task=task))


def ready(made: Federation) -> list[Run]:
    """Return every site's training of round 1, last site first."""
    plan = made.agreement.plan.round(State(made.agreement.plan.study))
    trains = [step for step in plan.steps if step.op == "train"]
    return [
        Run(PartyId(step.party), 1, 0, step, made.initial(), None, measure=False)
        for step in reversed(trains)
    ]


def sites_of(blocks: list[list[Run]]) -> list[list[str]]:
    return [[run.party for run in block] for block in blocks]


@pytest.mark.parametrize(
    ("nbytes", "within"), [(16, 8), (16 * MB, 4), (64 * MB, 2), (1024 * MB, 2)]
)
def test_the_larger_the_model_the_nearer_to_the_roster_s_order(nbytes: int, within: int) -> None:
    """No more than 64 MB of updates, or a block, wait for an earlier site's to be folded."""
    rows = {f"s{i}": n for i, n in enumerate((30, 12, 55, 8, 40, 3, 20, 9))}
    made = with_task(federation(Star(), rows), Large(2, nbytes=nbytes))
    blocks = sites_of(Vectorised().blocks(made, ready(made)))
    order = [site for block in blocks for site in block]
    assert all(len(block) == 2 for block in blocks)
    for begin in range(0, len(rows), within):
        window = order[begin : begin + within]
        assert set(window) == set(list(rows)[begin : begin + within])
        assert window == sorted(window, key=rows.__getitem__)


def test_a_window_holds_at_most_1024_sites() -> None:
    made = federation(Star(), {f"s{i}": 2 if i < WINDOW else 1 for i in range(WINDOW + 6)})
    made = with_task(made, Large(4, nbytes=16))
    [*_, last] = sites_of(Vectorised().blocks(made, ready(made)))
    assert last == ["s1028", "s1029"]


@pytest.mark.parametrize("engine", [Sequential(), Vectorised()], ids=lambda e: e.name)
def test_of_a_block_only_the_site_that_raises_fails(engine: Sequential) -> None:
    made = federation(Star(), ROWS, rounds=1, quorum=3)
    made = with_task(made, Blocks(4, guilty="b"))
    log = engine.run(made).logs[-1]
    assert log.state.roster == ("a", "c", "d")
    assert Note(SiteId("b"), "failed") in log.state.notes
    assert "ZeroDivisionError: no luck" in log.reasons["b", "failed"]


def test_statistics_are_kept_of_the_last_round_only() -> None:
    """Those of a thousand rounds would fill the memory; who was evaluated stays known."""
    logs = Sequential().run(federation(Star(), ROWS, rounds=4, evaluate_every=2)).logs
    assert [log.evaluation is not None for log in logs] == [False, False, False, True]
    assert [log.evaluated for log in logs] == [(), tuple(ROWS), (), tuple(ROWS)]
