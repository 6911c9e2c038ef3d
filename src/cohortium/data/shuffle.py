"""The draw of held-out rows, by scikit-learn. Imported only where rows are held out."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cohortium.data.extra import needs
from cohortium.types import Array

Rows = NDArray[np.int64]

with needs("scikit-learn", "to split rows", extra="demo", instead="or set data.split.test = 0"):
    from sklearn.model_selection import train_test_split


def hold_out(rows: Rows, size: int, *, labels: Array | None, seed: int) -> tuple[Rows, Rows]:
    """Return (kept, held out) of `rows`, shape (N,), each in the order of `rows`.

    Args:
        rows: what to draw from.
        size: how many to hold out, at least 1 and below N.
        labels: classes to stratify by, shape (N,), or None. Where a class has two rows or fewer, or
            a part could not hold every class, the draw is not stratified (as in FLamby).
        seed: the draw's seed, below 2**32.

    >>> kept, held = hold_out(np.arange(4), 1, labels=None, seed=0)
    >>> sorted([*kept, *held]) == [0, 1, 2, 3] and len(held)
    1
    """
    order = np.arange(len(rows))
    kept, held = train_test_split(
        order,
        test_size=size,
        train_size=len(rows) - size,
        random_state=seed,
        shuffle=True,
        stratify=labels if labels is not None and _can_stratify(labels, size) else None,
    )
    return rows[np.sort(kept)], rows[np.sort(held)]


def _can_stratify(labels: Array, size: int) -> bool:
    _, counts = np.unique(labels, return_counts=True)
    fits = min(size, len(labels) - size) >= len(counts)
    return len(counts) > 1 and int(counts.min()) > 2 and fits
