"""What an actor is told and what it asks for. Plain values: an engine carries the effects out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
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
    """A step's deadline has passed.

    Attributes:
        round, attempt, step: whose.
        at: seconds on the engine's clock.
        seen: what is known of parties, such as "not heard from since 12:03 UTC"; it completes the
            reason for which their sites are absent.
    """

    round: int
    attempt: int
    step: str
    at: float
    seen: Mapping[PartyId, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Away:
    """The coordinator excludes a party, or has revoked it: nobody waits for it any more."""

    party: PartyId
    reason: str
    at: float


@dataclass(frozen=True, slots=True)
class Back:
    """A party that was away takes part again from the next round."""

    party: PartyId
    at: float


@dataclass(frozen=True, slots=True)
class Extended:
    """The deadlines of the round in progress move by so many seconds."""

    seconds: float
    at: float


@dataclass(frozen=True, slots=True)
class Paused:
    """The closing party does not close the round in progress."""

    at: float


@dataclass(frozen=True, slots=True)
class Resumed:
    """It may close it."""

    at: float


@dataclass(frozen=True, slots=True)
class Stopped:
    """The closing party ends the run at once."""

    reason: str
    at: float


Control = Away | Back | Extended | Paused | Resumed | Stopped
"""What a coordinator or a researcher orders. A host gives each control once, in their order."""

Event = Arrived | Done | TimedOut | Control


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
