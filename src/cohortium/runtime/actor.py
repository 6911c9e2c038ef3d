"""One party's state machine: events in, effects out. No I/O, no clock, no randomness of its own.

The rules:

- A round is the steps of `plan.round(state)`. A step *fires* when all its inputs are there and each
  of its gathers is there, void, or past the step's deadline; it then *settles*, with a value or
  void.
- A required void input makes a step void. Void travels to the readers, so nobody waits for it. A
  void closing step applies the study's participation rule to the model of the round before.
- What arrives is checked before it counts towards `needs`: what the plan does not declare is
  excluded and named. Gathered values are folded in the plan's order, never in that of arrival.
- Events of earlier rounds are ignored, those of later ones wait. A repeated event changes nothing.
- The value of the closing step is the next State. A party that missed some jumps to the newest one
  for which it has the model. What a step keeps (batch iterators, server optimiser) is provisional
  until a State says that the round counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from cohortium.aggregation.rule import Fold
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
    check,
)
from cohortium.plan.plan import Note, State
from cohortium.plan.step import RoundPlan, Step
from cohortium.runtime.agreement import Agreement
from cohortium.runtime.closing import Consensus, close, doubt
from cohortium.runtime.events import (
    Arrived,
    Done,
    Effect,
    Event,
    Record,
    Run,
    Send,
    TimedOut,
    Timer,
)
from cohortium.types import Params, PartyId, SiteId, Statistics, Update

Key = tuple[int, int]
"""(round, attempt), both of the round in progress."""

AHEAD = 2
"""Arrivals of rounds further ahead than this are dropped; their senders will repeat them."""


@dataclass(frozen=True)
class Snapshot:
    """Everything that an actor needs to go on from the opening of a round.

    Attributes:
        state: the State that the round follows.
        model: the party's consensus model.
        slots: what its steps keep.
        early: releases of this and later rounds that arrived before it opened.
        sends: those of the event that opened the round: they may not have left before a crash.
        at: when it opened, on the engine's clock; deadlines count from it.
    """

    state: State
    model: Params
    slots: Mapping[str, Any]
    early: tuple[Release, ...] = ()
    sends: tuple[Send, ...] = ()
    at: float = 0.0


@dataclass(frozen=True, slots=True)
class Tallied:
    """Every site's statistics; a value that stays at the closing party."""

    statistics: Mapping[SiteId, Statistics]
    notes: tuple[Note, ...]


Value = Outbound | Tallied


@dataclass(slots=True)
class _Progress:
    """How far one of the party's own steps is."""

    step: Step
    places: dict[str, int]
    waiting: set[str]
    inputs: dict[str, Value] = field(default_factory=dict)
    gathered: dict[int, Value] = field(default_factory=dict)
    fingerprints: dict[str, float] = field(default_factory=dict)
    settled: bool = False
    count: int = 0
    folded: int = 0
    fold: Fold | None = None
    roster: list[SiteId] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)


