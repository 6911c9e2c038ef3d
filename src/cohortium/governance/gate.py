"""The egress gate: the one place through which everything leaves a party. Two typed stages.

`admit` checks what a step produced, once per step, against what the plan declares; `release` lets
one payload per step and reader go. `Send` takes a `Release`, and only a gate makes one: mypy
refuses a raw `Update`, and a seal refuses a forged `Admitted` at run time.

What came over the network becomes a release again by `received`. That is no second way out: it
bears a mark, and `Send` refuses what bears it, as `release` refuses an update that `arrived`. It
can only be handed to an actor, which checks it before it counts.

Grants, policies, budgets and masks join these two stages in their own modules.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from cohortium.errors import RefusedError
from cohortium.plan.plan import Note, State
from cohortium.plan.step import RoundPlan, Step
from cohortium.types import VALIDATION, Layout, Params, PartyId, SiteId, Statistics, Update


@dataclass(frozen=True)
class Declaration:
    """What a plan declares that sites share: the model's arrays, and the metrics' statistics."""

    layout: Layout
    statistics: Mapping[str, tuple[int, ...]]


_SEAL = object()


class Admitted:
    """An update that passed a gate's `admit`. Only a gate can make one.

    Attributes:
        update: the update.
        step: the step whose value it is.
        received: whether it came from another party, whose gate it passed.
    """

    __slots__ = ("_fingerprint", "received", "step", "update")

    def __init__(
        self,
        update: Update,
        step: str,
        fingerprint: float | None,
        *,
        seal: object,
        received: bool = False,
    ) -> None:
        if seal is not _SEAL:
            raise RefusedError("only a gate admits updates: call Gate.admit")
        self.update, self.step, self.received = update, step, received
        self._fingerprint = fingerprint

    @property
    def fingerprint(self) -> float:
        """What `check` returns for it; NaN where that refuses it."""
        if self._fingerprint is None:  # of what arrived, most are never asked
            self._fingerprint = _fingerprint(self.update)
        return self._fingerprint


@dataclass(frozen=True, slots=True)
class Plain:
    """An admitted update as it is. `roster`: the sites whose records are in it."""

    admitted: Admitted
    roster: tuple[SiteId, ...] = ()
    notes: tuple[Note, ...] = ()


@dataclass(frozen=True, slots=True)
class Reduced:
    """A model made of several updates, or by the server optimiser.

    `score` is set where models compete (`best-local`): higher is better, None is undefined.
    """

    params: Params
    weight: float
    roster: tuple[SiteId, ...] = ()
    notes: tuple[Note, ...] = ()
    score: float | None = None


@dataclass(frozen=True, slots=True)
class Vote:
    """What a holder tells a clerk, who sees no model: its digest, and who is in it."""

    digest: str
    roster: tuple[SiteId, ...]
    notes: tuple[Note, ...]


@dataclass(frozen=True, slots=True)
class Closed:
    """The next State, to all members."""

    state: State


@dataclass(frozen=True, slots=True)
class Void:
    """No value, and why. It travels to the readers, so nobody waits for a refusal."""

    reason: str
    notes: tuple[Note, ...] = ()


Outbound = Plain | Reduced | Vote | Closed | Void

KINDS: Mapping[str, tuple[type, ...]] = {
    "train": (Plain,),
    "evaluate": (Plain,),
    "reduce": (Reduced,),
    "mix": (Reduced,),
    "select": (Reduced,),
    "consensus": (Reduced, Vote),
    "tally": (),
    "outcome": (Closed,),
}
"""What a step may send, by its op; any step may send void."""


class Release:
    """A payload that a gate let go. Only a gate can make one.

    Attributes:
        payload: what left.
        sender: whose gate it passed.
        round, attempt, step: whose value it is.
        number: the sender's releases of a run are numbered from 1. After a crash, the same release
            has the same number.
        received: whether it came from another party: it may be read, never sent.
        nbytes: size of the payload's arrays, in bytes; the same release goes to many readers.
    """

    __slots__ = ("attempt", "nbytes", "number", "payload", "received", "round", "sender", "step")

    def __init__(
        self,
        payload: Outbound,
        *,
        sender: PartyId,
        round_: int,
        attempt: int,
        step: str,
        number: int,
        seal: object,
        received: bool = False,
    ) -> None:
        if seal is not _SEAL:
            raise RefusedError("only a gate makes releases: call Gate.release")
        self.payload, self.sender, self.step, self.number = payload, sender, step, number
        self.round, self.attempt, self.nbytes = round_, attempt, _nbytes(payload)
        self.received = received


@dataclass
class Gate:
    """One party's gate.

    Attributes:
        party: whose gate it is.
        declaration: what the plan says that may be shared.
        rows: training rows that the party declared; the most that its update may weigh.
        released: how many releases the party has made in this run; a `Snapshot` says where it
            stood when its round opened.
    """

    party: PartyId
    declaration: Declaration
    rows: float = math.inf
    released: int = 0
    _admitted: set[str] = field(default_factory=set)
    _released: set[tuple[str, PartyId]] = field(default_factory=set)

    def admit(self, update: Update, step: Step) -> Admitted:
        """Check what a step produced.

        Raises:
            RefusedError: it is not what the plan declares, or the step was admitted before.
        """
        if step.id in self._admitted:
            raise RefusedError(f"step {step.id!r} has been admitted before")
        fingerprint = check(update, self.declaration, most=self.rows, trained=step.op == "train")
        self._admitted.add(step.id)
        return Admitted(update, step.id, fingerprint, seal=_SEAL)

    def release(
        self,
        payload: Outbound,
        step: Step,
        *,
        readers: tuple[PartyId, ...],
        plan: RoundPlan,
        attempt: int = 0,
    ) -> Release:
        """Let one payload go to readers of a step.

        Args:
            payload: what leaves.
            step: the step whose value it is.
            readers: who is to have it.
            plan: the round's steps.
            attempt: of the round.

        Raises:
            RefusedError: the step is another party's, a reader is none of the step's or has had a
                payload of it, the payload is not of a kind that such steps send, or is another
                party's update.
        """
        known = plan.get(step.id)
        if step.party != self.party or (known is not step and known != step):
            raise RefusedError(f"step {step.id!r} is not {self.party}'s in this round")
        if not isinstance(payload, (*KINDS[step.op], Void)):
            raise RefusedError(f"{step.op} steps do not send a {type(payload).__name__}")
        strangers = set(readers).difference(plan.readers[step.id])
        if strangers:
            raise RefusedError(f"{', '.join(sorted(strangers))} read no {step.id!r}")
        for reader in readers:
            if (step.id, reader) in self._released:
                raise RefusedError(f"{reader} has had a payload of step {step.id!r}")
            self._released.add((step.id, reader))
        if isinstance(payload, Plain):
            admitted = payload.admitted
            if admitted.received or admitted.step != step.id:
                raise RefusedError(f"an update of {admitted.step!r} cannot leave as {step.id!r}")
        self.released += 1
        return Release(
            payload,
            sender=self.party,
            round_=plan.round,
            attempt=attempt,
            step=step.id,
            number=self.released,
            seal=_SEAL,
        )

    def received(
        self,
        payload: Outbound,
        *,
        sender: PartyId,
        round_: int,
        attempt: int,
        step: str,
        number: int,
    ) -> Release:
        """Return what another party's gate let go, for this party's actor to read.

        The transport has checked that the sender signed it; what is in it the actor checks. It is
        marked, and no `Send` can be made of it: so nothing leaves that did not pass this gate.

        Args:
            payload: as it was read; an update in it has `arrived`.
            sender: whose gate it passed.
            round_: of the step.
            attempt: of the round.
            step: whose value it is.
            number: the sender's count of its releases.
        """
        return Release(
            payload,
            sender=sender,
            round_=round_,
            attempt=attempt,
            step=step,
            number=number,
            seal=_SEAL,
            received=True,
        )

    @staticmethod
    def arrived(update: Update, step: str) -> Admitted:
        """Return an update in what another party's gate let go.

        It says that the sender's gate admitted it, no more: this party's actor checks it again
        before it counts, and no gate lets it out.
        """
        return Admitted(update, step, None, seal=_SEAL, received=True)

    def restored(self, release: Release) -> Release:
        """Return a release of this party, as it was read from its own journal, to be sent again.

        Raises:
            RefusedError: it is another party's.
        """
        if release.sender != self.party:
            raise RefusedError(f"{self.party} does not send what {release.sender} released")
        return Release(
            release.payload,
            sender=self.party,
            round_=release.round,
            attempt=release.attempt,
            step=release.step,
            number=release.number,
            seal=_SEAL,
        )

    def open_round(self) -> None:
        """Forget what was admitted and released in the round before."""
        self._admitted.clear()
        self._released.clear()


def check(update: Update, declaration: Declaration, *, most: float, trained: bool) -> float:
    """Check an update's content against a declaration; return a fingerprint of it.

    The fingerprint tells a message that came twice from a second, different one; it is not
    cryptographic.

    Args:
        update: what is offered.
        declaration: names, shapes and dtypes that may be shared.
        most: the largest weight that is believable: the training rows that stand behind it.
        trained: whether arrays are due; an evaluation has none.

    Raises:
        RefusedError: a wrong name, shape or dtype; a value that is not finite; a weight that is not
            positive and finite, or above `most`.
    """
    if trained != (update.params is not None):
        raise RefusedError("arrays are missing" if trained else "an evaluation carries arrays")
    if not isinstance(update.weight, float | int) or isinstance(update.weight, bool):
        raise RefusedError(f"a weight is a number, not a {type(update.weight).__name__}")
    least = 0.0 if trained else -1.0  # a site may have nothing to evaluate on
    if not (math.isfinite(update.weight) and update.weight > least):
        raise RefusedError(f"weight {update.weight} is not a positive number")
    if trained and update.weight > most:
        raise RefusedError(f"weight {update.weight:g} is more than the {most:g} declared rows")
    total = 0.0
    if update.params is not None:
        _check_layout(update.params.layout, declaration.layout)
        total = _sum(update.params)
    total += _check_statistics(update.statistics, declaration.statistics)
    if not trained:
        _check_complete(update.statistics, declaration.statistics)
    return total


def _fingerprint(update: Update) -> float:
    """Return what `check` returns for an update, whatever was declared; NaN if it is not finite."""
    try:
        total = 0.0 if update.params is None else _sum(update.params)
    except RefusedError:
        return math.nan
    return total + _total(update.statistics)


def _check_layout(got: Layout, declared: Layout) -> None:
    if got is declared or got.specs == declared.specs:
        return
    names = {spec.name: spec for spec in declared.specs}
    for spec in got.specs:
        if spec.name not in names:
            raise RefusedError(f"array {spec.name!r} is not declared")
        want = names.pop(spec.name)
        if spec.shape != want.shape:
            raise RefusedError(f"array {spec.name!r} has shape {spec.shape}, not {want.shape}")
        if spec.dtype != want.dtype:
            raise RefusedError(f"array {spec.name!r} is {spec.dtype}, not {want.dtype}")
    missing = ", ".join(repr(name) for name in names)
    raise RefusedError(f"arrays are missing: {missing}" if missing else "arrays in another order")


def _sum(params: Params) -> float:
    """Add up all elements. One pass that also finds NaN and infinity, which no sum survives."""
    with np.errstate(over="ignore", invalid="ignore"):
        total = sum([float(buffer.sum()) for buffer in params.buffers.values()])
    if math.isfinite(total):
        return total
    if params.is_finite():
        return math.fsum(float(np.abs(b).max()) for b in params.buffers.values() if b.size)
    raise RefusedError("a value is not finite (NaN or infinity)")


def _check_statistics(got: Statistics, declared: Mapping[str, tuple[int, ...]]) -> float:
    for name, values in got.items():
        if name not in declared:
            raise RefusedError(f"statistic {name!r} is not declared")
        if not isinstance(values, np.ndarray):
            raise RefusedError(f"statistic {name!r} is no array")
        if values.shape != declared[name]:
            raise RefusedError(f"statistic {name!r} has shape {values.shape}, not {declared[name]}")
        if values.dtype != np.float64 or not np.isfinite(values).all():
            raise RefusedError(f"statistic {name!r} is not finite float64")
    return _total(got)


def _total(statistics: Statistics) -> float:
    return sum(float(values.sum()) for values in statistics.values())


def _check_complete(got: Statistics, declared: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse an evaluation that leaves out a statistic: all of the test part, and all or none of
    the validation part, which a site may not have.
    """
    wanted = {name for name in declared if not name.startswith(VALIDATION)}
    if any(name.startswith(VALIDATION) for name in got):
        wanted = set(declared)
    missing = sorted(wanted.difference(got))
    if missing:
        raise RefusedError(f"statistics are missing: {', '.join(map(repr, missing))}")


def _nbytes(payload: Outbound) -> int:
    match payload:
        case Plain():
            update = payload.admitted.update
            arrays = 0 if update.params is None else update.params.nbytes
            return arrays + sum(values.nbytes for values in update.statistics.values())
        case Reduced():
            return payload.params.nbytes
        case _:
            return 0
