"""What a reader must not conclude from a report."""

from __future__ import annotations

from cohortium.plan.topology import AGGREGATOR
from cohortium.report.notation import typeset
from cohortium.runtime.result import NETWORK, Result


def limits(result: Result) -> list[str]:
    """Return what the figures do not show, in sentences."""
    where = _ACROSS if result.engine == NETWORK else _SIMULATED
    sections = (where, _privacy(result), _metrics(result), _SAME_HOSPITALS, _SEED, _CLINICAL)
    return [typeset(text) for text in sections]


_SIMULATED = (
    "The hospitals were simulated on one machine: nothing here crossed a network, a firewall or an "
    "organisation, and nobody was late or dropped out but for what was simulated."
)
_ACROSS = (
    "Every hospital measured the model on its own records and sent sums, signed, to the party that "
    "closes rounds. Nothing shows that a hospital's records are right, or its sums theirs."
)
_SAME_HOSPITALS = (
    "All held-out records come from the same hospitals as the training records. How the model does "
    "at a hospital that took no part, or in years to come, was not measured."
)
_SEED = (
    "This is one seed. Differences smaller than those between seeds mean nothing, and values at "
    "hospitals with few held-out records scatter widely."
)
_CLINICAL = "Good figures are not evidence of clinical benefit, and this is no approval for use."


def _privacy(result: Result) -> str:
    return (
        "No privacy protection was switched on beyond the gate that checks what leaves a hospital: "
        f"there was no secure sum and no differential privacy, {_who_sees_models(result)}, and a "
        "model can reveal something of the records that it learned from."
    )


def _metrics(result: Result) -> str:
    return (
        f"Each hospital's metrics are visible to the {_closer(result)} and, with each round's "
        "outcome, to all hospitals; they stand in this report too. Values from a few patients can "
        "say something about them: think before you publish it."
    )


def _who_sees_models(result: Result) -> str:
    if _closer(result) == AGGREGATOR[1:]:
        return "the aggregator sees every update"
    return "hospitals see the models of those from whom they receive one"


def _closer(result: Result) -> str:
    return "aggregator" if result.plan is None else result.plan.topology.closer.removeprefix("@")
