"""Weighted means that are folded as updates arrive, in memory that does not grow with them.

A running mean moves towards each update by its share of the weight so far,
`mean += (x - mean) * w / (W + w)` (West 1979, Communications of the ACM 22(9)): the first update is
copied, equal updates stay what they are, and nothing grows with their number. It goes block by
block, so that the three operations cost about one pass over memory.

Means are folded in fixed groups of `GROUP` neighbours in the plan's order. A group's partial mean
and weight, handed in as one update, give the same bits as its members one by one: so an engine may
fold a block of sites where they run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cohortium.aggregation.precision import check_dtypes, is_float, restore
from cohortium.aggregation.tiles import tiles
from cohortium.types import Array, Layout, Params

GROUP = 64
"""How many neighbours in the plan's order share a partial mean."""

BLOCK_BYTES = 1 << 20
"""Three blocks fit a shared cache; the calls on smaller ones cost more than they save."""

Read = Callable[[str, slice], Array]
"""Gives the elements of one block of an update: (dtype of the buffer, place in it)."""


class RunningMean:
    """The weighted mean of what was added so far, in the memory of one model.

    float32 and float64 arrays are averaged in their own precision, with coefficients from float64.
    Integers and bool are averaged in float64 and rounded when the mean is handed over, so they keep
    their dtype; those beyond 2**53 keep their bits only where a single update was added.

    Args:
        layout: the arrays of every update.

    Attributes:
        weight: the sum of the weights added so far.

    >>> mean = RunningMean(Layout.of({"w": np.zeros(2)}))
    >>> mean.add(Params.of({"w": np.array([0.0, 4.0])}), 1.0)
    >>> mean.add(Params.of({"w": np.array([4.0, 8.0])}), 3.0)
    >>> mean.weight, mean.result()["w"]
    (4.0, array([3., 7.]))
    """

    def __init__(self, layout: Layout) -> None:
        check_dtypes(layout)
        self._layout, self.weight = layout, 0.0
        self._mean: dict[str, NDArray[Any]] = {}

    def add(self, params: Params, weight: float) -> None:
        """Move the mean towards `params`. `weight` is positive and finite."""
        self.fold(lambda dtype, where: params.buffers[dtype][where], weight)

    def fold(self, read: Read, weight: float) -> None:
        """Like `add`, for an update that is read block by block."""
        if self.weight:
            self._approach(read, weight / (self.weight + weight))
        else:
            self._start(read)
        self.weight += weight

    def merge(self, other: RunningMean) -> None:
        """Add another mean with its weight. The other is empty afterwards and keeps its memory."""
        other.settle()
        self.fold(lambda dtype, where: other._mean[dtype][where], other.weight)
        other.weight = 0.0

    def settle(self) -> None:
        """Round what is averaged in float64 to its own dtype, as a result is."""
        for dtype, mean in self._mean.items():
            if mean.dtype.name != dtype:
                self._mean[dtype] = restore(mean, dtype)

    def result(self) -> Params:
        """Hand over the mean and start anew. At least one update was added."""
        self.settle()
        mean, self._mean, self.weight = self._mean, {}, 0.0
        return Params(self._layout, mean)

    def _start(self, read: Read) -> None:
        for dtype, size in self._layout.sizes.items():
            mean = self._mean.setdefault(dtype, np.empty(0, dtype))
            if mean.size != size:
                mean = self._mean[dtype] = np.empty(size, dtype)
            for where in tiles(size, _block(mean)):
                mean[where] = read(dtype, where)

    def _approach(self, read: Read, share: float) -> None:
        for dtype in self._layout.sizes:
            if not is_float(dtype):
                self._mean[dtype] = self._mean[dtype].astype(np.float64, copy=False)
            mean = self._mean[dtype]
            scratch = np.empty(min(mean.size, _block(mean)), mean.dtype)
            with np.errstate(over="raise"):
                for where in tiles(mean.size, _block(mean)):
                    target = mean[where]
                    _move(target, read(dtype, where), share, scratch[: len(target)])


class GroupedMean:
    """A mean of means over fixed groups of `GROUP` neighbouring indices, at most two models large.

    Args:
        layout: the arrays of every update.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout, self._group = layout, 0
        self._partial, self._total = RunningMean(layout), RunningMean(layout)

    def fold(self, index: int, read: Read, weight: float) -> None:
        """Take in an update that is read block by block; `index` increases from call to call."""
        if index // GROUP != self._group and self._partial.weight:
            self._close()
        self._group = index // GROUP
        self._partial.fold(read, weight)

    def finish(self) -> tuple[Params, float]:
        """Return the mean and the total weight, after at least one `fold`."""
        self._close()
        weight = self._total.weight
        return self._total.result(), weight

    def _close(self) -> None:
        if self._total.weight:
            self._total.merge(self._partial)
            return
        self._partial.settle()
        self._partial, self._total = self._total, self._partial  # the first group is not copied


def _block(buffer: NDArray[Any]) -> int:
    return BLOCK_BYTES // buffer.itemsize


def _move(mean: NDArray[Any], x: Array, share: float, scratch: NDArray[Any]) -> None:
    try:
        np.subtract(x, mean, out=scratch)
    except FloatingPointError:  # they lie further apart than the dtype reaches, with opposite signs
        np.multiply(x, share, out=scratch)
        np.multiply(mean, 1.0 - share, out=mean)
    else:
        np.multiply(scratch, share, out=scratch)
    np.add(mean, scratch, out=mean)