class Actor:
    """One party of a run.

    Args:
        party: who it is.
        agreement: the plan and its parts.
        gate: the party's own.
        snapshot: where to start: for a new run, State 0 and the initial model.
    """

    def __init__(
        self, party: PartyId, agreement: Agreement, gate: Gate, snapshot: Snapshot
    ) -> None:
        self.party, self.agreement, self.gate = party, agreement, gate
        self.state, self.model = snapshot.state, snapshot.model
        self.slots: dict[str, Any] = dict(snapshot.slots)
        self._early: list[Release] = list(snapshot.early)
        self._read_at_opening: tuple[Release, ...] = ()
        self._resend, self._opened = list(snapshot.sends), snapshot.at
        self._candidates: dict[tuple[Key, PartyId], Params] = {}
        self._provisional: dict[str, tuple[object, Any]] = {}
        self._closed: State | None = None
        self._plan: RoundPlan
        self._progress: dict[str, _Progress] = {}

    def start(self) -> list[Effect]:
        """Open the round that the snapshot stands before."""
        effects: list[Effect] = list(self._resend)
        self._resend = []
        if self.state.status == "running":
            self._open(self._opened, effects)
        return effects

    def handle(self, event: Event) -> list[Effect]:
        """Take in one event and return what is to be done."""
        effects: list[Effect] = []
        match event:
            case Arrived():
                self._arrived(event.release, event.at, effects)
            case Done():
                if (event.round, event.attempt) == self._key and self.state.status == "running":
                    self._done(event, effects)
            case TimedOut():
                self._timed_out(event, effects)
        return effects

    def snapshot(self, effects: Iterable[Effect] = ()) -> Snapshot:
        """Return what replaces the journal when a round has opened.

        `effects` are those of the event that opened it.
        """
        sends = tuple(effect for effect in effects if isinstance(effect, Send))
        early = (*self._read_at_opening, *self._early)
        return Snapshot(self.state, self.model, dict(self.slots), early, sends, self._opened)

    @property
    def _key(self) -> Key:
        return self.state.round + 1, self.state.attempt

    # -- opening and closing a round ---------------------------------------------------------------

    def _open(self, at: float, effects: list[Effect]) -> None:
        self._opened = at
        self.gate.open_round()
        self._plan = self.agreement.plan.round(self.state)
        self._progress = {}
        mine = self._plan.of_party.get(self.party, ())
        for step in mine:
            self._progress[step.id] = _Progress(
                step,
                {source: i for i, source in enumerate(step.gathers)},
                set(step.inputs + step.gathers),
            )
            if step.deadline is not None and not step.inputs:
                effects.append(Timer(*self._key, step.id, at + step.deadline))
        for step in mine:
            progress = self._progress[step.id]
            if not progress.waiting and not progress.settled:
                self._fire(progress, at, effects)
        early, self._early = self._early, []
        self._read_at_opening = tuple(r for r in early if (r.round, r.attempt) == self._key)
        for release in early:
            self._arrived(release, at, effects)

    def _adopt(self, state: State, at: float, effects: list[Effect]) -> None:
        """Go on from a State that follows, if its model is here; else keep it until that comes."""
        model = self._model_of(state)
        if model is None:
            self._closed = state
            return
        for slot, (mark, value) in self._provisional.items():
            if mark == self._mark(slot, state):
                self.slots[slot] = value
        self._provisional, self._closed = {}, None
        self.state, self.model = state, model
        self._candidates = {k: v for k, v in self._candidates.items() if k[0] >= self._key}
        if state.status == "running":
            self._open(at, effects)

    def _mark(self, slot: str, state: State) -> object:
        """Return the mark that a provisional value of `slot` must bear for `state` to commit it.

        For batches, the last round that this site was in; for the server, its model's digest.
        """
        if slot == "batches":
            return state.last_in.get(SiteId(self.party))
        return state.models.get(self.party)

    def _model_of(self, state: State) -> Params | None:
        if not state.roster and self.agreement.plan.rounds:
            return self.model  # a round that did not count
        key = (state.round, 0)
        for (at, holder), params in self._candidates.items():
            same_round = at[0] == key[0]
            if same_round and state.models.get(holder) == params.digest:
                return params
        comes = any(
            step.party in state.models and (self.party in step.to or self.party == step.party)
            for step in self._plan.steps
            if step.op == "consensus"
        )
        return None if comes else self.model

    # -- arrivals ----------------------------------------------------------------------------------

    def _arrived(self, release: Release, at: float, effects: list[Effect]) -> None:
        if isinstance(release.payload, Closed):
            self._arrived_state(release.payload.state, at, effects)
            return
        key = (release.round, release.attempt)
        if key < self._key or release.round > self.state.round + 1 + AHEAD:
            return
        if isinstance(release.payload, Reduced) and release.step.startswith("consensus"):
            self._candidates.setdefault((key, release.sender), release.payload.params)
        if key > self._key:
            self._early.append(release)
        elif self.state.status == "running":
            self._read(release, at, effects)
        if self._closed is not None:
            self._adopt(self._closed, at, effects)

    def _arrived_state(self, state: State, at: float, effects: list[Effect]) -> None:
        newest = self._closed or self.state
        if (state.round, state.attempt) <= (newest.round, newest.attempt):
            return
        why = doubt(self.agreement, self.state, state)
        if why:
            reason = f"state {state.round} refused: {why}"
            effects.append(Record(self.party, "refused", step="outcome", reason=reason))
        else:
            self._adopt(state, at, effects)

    def _read(self, release: Release, at: float, effects: list[Effect]) -> None:
        step = self._plan.get(release.step)
        if step is None or step.party != release.sender:
            reason = f"{release.sender} sent {release.step!r}, which is not its step"
            effects.append(Record(self.party, "refused", step=release.step, reason=reason))
            return
        self._deliver(step, release.payload, at, effects)

    def _deliver(self, source: Step, payload: Value, at: float, effects: list[Effect]) -> None:
        """Give a value, or void, to this party's steps that read it."""
        for step in self._plan.consumers.get((self.party, source.id), ()):
            progress = self._progress[step.id]
            if source.id not in progress.waiting:
                self._repeated(progress, source, payload, effects)
                continue
            progress.waiting.discard(source.id)
            value = self._inspect(progress, source, payload)
            if source.id in progress.places:
                self._gather(progress, progress.places[source.id], value)
            if source.id in step.inputs:
                progress.inputs[source.id] = value
                if step.deadline is not None and len(progress.inputs) == len(step.inputs):
                    effects.append(Timer(*self._key, step.id, at + step.deadline))
            if not progress.waiting and not progress.settled:
                self._fire(progress, at, effects)

    def _repeated(
        self, progress: _Progress, source: Step, payload: Value, effects: list[Effect]
    ) -> None:
        """Ignore a message that came twice; name a site that sent a second, different update."""
        first = progress.fingerprints.get(source.id)
        if first is None or not isinstance(payload, Plain):
            return
        if payload.admitted.fingerprint != first:
            reason = f"a second, different update for {source.id!r}"
            note = Note(SiteId(source.party), "excluded", reason)
            if note not in progress.notes:
                progress.notes.append(note)
                effects.append(Record(self.party, "refused", step=source.id, reason=reason))

    def _inspect(self, progress: _Progress, source: Step, value: Value) -> Value:
        """Return a value as it may be read: void, with its sites named, if it is not as declared.

        One's own values have passed one's own gate.
        """
        if source.party == self.party or isinstance(value, Void):
            return value
        try:
            progress.fingerprints[source.id] = self._check(source, value)
        except RefusedError as error:
            sites = source.covers or (SiteId(source.party),)
            return Void("excluded", tuple(Note(s, "excluded", str(error)) for s in sites))
        return value

    def _check(self, source: Step, value: Value) -> float:
        if not isinstance(value, _KINDS.get(source.op, ())):
            raise RefusedError(f"{source.op} steps do not send a {type(value).__name__}")
        trained = source.op != "evaluate"
        most = self._rows(source.covers) if trained and source.op != "consensus" else math.inf
        if isinstance(value, Plain):
            update = value.admitted.update
        elif isinstance(value, Reduced):
            update = Update(value.params, value.weight)
        else:
            return 0.0
        return check(update, self.agreement.declaration, most=most, trained=trained)

    def _gather(self, progress: _Progress, place: int, value: Value) -> None:
        if isinstance(value, Void):
            progress.notes += value.notes
        else:
            progress.gathered[place] = value
            progress.count += 1
        if progress.step.op == "reduce":
            self._fold_prefix(progress)

    def _rows(self, sites: Iterable[SiteId]) -> float:
        rows = self.agreement.plan.rows
        return sum(rows[site] for site in sites) * (1 + 1e-9)  # weights mixed in floating point

    # -- firing ------------------------------------------------------------------------------------

    def _timed_out(self, event: TimedOut, effects: list[Effect]) -> None:
        if (event.round, event.attempt) != self._key or self.state.status != "running":
            return
        progress = self._progress[event.step]
        if not progress.settled and len(progress.inputs) == len(progress.step.inputs):
            self._fire(progress, event.at, effects)

    def _fire(self, progress: _Progress, at: float, effects: list[Effect]) -> None:
        step = progress.step
        progress.settled = True
        void = next((v for v in progress.inputs.values() if isinstance(v, Void)), None)
        if step.op == "outcome":
            self._close(progress, at, effects)
        elif void is not None:
            self._settle(step, void, at, effects)
        elif step.op in ("train", "evaluate"):
            self._run(progress, effects)
        else:
            self._settle(step, _PURE[step.op](self, progress), at, effects)

    def _run(self, progress: _Progress, effects: list[Effect]) -> None:
        step = progress.step
        params = self.model
        for value in progress.inputs.values():
            if not isinstance(value, Void):
                params = _params(value)
        slot = self.slots.get(step.slot) if step.slot else None
        consumers = self._plan.consumers.get((self.party, step.id), ())
        measure = any(consumer.op == "select" for consumer in consumers)
        effects.append(Run(self.party, *self._key, step, params, slot, measure))

    def _done(self, event: Done, effects: list[Effect]) -> None:
        step = self._plan[event.step]
        progress = self._progress[event.step]
        if "done" in progress.fingerprints:
            return
        progress.fingerprints["done"] = 0.0
        site = SiteId(self.party)
        before = next(iter(progress.inputs.values()), None)
        roster = before.roster if isinstance(before, Plain | Reduced) else ()
        notes = before.notes if isinstance(before, Plain | Reduced) else ()
        payload: Outbound
        try:
            if event.update is None:
                raise RefusedError(event.reason)
            admitted = self.gate.admit(event.update, step)
        except RefusedError as error:
            status = "failed" if event.update is None else "refused"
            effects.append(Record(self.party, status, step=step.id, reason=str(error)))
            payload = Void(status, (*notes, Note(site, status)))
        else:
            sites = (*roster, site) if step.op == "train" else ()
            payload = Plain(admitted, sites, notes if step.op == "train" else ())
            if step.slot:
                self._provisional[step.slot] = (event.round, event.slot)
        self._settle(step, payload, event.at, effects)

    def _settle(self, step: Step, payload: Value, at: float, effects: list[Effect]) -> None:
        """Send a step's value to its readers, and read it oneself."""
        others = [p for p in self._plan.readers[step.id] if p != self.party]
        if step.op == "consensus" and isinstance(payload, Reduced):
            self._candidates[self._key, self.party] = payload.params
            to = frozenset(step.to)
            served = [p for p in others if p in to or self._evaluates(p, step)]
            model = Reduced(payload.params, payload.weight)
            self._send(step, model, served, effects)
            vote, told = Vote(payload.params.digest, payload.roster, payload.notes), set(served)
            self._send(step, vote, [p for p in others if p not in told], effects)
        elif not isinstance(payload, Tallied):
            self._send(step, payload, others, effects)
        self._deliver(step, payload, at, effects)

    def _evaluates(self, party: PartyId, consensus: Step) -> bool:
        consumers = self._plan.consumers.get((party, consensus.id), ())
        return any(step.op == "evaluate" for step in consumers)

    def _send(
        self, step: Step, payload: Outbound, to: list[PartyId], effects: list[Effect]
    ) -> None:
        if to:
            readers = tuple(to)
            release = self.gate.release(payload, step, readers=readers, state=self.state)
            effects.append(Send(release, readers))

    # -- the steps that need no records ------------------------------------------------------------

    def _note_absent(self, progress: _Progress) -> None:
        named = {note.site for note in progress.notes}
        for source in progress.step.gathers:
            if source in progress.waiting:
                reason = f"nothing came of {source!r} in {progress.step.deadline:g} s"
                absent = [s for s in self._plan[source].covers if s not in named]
                progress.notes += [Note(site, "absent", reason) for site in absent]

    def _fold_prefix(self, progress: _Progress) -> None:
        """Fold what is there of the plan's order without a gap, and let go of it."""
        gathers = progress.step.gathers
        while progress.folded < len(gathers) and gathers[progress.folded] not in progress.waiting:
            self._fold(progress, progress.folded)
            progress.folded += 1

    def _fold(self, progress: _Progress, place: int, *, own: float = 0.0) -> None:
        value = progress.gathered.pop(place, None)
        if value is None:
            return
        weights = progress.step.weights
        if progress.fold is None:
            progress.fold = self.agreement.aggregator.begin(self.model)
        factor = (weights[place] if weights else 1.0) + own
        assert isinstance(value, Plain | Reduced)
        try:
            progress.fold.add(place, _params(value), _weight(value) * factor)
        except RefusedError as error:
            progress.count -= 1
            progress.notes += [Note(site, "excluded", str(error)) for site in value.roster]
            return
        progress.roster += value.roster
        progress.notes += value.notes

    def _reduce(self, progress: _Progress) -> Value:
        step = progress.step
        if progress.count < max(step.needs, 1):
            self._note_absent(progress)
            reason = f"{progress.count} of {max(step.needs, 1)} needed updates"
            return Void(reason, _unique(progress.notes))
        for place in range(progress.folded, len(step.gathers)):
            self._fold(progress, place)
        return self._finish(progress)

    def _mix(self, progress: _Progress) -> Value:
        step = progress.step
        own = next(i for i, s in enumerate(step.gathers) if self._plan[s].party == self.party)
        if own not in progress.gathered:
            return Void("its own training is void", _unique(progress.notes))
        absent = [i for i in range(len(step.gathers)) if i not in progress.gathered]
        kept = sum(step.weights[i] for i in absent)
        for place in range(len(step.gathers)):
            self._fold(progress, place, own=kept if place == own else 0.0)
        return self._finish(progress)

    def _finish(self, progress: _Progress) -> Value:
        assert progress.fold is not None
        self._note_absent(progress)
        try:
            params, weight = progress.fold.finish()
        except RefusedError as error:  # such as a robust rule that is left with too few
            return Void(str(error), _unique(progress.notes))
        finally:
            progress.fold = None
        roster = tuple(dict.fromkeys(progress.roster))
        return Reduced(params, weight, roster, _unique(progress.notes))

    def _select(self, progress: _Progress) -> Value:
        """Keep the better of the best model so far and the newest; the newest where they tie."""
        values = [progress.inputs[source] for source in progress.step.inputs]
        newest = values[-1]
        assert isinstance(newest, Plain | Reduced)
        score = self._score(newest)
        weight = _weight(newest)
        chosen = Reduced(_params(newest), weight, newest.roster, newest.notes, score)
        best = values[0]
        if len(values) > 1 and isinstance(best, Reduced) and _beats(best.score, score):
            return replace(chosen, params=best.params, score=best.score)
        return chosen

    def _score(self, value: Plain | Reduced) -> float | None:
        if isinstance(value, Reduced):
            return value.score
        return self.agreement.score(value.admitted.update.statistics)

    def _consensus(self, progress: _Progress) -> Value:
        plan = self.agreement.plan
        if not plan.rounds:
            return Reduced(self.model, 1.0)
        value = next(iter(progress.inputs.values()))
        assert isinstance(value, Plain | Reduced)
        if plan.topology.one_model and len(value.roster) < plan.needed:
            return Void(f"{len(value.roster)} of {plan.needed} needed sites", value.notes)
        optimizer = self.agreement.server_optimizer
        slot = self.slots.get("server-optimizer")
        before = optimizer.init(self.model) if slot is None else slot
        params, after = optimizer.step(before, self.model, _params(value))
        self._provisional["server-optimizer"] = (params.digest, after)
        return Reduced(params, _weight(value), value.roster, value.notes)

    def _tally(self, progress: _Progress) -> Value:
        if not progress.count:
            return Void("no site evaluated", _unique(progress.notes))
        gathers = progress.step.gathers
        statistics = {
            SiteId(self._plan[gathers[place]].party): _statistics(value)
            for place, value in sorted(progress.gathered.items())
        }
        return Tallied(statistics, _unique(progress.notes))

    def _close(self, progress: _Progress, at: float, effects: list[Effect]) -> None:
        """Close the round: the next State, to all members."""
        step = progress.step
        consensus = {
            self._plan[step.gathers[place]].party: _consensus_of(value)
            for place, value in sorted(progress.gathered.items())
        }
        tally = next(iter(progress.inputs.values()), None)
        evaluation = tally.statistics if isinstance(tally, Tallied) else None
        late = tally.notes if isinstance(tally, Tallied | Void) else ()
        state = close(
            self.agreement,
            self.state,
            consensus=consensus,
            evaluation=evaluation,
            notes=_unique([*progress.notes, *late]),
        )
        effects.append(Record(self.party, "round", state=state, detail=evaluation))
        others = [p for p in step.to if p != self.party]
        self._send(step, Closed(state), others, effects)
        self._adopt(state, at, effects)


