"""How far one of a party's own steps is, and what its values are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from cohortium.aggregation.rule import Fold
from cohortium.governance.gate import Outbound, Plain, Reduced, Void
from cohortium.plan.plan import Note
from cohortium.plan.step import RoundPlan, Step
from cohortium.types import Params, PartyId, SiteId, Statistics


@dataclass(frozen=True, slots=True)
class Tallied:
    """Every site's statistics; a value that stays at the closing party."""

    statistics: Mapping[SiteId, Statistics]
    notes: tuple[Note, ...]


Value = Outbound | Tallied


@dataclass(slots=True)
class Progress:
    """What a step has received, and what it still waits for.

    Attributes:
        step: the step.
        places: each gathered source's place in the plan's order.
        waiting: sources from which nothing has come, not even void.
        inputs: the values of its inputs.
        gathered: by place, what came and was good, and is not folded yet.
        fingerprints: by source, of what came, to tell a repetition from a second update.
        settled: whether it has fired.
        told: whether its readers have its value, or that it is void.
        count: good values so far.
        folded: places before this one are folded, or have nothing to fold.
        fold: the aggregation in progress.
        roster: sites whose records are in it.
        notes: participation lines.
        voids: by place, why what came is void.
        due: when its deadline passes, on the engine's clock; None until it counts.
        seen: what was known of parties when it passed.
    """

    step: Step
    places: dict[str, int]
    waiting: set[str]
    inputs: dict[str, Value] = field(default_factory=dict)
    gathered: dict[int, Value] = field(default_factory=dict)
    fingerprints: dict[str, float] = field(default_factory=dict)
    settled: bool = False
    told: bool = False
    count: int = 0
    folded: int = 0
    fold: Fold | None = None
    roster: list[SiteId] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    voids: dict[int, str] = field(default_factory=dict)
    due: float | None = None
    seen: Mapping[PartyId, str] = field(default_factory=dict)

    @classmethod
    def of(cls, step: Step) -> Progress:
        """Return the progress of a step that has received nothing."""
        places = {source: place for place, source in enumerate(step.gathers)}
        return cls(step, places, set(step.inputs + step.gathers))

    @property
    def has_inputs(self) -> bool:
        """Whether all inputs are there, so that the deadline counts."""
        return len(self.inputs) == len(self.step.inputs)

    @property
    def void(self) -> Void | None:
        """A void input, which makes the step void."""
        return next((value for value in self.inputs.values() if isinstance(value, Void)), None)

    @property
    def only_input(self) -> Value | None:
        """The value of the one input, if there is any."""
        return next(iter(self.inputs.values()), None)

    def take(self, source: str, value: Value) -> None:
        """Take in a source's value, or that it is void."""
        self.waiting.discard(source)
        if source in self.step.inputs:
            self.inputs[source] = value
        if source not in self.places:
            return
        if isinstance(value, Void):
            self.notes += value.notes
            self.voids[self.places[source]] = value.reason
        else:
            self.gathered[self.places[source]] = value
            self.count += 1

    def drop_inputs(self) -> None:
        """Let go of what has been used; who was in it and what was said of it stay."""
        for value in self.inputs.values():
            if isinstance(value, Plain | Reduced):
                self.roster += value.roster
                self.notes += value.notes
        self.inputs.clear()
        self.gathered.clear()

    def note_absent(self, plan: RoundPlan, but: frozenset[SiteId] = frozenset()) -> None:
        """Name the sites from whose sources nothing came, `but` those."""
        named = {*but, *(note.site for note in self.notes)}
        for source in self.step.gathers:
            if source in self.waiting:
                reason = f"nothing came of {source!r} in {self.step.deadline:g} s"
                if plan[source].party in self.seen:
                    reason = f"{reason}; {self.seen[plan[source].party]}"
                absent = [site for site in plan[source].covers if site not in named]
                self.notes += [Note(site, "absent", reason) for site in absent]
                named.update(absent)

    def said(self, more: Iterable[Note] = ()) -> tuple[Note, ...]:
        """Return the notes, each once, in the order in which they came."""
        return tuple(dict.fromkeys((*self.notes, *more)))


def params_of(value: Value) -> Params:
    """Return the model in a value that has one."""
    if isinstance(value, Reduced):
        return value.params
    assert isinstance(value, Plain)
    assert value.admitted.update.params is not None
    return value.admitted.update.params


def weight_of(value: Value) -> float:
    """Return what a model counts."""
    assert isinstance(value, Plain | Reduced)
    return value.admitted.update.weight if isinstance(value, Plain) else value.weight
