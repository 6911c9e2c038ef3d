"""From what a run's closing party told to the same result as a simulation's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cohortium.governance.grant import Grant
from cohortium.governance.roster import Roster
from cohortium.host.run import HostedRun
from cohortium.learning.metrics import Measures
from cohortium.runtime.agreeing import better
from cohortium.runtime.arms import Trained
from cohortium.runtime.engine import Finished, RoundLog
from cohortium.runtime.outcome import check_finished, outcome
from cohortium.runtime.result import NETWORK, Result
from cohortium.study.arms import ARMS
from cohortium.types import Params, PartyId

ARM = "federated"


def result_of(run: HostedRun, logs: Sequence[RoundLog], models: Mapping[PartyId, Params]) -> Result:
    """Return what a run gave.

    Args:
        run: as its roster and its study say.
        logs: of all rounds, oldest first; their States were checked.
        models: of the parties that hold one; their digests were checked.

    Raises:
        RunFailedError: the run did not reach a consensus model.
    """
    plan, study = run.plan, run.bundle.study
    finished = Finished(NETWORK, tuple(logs), models)
    check_finished(finished, plan)
    [variant] = ARMS[ARM].variants(study, plan.trainers)
    measures, seconds = Measures.of(study.task.metrics), sum(log.seconds for log in logs)
    is_better = better(study, measures.names)
    trained = Trained(variant, finished, plan, measures.value, is_better, seconds)
    return outcome(
        run.bundle,
        {ARM: [trained]},
        sites={str(site): rows for site, rows in plan.rows.items()},
        evaluation_only=[member.site for member in plan.members if not member.trains],
        warnings=(),
        seconds=seconds,
        environment=environment_of(run.roster),
    )


def environment_of(roster: Roster) -> dict[str, str]:
    """Return the versions in the sites' consents; where they differ, each once, with `; ` between.

    Empty in a study with pseudonyms: only the broker has the consents.
    """
    said: dict[str, dict[str, None]] = {}
    for seat in roster.seats:
        if seat.grant is not None:
            for name, value in Grant.of(seat.grant).environment.items():
                said.setdefault(name, {})[value] = None
    return {name: "; ".join(values) for name, values in said.items()}
