"""The weighted mean: federated averaging's rule (McMahan et al. 2017, Algorithm 1)."""

from __future__ import annotations

from typing import ClassVar

from cohortium.aggregation.intake import Intake
from cohortium.aggregation.rule import Fold
from cohortium.aggregation.running_mean import GroupedMean
from cohortium.part import part
from cohortium.types import Params


@part
class Mean:
    """The mean of the updates, weighted by the training rows behind each.

    Folded as updates arrive; see `running_mean` for its groups, its memory and its rounding.

    >>> import numpy as np
    >>> fold = Mean().begin(Params.of({"w": np.zeros(1)}))
    >>> fold.add(0, Params.of({"w": np.array([1.0])}), 1.0)
    >>> fold.add(1, Params.of({"w": np.array([5.0])}), 3.0)
    >>> mean, weight = fold.finish()
    >>> mean["w"], weight
    (array([4.]), 4.0)
    """

    additive: ClassVar[bool] = True

    def begin(self, reference: Params) -> Fold:
        """Start a mean of updates with the arrays of `reference`.

        Raises:
            RefusedError: an array of `reference` has a dtype that cannot be averaged.
        """
        return _MeanFold(reference)


class _MeanFold:
    def __init__(self, reference: Params) -> None:
        self._intake, self._mean = Intake(reference.layout), GroupedMean(reference.layout)

    def add(self, index: int, params: Params, weight: float) -> None:
        self._intake.accept(index, params, weight)
        self._mean.fold(index, lambda dtype, where: params.buffers[dtype][where], weight)

    def finish(self) -> tuple[Params, float]:
        self._intake.require_any()
        return self._mean.finish()
