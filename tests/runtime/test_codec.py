"""What parties say to each other comes back as it was; what is not of its form is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load

from cohortium.errors import RefusedError
from cohortium.governance.gate import (
    Closed,
    Declaration,
    Gate,
    Outbound,
    Plain,
    Reduced,
    Void,
    Vote,
)
from cohortium.learning.model_file import header_of
from cohortium.learning.task import Cursor
from cohortium.plan.plan import Metric, Note, State
from cohortium.runtime.actor import Snapshot
from cohortium.runtime.codec import (
    decode_event,
    decode_log,
    decode_snapshot,
    encode_event,
    encode_log,
    encode_snapshot,
    from_bytes,
    model_parts,
    most_bytes,
    to_parts,
)
from cohortium.runtime.engine import RoundLog
from cohortium.runtime.events import Arrived, Done, Event, Record, Send, TimedOut
from cohortium.types import ArraySpec, Layout, Params, PartyId, SiteId, Update

LAYOUT = Layout(
    (
        ArraySpec("w", (2, 3), "float32"),
        ArraySpec("seen", (), "int64"),
        ArraySpec("b", (3,), "float32"),
    )
)
GATE = Gate(PartyId("a"), Declaration(LAYOUT, {}))
STATE = State(
    "ab" * 32,
    round=2,
    models={PartyId("@aggregator"): "cd" * 32},
    roster=(SiteId("a"), SiteId("b")),
    notes=(Note(SiteId("c"), "absent", "nothing came"),),
    metrics={"auroc": Metric(0.5, {"a": None, "b": 1.0})},
    last_in={SiteId("a"): 2},
    previous="ef" * 32,
)


def params(start: float = 0.0) -> Params:
    floats = np.arange(start, start + 9, dtype=np.float32)
    return Params(LAYOUT, {"float32": floats, "int64": np.array([7])})


def update(*, trained: bool = True) -> Update:
    statistics = {"auroc.positives": np.arange(6.0).reshape(2, 3), "loss.sum": np.array(1.5)}
    return Update(params() if trained else None, 12.0, statistics)


EVALUATION = {SiteId("a"): {"loss.sum": np.array(1.5)}}
PAYLOADS: list[Outbound] = [
    Plain(Gate.arrived(update(), "train/a"), (SiteId("a"),), STATE.notes),
    Plain(Gate.arrived(update(trained=False), "evaluate/a")),
    Reduced(params(), 3.5, (SiteId("a"),), STATE.notes, -0.25),
    Reduced(params(), 3.5),
    Vote("ab" * 32, (SiteId("a"),), ()),
    Closed(STATE),
    Void("1 of 2 needed updates", STATE.notes),
]


def joined(payload: Outbound) -> memoryview:
    return memoryview(b"".join(bytes(part) for part in to_parts(payload)))


def seen(value: Any) -> Any:
    """Return a value in a form that compares."""
    match value:
        case Plain(admitted, roster, notes):
            return "plain", admitted.step, seen(admitted.update), roster, notes
        case Update(model, weight, statistics):
            told = {k: (v.shape, v.dtype.str, v.tobytes()) for k, v in statistics.items()}
            return seen(model), weight, told
        case Params():
            return value.digest
        case Reduced(model, weight, roster, notes, score):
            return seen(model), weight, roster, notes, score
        case Arrived(release, at):
            named = release.sender, release.round, release.attempt, release.step, release.number
            return seen(release.payload), named, at
        case Done():
            slot = value.slot
            kept = {k: seen(v) for k, v in slot.items()} if isinstance(slot, dict) else slot
            return value.round, value.step, seen(value.update), kept, value.reason, value.at
        case _:
            return value


@pytest.mark.parametrize("payload", PAYLOADS, ids=lambda payload: type(payload).__name__)
def test_a_payload_comes_back(payload: Outbound) -> None:
    assert seen(from_bytes(joined(payload), LAYOUT)) == seen(payload)


def test_a_state_keeps_its_digest() -> None:
    found = from_bytes(joined(Closed(STATE)), LAYOUT)
    assert isinstance(found, Closed)
    assert found.state.digest == STATE.digest


def test_a_model_travels_as_a_safetensors_file() -> None:
    data = b"".join(bytes(part) for part in model_parts(params()))
    arrays = load(data)
    assert arrays.keys() == {"w", "seen", "b"}
    assert np.array_equal(arrays["b"], params()["b"])
    assert data.startswith(header_of(LAYOUT))


def test_models_are_views_of_what_came() -> None:
    data = joined(PAYLOADS[2])
    found = from_bytes(data, LAYOUT)
    assert isinstance(found, Reduced)
    assert np.shares_memory(found.params.buffers["float32"], np.frombuffer(data, np.uint8))
    assert not found.params.buffers["float32"].flags.writeable


@pytest.mark.parametrize("payload", PAYLOADS, ids=lambda payload: type(payload).__name__)
def test_no_message_is_larger_than_the_most_that_can_be_due(payload: Outbound) -> None:
    most = most_bytes(LAYOUT, {"auroc.positives": (2, 3), "loss.sum": ()}, sites=3)
    assert len(joined(payload)) <= most


@given(st.binary(max_size=200))
def test_noise_is_refused(data: bytes) -> None:
    with pytest.raises(RefusedError):
        from_bytes(memoryview(data), LAYOUT)


@given(st.sampled_from(PAYLOADS), st.data())
def test_a_changed_byte_is_refused_or_read_as_a_payload(payload: Outbound, data: Any) -> None:
    changed = bytearray(joined(payload))
    changed[data.draw(st.integers(0, len(changed) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        found = from_bytes(memoryview(changed), LAYOUT)
    except RefusedError:
        return
    assert isinstance(found, Plain | Reduced | Vote | Closed | Void)


@pytest.mark.parametrize(
    "form",
    [
        ["reduced", 1, 1.0, [], [], None],
        ["reduced", "0" * 64, 1.0, [], [], None],
        ["reduced", 0, "heavy", [], [], None],
        ["plain", "s", [None, 1.0, {"x": [[3], b"12345678"]}], [], []],
        ["plain", "s", [None, 1.0, {"x": [[-1], b"12345678"]}], [], [], "more"],
        ["closed", "{}"],
        ["closed", "[" * 100_000],
        ["closed", '{"study": 3}'],
        ["void", 3, []],
        ["void", "why", [["a", "b"]]],
        ["pickle", b""],
    ],
    ids=str,
)
def test_a_message_of_another_form_is_refused(form: list[Any]) -> None:
    head = msgspec.msgpack.encode(form)
    data = len(head).to_bytes(4, "little") + head + bytes(-(4 + len(head)) % 8)
    with pytest.raises(RefusedError):
        from_bytes(memoryview(data), LAYOUT)


def test_other_arrays_than_the_declared_ones_are_refused() -> None:
    other = Layout((ArraySpec("w", (9,), "float32"), ArraySpec("seen", (), "int64")))
    with pytest.raises(RefusedError, match="declare"):
        from_bytes(joined(PAYLOADS[2]), other)


def test_what_a_journal_keeps_comes_back() -> None:
    kept: dict[str, Params] = {}

    def keep(model: Params) -> str:
        kept[model.digest] = model
        return model.digest

    def load(name: str) -> Params:
        return kept[name]

    releases = [
        GATE.received(
            payload, sender=PartyId("b"), round_=1, attempt=0, step="train/b", number=number
        )
        for number, payload in enumerate(PAYLOADS, 1)
    ]
    events: list[Event] = [
        *(Arrived(release, 5.0) for release in releases),
        Done(1, 0, "train/a", update(), Cursor(1, 2), "", 6.0),
        Done(1, 0, "train/a", None, None, "it failed", 6.0),
        Done(1, 0, "train/a", update(), {"mean": params(3.0)}, "", 6.0),
        TimedOut(1, 0, "reduce", 7.0),
    ]
    for event in events:
        assert seen(decode_event(encode_event(event, keep), load, GATE)) == seen(event)
    own = GATE.restored(
        GATE.received(
            PAYLOADS[2], sender=PartyId("a"), round_=2, attempt=0, step="reduce", number=4
        )
    )
    snapshot = Snapshot(
        STATE,
        params(),
        {"batches": Cursor(3, 4), "server-optimizer": {"m": params(1.0)}},
        early=tuple(releases),
        states=(replace(STATE, round=3),),
        models={(3, 0, PartyId("b")): params(2.0)},
        sends=(Send(own, (PartyId("b"),)),),
        at=9.0,
        records=(Record(PartyId("a"), "round", state=STATE, detail=EVALUATION),),
        released=4,
    )
    found = decode_snapshot(encode_snapshot(snapshot, keep), load, GATE)
    assert (found.state, found.states) == (snapshot.state, snapshot.states)
    assert found.model.digest == snapshot.model.digest
    assert found.slots["batches"] == Cursor(3, 4)
    assert found.slots["server-optimizer"]["m"].digest == params(1.0).digest
    assert [seen(Arrived(r, 0.0)) for r in found.early] == [seen(Arrived(r, 0.0)) for r in releases]
    assert {key: model.digest for key, model in found.models.items()} == {
        (3, 0, "b"): params(2.0).digest
    }
    assert [send.release.number for send in found.sends] == [4]
    assert (found.at, found.released) == (9.0, 4)
    [record] = found.records
    assert (record.party, record.kind, record.state) == ("a", "round", STATE)
    assert np.array_equal(record.detail["a"]["loss.sum"], EVALUATION[SiteId("a")]["loss.sum"])


def test_a_log_comes_back() -> None:
    log = RoundLog(
        STATE,
        {SiteId("a"): {"auroc.positives": np.arange(6.0).reshape(2, 3)}},
        1.5,
        {"a": 10},
        {"a": 20},
        {("b", "failed"): "why"},
        (SiteId("a"),),
        {"a": 0.25},
    )
    found = decode_log(encode_log(log))
    assert found.evaluation is not None
    assert log.evaluation is not None
    assert np.array_equal(
        found.evaluation[SiteId("a")]["auroc.positives"],
        log.evaluation[SiteId("a")]["auroc.positives"],
    )
    assert replace(found, evaluation=None) == replace(log, evaluation=None)


@given(st.binary(max_size=100))
def test_a_log_of_noise_is_refused(data: bytes) -> None:
    with pytest.raises(RefusedError):
        decode_log(data)
