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
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

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
from cohortium.runtime.combining import COMBINE, Standpoint, fold_prefix
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
from cohortium.runtime.progress import Progress, Tallied, Value, params_of
from cohortium.types import Params, PartyId, SiteId, Update

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
        self._progress: dict[str, Progress] = {}

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
            self._progress[step.id] = Progress.of(step)
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
            progress.take(source.id, self._inspect(progress, source, payload))
            if step.op == "reduce":
                fold_prefix(self._standpoint(step), progress)
            if source.id in step.inputs and step.deadline is not None and progress.has_inputs:
                effects.append(Timer(*self._key, step.id, at + step.deadline))
            if not progress.waiting and not progress.settled:
                self._fire(progress, at, effects)

    def _repeated(
        self, progress: Progress, source: Step, payload: Value, effects: list[Effect]
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

    def _inspect(self, progress: Progress, source: Step, value: Value) -> Value:
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
        self._check_roster(source, value)
        trained = source.op != "evaluate"
        most = self._rows(source.covers) if trained and source.op != "consensus" else math.inf
        if isinstance(value, Plain):
            update = value.admitted.update
        elif isinstance(value, Reduced):
            update = Update(value.params, value.weight)
        else:
            return 0.0
        return check(update, self.agreement.declaration, most=most, trained=trained)

    def _check_roster(self, source: Step, value: Value) -> None:
        """Refuse a roster that the plan does not allow: strangers, or training without oneself."""
        roster = value.roster if isinstance(value, Plain | Reduced | Vote) else ()
        if roster == source.covers:
            return
        strangers = set(roster).difference(source.covers)
        if strangers:
            raise RefusedError(f"its roster names {', '.join(sorted(strangers))}")
        if source.op == "train" and SiteId(source.party) not in roster:
            raise RefusedError("its roster leaves out the site itself")

    def _rows(self, sites: Iterable[SiteId]) -> float:
        rows = self.agreement.plan.rows
        return sum(rows[site] for site in sites) * (1 + 1e-9)  # weights mixed in floating point

    # -- firing ------------------------------------------------------------------------------------

    def _timed_out(self, event: TimedOut, effects: list[Effect]) -> None:
        if (event.round, event.attempt) != self._key or self.state.status != "running":
            return
        progress = self._progress[event.step]
        if not progress.settled and progress.has_inputs:
            self._fire(progress, event.at, effects)

    def _fire(self, progress: Progress, at: float, effects: list[Effect]) -> None:
        step = progress.step
        progress.settled = True
        void = progress.void
        if step.op == "outcome":
            self._close(progress, at, effects)
        elif void is not None:
            self._settle(step, void, at, effects)
        elif step.op in ("train", "evaluate"):
            self._run(progress, effects)
        else:
            value, kept = COMBINE[step.op](self._standpoint(step), progress)
            if step.slot and isinstance(value, Reduced):
                self._provisional[step.slot] = (value.params.digest, kept)
            self._settle(step, value, at, effects)

    def _standpoint(self, step: Step) -> Standpoint:
        slot = self.slots.get(step.slot) if step.slot else None
        return Standpoint(self.party, self.agreement, self._plan, self.model, slot)

    def _run(self, progress: Progress, effects: list[Effect]) -> None:
        step = progress.step
        value = progress.only_input
        params = self.model if value is None else params_of(value)
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
        before = progress.only_input
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

    def _close(self, progress: Progress, at: float, effects: list[Effect]) -> None:
        """Close the round: the next State, to all members."""
        step = progress.step
        consensus = {
            self._plan[step.gathers[place]].party: _consensus_of(value)
            for place, value in sorted(progress.gathered.items())
        }
        tally = progress.only_input
        evaluation = tally.statistics if isinstance(tally, Tallied) else None
        late = tally.notes if isinstance(tally, Tallied | Void) else ()
        state = close(
            self.agreement,
            self.state,
            consensus=consensus,
            evaluation=evaluation,
            notes=progress.said(late),
        )
        effects.append(Record(self.party, "round", state=state, detail=evaluation))
        others = [p for p in step.to if p != self.party]
        self._send(step, Closed(state), others, effects)
        self._adopt(state, at, effects)


def _consensus_of(value: Value) -> Consensus:
    if isinstance(value, Vote):
        return Consensus(value.digest, value.roster, value.notes)
    assert isinstance(value, Reduced)
    return Consensus(value.params.digest, value.roster, value.notes)


_KINDS: Mapping[str, tuple[type, ...]] = {
    "train": (Plain,),
    "evaluate": (Plain,),
    "reduce": (Reduced,),
    "mix": (Reduced,),
    "select": (Reduced,),
    "consensus": (Reduced, Vote),
}
"""What a step's value may be when it comes from another party."""
