"""Coordinate-wise order statistics of many updates, tile by tile.

Legend: K updates, T coordinates of a tile.

Up to `NETWORK` updates are ordered by a sorting network whose comparators work on whole rows of a
tile (minimum and maximum of two rows): with 20 updates about 10 times faster than `np.median`. More
are ordered by `np.sort`; the values are the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cohortium.aggregation.precision import restore
from cohortium.aggregation.tiles import tiles
from cohortium.types import Array, Params

NETWORK = 64
_SCRATCH_BYTES = 1 << 22


def middle_mean(updates: Sequence[Params], cut: int) -> Params:
    """Return the coordinate-wise mean after dropping `cut` values at each end.

    The mean is taken in float64 over the ordered values, so the order of `updates` does not matter
    to the bit, and lies between the outermost values kept. Integers are rounded to the nearest.

    Args:
        updates: K updates on one layout.
        cut: how many of the smallest and of the largest values to drop; 2 * cut < K.

    >>> updates = [Params.of({"w": np.array([x])}) for x in (9.0, 1.0, 2.0, 3.0)]
    >>> middle_mean(updates, 1)["w"]
    array([2.5])
    """
    layout = updates[0].layout
    rows = {dtype: [update.buffers[dtype] for update in updates] for dtype in layout.sizes}
    return Params(layout, {dtype: _middle(rows[dtype], cut) for dtype in layout.sizes})


def _middle(rows_KP: list[Array], cut: int) -> Array:
    middle = np.empty(rows_KP[0].shape, rows_KP[0].dtype)
    length = max(256, min(1 << 14, _SCRATCH_BYTES // (len(rows_KP) * middle.itemsize)))
    for where in tiles(middle.size, length):
        middle[where] = _mean(_kept([row[where] for row in rows_KP], cut))
    return middle


def _kept(rows_KT: list[Array], cut: int) -> list[NDArray[Any]]:
    if len(rows_KT) > NETWORK:
        values_TK = np.stack(rows_KT, axis=1)
        values_TK.sort(axis=1)
        return list(values_TK.T[cut : len(rows_KT) - cut])
    rows = [row.copy() for row in rows_KT]
    spare = np.empty_like(rows[0])
    for low, high in _network(len(rows), cut):
        np.minimum(rows[low], rows[high], out=spare)
        np.maximum(rows[low], rows[high], out=rows[high])
        rows[low], spare = spare, rows[low]
    return rows[cut : len(rows) - cut]


def _mean(rows: Sequence[NDArray[Any]]) -> NDArray[Any]:
    if len(rows) == 1:
        return rows[0]
    total = np.zeros(rows[0].shape, np.float64)
    for row in rows:
        total += np.multiply(
            row, 1.0 / len(rows), dtype=np.float64
        )  # the sum itself might overflow
    # Rounding must not leave the range of the values: equal updates stay what they are.
    mean = np.maximum(restore(total, rows[0].dtype.name), rows[0])
    return np.asarray(np.minimum(mean, rows[-1]))


@lru_cache(maxsize=64)
def _network(count: int, cut: int) -> tuple[tuple[int, int], ...]:
    """Return the comparators that settle the places kept; those only others need are left out."""
    needed, comparators = set(range(cut, count - cut)), []
    for low, high in reversed(list(_odd_even_merge_sort(count))):
        if low in needed or high in needed:
            needed |= {low, high}
            comparators.append((low, high))
    return tuple(reversed(comparators))


def _odd_even_merge_sort(count: int) -> Iterator[tuple[int, int]]:
    """Batcher 1968, in the form of Knuth, The Art of Computer Programming 3, Algorithm 5.2.2M."""
    width = 1
    while width < count:
        step = width
        while step >= 1:
            for start in range(step % width, count - step, 2 * step):
                for low in range(start, min(start + step, count - step)):
                    if low // (2 * width) == (low + step) // (2 * width):
                        yield low, low + step
            step //= 2
        width *= 2
