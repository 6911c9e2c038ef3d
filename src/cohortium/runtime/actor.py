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
- The value of the closing step is the next State. A party goes along the chain of States that have
  arrived, each checked against the one before, and stops at the last one whose model it has: who
  missed rounds catches up without redoing them. What a step keeps (batch iterators, server
  optimiser) is provisional until a State says that the round counted.

What the coordinator orders, each a journaled event like any other:

- `Away`: from now on every value of that party is void here, so nobody waits for it; if it is a
  site, it is named as excluded. What it sends is ignored, but for a model that a State may name.
  What was taken in before counts. Who is itself away neither trains nor evaluates, and tells its
  readers. It still hears of States and models; whether it may fetch them the transport decides.
  The closing party cannot be away: a run without it can only be stopped.
- `Back`: it takes part again from the next round.
- `Extended`: the deadlines of the round in progress that count already move; a `TimedOut` before
  the new time is ignored, and the timer asked for again.
- `Paused`, until `Resumed`: the closing party does everything but close the round. Others ignore
  both: they wait for the State, for which there is no deadline.
- `Stopped`: the closing party ends the run with a State that says why; the model is that of the
  round before. Others ignore it: they believe the State.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from cohortium.errors import RefusedError
from cohortium.governance.gate import (
    KINDS,
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
from cohortium.runtime.agreement import Agreement, Evaluation
from cohortium.runtime.closing import Consensus, close, doubt, stop
from cohortium.runtime.combining import COMBINE, Standpoint, fold_prefix
from cohortium.runtime.events import (
    Arrived,
    Away,
    Back,
    Control,
    Done,
    Effect,
    Event,
    Extended,
    Paused,
    Record,
    Resumed,
    Run,
    Send,
    Stopped,
    TimedOut,
    Timer,
)
from cohortium.runtime.progress import Progress, Tallied, Value, params_of
from cohortium.types import Params, PartyId, SiteId, Update

Key = tuple[int, int]
"""(round, attempt), both of the round in progress."""

Sent = tuple[int, int, PartyId]
"""(round, attempt, sender) of a consensus model."""

AHEAD = 2
"""Updates of rounds further ahead than this are dropped: a party that far behind catches up by
States, and takes those of the round that it then opens for absent. Models and States are kept."""

MODELS = 8
"""Consensus models of one sender, the newest, that are kept until their States come. Out of order,
and of rounds that fell short, more may arrive than count; a mailbox in order keeps one waiting."""


@dataclass(frozen=True)
class Snapshot:
    """Everything that an actor needs to go on from the opening of a round.

    Attributes:
        state: the State that the round follows.
        model: the party's consensus model.
        slots: what its steps keep.
        early: releases of this and later rounds that arrived before it opened.
        states: States further along the chain, whose models have not come yet.
        models: consensus models of later rounds, by (round, attempt, sender).
        sends: made before it opened, and may not have left before a crash: those that the
            transport had not acknowledged, then those of the event that opened the round.
        records: rounds that closed before it opened, and may not have been told yet.
        at: when it opened, on the engine's clock; deadlines count from it.
        released: how many releases the party had made when it opened.
        away: parties that are excluded, and why.
        paused: whether the closing party must not close the round.
    """

    state: State
    model: Params
    slots: Mapping[str, Any]
    early: tuple[Release, ...] = ()
    states: tuple[State, ...] = ()
    models: Mapping[Sent, Params] = field(default_factory=dict)
    sends: tuple[Send, ...] = ()
    records: tuple[Record, ...] = ()
    at: float = 0.0
    released: int = 0
    away: Mapping[PartyId, str] = field(default_factory=dict)
    paused: bool = False


class Actor:
    """One party of a run.

    Args:
        party: who it is.
        agreement: the plan and its parts.
        gate: the party's own, which starts at the snapshot's count of releases.
        snapshot: where to start: for a new run, State 0 and the initial model.

    Raises:
        ValueError: the gate would number releases anew.
    """

    def __init__(
        self, party: PartyId, agreement: Agreement, gate: Gate, snapshot: Snapshot
    ) -> None:
        if gate.released != snapshot.released:
            raise ValueError(f"a gate at {gate.released} releases, a snapshot {snapshot.released}")
        self.party, self.agreement, self.gate = party, agreement, gate
        self.state, self.model = snapshot.state, snapshot.model
        self.slots: dict[str, Any] = dict(snapshot.slots)
        self._early = {((r.round, r.attempt), r.sender, r.step): r for r in snapshot.early}
        self._read_at_opening: tuple[Release, ...] = ()
        self._again: list[Effect] = [*snapshot.records, *snapshot.sends]
        self._opened = snapshot.at
        self._released = snapshot.released
        self.away, self.paused = dict(snapshot.away), snapshot.paused
        self._out: set[PartyId] = set()
        self._candidates: dict[Sent, Params] = dict(snapshot.models)
        self._provisional: dict[str, tuple[object, Any]] = {}
        self._states: dict[str, State] = {s.previous: s for s in snapshot.states}
        self._plan: RoundPlan
        self._progress: dict[str, Progress] = {}

    def start(self) -> list[Effect]:
        """Open the round that the snapshot stands before."""
        effects, self._again = self._again, []
        if self.state.status == "running":
            self._open(self._opened, effects)
            self._advance(self._opened, effects)
        return effects

    def handle(self, event: Event) -> list[Effect]:
        """Take in one event and return what is to be done."""
        effects: list[Effect] = []
        if self.state.status != "running":
            return effects
        match event:
            case Arrived():
                self._arrived(event.release, event.at, effects)
            case Done():
                self._done(event, effects)
            case TimedOut():
                self._timed_out(event, effects)
            case _:
                self._obey(event, effects)
        self._advance(event.at, effects)
        return effects

    def wants(self, effect: Effect) -> bool:
        """Tell whether what it once asked for still serves a purpose."""
        if not isinstance(effect, Run | Timer):
            return True
        if (effect.round, effect.attempt) != self._key or self.state.status != "running":
            return False
        if isinstance(effect, Run):
            return not self._progress[effect.step.id].told
        progress = self._progress[effect.step]
        return progress.due == effect.due and not progress.settled

    def snapshot(self, effects: Iterable[Effect] = ()) -> Snapshot:
        """Return what replaces the journal when a round has opened.

        `effects` are what has not left yet, then those of the event that opened it. What was sent
        since the round opened is left out: opening it again makes it again.
        """
        effects = tuple(effects)
        sends = tuple(
            effect
            for effect in effects
            if isinstance(effect, Send) and effect.release.number <= self._released
        )
        return Snapshot(
            self.state,
            self.model,
            dict(self.slots),
            early=(*self._read_at_opening, *self._early.values()),
            states=tuple(self._states.values()),
            models=dict(self._candidates),
            sends=sends,
            records=tuple(e for e in effects if isinstance(e, Record) and e.kind == "round"),
            at=self._opened,
            released=self._released,
            away=dict(self.away),
            paused=self.paused,
        )

    @property
    def _key(self) -> Key:
        return self.state.round + 1, self.state.attempt

    # -- opening and closing a round ---------------------------------------------------------------

    def _open(self, at: float, effects: list[Effect]) -> None:
        self._opened = at
        self.gate.open_round()
        self._plan = self.agreement.plan.round(self.state)
        self._progress, self._out = {}, set()
        mine = self._plan.of_party.get(self.party, ())
        for step in mine:
            progress = self._progress[step.id] = Progress.of(step)
            if step.deadline is not None and not step.inputs:
                self._wait(progress, at + step.deadline, effects)
        for party in sorted(self.away):
            self._leave_out(party, at, effects)
        for step in mine:
            progress = self._progress[step.id]
            if not progress.waiting and not progress.settled:
                self._fire(progress, at, effects)
        early = self._early
        self._early = {place: r for place, r in early.items() if place[0] > self._key}
        self._read_at_opening = tuple(r for place, r in early.items() if place[0] == self._key)
        for release in self._read_at_opening:
            self._arrived(release, at, effects)

    def _advance(self, at: float, effects: list[Effect]) -> None:
        """Open the round after the last State whose model is here, and again if that closes it."""
        while self._states and self._follow(effects) and self.state.status == "running":
            self._open(at, effects)

    def _follow(self, effects: list[Effect]) -> bool:
        """Go along the chain of States that have arrived; tell whether that led further."""
        state, model = self.state, self.model
        found: Params | None = model
        reached: list[State] = []
        for following in self._chain(effects):
            found = self._model_of(following, found)
            reached.append(following)
            if found is not None:
                state, model = following, found
        if state is self.state:
            return False
        for step in reached[: reached.index(state) + 1]:
            self._commit(step)
        self._provisional = {}
        self.state, self.model = state, model
        passed = state.round, state.attempt
        self._states = {k: s for k, s in self._states.items() if (s.round, s.attempt) > passed}
        self._candidates = {k: v for k, v in self._candidates.items() if k[0] > state.round}
        self._released = self.gate.released
        return True

    def _chain(self, effects: list[Effect]) -> Iterator[State]:
        """Yield the States that follow one from the other; a doubtful one is dropped and told."""
        state = self.state
        while state.digest in self._states:
            following = self._states[state.digest]
            why = doubt(self.agreement, state, following)
            if why:
                del self._states[state.digest]
                self._refuse(following, why, effects)
                return
            yield following
            state = following

    def _refuse(self, state: State, why: str, effects: list[Effect]) -> None:
        reason = f"state {state.round} refused: {why}"
        effects.append(Record(self.party, "refused", step="outcome", reason=reason))

    def _commit(self, state: State) -> None:
        """Keep, or drop, what this party's steps left behind in the round that `state` closed."""
        for slot, (mark, value) in self._provisional.items():
            if mark == self._mark(slot, state):
                self.slots[slot] = value

    def _mark(self, slot: str, state: State) -> object:
        """Return the mark that a provisional value of `slot` must bear for `state` to commit it.

        For batches, the last round that this site was in; for the server, its model's digest.
        """
        if slot == "batches":
            return state.last_in.get(SiteId(self.party))
        return state.models.get(self.party)

    def _model_of(self, state: State, before: Params | None) -> Params | None:
        """Return this party's model after `state`, or None where it has not come yet.

        A round that did not count changes none, nor does one in which this party is given none.
        """
        if not state.models or (not state.roster and self.agreement.plan.rounds):
            return before
        holder = self.agreement.plan.layout(state.round).holder_of.get(self.party)
        if holder is None or holder not in state.models:
            return before
        digest = state.models[holder]
        kept = (
            v
            for (n, _, sender), v in self._candidates.items()
            if (n, sender) == (state.round, holder)
        )
        return next((params for params in kept if params.digest == digest), None)

    # -- arrivals ----------------------------------------------------------------------------------

    def _arrived(self, release: Release, at: float, effects: list[Effect]) -> None:
        step = self._step_of(release)
        if step is None or release.sender == self.party:  # one's own values take no journey
            reason = f"{release.sender} sent {release.step!r}, which is not for it to send"
            effects.append(Record(self.party, "refused", step=release.step, reason=reason))
            return
        key = (release.round, release.attempt)
        if isinstance(release.payload, Closed):
            state = release.payload.state
            if key == self._key and state.previous != self.state.digest:
                self._refuse(state, "it does not follow the state before it", effects)
            elif (state.round, state.attempt) > (self.state.round, self.state.attempt):
                self._states.setdefault(state.previous, state)
        elif key >= self._key and release.attempt < self.agreement.plan.attempts:
            if step.op == "consensus" and isinstance(release.payload, Reduced):
                self._keep(release, release.payload.params)
            if key == self._key:
                if release.sender not in self._out:
                    self._deliver(step, release.payload, at, effects)
            elif release.round <= self.state.round + 1 + AHEAD:
                self._early.setdefault((key, release.sender, release.step), release)

    def _step_of(self, release: Release) -> Step | None:
        """Return the step whose value a release is, if it is its sender's."""
        plan = self.agreement.plan
        if isinstance(release.payload, Closed):
            is_closing = release.sender == plan.topology.closer and release.step == "outcome"
            return self._plan.closing if is_closing else None
        if not 0 < release.round <= max(plan.rounds, 1):
            return None
        near = release.round <= self.state.round + 1 + AHEAD
        layout = plan.layout(release.round) if near else self._plan
        step = layout.get(release.step)
        if step is not None and near and step.party != release.sender:
            return None
        return step

    def _keep(self, release: Release, params: Params) -> None:
        """Keep a consensus model until its State comes."""
        key = (release.round, release.attempt, release.sender)
        self._candidates.setdefault(key, params)
        theirs = sorted(k for k in self._candidates if k[2] == release.sender)
        for old in theirs[:-MODELS]:
            del self._candidates[old]

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
                self._wait(progress, at + step.deadline, effects)
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
        if source.party == self.party or isinstance(value, Tallied):
            return value
        try:
            progress.fingerprints[source.id] = self._check(progress.step, source, value)
        except RefusedError as error:
            sender = SiteId(source.party)
            is_site = source.op in ("train", "evaluate")
            sites = (sender,) if is_site or not source.covers else source.covers
            return Void("excluded", tuple(Note(s, "excluded", str(error)) for s in sites))
        return _without_slander(value, source)

    def _check(self, reader: Step, source: Step, value: Value) -> float:
        if isinstance(value, Void):
            return 0.0
        kinds = KINDS[source.op] if reader.op == "outcome" else (*KINDS[source.op][:1],)
        if not isinstance(value, kinds):
            raise RefusedError(f"{source.op} steps do not send a {type(value).__name__} here")
        self._check_roster(source, value)
        trained = source.op != "evaluate"
        most = math.inf
        if source.op == "train":
            most = self.agreement.plan.most((SiteId(source.party),))
        elif trained and source.op != "consensus":
            most = self.agreement.plan.most(source.covers)
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
        if roster == source.covers or (not roster and source.op != "train"):
            return
        if not isinstance(roster, tuple) or not all(isinstance(site, str) for site in roster):
            raise RefusedError("its roster is no list of sites")
        strangers = set(roster).difference(source.covers)
        if strangers:
            raise RefusedError(f"its roster names {', '.join(sorted(strangers))}")
        if source.op == "train" and SiteId(source.party) not in roster:
            raise RefusedError("its roster leaves out the site itself")

    # -- firing ------------------------------------------------------------------------------------

    def _timed_out(self, event: TimedOut, effects: list[Effect]) -> None:
        if (event.round, event.attempt) != self._key:
            return
        progress = self._progress[event.step]
        if progress.settled or progress.due is None:
            return
        if event.at < progress.due:
            self._wait(progress, progress.due, effects)
            return
        progress.seen = event.seen
        self._fire(progress, event.at, effects)

    def _wait(self, progress: Progress, due: float, effects: list[Effect]) -> None:
        progress.due = due
        effects.append(Timer(*self._key, progress.step.id, due))

    def _fire(self, progress: Progress, at: float, effects: list[Effect]) -> None:
        step = progress.step
        if step.op == "outcome" and self.paused:
            return
        progress.settled = True
        void = progress.void
        if step.op == "outcome":
            self._close(progress, effects)
        elif void is not None:
            self._settle(step, void, at, effects)
        elif step.op in ("train", "evaluate"):
            self._run(progress, effects)
            progress.drop_inputs()
        else:
            value, kept = COMBINE[step.op](self._standpoint(step), progress)
            progress.inputs.clear()
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
        if (event.round, event.attempt) != self._key:
            return
        step = self._plan[event.step]
        progress = self._progress[event.step]
        if progress.told:
            return
        site = SiteId(self.party)
        roster, notes = tuple(progress.roster), progress.said()
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
        self._progress[step.id].told = True
        others = [p for p in self._plan.readers[step.id] if p != self.party]
        if step.op == "consensus" and isinstance(payload, Reduced):
            self._candidates[*self._key, self.party] = payload.params
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
            release = self.gate.release(
                payload, step, readers=readers, plan=self._plan, attempt=self.state.attempt
            )
            effects.append(Send(release, readers))

    def _close(self, progress: Progress, effects: list[Effect]) -> None:
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
            refusal=progress.voids[min(progress.voids)] if progress.voids else "",
            seen=progress.seen,
        )
        self._end(state, evaluation, effects)

    def _end(self, state: State, evaluation: Evaluation | None, effects: list[Effect]) -> None:
        step = self._plan.closing
        effects.append(Record(self.party, "round", state=state, detail=evaluation))
        others = [p for p in step.to if p != self.party]
        self._send(step, Closed(state), others, effects)
        self._states[state.previous] = state

    # -- what the coordinator orders ---------------------------------------------------------------

    def _obey(self, event: Control, effects: list[Effect]) -> None:
        closes = self.party == self.agreement.plan.topology.closer
        match event:
            case Away():
                self._exclude(event, effects)
            case Back():
                self.away.pop(event.party, None)
            case Extended():
                self._extend(event.seconds, effects)
            case Paused() if closes:
                self.paused = True
            case Resumed() if self.paused:
                self._resume(event.at, effects)
            case Stopped() if closes:
                self._progress[self._plan.closing.id].settled = True
                self._end(stop(self.state, event.reason), None, effects)

    def _exclude(self, event: Away, effects: list[Effect]) -> None:
        if event.party == self.agreement.plan.topology.closer:
            reason = f"{event.party} closes the rounds: without it the run can only be stopped"
            effects.append(Record(self.party, "refused", step="outcome", reason=reason))
        elif event.party not in self.away:
            self.away[event.party] = event.reason
            self._leave_out(event.party, event.at, effects)

    def _leave_out(self, party: PartyId, at: float, effects: list[Effect]) -> None:
        """Take every value of a party that is away for void, for the rest of the round."""
        self._out.add(party)
        site = SiteId(party)
        is_site = site in self.agreement.plan.rows
        notes = (Note(site, "excluded", self.away[party]),) if is_site else ()
        for step in self._plan.of_party.get(party, ()):
            void = Void("excluded", notes)
            if party != self.party:
                self._deliver(step, void, at, effects)
            elif step.op in ("train", "evaluate"):
                self._give_up(step, void, at, effects)

    def _give_up(self, step: Step, void: Void, at: float, effects: list[Effect]) -> None:
        """Settle one's own work over records without a value, unless it is done."""
        progress = self._progress[step.id]
        progress.settled = True
        if not progress.told:
            self._settle(step, void, at, effects)

    def _extend(self, seconds: float, effects: list[Effect]) -> None:
        for progress in self._progress.values():
            if progress.due is not None and not progress.settled and seconds > 0:
                self._wait(progress, progress.due + seconds, effects)

    def _resume(self, at: float, effects: list[Effect]) -> None:
        """Close the round if all is there; ask for the timer again, which may have gone off."""
        progress = self._progress[self._plan.closing.id]
        self.paused = False
        if not progress.waiting:
            self._fire(progress, at, effects)
        elif progress.due is not None:
            self._wait(progress, progress.due, effects)


def _consensus_of(value: Value) -> Consensus:
    if isinstance(value, Vote):
        return Consensus(value.digest, value.roster, value.notes)
    assert isinstance(value, Reduced)
    return Consensus(value.params.digest, value.roster, value.notes)


def _without_slander(value: Value, source: Step) -> Value:
    """Return a value without notes about sites that its sender does not answer for."""
    notes = () if isinstance(value, Closed | Tallied) else value.notes
    if not notes:
        return value
    covers = frozenset(source.covers)
    if all(note.site in covers for note in notes):
        return value
    assert not isinstance(value, Closed | Tallied)
    return replace(value, notes=tuple(note for note in notes if note.site in covers))
