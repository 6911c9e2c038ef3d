"""What parties say to each other, and what they keep, as bytes. Nothing is ever unpickled.

A payload on the network is a message in MessagePack, typed and checked when it is read, and after
it each model as a safetensors file: a fixed header that follows from the declared arrays, then
their bytes, read in place. In a journal, models are named by their digests and lie beside it.

    4 bytes, length n | n bytes of MessagePack | zeros to a multiple of 8 | models
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any, Literal

import msgspec
import numpy as np

from cohortium.errors import RefusedError
from cohortium.governance.gate import (
    Closed,
    Gate,
    Outbound,
    Plain,
    Reduced,
    Release,
    Void,
    Vote,
)
from cohortium.learning.model_file import header_of
from cohortium.learning.task import Cursor
from cohortium.plan.plan import Note, State
from cohortium.runtime import events
from cohortium.runtime.actor import Snapshot
from cohortium.runtime.engine import RoundLog
from cohortium.runtime.events import Arrived, Done, Event, Record, Send
from cohortium.types import Layout, Params, PartyId, SiteId, Statistics, Update

Keep = Callable[[Params], Any]
"""Puts a model away and returns what names it."""

Load = Callable[[Any], Params]
"""Returns the model of a name."""

ALIGNED = 8
SITE_BYTES = 16 << 10
"""What a message may take beside its models, for each site that it can speak of."""

NOTES = 4
"""The most notes about one site that are read from a message."""

REASON = 200
"""Characters of a note's reason that are read; what is not printable ASCII is read as "?"."""

_Notes = list[tuple[str, str, str]]


