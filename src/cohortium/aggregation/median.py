"""The coordinate-wise median (Yin et al. 2018, "Byzantine-Robust Distributed Learning", Def. 1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from cohortium.aggregation.collection import Collection
from cohortium.aggregation.order_statistics import middle_mean
from cohortium.aggregation.rule import Fold
from cohortium.part import part
from cohortium.types import Params


@part
class Median:
    """The median of each coordinate over the updates; of an even number, the middle two's mean.

    Holds while fewer than half of the updates are wrong. Weights do not count in it, so that no
    site gains influence by the weight that it claims.

    >>> import numpy as np
    >>> fold = Median().begin(Params.of({"w": np.zeros(1)}))
    >>> for index, value in enumerate((1.0, 1e9, 2.0)):
    ...     fold.add(index, Params.of({"w": np.array([value])}), 10.0)
    >>> fold.finish()[0]["w"]
    array([2.])
    """

    additive: ClassVar[bool] = False

    def begin(self, reference: Params) -> Fold:
        """Start a median of updates with the arrays of `reference`.

        Raises:
            RefusedError: an array of `reference` has a dtype that cannot be aggregated.
        """
        return Collection(reference, _median)


def _median(_reference: Params, updates: Sequence[Params], _weights: Sequence[float]) -> Params:
    return middle_mean(updates, (len(updates) - 1) // 2)
