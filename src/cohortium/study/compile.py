"""From a study and the sites that take part to a plan: compile it anywhere, the same digest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cohortium.aggregation.rule import AGGREGATORS
from cohortium.errors import Problem, StudyError
from cohortium.plan.cyclic import Cyclic
from cohortium.plan.gossip import Gossip
from cohortium.plan.hybrid import Hybrid
from cohortium.plan.plan import Member, Plan
from cohortium.plan.topology import Topology
from cohortium.study.bundle import Bundle
from cohortium.study.study import Study
from cohortium.types import SiteId


def compile_plan(bundle: Bundle, members: Sequence[Member]) -> Plan:
    """Return the plan of a study.

    Args:
        bundle: the study and its files.
        members: the sites in roster order, with the training rows that they declare.

    Raises:
        StudyError: the sites do not fit the plan: too few for the quorum or the aggregation rule,
            nobody to train, a topology that does not connect them, or a host for a party that is
            not in the plan.
    """
    study = bundle.study
    plan = Plan(
        study=bundle.digest,
        seed=study.study.seed,
        topology=study.plan.topology,
        members=tuple(members),
        rounds=study.plan.rounds,
        fraction=study.plan.participation.fraction,
        quorum=study.plan.participation.quorum,
        deadline=study.plan.participation.deadline,
        on_shortfall=study.plan.participation.on_shortfall,
        evaluate_every=study.plan.evaluate_every if study.task.evaluate else 0,
    )
    _check(plan, study, bundle.where)
    _check_hosts(plan, study, bundle.where)
    return plan


def roster(
    study: Study, sites: Sequence[str], *, where: str = "study"
) -> list[tuple[SiteId, bool]]:
    """Return the sites that take part, in roster order, and whether each trains.

    Args:
        study: the study; `plan.sites` chooses among the dataset's and orders them.
        sites: the sites that have data.
        where: what messages call the study.

    Raises:
        StudyError: the study names a site that has no data.
    """
    chosen = sites if study.plan.sites is None else study.plan.sites
    only = set(study.plan.evaluation_only)
    expected, advice = f"one of the sites with data: {_few(sites)}", "Name one, or bring its data"
    problems = [
        Problem(where, key, f"{name!r}", expected, advice)
        for key, names in (("plan.sites", chosen), ("plan.evaluation_only", only))
        for name in sorted(set(names) - set(sites))
    ]
    if problems:
        raise StudyError(*problems)
    return [(SiteId(site), site not in only) for site in chosen]


def _check(plan: Plan, study: Study, where: str) -> None:
    if not plan.rounds:
        return
    if not plan.trainers:
        got, expected = "no site that trains", "at least one"
        advice = "Remove a site from it, or set plan.rounds = 0 to evaluate only"
        raise StudyError(Problem(where, "plan.evaluation_only", got, expected, advice))
    quorum = study.plan.participation.quorum
    if quorum is not None and quorum > plan.sampled:
        expected = f"at most {plan.sampled}, the sites that train in a round"
        raise StudyError(
            Problem(
                where,
                "plan.participation.quorum",
                str(quorum),
                expected,
                "Lower it, or raise plan.participation.fraction",
            )
        )
    needs = getattr(study.plan.aggregation, "needs", 1)
    if plan.sampled < needs:
        kind, expected = AGGREGATORS.kind_of(study.plan.aggregation), f"at least {needs} updates"
        got = f"{kind!r}, and {plan.sampled} sites that train in a round"
        advice = "Lower its settings, or bring more sites"
        raise StudyError(Problem(where, "plan.aggregation", got, expected, advice))
    if plan.fraction < 1 and any(isinstance(part, Gossip) for part in _parts(plan.topology)):
        got, expected = f"{plan.fraction:g}", "1, where every site keeps a model of its own"
        advice = "Leave it out"
        raise StudyError(Problem(where, "plan.participation.fraction", got, expected, advice))
    if isinstance(plan.topology, Cyclic) and plan.needed < plan.sampled:
        expected = f"all {plan.sampled} sites: a broken chain hands on no model"
        advice = 'Leave the quorum out; on_shortfall = "skip" goes on after a broken round'
        got = str(quorum)
        raise StudyError(Problem(where, "plan.participation.quorum", got, expected, advice))
    try:
        plan.topology.arrange(plan.trainers)
        plan.layout(1)
    except ValueError as error:
        got, _, advice = str(error).partition("; ")
        expected = "a topology that fits the sites that train"
        advice = advice[:1].upper() + advice[1:] or "Change plan.topology, or plan.sites"
        raise StudyError(Problem(where, "plan.topology", got, expected, advice)) from error


def _check_hosts(plan: Plan, study: Study, where: str) -> None:
    """Refuse hosts of parties that are sites themselves or not in the plan, and unknown sites."""
    if not study.plan.hosts:
        return
    sites: tuple[str, ...] = tuple(plan.rows)
    others: list[str] = [party for party in plan.parties if party not in sites]
    problems = []
    for party, site in study.plan.hosts.items():
        key = f"plan.hosts.{party}"
        if party not in others:
            carries_itself = "a site, which carries itself"
            got = carries_itself if party in sites else "a party that is not in the plan"
            problems.append(Problem(where, key, got, f"one of {_few(others)}", "Remove it"))
        if site not in sites:
            expected = f"a site that takes part: {_few(sites)}"
            advice = "Name one of them, or leave the party to the hub"
            problems.append(Problem(where, key, repr(site), expected, advice))
    if problems:
        raise StudyError(*problems)


def _parts(topology: Topology) -> Iterator[Topology]:
    """Yield a topology and those inside it."""
    yield topology
    if isinstance(topology, Hybrid):
        yield from _parts(topology.outer)
        for group in topology.groups:
            yield from _parts(group.topology)


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:20]) + (f", … ({len(names)} in all)" if len(names) > 20 else "")
