"""One node of a plan's DAG, and the steps of one round together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from cohortium.types import PartyId, SiteId

Op = Literal["train", "evaluate", "reduce", "mix", "select", "consensus", "tally", "outcome"]


@dataclass(frozen=True, slots=True)
class Step:
    """One unit of work at one party.

    Attributes:
        id: unique within its round, such as `train/hospital-a`.
        party: who does it.
        op: what it does.
        inputs: steps whose values it requires; a void one makes this step void.
        gathers: steps whose values it collects; a void or late one is left out.
        needs: how many of `gathers` suffice at the deadline.
        weights: a factor on the weight of each gathered value, in the order of `gathers`; empty
            means 1. A mix gathers its own party's value too: the share of an absent neighbour stays
            with that.
        scales: of a mix, the factor that turns the weight of each gathered value into that of the
            element that it stands for; empty means 1.
        deadline: seconds from the moment that all `inputs` are there; None waits for ever.
        covers: the sites whose records may be in its value.
        slot: name of the party's local state that it reads and replaces.
        to: parties that receive its value beside those whose steps read it.
    """

    id: str
    party: PartyId
    op: Op
    inputs: tuple[str, ...] = ()
    gathers: tuple[str, ...] = ()
    needs: int = 0
    weights: tuple[float, ...] = ()
    scales: tuple[float, ...] = ()
    deadline: float | None = None
    covers: tuple[SiteId, ...] = ()
    slot: str | None = None
    to: tuple[PartyId, ...] = ()


@dataclass(frozen=True)
class RoundPlan(Mapping[str, Step]):
    """The steps of one round by id, in the order in which the plan lists them.

    Raises:
        ValueError: two steps share an id, or a step reads one that no earlier step is.
    """

    round: int
    steps: tuple[Step, ...]
    _by_id: dict[str, Step] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        by_id = {step.id: step for step in self.steps}
        if len(by_id) != len(self.steps):
            raise ValueError("two steps share an id")
        done: set[str] = set()
        for step in self.steps:
            for source in step.inputs + step.gathers:
                if source not in done:
                    raise ValueError(f"step {step.id!r} reads {source!r}, which no earlier step is")
            done.add(step.id)
        object.__setattr__(self, "_by_id", by_id)

    def __getitem__(self, step_id: str) -> Step:
        return self._by_id[step_id]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_id)

    def __len__(self) -> int:
        return len(self.steps)

    @cached_property
    def of_party(self) -> dict[PartyId, tuple[Step, ...]]:
        """Each party's own steps, in plan order."""
        mine: dict[PartyId, list[Step]] = {}
        for step in self.steps:
            mine.setdefault(step.party, []).append(step)
        return {party: tuple(steps) for party, steps in mine.items()}

    @cached_property
    def readers(self) -> dict[str, tuple[PartyId, ...]]:
        """Step id to the parties that receive its value, each once, in a fixed order."""
        found: dict[str, dict[PartyId, None]] = {s.id: dict.fromkeys(s.to) for s in self.steps}
        for step in self.steps:
            for source in step.inputs + step.gathers:
                found[source][step.party] = None
        return {step_id: tuple(parties) for step_id, parties in found.items()}

    @cached_property
    def consumers(self) -> dict[tuple[PartyId, str], tuple[Step, ...]]:
        """(party, source step id) to that party's steps that read the source."""
        found: dict[tuple[PartyId, str], list[Step]] = {}
        for step in self.steps:
            for source in dict.fromkeys(step.inputs + step.gathers):
                found.setdefault((step.party, source), []).append(step)
        return {key: tuple(steps) for key, steps in found.items()}

    @cached_property
    def holder_of(self) -> dict[PartyId, PartyId]:
        """Party to the one whose consensus model it is given; who is given none is not in it."""
        found: dict[PartyId, PartyId] = {}
        for step in self.steps:
            if step.op == "consensus":
                found |= dict.fromkeys((step.party, *step.to), step.party)
        return found

    @property
    def closing(self) -> Step:
        """The step whose value is the next State."""
        return self.steps[-1]
