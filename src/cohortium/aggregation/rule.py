"""What an aggregation rule is, and the table of all of them.

To add one: a file beside this one, and a line in `AGGREGATORS`.
"""

from __future__ import annotations

from typing import ClassVar, Protocol

from cohortium.registry import Registry
from cohortium.types import Params


class Fold(Protocol):
    """An aggregation in progress. The caller adds in the plan's order, so the bits never depend on
    the order of arrival.
    """

    def add(self, index: int, params: Params, weight: float) -> None:
        """Take in one update. `index` is its place in the step's gathers; strictly increasing."""

    def finish(self) -> tuple[Params, float]:
        """Return the aggregate and the total weight; call once, after at least one `add`."""


class Aggregator(Protocol):
    """A rule that turns the updates of many sites into one.

    `additive` says that the rule is a weighted mean: exact through trees, gossip and secure sums,
    and foldable in memory that does not grow with the number of sites. A rule that must see each
    update is not, and is refused together with what hides single updates.

    A rule that cannot aggregate a single update says in `needs` how many it takes, so that a study
    with fewer sites is refused before it runs.
    """

    additive: ClassVar[bool]

    def begin(self, reference: Params) -> Fold:
        """Start an aggregation. `reference` is the model from which the updates started."""


AGGREGATORS = Registry(
    "aggregation rule",
    group="cohortium.aggregators",
    builtin={
        "mean": "cohortium.aggregation.mean:Mean",
        "median": "cohortium.aggregation.median:Median",
        "trimmed-mean": "cohortium.aggregation.trimmed_mean:TrimmedMean",
        "krum": "cohortium.aggregation.krum:Krum",
        "multi-krum": "cohortium.aggregation.krum:MultiKrum",
        "geometric-median": "cohortium.aggregation.geometric_median:GeometricMedian",
        "norm-bounded-mean": "cohortium.aggregation.norm_bounded_mean:NormBoundedMean",
    },
)
