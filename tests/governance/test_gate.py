"""The gate is the only way out: sealed, once per step, one payload per reader."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cohortium.errors import RefusedError
from cohortium.governance.gate import (
    Admitted,
    Declaration,
    Gate,
    Outbound,
    Plain,
    Reduced,
    Release,
    Void,
    check,
)
from cohortium.plan.step import RoundPlan, Step
from cohortium.runtime.events import Send
from cohortium.types import Params, PartyId, SiteId, Update

PARAMS = Params.of({"w": np.arange(4, dtype=np.float32), "n": np.array(3, np.int64)})
DECLARED = Declaration(PARAMS.layout, {"loss": (2,)})
TRAIN = Step("train/a", PartyId("a"), "train", covers=(SiteId("a"),))
EVALUATE = Step("evaluate/a", PartyId("a"), "evaluate", covers=(SiteId("a"),))
READER = (PartyId("hub"),)
OUTCOME = Step("outcome", READER[0], "reduce", gathers=("train/a", "evaluate/a"), needs=1)
PLAN = RoundPlan(1, (TRAIN, EVALUATE, OUTCOME))


def gate(rows: float = 10) -> Gate:
    return Gate(PartyId("a"), DECLARED, rows)


def test_a_good_update_passes_once() -> None:
    mine = gate()
    admitted = mine.admit(Update(PARAMS, 10.0), TRAIN)
    release = mine.release(Plain(admitted), TRAIN, readers=READER, plan=PLAN)
    assert (release.sender, release.step, release.round) == ("a", "train/a", 1)
    assert release.nbytes == PARAMS.nbytes
    with pytest.raises(RefusedError, match="admitted before"):
        mine.admit(Update(PARAMS, 10.0), TRAIN)
    with pytest.raises(RefusedError, match="has had a payload"):
        mine.release(Plain(admitted), TRAIN, readers=READER, plan=PLAN)
    mine.open_round()
    mine.admit(Update(PARAMS, 10.0), TRAIN)


def test_what_one_step_was_admitted_for_does_not_leave_as_another() -> None:
    mine = gate()
    admitted = mine.admit(Update(PARAMS, 10.0), TRAIN)
    with pytest.raises(RefusedError, match="cannot leave as"):
        mine.release(Plain(admitted), EVALUATE, readers=READER, plan=PLAN)


def test_only_declared_readers_get_only_declared_kinds() -> None:
    mine = gate()
    plain = Plain(mine.admit(Update(PARAMS, 10.0), TRAIN))
    with pytest.raises(RefusedError, match=r"mallory read no 'train/a'"):
        mine.release(plain, TRAIN, readers=(PartyId("mallory"),), plan=PLAN)
    with pytest.raises(RefusedError, match="train steps do not send a Reduced"):
        mine.release(Reduced(PARAMS, 1.0), TRAIN, readers=READER, plan=PLAN)
    with pytest.raises(RefusedError, match="not a's in this round"):
        mine.release(plain, OUTCOME, readers=READER, plan=PLAN)


def test_an_evaluation_leaves_nothing_out() -> None:
    declared = Declaration(
        PARAMS.layout, {"loss": (2,), "n": (1,), "validation/loss": (2,), "validation/n": (1,)}
    )
    mine = Gate(PartyId("a"), declared, 10)
    full = {"loss": np.zeros(2), "n": np.zeros(1)}
    for statistics in ({}, {"loss": np.zeros(2)}, full | {"validation/n": np.zeros(1)}):
        with pytest.raises(RefusedError, match="missing"):
            mine.admit(Update(None, 1.0, statistics), EVALUATE)
    mine.admit(Update(None, 1.0, full), EVALUATE)  # a site may have no validation rows


def test_releases_are_numbered_from_the_count_that_the_gate_starts_at() -> None:
    mine = Gate(PartyId("a"), DECLARED, 10, released=6)
    admitted = mine.admit(Update(PARAMS, 10.0), TRAIN)
    assert mine.release(Plain(admitted), TRAIN, readers=READER, plan=PLAN).number == 7
    with pytest.raises(RefusedError):  # a refusal takes no number
        mine.release(Plain(admitted), TRAIN, readers=READER, plan=PLAN)
    mine.open_round()
    assert mine.release(Void("late"), TRAIN, readers=READER, plan=PLAN).number == 8
    assert mine.released == 8


def received(mine: Gate, payload: Outbound, sender: str) -> Release:
    return mine.received(
        payload, sender=PartyId(sender), round_=1, attempt=0, step="train/a", number=4
    )


def test_what_came_from_another_party_cannot_leave() -> None:
    mine = gate()
    arrived = Gate.arrived(Update(PARAMS, 10.0), "train/a")
    with pytest.raises(RefusedError, match="cannot leave"):
        mine.release(Plain(arrived), TRAIN, readers=READER, plan=PLAN)
    release = received(mine, Plain(arrived), "b")
    assert (release.sender, release.number, release.received) == ("b", 4, True)
    with pytest.raises(RefusedError, match="what b released is not sent on"):
        Send(release, READER)
    with pytest.raises(RefusedError, match="does not send what b released"):
        mine.restored(release)
    own = mine.restored(received(mine, Plain(arrived), "a"))
    assert Send(own, READER).release.number == 4


@given(value=st.floats(width=32), loss=st.floats(allow_nan=False, allow_infinity=False))
def test_what_arrived_has_the_fingerprint_that_its_check_gives(value: float, loss: float) -> None:
    params = Params.of({"w": np.full(4, value, np.float32), "n": np.array(3, np.int64)})
    update = Update(params, 1.0, {"loss": np.array([loss, 1.0])})
    found = Gate.arrived(update, "train/a").fingerprint
    if np.isfinite(value):
        assert found == check(update, DECLARED, most=1, trained=True)
    else:
        assert np.isnan(found)


def test_nobody_else_makes_what_only_a_gate_makes() -> None:
    with pytest.raises(RefusedError, match="only a gate"):
        Admitted(Update(PARAMS, 1.0), "train/a", 0.0, seal=object())
    with pytest.raises(RefusedError, match="only a gate"):
        Release(
            Reduced(PARAMS, 1.0),
            sender=PartyId("a"),
            round_=1,
            attempt=0,
            step="x",
            number=1,
            seal=None,
        )


@pytest.mark.parametrize(
    ("statistics", "words"),
    [
        ({"accuracy": np.zeros(2)}, "'accuracy' is not declared"),
        ({"loss": np.zeros(3)}, "shape (3,), not (2,)"),
        ({"loss": np.array([np.nan, 1.0])}, "not finite"),
        ({"loss": np.zeros(2, np.float32)}, "not finite float64"),
    ],
)
def test_statistics_are_as_declared(statistics: dict[str, np.ndarray], words: str) -> None:
    with pytest.raises(RefusedError) as refused:
        gate().admit(Update(None, 3.0, statistics), EVALUATE)
    assert words in str(refused.value)


def test_an_evaluation_carries_no_arrays_and_may_have_no_rows() -> None:
    with pytest.raises(RefusedError, match="carries arrays"):
        gate().admit(Update(PARAMS, 3.0), EVALUATE)
    gate().admit(Update(None, 0.0, {"loss": np.zeros(2)}), EVALUATE)


@given(
    at=st.integers(0, 3),
    value=st.sampled_from([np.nan, np.inf, -np.inf]),
    other=st.floats(allow_nan=False, allow_infinity=False, width=32),
)
def test_one_value_that_is_not_finite_is_found(at: int, value: float, other: float) -> None:
    w = np.full(4, other, np.float32)
    n = np.array(3, np.int64)
    good = check(Update(Params.of({"w": w, "n": n}), 1.0), DECLARED, most=1, trained=True)
    assert np.isfinite(good)  # however large: their sum may overflow, they are finite
    w = w.copy()
    w[at] = value
    with pytest.raises(RefusedError, match="not finite"):
        check(Update(Params.of({"w": w, "n": n}), 1.0), DECLARED, most=1, trained=True)


WRONG = """
from cohortium.runtime.events import Send
from cohortium.types import PartyId, Update

def leak(update: Update) -> Send:
    return Send(update, (PartyId("hub"),))
"""


def test_the_type_checker_refuses_a_raw_update(tmp_path: Path) -> None:
    (tmp_path / "leak.py").write_text(WRONG)
    command = [sys.executable, "-m", "mypy", str(tmp_path / "leak.py")]
    root = Path(__file__).parents[2]  # its settings, and what it remembers of the last check
    found = subprocess.run(command, capture_output=True, text=True, check=False, cwd=root)
    assert found.returncode == 1, found.stderr
    assert '"Send" has incompatible type "Update"; expected "Release"' in found.stdout
