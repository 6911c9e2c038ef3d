"""Distances between updates and combinations of them, tile by tile.

Legend: K updates, T coordinates of a tile.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cohortium.aggregation.precision import is_float, restore
from cohortium.aggregation.tiles import tiles
from cohortium.types import Array, Params

_TILE = 1 << 13
_SCRATCH_BYTES = 1 << 22


def gram(reference: Params, updates: Sequence[Params]) -> NDArray[np.float64]:
    """Return the inner products of the updates' steps away from `reference`.

    One pass over all updates; every distance that a rule needs follows from it. Taken in float64
    over the float arrays. Of a step whose square overflows (beyond 1e154), the products are not
    finite.

    Args:
        reference: the model that the round began with.
        updates: K updates on its layout.

    Returns:
        Symmetric, shape (K, K).

    >>> origin = Params.of({"w": np.array([1.0, 1.0])})
    >>> gram(origin, [Params.of({"w": np.array(w)}) for w in ([2.0, 1.0], [3.0, 4.0])])
    array([[ 1.,  2.],
           [ 2., 13.]])
    """
    products_KK = np.zeros((len(updates), len(updates)))
    length = max(256, min(_TILE, _SCRATCH_BYTES // (8 * len(updates))))
    steps_KT = np.empty((len(updates), length))
    with np.errstate(over="ignore", invalid="ignore"):
        for dtype in filter(is_float, reference.layout.sizes):
            origin = reference.buffers[dtype]
            for where in tiles(origin.size, length):
                tile_KT = steps_KT[:, : where.stop - where.start]
                for row, update in zip(tile_KT, updates, strict=True):
                    x = update.buffers[dtype][where]
                    np.subtract(x, origin[where], out=row, dtype=np.float64)
                products_KK += tile_KT @ tile_KT.T
    return products_KK


def squared_distances(products_KK: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the squared distances between updates from their inner products; K x K, both.

    A distance that float64 cannot hold is infinite.

    >>> squared_distances(np.array([[1.0, 2.0], [2.0, 13.0]]))
    array([[ 0., 10.],
           [10.,  0.]])
    """
    lengths_K = np.diagonal(products_KK)
    with np.errstate(over="ignore", invalid="ignore"):
        distances_KK = lengths_K[:, None] + lengths_K[None, :] - 2.0 * products_KK
    distances_KK = np.where(np.isfinite(distances_KK), np.maximum(distances_KK, 0.0), np.inf)
    np.fill_diagonal(distances_KK, 0.0)
    return distances_KK


def combine(updates: Sequence[Params], shares: Sequence[float]) -> Params:
    """Return the sum of updates, each times its share.

    Taken in float64 and rounded once to the arrays' own dtype, integers to the nearest: a distant
    update with a tiny share costs the others no digits.

    Args:
        updates: K updates on one layout.
        shares: K numbers from 0 that add up to 1; updates with share 0 are not read.

    >>> combine([Params.of({"n": np.array(1)}), Params.of({"n": np.array(4)})], [0.5, 0.5])["n"]
    array(2)
    """
    layout = updates[0].layout
    used = [(share, update) for share, update in zip(shares, updates, strict=True) if share > 0.0]
    if len(used) == 1:
        return used[0][1]
    buffers = {
        dtype: _combine([(share, update.buffers[dtype]) for share, update in used])
        for dtype in layout.sizes
    }
    return Params(layout, buffers)


def _combine(terms: Sequence[tuple[float, Array]]) -> Array:
    combined = np.empty_like(terms[0][1])
    for where in tiles(combined.size, _TILE):
        total = np.zeros(where.stop - where.start)
        for share, row in terms:
            total += np.multiply(row[where], share, dtype=np.float64)
        combined[where] = restore(total, combined.dtype.name)
    return combined
