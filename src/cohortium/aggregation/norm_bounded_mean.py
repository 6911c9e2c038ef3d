"""The mean of updates of bounded length: one site cannot move the model far (Sun et al. 2019, §4).

"Can You Really Backdoor Federated Learning?", arXiv:1911.07963.
"""

from __future__ import annotations

import math
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from cohortium.aggregation.intake import Intake
from cohortium.aggregation.precision import is_float
from cohortium.aggregation.rule import Fold
from cohortium.aggregation.running_mean import BLOCK_BYTES, GroupedMean, Read
from cohortium.aggregation.tiles import tiles
from cohortium.part import part
from cohortium.types import Array, Params

_TILE = BLOCK_BYTES // 8


@part
class NormBoundedMean:
    """The weighted mean of updates, each drawn towards the round's model until it is near enough.

    An update whose distance from the model exceeds `bound` (L2 norm over all its float arrays
    together) keeps its direction and is cut to that distance; the others count as they are. One
    whose distance overflows float64 counts as the round's model. Integer arrays are not bounded.

    >>> fold = NormBoundedMean(bound=5.0).begin(Params.of({"w": np.zeros(2)}))
    >>> fold.add(0, Params.of({"w": np.array([30.0, 40.0])}), 1.0)
    >>> fold.finish()[0]["w"]
    array([3., 4.])
    """

    bound: Annotated[
        float,
        Field(
            gt=0,
            description="Greatest distance (L2 norm over all float arrays) of an update "
            "from the model that the round began with.",
            examples=[1.0],
        ),
    ]
    additive: ClassVar[bool] = False

    def begin(self, reference: Params) -> Fold:
        """Start a mean; `reference` is the model from which distances are measured.

        Raises:
            RefusedError: an array of `reference` has a dtype that cannot be averaged.
        """
        return _BoundedFold(reference, self.bound)


class _BoundedFold:
    def __init__(self, reference: Params, bound: float) -> None:
        self._reference, self._bound = reference, bound
        self._intake, self._mean = Intake(reference.layout), GroupedMean(reference.layout)

    def add(self, index: int, params: Params, weight: float) -> None:
        self._intake.accept(index, params, weight)
        distance = _distance(params, self._reference)
        kept = self._bound / distance if distance > self._bound else 1.0
        self._mean.fold(index, _shortened(params, self._reference, kept), weight)

    def finish(self) -> tuple[Params, float]:
        self._intake.require_any()
        return self._mean.finish()


def _distance(params: Params, reference: Params) -> float:
    squares = 0.0
    with np.errstate(over="ignore"):
        for dtype, size in params.layout.sizes.items():
            if not is_float(dtype):
                continue
            x, origin = params.buffers[dtype], reference.buffers[dtype]
            for where in tiles(size, _TILE):
                delta = np.subtract(x[where], origin[where], dtype=np.float64)
                squares += float(np.square(delta, out=delta).sum())
    return math.sqrt(squares)


def _shortened(params: Params, reference: Params, kept: float) -> Read:
    def whole(dtype: str, where: slice) -> Array:
        return params.buffers[dtype][where]

    def shortened(dtype: str, where: slice) -> Array:
        x, origin = params.buffers[dtype][where], reference.buffers[dtype][where]
        if not is_float(dtype):
            return x
        if kept == 0.0:
            return origin
        delta = np.subtract(x, origin, dtype=np.float64)  # float32 would overflow or lose the cut
        delta *= kept
        delta += origin
        return delta.astype(dtype)

    return whole if kept == 1.0 else shortened
