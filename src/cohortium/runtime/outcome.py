"""From what ran to its result: the same for a simulation and for a federation across hospitals."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from cohortium.errors import BelowQuorumError, DivergedError
from cohortium.governance.acceptance import judge
from cohortium.plan.plan import Plan
from cohortium.runtime.arms import Trained, arm_result, measure, participation
from cohortium.runtime.closing import LOST
from cohortium.runtime.engine import Finished, RoundLog
from cohortium.runtime.result import Result
from cohortium.study.arms import POOLED
from cohortium.study.bundle import Bundle
from cohortium.types import Params, PartyId, SiteId

NAMED = 10
"""Sites that a sentence names."""


def outcome(
    bundle: Bundle,
    ran: Mapping[str, Sequence[Trained]],
    *,
    sites: Mapping[str, int],
    evaluation_only: Sequence[str],
    warnings: Iterable[str],
    seconds: float,
    environment: Mapping[str, str],
) -> Result:
    """Put together what ran.

    Args:
        bundle: the study and its files.
        ran: arm to what it trained, in the order in which the arms ran.
        sites: training rows by site, in roster order.
        evaluation_only: the sites that never train.
        warnings: what a reader should know.
        seconds: wall time in all.
        environment: versions, processor, system.

    Returns:
        The result. Its model is that of the federated arm, or else of the first; only a federated
        model is judged by the criteria that its sites agreed on.
    """
    study = bundle.study
    main, *others = ran.get("federated", next(iter(ran.values())))
    shown = measure(main.evaluation, main.better, main.value)
    return Result(
        study=study.study.name,
        purpose=study.study.purpose,
        digest=bundle.digest,
        seed=study.study.seed,
        engine=main.finished.engine,
        sites=dict(sites),
        evaluation_only=tuple(evaluation_only),
        arms={name: arm_result(name, trained) for name, trained in ran.items()},
        participation=tuple(
            line
            for name, trained in ran.items()
            if len(trained) == 1 and trained[0].variant.trains != (POOLED,)
            for line in participation(name, trained[0])
        ),
        acceptance=judge(study.acceptance.criteria, shown) if "federated" in ran else (),
        warnings=(*warnings, *(_unevaluated(main) if study.task.evaluate else ())),
        seconds=seconds,
        environment=environment,
        better=main.better,
        model=main.model,
        models=_own_models([main, *others]),
        evaluation={
            name: dict(trained[0].evaluation) for name, trained in ran.items() if len(trained) == 1
        },
        plan=main.plan,
    )


def check_finished(finished: Finished, plan: Plan) -> None:
    """Raise if a run did not reach a consensus model, with the cause and the next step.

    Raises:
        BelowQuorumError: too few sites took part in a round.
        DivergedError: training produced values that are not finite.
    """
    last = finished.logs[-1].state
    counted = not plan.rounds or bool(last.models)
    if last.status == "finished" and counted:
        return
    lines = _lines(finished.logs)
    told = _told(lines, plan)
    if lines and all("finite" in line for line in lines.values()):
        advice = "Lower task.optimizer's learning rate, or normalise the features"
        raise DivergedError(f"training diverged in {last.reason}: {told}", advice)
    cause = f"below quorum in {last.reason}: {told}"
    advice = 'Mend those sites, lower plan.participation.quorum, or set on_shortfall = "skip"'
    raise BelowQuorumError(cause, advice)


def _own_models(trained: Sequence[Trained]) -> dict[PartyId, Params]:
    """Return each site's own model: of an arm with one for each, or of peers; else nothing."""
    first = trained[0]
    if first.variant.name:
        return {PartyId(one.variant.name): one.model for one in trained}
    return dict(first.finished.models) if len(first.state.models) > 1 else {}


def _unevaluated(trained: Trained) -> Iterator[str]:
    """Tell that a final model was not evaluated, as where its round was skipped, and why."""
    if not trained.evaluation:
        told = _told(_lines(trained.finished.logs[-1:]), trained.plan)
        yield f"the final model was not evaluated: {told}"


def _lines(logs: Iterable[RoundLog]) -> dict[SiteId, str]:
    """Return what kept each site from taking part, the last time that it did not.

    Where causes are known, sites that were only lost with their round are no part of them.
    """
    lines: dict[SiteId, str] = {}
    lost: dict[SiteId, str] = {}
    for log in logs:
        for note in log.state.notes:
            reason = note.reason or log.reasons.get((note.site, note.status), "")
            line = f"{note.site} {note.status}" + (f" ({reason})" if reason else "")
            (lost if reason == LOST else lines)[note.site] = line
    return lines or lost


def _told(lines: Mapping[SiteId, str], plan: Plan) -> str:
    return "; ".join(_few([lines[s] for s in plan.rows if s in lines])) or "no site answered"


def _few(lines: Sequence[str]) -> list[str]:
    more = [f"and {len(lines) - NAMED} more"] if len(lines) > NAMED else []
    return [*lines[:NAMED], *more]
