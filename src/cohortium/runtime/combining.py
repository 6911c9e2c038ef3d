"""The steps that need no records: how the values that a step gathered become one. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from cohortium.errors import DivergedError, RefusedError
from cohortium.governance.gate import Plain, Reduced, Void
from cohortium.plan.plan import Note
from cohortium.plan.step import RoundPlan
from cohortium.runtime.agreement import Agreement
from cohortium.runtime.progress import Progress, Tallied, Value, params_of, weight_of
from cohortium.types import Params, PartyId, SiteId


@dataclass(frozen=True, slots=True)
class Standpoint:
    """Who combines, and what it knows.

    Attributes:
        party: whose step it is.
        agreement: what was agreed.
        plan: the round's steps.
        model: the party's consensus model.
        slot: what the step keeps from round to round.
    """

    party: PartyId
    agreement: Agreement
    plan: RoundPlan
    model: Params
    slot: Any = None


Combined = tuple[Value, Any]
"""The step's value, and what it keeps afterwards."""


def fold_prefix(at: Standpoint, progress: Progress) -> None:
    """Fold what is there of the plan's order without a gap, and let go of it."""
    gathers = progress.step.gathers
    while progress.folded < len(gathers) and gathers[progress.folded] not in progress.waiting:
        _fold(at, progress, progress.folded)
        progress.folded += 1


def _reduce(at: Standpoint, progress: Progress) -> Combined:
    for place in range(progress.folded, len(progress.step.gathers)):
        _fold(at, progress, place)
    needs = max(progress.step.needs, 1)
    if progress.count < needs:
        progress.note_absent(at.plan)
        return Void(f"{progress.count} of {needs} needed updates", progress.said()), None
    return _finish(at, progress), None


def _mix(at: Standpoint, progress: Progress) -> Combined:
    step = progress.step
    places = range(len(step.gathers))
    own = next(place for place in places if at.plan[step.gathers[place]].party == at.party)
    kept = sum(step.weights[place] for place in places if place not in progress.gathered)
    taken = [
        place for place in places if _fold(at, progress, place, more=kept if place == own else 0.0)
    ]
    if own not in taken:
        progress.fold = None
        progress.note_absent(at.plan)
        return Void("its own training is void", progress.said()), None
    return _finish(at, progress), None


def _fold(at: Standpoint, progress: Progress, place: int, *, more: float = 0.0) -> bool:
    """Take a value into the aggregation, if there is one and it may; tell whether it is in it.

    `more` is added to the value's share.
    """
    value = progress.gathered.pop(place, None)
    if value is None:
        return False
    assert isinstance(value, Plain | Reduced)
    weights, scales = progress.step.weights, progress.step.scales
    factor = (weights[place] if weights else 1.0) + more
    factor *= scales[place] if scales else 1.0
    source = at.plan[progress.step.gathers[place]]
    if weight_of(value) * factor > at.agreement.plan.most(source.covers):
        progress.count -= 1
        reason = f"weighs {weight_of(value) * factor:g}, more than the rows behind it"
        progress.notes += [Note(site, "excluded", reason) for site in value.roster]
        return False
    if progress.fold is None:
        progress.fold = at.agreement.aggregator.begin(at.model)
    try:
        progress.fold.add(place, params_of(value), weight_of(value) * factor)
    except RefusedError as error:
        progress.count -= 1
        progress.notes += [Note(site, "excluded", str(error)) for site in value.roster]
        return False
    progress.roster += value.roster
    progress.notes += value.notes
    return True


def _finish(at: Standpoint, progress: Progress) -> Value:
    assert progress.fold is not None
    progress.note_absent(at.plan)
    try:
        params, weight = progress.fold.finish()
    except RefusedError as error:  # such as a robust rule that is left with too few
        return Void(str(error), progress.said())
    finally:
        progress.fold = None
    # Where peers were absent for some and not for others, weights add up to more than there is.
    weight = min(weight, at.agreement.plan.most(progress.step.covers))
    return Reduced(params, weight, tuple(dict.fromkeys(progress.roster)), progress.said())


def _select(at: Standpoint, progress: Progress) -> Combined:
    """Keep the better of the best model so far and the newest; the newest where they tie."""
    best, newest = (progress.inputs[progress.step.inputs[place]] for place in (0, -1))
    assert isinstance(newest, Plain | Reduced)
    score = (
        newest.score
        if isinstance(newest, Reduced)
        else at.agreement.score(newest.admitted.update.statistics)
    )
    chosen = Reduced(params_of(newest), weight_of(newest), newest.roster, newest.notes, score)
    if len(progress.inputs) > 1 and isinstance(best, Reduced) and _beats(best.score, score):
        chosen = replace(chosen, params=best.params, score=best.score)
    return chosen, None


def _beats(best: float | None, newest: float | None) -> bool:
    return best is not None and (newest is None or best > newest)


def _consensus(at: Standpoint, progress: Progress) -> Combined:
    """Move the model towards the aggregate, as the server optimiser does; check the quorum."""
    plan = at.agreement.plan
    value = progress.only_input
    if value is None:  # a study that only evaluates
        return Reduced(at.model, 1.0), {}
    assert isinstance(value, Plain | Reduced)
    if plan.topology.one_model and len(value.roster) < plan.needed:
        return Void(f"{len(value.roster)} of {plan.needed} needed sites", value.notes), None
    optimizer = at.agreement.server_optimizer
    before = optimizer.init(at.model) if at.slot is None else at.slot
    try:
        params, after = optimizer.step(before, at.model, params_of(value))
    except DivergedError as error:
        return Void(str(error), value.notes), None
    return Reduced(params, weight_of(value), value.roster, value.notes), after


def _tally(at: Standpoint, progress: Progress) -> Combined:
    if not progress.count:
        return Void("no site evaluated", progress.said()), None
    trains = frozenset(SiteId(step.party) for step in at.plan.steps if step.op == "train")
    progress.note_absent(at.plan, but=trains)  # of them, their training tells
    statistics = {}
    for place, value in sorted(progress.gathered.items()):
        assert isinstance(value, Plain)
        site = SiteId(at.plan[progress.step.gathers[place]].party)
        statistics[site] = value.admitted.update.statistics
    return Tallied(statistics, progress.said()), None


COMBINE: Mapping[str, Callable[[Standpoint, Progress], Combined]] = {
    "reduce": _reduce,
    "mix": _mix,
    "select": _select,
    "consensus": _consensus,
    "tally": _tally,
}
