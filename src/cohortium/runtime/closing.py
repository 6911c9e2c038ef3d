"""How a round ends: the next State, and what a party checks before it believes one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from cohortium.plan.plan import Metric, Note, State
from cohortium.runtime.agreement import Agreement, Evaluation
from cohortium.types import PartyId, SiteId


@dataclass(frozen=True, slots=True)
class Consensus:
    """What the closing party knows of one holder's consensus model."""

    digest: str
    roster: tuple[SiteId, ...]
    notes: tuple[Note, ...]


def close(
    agreement: Agreement,
    before: State,
    *,
    consensus: Mapping[PartyId, Consensus],
    evaluation: Evaluation | None,
    notes: tuple[Note, ...],
) -> State:
    """Return the State that follows `before`.

    Args:
        agreement: what was agreed.
        before: the State that the round started from.
        consensus: each holder's consensus model, as far as there is one.
        evaluation: the sites' statistics, or None where the round was not evaluated.
        notes: participation lines that did not come with a consensus.
    """
    plan = agreement.plan
    roster = tuple(dict.fromkeys(s for held in consensus.values() for s in held.roster))
    lines = [*notes, *(note for held in consensus.values() for note in held.notes)]
    lines += _not_sampled(agreement, before)
    in_it = set(roster)
    named = tuple(dict.fromkeys(n for n in lines if n.site not in in_it or n.status != "absent"))
    after = replace(before, notes=named, metrics={}, roster=(), previous=before.digest)
    if not consensus or (plan.rounds and len(roster) < plan.needed):
        return _fall_short(agreement, after, count=len(roster))
    metrics = {} if evaluation is None else agreement.measure(evaluation)
    after = replace(
        after,
        round=before.round + 1,
        attempt=0,
        models={party: held.digest for party, held in consensus.items()},
        roster=roster,
        metrics=metrics,
        last_in={**before.last_in, **dict.fromkeys(roster, before.round + 1)},
        patience=patience(agreement, before, metrics),
    )
    return replace(after, status="finished") if ends(agreement, after) else after


def patience(agreement: Agreement, before: State, metrics: Mapping[str, Metric]) -> int:
    """Return for how many evaluated rounds in a row all acceptance criteria have held."""
    if not agreement.patience or not metrics:
        return before.patience
    return before.patience + 1 if agreement.accepted(metrics) else 0


def ends(agreement: Agreement, state: State) -> bool:
    """Tell whether a State that counts is the last: all rounds done, or stopped early as agreed."""
    early = bool(agreement.patience) and state.patience >= agreement.patience
    return early or state.round >= agreement.plan.rounds


def doubt(agreement: Agreement, before: State, state: State) -> str:
    """Return why a member should not believe that `state` follows `before`; empty if it may.

    A member recomputes what the published State itself shows: the chain, that the roster lies
    within the members that train, and the stop rule.
    """
    plan = agreement.plan
    if state.study != before.study:
        return "it belongs to another study"
    strangers = plan.strangers(state)
    if strangers:
        return f"its roster names {', '.join(sorted(strangers))}, which the plan does not"
    next_one = state.round == before.round + 1 and plan.on_shortfall != "wait"
    if next_one and state.previous != before.digest:
        return "it does not follow the state before it"
    if next_one and state.roster and state.patience != patience(agreement, before, state.metrics):
        return "its stopping counter does not follow from its metrics"
    if state.status == "finished" and not ends(agreement, state):
        return "it ends the run before the rule says so"
    return ""


def _fall_short(agreement: Agreement, after: State, *, count: int) -> State:
    plan = agreement.plan
    reason = f"round {after.round + 1}: {count} of {plan.needed} needed sites"
    if plan.on_shortfall == "skip":
        skipped = replace(after, round=after.round + 1, attempt=0, reason=reason)
        return replace(skipped, status="finished") if ends(agreement, skipped) else skipped
    again = replace(after, attempt=after.attempt + 1, reason=reason)
    if plan.on_shortfall == "wait" and again.attempt < plan.attempts:
        return again
    return replace(again, status="stopped")


def _not_sampled(agreement: Agreement, before: State) -> list[Note]:
    plan = agreement.plan
    if plan.sampled == len(plan.trainers) or not plan.rounds:
        return []
    steps = plan.round(before).steps
    trains = {SiteId(step.party) for step in steps if step.op == "train"}
    return [Note(site, "not sampled") for site in plan.trainers if site not in trains]
