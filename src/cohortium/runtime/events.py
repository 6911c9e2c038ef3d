"""What an actor is told and what it asks for. Plain values: an engine carries the effects out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cohortium.errors import RefusedError
from cohortium.governance.gate import Release
from cohortium.plan.plan import State
from cohortium.plan.step import Step
from cohortium.types import Params, PartyId, Update


@dataclass(frozen=True, slots=True)
class Arrived:
    """A release came from another party. `at`: seconds on the engine's clock, for deadlines."""

    release: Release
    at: float


@dataclass(frozen=True, slots=True)
class Done:
    """A step that the actor asked for has run.

    Attributes:
        round, attempt, step: which one.
        update: what it produced, or None where it failed.
        slot: the step's local state afterwards.
        reason: why it failed.
        at: seconds on the engine's clock.
    """

    round: int
    attempt: int
    step: str
    update: Update | None
    slot: Any
    reason: str
    at: float


@dataclass(frozen=True, slots=True)
class TimedOut:
    """A step's deadline has passed."""

    round: int
    attempt: int
    step: str
    at: float


Event = Arrived | Done | TimedOut


@dataclass(frozen=True, slots=True)
class Run:
    """Run a step over the party's records, and report it as `Done`.

    Attributes:
        params: the model to train from or to evaluate.
        slot: the step's local state.
        measure: whether a training step also measures its result on the validation part.
    """

    party: PartyId
    round: int
    attempt: int
    step: Step
    params: Params
    slot: Any
    measure: bool


@dataclass(frozen=True, slots=True)
class Send:
    """Hand a release to other parties; at least once, in any order.

    Raises:
        RefusedError: another party made the release.
    """

    release: Release
    to: tuple[PartyId, ...]

    def __post_init__(self) -> None:
        if self.release.received:
            raise RefusedError(f"what {self.release.sender} released is not sent on")


@dataclass(frozen=True, slots=True)
class Timer:
    """Report `TimedOut` when the engine's clock reaches `due`."""

    round: int
    attempt: int
    step: str
    due: float


@dataclass(frozen=True, slots=True)
class Record:
    """Write to the party's own log: a "round" that closed, or why something was "refused"."""

    party: PartyId
    kind: str
    state: State | None = None
    step: str = ""
    reason: str = ""
    detail: Any = None


Effect = Run | Send | Timer | Record
