"""A fault injector: the same actors, with messages that are late, doubled and out of order, sites
that do not answer or lie, parties that die at any moment and come back, and orders in between.

    faulty = Faults(seed=7, kills=0.2)
    history = faults.run(federation, faulty)

Histories are replayable: equal seeds give equal histories.

A party that dies loses everything but its journal: its work, its timers, and the messages that the
mailbox had not taken yet. The mailbox outlives everybody. Time is virtual: it passes a little with
every step, and as far as the next deadline when nothing else is left, or when the history is late.

What must hold in every history is checked while it runs (`BrokenError`): a number is given to one
release only; a replay asks for the same timers; nobody closes a round while paused, or twice.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from cohortium.errors import RunFailedError
from cohortium.governance.gate import Closed, Plain, Reduced, Release
from cohortium.plan.plan import State
from cohortium.runtime.actor import AHEAD, Actor, Snapshot
from cohortium.runtime.engine import Federation
from cohortium.runtime.events import (
    Arrived,
    Control,
    Done,
    Effect,
    Event,
    Paused,
    Record,
    Resumed,
    Run,
    Send,
    Stopped,
    TimedOut,
    Timer,
)
from cohortium.runtime.journal import Journaled, MemoryJournal, is_behind
from cohortium.types import PartyId, Update

Moment = Literal["before journaling", "after journaling", "before sending"]
MOMENTS: tuple[Moment, ...] = ("before journaling", "after journaling", "before sending")


@dataclass(frozen=True, slots=True)
class Cut:
    """Nothing goes to or from a party, from one step of a history to another."""

    party: str
    begin: int
    end: int


@dataclass(frozen=True)
class Faults:
    """What goes wrong in a history.

    Attributes:
        seed: of the history.
        shuffle: deliver and run in random order instead of first in, first out.
        duplicates: chance that a message comes again: one that was delivered, and one that its
            sender hands in again after a death, which a mailbox otherwise knows.
        kills: chance that a party dies at an event, at a random moment of it.
        kill_at: (party, its event's number) to the moment at which it dies.
        blackouts: chance, at each step, that all parties die at once.
        rollbacks: chance that a party that dies wakes up with an old copy of its journal.
        silent: (site, round) of steps that never report.
        tampered: site to what it makes of its update before its gate sees it.
        lies: site to what it makes of its releases after its gate, as a hostile node would.
        cuts: who is cut off, and when.
        late: chance, at each step, that the next deadline passes although more is under way.
        skew: how far, in seconds, a party's clock may be off; drawn anew whenever it starts.
        tick: most seconds that pass with a step.
        controls: (step, order) that every party is given from that step of the history on.
    """

    seed: int = 0
    shuffle: bool = True
    duplicates: float = 0.0
    kills: float = 0.0
    kill_at: Mapping[tuple[str, int], Moment] = field(default_factory=dict)
    blackouts: float = 0.0
    rollbacks: float = 0.0
    silent: frozenset[tuple[str, int]] = frozenset()
    tampered: Mapping[str, Callable[[Update], Update]] = field(default_factory=dict)
    lies: Mapping[str, Callable[[Release], list[Release]]] = field(default_factory=dict)
    cuts: tuple[Cut, ...] = ()
    late: float = 0.0
    skew: float = 0.0
    tick: float = 0.0
    controls: tuple[tuple[int, Control], ...] = ()


@dataclass
class History:
    """What came of it.

    Attributes:
        actors: as they were at the end.
        rounds: what the closing party recorded, again after a replay.
        refused: what anybody recorded as refused or failed.
        deaths: how often each moment of death struck.
        blackouts: how often all died at once.
        events: how many events each party was given.
        told: the (round, attempt) of records of rounds that reached who reads them.
        states: the States that left the closing party, by (round, attempt), in the chain's order.
        timeouts: deadlines that passed while something was waited for.
        noticed: old copies of a journal that their party noticed.
        woken: old copies with which a party went on, as nothing had left since.
        heard: (party, place of an order in `Faults.controls`) to the round in progress there.
    """

    actors: dict[PartyId, Actor] = field(default_factory=dict)
    rounds: list[Record] = field(default_factory=list)
    refused: list[Record] = field(default_factory=list)
    deaths: dict[Moment, int] = field(default_factory=lambda: dict.fromkeys(MOMENTS, 0))
    blackouts: int = 0
    events: dict[PartyId, int] = field(default_factory=dict)
    told: set[tuple[int, int]] = field(default_factory=set)
    states: dict[tuple[int, int], State] = field(default_factory=dict)
    timeouts: int = 0
    noticed: int = 0
    woken: int = 0
    heard: dict[tuple[PartyId, int], int] = field(default_factory=dict)


class BrokenError(RunFailedError):
    """Something that holds in every history does not."""


def run(
    federation: Federation, faults: Faults, *, trace: Callable[[str], None] | None = None
) -> History:
    """Run a federation through a faulty history.

    Args:
        federation: who runs, and on what.
        faults: what goes wrong.
        trace: is told of every step of the history, in words.

    Raises:
        RunFailedError: nothing is under way and the run has not ended.
        BrokenError: an invariant does not hold.
    """
    return _Injector(federation, faults, trace).run()


Kind = Literal["upload", "tell", "message", "control", "run", "done"]
Pending = tuple[Kind, PartyId, Any]
OUTWARD = ("upload", "tell")
DURABLE = ("message", "control")
"""What waits in a mailbox, and not in the memory of a party."""

KEPT = ("outcome", "consensus")
STEPS = 20_000
"""Steps after which a history does not end."""

DEATHS = 50
"""Deaths after which nobody dies any more: each may cause work and messages, and so others."""

WOKEN = 2
"""Old copies of a journal with which parties go on, in one history."""

COPIED = 0.1
"""Chance, at each step, that somebody copies a party's journal, where there are rollbacks."""


@dataclass(frozen=True, slots=True, eq=False)
class _Copy:
    """A party's journal at some time, and how much of its mail it had taken in by then."""

    snapshot: Snapshot
    events: Sequence[Event]
    mail: int


class _Party:
    """A party, and what the world knows of it.

    Attributes:
        offset: how far its clock is off, in seconds.
        journaled: the party.
        orders: controls that it has not been given, in order.
        mail: what it has taken in from its mailbox, in order.
        copies: of its journal.
        left: numbers of its releases to what they were.
        timers: (round, attempt, step) to the first time that it asked for.
        paused: whether it was told to pause.
        closed: the (round, attempt) of the States that it made.
    """

    def __init__(self, journaled: Journaled) -> None:
        self.offset = 0.0
        self.journaled = journaled
        self.orders: deque[tuple[int, Control]] = deque()
        self.mail: list[tuple[Kind, Any]] = []
        self.copies: list[_Copy] = []
        self.left: dict[int, Any] = {}
        self.timers: dict[tuple[int, int, str], float] = {}
        self.paused = False
        self.closed: set[tuple[int, int]] = set()


class _Injector:
    def __init__(
        self, federation: Federation, faults: Faults, trace: Callable[[str], None] | None
    ) -> None:
        self.federation, self.faults, self.trace = federation, faults, trace
        self.random = random.Random(faults.seed)  # noqa: S311 - a history, not a secret
        self.pending: list[Pending] = []
        self.timers: list[tuple[float, PartyId, Timer]] = []
        self.controls = deque(enumerate(faults.controls))
        self.cuts = list(faults.cuts)
        self.now, self.step = 0.0, 0
        self.history = History()
        self.parties = {p: _Party(self._journaled(p)) for p in federation.agreement.plan.parties}

    def run(self) -> History:
        for party in self.parties:
            self.history.events[party] = 0
            self._start(party)
        while not self._ended():
            self._next()
        for _, _, what in [entry for entry in self.pending if entry[0] == "tell"]:
            self._hear(what)
        self.history.states = dict(sorted(self.history.states.items()))
        self.history.actors = {name: p.journaled.actor for name, p in self.parties.items()}
        return self.history

    def _journaled(self, party: PartyId, copy: _Copy | None = None) -> Journaled:
        start = self.federation.actor(party).snapshot() if copy is None else copy.snapshot

        def make(snapshot: Snapshot) -> Actor:
            return self.federation.actor(party, snapshot)

        journal = MemoryJournal(start)
        for event in copy.events if copy is not None else ():
            journal.append(event)
        return Journaled(journal, make)

    def _ended(self) -> bool:
        return all(p.journaled.actor.state.status != "running" for p in self.parties.values())

    # -- one step after another --------------------------------------------------------------------

    def _next(self) -> None:
        faults = self.faults
        self.step += 1
        self.now += self.random.random() * faults.tick
        while self.controls and self.controls[0][1][0] <= self.step:
            self._order(*self.controls.popleft())
        if faults.rollbacks and self.random.random() < COPIED:
            one = self.random.choice(tuple(self.parties.values()))
            one.copies.append(_Copy(*one.journaled.journal.load(), len(one.mail)))
        if self.random.random() < faults.blackouts and self._mortal:
            self.history.blackouts += 1
            self._tell("everybody", "dies")
            for party in self.parties:
                self._start(party)
        elif self.timers and faults.late and self.random.random() < faults.late:
            self._time_out()
        elif (at := self._choose()) is not None:
            self._take(at)
        elif self.controls:
            self._order(*self.controls.popleft())
        elif self.cuts and not (self.timers and faults.late):
            self.cuts = []
        elif self.timers:
            self._time_out()
        else:
            raise RunFailedError("nothing is under way and the run has not ended")
        if self.step > STEPS:
            raise BrokenError("it does not end")

    def _choose(self) -> int | None:
        """Return the place of what happens next, if anything can."""
        self.cuts = [cut for cut in self.cuts if cut.end > self.step]
        apart = {cut.party for cut in self.cuts if cut.begin <= self.step}
        if not apart:
            if not self.pending:
                return None
            return self.random.randrange(len(self.pending)) if self.faults.shuffle else 0
        free = [
            at
            for at, (kind, party, _) in enumerate(self.pending)
            if party not in apart or kind in ("run", "done", "tell")
        ]
        if not free:
            return None
        return self.random.choice(free) if self.faults.shuffle else free[0]

    def _take(self, at: int) -> None:
        kind, party, what = self.pending[at]
        again = kind == "message" and self.random.random() < self.faults.duplicates
        if not again:
            del self.pending[at]
        match kind:
            case "run":
                self._perform(party, what)
            case "upload":
                self._deliver(party, what)
            case "tell":
                self._hear(what)
            case "message" if self._is_ahead(party, what):
                self.pending += [] if again else [(kind, party, what)]
            case "message":
                if not self._give(party, (kind, what), Arrived(what, self._clock(party))):
                    self.pending += [] if again else [(kind, party, what)]
            case "control":
                self._obey(party)
            case "done":
                self._handle(party, replace(what, at=self._clock(party)))

    def _is_ahead(self, party: PartyId, release: Release) -> bool:
        """Tell whether a message comes before its time by more rounds than a reader keeps.

        A mailbox that is read in its own order never gives one out, unless somebody made it up.
        States, and models that nobody evaluates, are kept however early they come.
        """
        kept = ("outcome",) if self.federation.agreement.plan.evaluate_every else KEPT
        if self.faults.lies or release.step.startswith(kept):
            return False
        state = self.parties[party].journaled.actor.state
        return state.status == "running" and release.round > state.round + 1 + AHEAD

    def _deliver(self, party: PartyId, send: Send) -> None:
        """Put a release into its readers' mailboxes, unless it is there or was."""
        left, number, found = self.parties[party].left, send.release.number, _identity(send)
        if number in left:
            if left[number] != found:
                raise BrokenError(f"{party} gave number {number} to {left[number]} and {found}")
            if self.random.random() >= self.faults.duplicates:
                return
        left[number] = found
        if isinstance(send.release.payload, Closed):
            self._close(party, send.release.payload.state)
        lie = self.faults.lies.get(party)
        for release in [send.release] if lie is None else lie(send.release):
            self.pending += [("message", reader, release) for reader in send.to]

    def _order(self, place: int, order: tuple[int, Control]) -> None:
        for name, party in self.parties.items():
            party.orders.append((place, order[1]))
            self.pending.append(("control", name, None))

    def _obey(self, party: PartyId) -> None:
        """Give a party the next order: they come once, and in their order."""
        one = self.parties[party]
        place, order = what = one.orders.popleft()
        paused, one.paused = one.paused, _pauses(order, one.paused)
        number = one.journaled.actor.state.round + 1
        if self._give(party, ("control", what), replace(order, at=self._clock(party))):
            self.history.heard[party, place] = number
        else:
            one.paused = paused
            one.orders.appendleft(what)
            self.pending.append(("control", party, None))

    def _time_out(self) -> None:
        self.timers.sort(key=lambda timer: timer[0])
        due, party, timer = self.timers.pop(0)
        self.now = max(self.now, due)
        at = max(self._clock(party), timer.due)
        self.history.timeouts += _cuts_short(self.parties[party].journaled.actor, timer, at=at)
        self._handle(party, TimedOut(timer.round, timer.attempt, timer.step, at))

    def _perform(self, party: PartyId, run: Run) -> None:
        if (party, run.round) in self.faults.silent:
            return
        done = self.federation.training.perform(run, at=self._clock(party))
        tamper = self.faults.tampered.get(party)
        if tamper is not None and run.step.op == "train" and done.update is not None:
            done = replace(done, update=tamper(done.update))
        self.pending.append(("done", party, done))

    # -- life and death ----------------------------------------------------------------------------

    def _give(self, party: PartyId, mail: tuple[Kind, Any], event: Event) -> bool:
        """Give a party its mail; tell whether it needs no longer be kept for it."""
        one = self.parties[party]
        one.mail.append(mail)
        if not self._handle(party, event) and one.mail and one.mail[-1] is mail:
            one.mail.pop()
            return False
        return True

    def _handle(self, party: PartyId, event: Event) -> bool:
        """Give an event to a party, which may die of it; tell whether it is in the journal."""
        one, faults = self.parties[party], self.faults
        self._tell(party, event)
        number = self.history.events[party] = self.history.events[party] + 1
        moment = faults.kill_at.get((party, number))
        if moment is None and self.random.random() < faults.kills and self._mortal:
            moment = self.random.choice(MOMENTS)
        if moment is None:
            self._carry_out(party, one.journaled.handle(event, self._unsent(party)))
            return True
        self.history.deaths[moment] += 1
        self._tell(party, f"dies {moment}")
        if moment == "after journaling":
            one.journaled.journal.append(event)
        elif moment == "before sending":
            one.journaled.handle(event, self._unsent(party))
        self._start(party)
        return moment != "before journaling"

    @property
    def _mortal(self) -> bool:
        deaths = sum(self.history.deaths.values())
        return deaths + len(self.parties) * self.history.blackouts < DEATHS

    def _unsent(self, party: PartyId) -> list[Send | Record]:
        return [what for kind, by, what in self.pending if kind in OUTWARD and by == party]

    def _start(self, party: PartyId) -> None:
        """Start a party from its journal, new or left by a death."""
        one = self.parties[party]
        self.pending = [e for e in self.pending if e[1] != party or e[0] in DURABLE]
        self.timers = [timer for timer in self.timers if timer[1] != party]
        one.offset = self.random.uniform(-self.faults.skew, self.faults.skew)
        effects = None
        chance = self.faults.rollbacks if self.history.woken < WOKEN else 0.0
        if one.copies and self.random.random() < chance:
            effects = self._roll_back(party, self.random.choice(one.copies))
        self._carry_out(party, one.journaled.recover() if effects is None else effects)

    def _roll_back(self, party: PartyId, copy: _Copy) -> list[Effect] | None:
        """Wake a party with an old journal; it goes on only if nothing has left since.

        The mailbox gives it its mail of that time again. Otherwise the true journal is put back.
        """
        one = self.parties[party]
        old = self._journaled(party, copy)
        effects = old.recover()
        if is_behind(old.actor.gate.released, one.left):
            self.history.noticed += 1
            return None
        self.history.woken += 1
        self._tell(party, "wakes from an old copy of its journal")
        one.journaled = old
        since, one.mail = one.mail[copy.mail :], one.mail[: copy.mail]
        self.pending += [("message", party, what) for kind, what in since if kind == "message"]
        orders = [what for kind, what in since if kind == "control"]
        self.pending += [("control", party, None)] * len(orders)
        one.orders.extendleft(reversed(orders))
        one.paused = old.actor.paused
        one.timers.clear()
        one.copies = one.copies[: one.copies.index(copy) + 1]  # others never happened
        return effects

    def _carry_out(self, party: PartyId, effects: Iterable[Effect]) -> None:
        for effect in effects:
            match effect:
                case Run():
                    self.pending.append(("run", party, effect))
                case Send():
                    self.pending.append(("upload", party, effect))
                case Timer():
                    self._set(party, effect)
                case Record(kind="round"):
                    self._recorded(party, effect)
                case Record():
                    self.history.refused.append(effect)

    def _set(self, party: PartyId, timer: Timer) -> None:
        one = self.parties[party]
        first = one.timers.setdefault((timer.round, timer.attempt, timer.step), timer.due)
        if timer.due < first:
            raise BrokenError(f"{party} moved {timer.step} from {first} s forward to {timer.due} s")
        self.timers.append((timer.due - one.offset, party, timer))

    def _recorded(self, party: PartyId, record: Record) -> None:
        assert record.state is not None
        closed, key = self.parties[party].closed, (record.state.round, record.state.attempt)
        if self.parties[party].paused and key not in closed:
            raise BrokenError(f"{party} closed {key} while it was paused")
        closed.add(key)
        self.history.rounds.append(record)
        self.pending.append(("tell", party, record))

    def _hear(self, record: Record) -> None:
        assert record.state is not None
        self.history.told.add((record.state.round, record.state.attempt))

    def _close(self, party: PartyId, state: State) -> None:
        """Keep the State that leaves the closing party, who may not send another."""
        key = (state.round, state.attempt)
        if self.history.states.setdefault(key, state).digest != state.digest:
            raise BrokenError(f"{party} closed {key} in two ways")

    def _clock(self, party: PartyId) -> float:
        return self.now + self.parties[party].offset

    def _tell(self, party: str, what: Any) -> None:
        if self.trace is not None:
            self.trace(f"{self.step:5} {self.now:9.1f} s  {party}: {_words(what)}")


def _cuts_short(actor: Actor, timer: Timer, *, at: float) -> bool:
    """Tell whether a deadline passes while its step still waits for something."""
    if actor.state.status != "running" or (timer.round, timer.attempt) != actor._key:
        return False
    progress = actor._progress[timer.step]
    due = progress.due is not None and at >= progress.due
    return due and bool(progress.waiting) and not progress.settled


def _pauses(order: Control, paused: bool) -> bool:
    return isinstance(order, Paused) or (paused and not isinstance(order, Resumed | Stopped))


def _identity(send: Send) -> tuple[Any, ...]:
    """Return all that a release is."""
    release = send.release
    payload: Any = release.payload
    match release.payload:
        case Plain(admitted, roster, notes):
            update = admitted.update
            digest = None if update.params is None else update.params.digest
            sums = tuple((k, v.tobytes()) for k, v in update.statistics.items())
            payload = (digest, update.weight, sums, roster, notes)
        case Reduced(params, weight, roster, notes, score):
            payload = (params.digest, weight, roster, notes, score)
        case Closed(state):
            payload = state.digest
    return release.round, release.attempt, release.step, send.to, payload


def _words(what: Any) -> str:
    match what:
        case Arrived(release):
            kind, key = type(release.payload).__name__, f"{release.round}.{release.attempt}"
            return f"{kind} {release.step} of {release.sender} in {key}, number {release.number}"
        case Done(round_, attempt, step, update):
            return f"{step} in {round_}.{attempt} is {'done' if update else 'failed'}"
        case _:
            return str(what)