class _Update(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    params: int | str | None
    weight: float
    statistics: dict[str, tuple[list[int], bytes]]


class _Plain(msgspec.Struct, array_like=True, tag="plain", forbid_unknown_fields=True):
    step: str
    update: _Update
    roster: list[str]
    notes: _Notes


class _Reduced(msgspec.Struct, array_like=True, tag="reduced", forbid_unknown_fields=True):
    params: int | str
    weight: float
    roster: list[str]
    notes: _Notes
    score: float | None


class _Vote(msgspec.Struct, array_like=True, tag="vote", forbid_unknown_fields=True):
    digest: str
    roster: list[str]
    notes: _Notes


class _Closed(msgspec.Struct, array_like=True, tag="closed", forbid_unknown_fields=True):
    state: str


class _Void(msgspec.Struct, array_like=True, tag="void", forbid_unknown_fields=True):
    reason: str
    notes: _Notes


_Message = _Plain | _Reduced | _Vote | _Closed | _Void


class _State(msgspec.Struct, forbid_unknown_fields=True):
    study: str
    round: int
    attempt: int
    status: Literal["running", "finished", "stopped"]
    reason: str
    models: dict[str, str]
    roster: list[str]
    notes: _Notes
    metrics: dict[str, tuple[float | None, dict[str, float | None]]]
    last_in: dict[str, int]
    patience: int
    previous: str


# -- between parties -------------------------------------------------------------------------------


def to_parts(payload: Outbound) -> list[bytes | memoryview]:
    """Return a payload as the parts of its bytes; models are not copied."""
    models: list[Params] = []

    def keep(params: Params) -> int:
        models.append(params)
        return len(models) - 1

    head = msgspec.msgpack.encode(_form(payload, keep))
    padding = -(4 + len(head)) % ALIGNED
    parts: list[bytes | memoryview] = [len(head).to_bytes(4, "little") + head + bytes(padding)]
    return [*parts, *(part for params in models for part in model_parts(params))]


def model_parts(params: Params) -> list[bytes | memoryview]:
    """Return a model as the parts of a safetensors file; its buffers are not copied."""
    buffers = (np.ascontiguousarray(params.buffers[dtype]) for dtype in params.layout.sizes)
    return [header_of(params.layout), *(buffer.view(np.uint8).data for buffer in buffers)]


def from_bytes(data: memoryview, layout: Layout) -> Outbound:
    """Return the payload in the bytes of `to_parts`; its models are views of them.

    Args:
        data: as another party sent it.
        layout: the arrays that the plan declares.

    Raises:
        RefusedError: it is not of this form, or its arrays are not the declared ones.
    """
    size = int.from_bytes(data[:4], "little")
    if len(data) < 4 + size:
        raise RefusedError("a message shorter than it says")
    form = _decoded(bytes(data[4 : 4 + size]), _Message)
    at = 4 + size + (-(4 + size) % ALIGNED)
    models = _models(data[at:], layout)

    def load(name: Any) -> Params:
        if not isinstance(name, int) or not 0 <= name < len(models):
            raise RefusedError("a message that names a model which is not in it")
        return models[name]

    try:
        return _payload(form, load)
    except (ValueError, TypeError, LookupError) as error:
        raise RefusedError(f"a message that cannot be read ({type(error).__name__})") from error


def most_bytes(layout: Layout, statistics: Mapping[str, tuple[int, ...]], *, sites: int) -> int:
    """Return the largest size of a message in bytes: one model, all statistics, and every note."""
    numbers = sum(int(np.prod(shape, dtype=np.int64)) for shape in statistics.values())
    names = sum(len(name) + 64 for name in statistics)
    text = (sites + 1) * (SITE_BYTES + names) + 8 * numbers
    return layout.nbytes + len(header_of(layout)) + text + ALIGNED


def _models(data: memoryview, layout: Layout) -> list[Params]:
    if not len(data):
        return []
    header = header_of(layout)
    if len(data) != len(header) + layout.nbytes or bytes(data[: len(header)]) != header:
        raise RefusedError("arrays that are not those that the study declares")
    at, buffers = len(header), {}
    for dtype, count in layout.sizes.items():
        kind = np.dtype(dtype).newbyteorder("<")
        buffers[dtype] = np.frombuffer(data, kind, count, at)
        at += count * kind.itemsize
    return [Params(layout, buffers)]


# -- the researcher's log of a round ---------------------------------------------------------------


def encode_log(log: RoundLog) -> bytes:
    """Return what a round showed as bytes."""
    table = {f.name: getattr(log, f.name) for f in fields(log)}
    table["state"] = json.dumps(log.state.to_json())
    table["reasons"] = [[site, status, why] for (site, status), why in log.reasons.items()]
    table["evaluation"] = (
        None
        if log.evaluation is None
        else {site: _statistics(found) for site, found in log.evaluation.items()}
    )
    return msgspec.msgpack.encode(table)


class _Log(msgspec.Struct, forbid_unknown_fields=True):
    state: str
    evaluation: dict[str, dict[str, tuple[list[int], bytes]]] | None
    seconds: float
    sent: dict[str, int]
    received: dict[str, int]
    reasons: list[tuple[str, str, str]]
    evaluated: list[str]
    waited: dict[str, float]


def decode_log(data: bytes) -> RoundLog:
    """Return what `encode_log` wrote.

    Raises:
        RefusedError: it is not of this form.
    """
    form = _decoded(data, _Log)
    evaluation = None
    if form.evaluation is not None:
        try:
            evaluation = {SiteId(s): _read_statistics(t) for s, t in form.evaluation.items()}
        except ValueError as error:
            raise RefusedError("a log whose statistics cannot be read") from error
    return RoundLog(
        state=_read_state(form.state),
        evaluation=evaluation,
        seconds=form.seconds,
        sent=form.sent,
        received=form.received,
        reasons={(site, status): why for site, status, why in form.reasons},
        evaluated=tuple(map(SiteId, form.evaluated)),
        waited=form.waited,
    )


# -- a party's own journal -------------------------------------------------------------------------


def encode_event(event: Event, keep: Keep) -> bytes:
    """Return an event as bytes; models go to `keep`."""
    table: dict[str, Any]
    if isinstance(event, Arrived):
        table = {"release": _release(event.release, keep), "at": event.at}
    elif isinstance(event, Done):
        table = {f.name: getattr(event, f.name) for f in fields(event)}
        table["update"] = None if event.update is None else _update(event.update, keep)
        table["slot"] = _slot(event.slot, keep)
    else:
        table = asdict(event)
    return msgspec.msgpack.encode([type(event).__name__, table])


def decode_event(data: bytes, load: Load, gate: Gate) -> Event:
    """Return the event that `encode_event` wrote; `gate` is the party's own."""
    kind, table = msgspec.msgpack.decode(data)
    cls = getattr(events, kind)
    if cls is Arrived:
        return Arrived(_read_release(table["release"], load, gate), table["at"])
    if cls is Done:
        update = table["update"]
        if update is not None:
            table["update"] = _read_update(msgspec.convert(update, _Update), load)
        table["slot"] = _read_slot(table["slot"], load)
    event: Event = cls(**table)
    return event


def encode_snapshot(snapshot: Snapshot, keep: Keep) -> bytes:
    """Return a snapshot as bytes; models go to `keep`."""
    table = {f.name: getattr(snapshot, f.name) for f in fields(snapshot)}
    table["state"] = json.dumps(snapshot.state.to_json())
    table["states"] = [json.dumps(state.to_json()) for state in snapshot.states]
    table["model"] = keep(snapshot.model)
    table["slots"] = {name: _slot(slot, keep) for name, slot in snapshot.slots.items()}
    table["early"] = [_release(release, keep) for release in snapshot.early]
    table["models"] = [[*key, keep(params)] for key, params in snapshot.models.items()]
    table["records"] = [_record(record) for record in snapshot.records]
    table["sends"] = [[_release(send.release, keep), list(send.to)] for send in snapshot.sends]
    return msgspec.msgpack.encode(table)


def decode_snapshot(data: bytes, load: Load, gate: Gate) -> Snapshot:
    """Return the snapshot that `encode_snapshot` wrote; `gate` is the party's own."""
    table = msgspec.msgpack.decode(data)
    table["state"] = _read_state(table["state"])
    table["states"] = tuple(_read_state(text) for text in table["states"])
    table["model"] = load(table["model"])
    table["slots"] = {name: _read_slot(slot, load) for name, slot in table["slots"].items()}
    table["early"] = tuple(_read_release(form, load, gate) for form in table["early"])
    table["models"] = {
        (round_, attempt, PartyId(sender)): load(name)
        for round_, attempt, sender, name in table["models"]
    }
    table["sends"] = tuple(
        Send(gate.restored(_read_release(form, load, gate)), tuple(map(PartyId, to)))
        for form, to in table["sends"]
    )
    table["records"] = tuple(_read_record(form) for form in table["records"])
    return Snapshot(**table)


# -- values ----------------------------------------------------------------------------------------


def _form(payload: Outbound, keep: Keep) -> _Message:
    match payload:
        case Plain(admitted, roster, notes):
            update = _update(admitted.update, keep)
            return _Plain(admitted.step, update, list(roster), _told(notes))
        case Reduced(params, weight, roster, notes, score):
            return _Reduced(keep(params), float(weight), list(roster), _told(notes), score)
        case Vote(digest, roster, notes):
            return _Vote(digest, list(roster), _told(notes))
        case Closed(state):
            return _Closed(json.dumps(state.to_json()))
        case Void(reason, notes):
            return _Void(reason, _told(notes))


def _payload(form: _Message, load: Load) -> Outbound:
    match form:
        case _Plain():
            admitted = Gate.arrived(_read_update(form.update, load), form.step)
            return Plain(admitted, _sites(form.roster), _notes(form.notes))
        case _Reduced():
            params, roster = load(form.params), _sites(form.roster)
            return Reduced(params, form.weight, roster, _notes(form.notes), form.score)
        case _Vote():
            return Vote(form.digest, _sites(form.roster), _notes(form.notes))
        case _Closed():
            return Closed(_read_state(form.state))
        case _Void():
            return Void(_line(form.reason), _notes(form.notes))


def _release(release: Release, keep: Keep) -> list[Any]:
    form = _form(release.payload, keep)
    return [form, release.sender, release.round, release.attempt, release.step, release.number]


def _read_release(table: Sequence[Any], load: Load, gate: Gate) -> Release:
    form, sender, round_, attempt, step, number = table
    payload = _payload(msgspec.convert(form, _Message), load)
    return gate.received(
        payload,
        sender=PartyId(sender),
        round_=round_,
        attempt=attempt,
        step=step,
        number=number,
    )


def _record(record: Record) -> list[Any]:
    detail = None
    if record.detail is not None:
        detail = {site: _statistics(found) for site, found in record.detail.items()}
    assert record.state is not None
    return [record.party, json.dumps(record.state.to_json()), detail]


def _read_record(table: Sequence[Any]) -> Record:
    party, state, detail = table
    if detail is not None:
        detail = {SiteId(site): _read_statistics(found) for site, found in detail.items()}
    return Record(PartyId(party), "round", state=_read_state(state), detail=detail)


def _update(update: Update, keep: Keep) -> _Update:
    params = None if update.params is None else keep(update.params)
    return _Update(params, float(update.weight), _statistics(update.statistics))


def _read_update(form: _Update, load: Load) -> Update:
    params = None if form.params is None else load(form.params)
    return Update(params, form.weight, _read_statistics(form.statistics))


def _statistics(statistics: Statistics) -> dict[str, tuple[list[int], bytes]]:
    arrays = {name: np.asarray(values, "<f8") for name, values in statistics.items()}
    return {name: (list(array.shape), array.tobytes()) for name, array in arrays.items()}


def _read_statistics(table: Mapping[str, tuple[list[int], bytes]]) -> Statistics:
    return {
        name: np.frombuffer(data, "<f8").reshape(shape) for name, (shape, data) in table.items()
    }


def _slot(slot: Any, keep: Keep) -> Any:
    if slot is None:
        return None
    if isinstance(slot, Cursor):
        return ["cursor", slot.epoch, slot.position]
    return ["params", {name: keep(params) for name, params in slot.items()}]


def _read_slot(table: Any, load: Load) -> Any:
    if table is None:
        return None
    if table[0] == "cursor":
        return Cursor(*table[1:])
    return {name: load(params) for name, params in table[1].items()}


def _read_state(text: str) -> State:
    try:
        table = json.loads(text)
        msgspec.convert(table, _State)
    except (ValueError, RecursionError) as error:  # msgspec's own errors are ValueErrors
        raise RefusedError(f"a state that cannot be read ({type(error).__name__})") from error
    return State.from_json(table)


def _told(notes: Sequence[Note]) -> _Notes:
    return [(note.site, note.status, note.reason) for note in notes]


def _notes(table: _Notes) -> tuple[Note, ...]:
    """Return notes, with few words each: the next State carries them all to everybody."""
    said: dict[str, list[Note]] = {}
    for site, status, reason in table:
        about = said.setdefault(site, [])
        if len(about) < NOTES:
            about.append(Note(SiteId(site), _line(status), _line(reason)))
    return tuple(note for notes in said.values() for note in notes)


def _line(text: str) -> str:
    shown = text.encode("ascii", "replace").decode("ascii")[:REASON]
    return "".join(letter if letter.isprintable() else "?" for letter in shown)


def _sites(names: Sequence[str]) -> tuple[SiteId, ...]:
    return tuple(map(SiteId, names))


def _decoded(data: bytes, form: Any) -> Any:
    try:
        return msgspec.msgpack.decode(data, type=form)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise RefusedError(f"a message that cannot be read ({type(error).__name__})") from error
