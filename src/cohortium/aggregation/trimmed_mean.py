"""The coordinate-wise trimmed mean (Yin et al. 2018, Definition 2)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, ClassVar

from pydantic import Field

from cohortium.aggregation.collection import Collection
from cohortium.aggregation.order_statistics import middle_mean
from cohortium.aggregation.rule import Fold
from cohortium.part import part
from cohortium.types import Params


@part
class TrimmedMean:
    """The mean of each coordinate without its smallest and largest values.

    Of K updates, `fraction * K` are dropped at each end, rounded up, since the rule withstands only
    as many wrong updates as it drops; at least one (odd K) or two (even K) always stay. Weights do
    not count in it, so that no site gains influence by the weight that it claims.

    >>> import numpy as np
    >>> fold = TrimmedMean(fraction=0.25).begin(Params.of({"w": np.zeros(1)}))
    >>> for index, value in enumerate((1.0, 1e9, 2.0, -1e9)):
    ...     fold.add(index, Params.of({"w": np.array([value])}), 10.0)
    >>> fold.finish()[0]["w"]
    array([1.5])
    """

    fraction: Annotated[
        float,
        Field(gt=0, lt=0.5, description="Share of the updates that is dropped at each end."),
    ] = 0.1
    additive: ClassVar[bool] = False

    def begin(self, reference: Params) -> Fold:
        """Start a trimmed mean of updates with the arrays of `reference`.

        Raises:
            RefusedError: an array of `reference` has a dtype that cannot be aggregated.
        """
        return Collection(reference, self._trim)

    def _trim(
        self, _reference: Params, updates: Sequence[Params], _weights: Sequence[float]
    ) -> Params:
        count = len(updates)
        wanted = math.ceil(self.fraction * count - 1e-9)  # 0.07 * 100 is a little more than 7
        return middle_mean(updates, min(wanted, (count - 1) // 2))
