"""Which rows train, validate and test.

Legend: N rows.
"""

from __future__ import annotations

from math import ceil

import numpy as np
from numpy.typing import NDArray

from cohortium.data.schema import Split
from cohortium.types import Array

Rows = NDArray[np.int64]


def part_sizes(n: int, split: Split) -> tuple[int, int, int]:
    """Return the numbers of training, validation and test rows; the first may be 0 or less.

    Test and validation rows are rounded up, as scikit-learn does, but free of floating-point noise:
    0.34 and 1 - 0.66 give the same number for every n.

    >>> part_sizes(303, Split(test=0.34)), part_sizes(150, Split(test=1 - 0.66))
    ((199, 0, 104), (99, 0, 51))
    """
    test, validation = (ceil(round(share * n, 6)) for share in (split.test, split.validation))
    return n - test - validation, validation, test


def split_rows(y: Array, *, split: Split, seed: int, stratify: bool) -> tuple[Rows, Rows, Rows]:
    """Return the indices of the training, validation and test rows, each in file order.

    The test rows are those of `train_test_split(arange(n), test_size=..., train_size=...,
    random_state=seed, shuffle=True, stratify=y)`; the validation rows are drawn from the others by
    a second call. Without test and validation rows scikit-learn is not imported.

    Args:
        y: class indices or targets, shape (N,); at least one row must remain for training.
        split: fractions, method and, where it names one, the seed.
        seed: the study's seed, used where the split names none.
        stratify: whether y holds classes; see `Split.method`.
    """
    _, validation, test = part_sizes(len(y), split)
    seed = (seed if split.seed is None else split.seed) % 2**32
    labels = y if stratify and split.method == "stratified" else None
    rest, test_rows = _hold_out(np.arange(len(y)), test, labels=labels, seed=seed)
    train_rows, validation_rows = _hold_out(rest, validation, labels=labels, seed=seed)
    return train_rows, validation_rows, test_rows


def _hold_out(rows: Rows, size: int, *, labels: Array | None, seed: int) -> tuple[Rows, Rows]:
    if size == 0:
        return rows, rows[:0]
    # Here, not above: an import of scikit-learn takes as long as a small study, which needs none.
    from cohortium.data.shuffle import hold_out

    return hold_out(rows, size, labels=None if labels is None else labels[rows], seed=seed)