def _params(value: Value) -> Params:
    """Return the model in a value; `_inspect` let no other kind through."""
    params = value.admitted.update.params if isinstance(value, Plain) else None
    if isinstance(value, Reduced):
        params = value.params
    assert params is not None
    return params


def _weight(value: Value) -> float:
    assert isinstance(value, Plain | Reduced)
    return value.admitted.update.weight if isinstance(value, Plain) else value.weight


def _statistics(value: Value) -> Statistics:
    assert isinstance(value, Plain)
    return value.admitted.update.statistics


def _consensus_of(value: Value) -> Consensus:
    if isinstance(value, Vote):
        return Consensus(value.digest, value.roster, value.notes)
    assert isinstance(value, Reduced)
    return Consensus(value.params.digest, value.roster, value.notes)


def _unique(notes: Iterable[Note]) -> tuple[Note, ...]:
    return tuple(dict.fromkeys(notes))


def _beats(best: float | None, newest: float | None) -> bool:
    return best is not None and (newest is None or best > newest)


_KINDS: Mapping[str, tuple[type, ...]] = {
    "train": (Plain,),
    "evaluate": (Plain,),
    "reduce": (Reduced,),
    "mix": (Reduced,),
    "select": (Reduced,),
    "consensus": (Reduced, Vote),
}
"""What a step's value may be when it comes from another party."""

_PURE: Mapping[str, Callable[[Actor, _Progress], Value]] = {
    "reduce": Actor._reduce,
    "mix": Actor._mix,
    "select": Actor._select,
    "consensus": Actor._consensus,
    "tally": Actor._tally,
}
