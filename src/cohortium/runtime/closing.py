"""How a round ends: the next State, and what a party checks before it believes one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from cohortium.plan.plan import Metric, Note, State
from cohortium.runtime.agreement import Agreement, Evaluation
from cohortium.types import PartyId, SiteId

_UNFIT = frozenset({"absent", "refused", "failed", "excluded"})
"""How a sampled site fares whose update does not count."""

_NOTHING: Mapping[PartyId, str] = {}

LOST = "nothing that it trained reached the consensus"
"""What is said of a site of which nothing else is known: it may be well, and the round is not."""


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
    refusal: str = "",
    seen: Mapping[PartyId, str] = _NOTHING,
) -> State:
    """Return the State that follows `before`.

    Args:
        agreement: what was agreed.
        before: the State that the round started from.
        consensus: each holder's consensus model, as far as there is one.
        evaluation: the sites' statistics, or None where the round was not evaluated.
        notes: participation lines that did not come with a consensus.
        refusal: why a consensus is void, as its party told; used where it is not for lack of sites.
        seen: what is known of parties from which nothing came.
    """
    plan = agreement.plan
    roster = tuple(dict.fromkeys(s for held in consensus.values() for s in held.roster))
    lines = [*notes, *(note for held in consensus.values() for note in held.notes)]
    lines += _not_sampled(agreement, before)
    named = _in_order(agreement, before, roster, lines, seen=seen)
    after = replace(before, reason="", notes=named, metrics={}, roster=(), previous=before.digest)
    if not consensus or (plan.rounds and len(roster) < plan.needed):
        unfit = {n.site for n in named if n.status in _UNFIT and n.reason != LOST}
        fit = _training(agreement, before).difference(unfit)
        count = len(roster) if consensus else len(fit)
        return _fall_short(agreement, after, count=count, refusal=refusal)
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


def stop(before: State, reason: str) -> State:
    """Return the State that follows `before` where the run is ended at once; models stay.

    Args:
        before: the State that the round in progress started from.
        reason: why it ends.
    """
    return replace(
        before,
        attempt=before.attempt + 1,
        status="stopped",
        reason=reason or "stopped",
        roster=(),
        notes=(),
        metrics={},
        previous=before.digest,
    )


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
    within the members that train and reaches the quorum, and the rules of stopping and shortfall.
    The closing party may stop the run at any time, as long as it says why.
    """
    plan = agreement.plan
    counted = bool(state.roster) or (not plan.rounds and state.status == "finished")
    advanced = (state.round, state.attempt) == (before.round + 1, 0)
    again = (state.round, state.attempt) == (before.round, before.attempt + 1)
    if state.study != before.study or state.previous != before.digest:
        return "it does not follow the state before it"
    if before.status != "running" or not (advanced or again):
        return "no round of this number can follow"
    strangers = plan.strangers(state)
    if strangers:
        return f"its roster names {', '.join(sorted(strangers))}, which the plan does not"
    if counted:
        return _doubt_counted(agreement, before, state) if advanced else "a round counts once"
    if state.models != before.models:
        return "it changes a model without a round that counts"
    if again and state.status == "stopped":
        return "" if state.reason else "it does not say why the run stops"
    if advanced and plan.on_shortfall != "skip":
        return "a round below quorum is not skipped here"
    waits = plan.on_shortfall == "wait" and state.attempt < plan.attempts
    if again and not (waits and state.status == "running"):
        return "it does not apply the rule for a round below quorum"
    if advanced and (state.status == "finished") != ends(agreement, state):
        return "it does not apply the stop rule"
    return ""


def _doubt_counted(agreement: Agreement, before: State, state: State) -> str:
    plan = agreement.plan
    if plan.rounds and len(state.included) < plan.needed:
        return f"{len(state.included)} sites are below the quorum of {plan.needed}"
    if not state.models:
        return "it names no model"
    if state.patience != patience(agreement, before, state.metrics):
        return "its stopping counter does not follow from its metrics"
    if state.status != ("finished" if ends(agreement, state) else "running"):
        return "it does not apply the stop rule"
    return ""


def _fall_short(agreement: Agreement, after: State, *, count: int, refusal: str) -> State:
    plan = agreement.plan
    reason = f"round {after.round + 1}: {count} of {plan.needed} needed sites"
    if count >= plan.needed and refusal:  # such as a robust rule that is left with too few
        reason = f"round {after.round + 1}: {refusal}"
    if plan.on_shortfall == "skip":
        skipped = replace(after, round=after.round + 1, attempt=0, reason=reason)
        return replace(skipped, status="finished") if ends(agreement, skipped) else skipped
    again = replace(after, attempt=after.attempt + 1, reason=reason)
    if plan.on_shortfall == "wait" and again.attempt < plan.attempts:
        return again
    return replace(again, status="stopped")


def _in_order(
    agreement: Agreement,
    before: State,
    roster: tuple[SiteId, ...],
    lines: list[Note],
    *,
    seen: Mapping[PartyId, str],
) -> tuple[Note, ...]:
    """Return each line once, in roster order, with one for every sampled site that none names."""
    plan = agreement.plan
    known, in_it = set(plan.rows), set(roster)
    lines = [n for n in lines if n.site in known and not (n.site in in_it and n.status == "absent")]
    if plan.rounds:
        named = in_it.union(note.site for note in lines)
        lost = (site for site in _training(agreement, before) if site not in named)
        lines += [Note(site, "absent", _lost(site, seen)) for site in lost]
    place = {site: i for i, site in enumerate(plan.rows)}
    unique = dict.fromkeys(lines)
    return tuple(sorted(unique, key=lambda note: (place[note.site], note.status, note.reason)))


def _not_sampled(agreement: Agreement, before: State) -> list[Note]:
    plan = agreement.plan
    if plan.sampled == len(plan.trainers) or not plan.rounds:
        return []
    trains = _training(agreement, before)
    return [Note(site, "not sampled") for site in plan.trainers if site not in trains]


def _training(agreement: Agreement, before: State) -> frozenset[SiteId]:
    steps = agreement.plan.round(before).steps
    return frozenset(SiteId(step.party) for step in steps if step.op == "train")


def _lost(site: SiteId, seen: Mapping[PartyId, str]) -> str:
    known = seen.get(PartyId(site))
    return f"{LOST}; {known}" if known else LOST
