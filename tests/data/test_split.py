"""Held-out rows are exactly those that scikit-learn's call draws."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import train_test_split

from cohortium.data.schema import Split
from cohortium.data.split import part_sizes, split_rows
from cohortium.types import Array


def flamby(y: Array) -> tuple[list[int], list[int]]:
    """The call of Fed-Heart-Disease, as its paper's code makes it."""
    levels, counts = np.unique(y, return_counts=True)
    train, test = train_test_split(
        np.arange(len(y)),
        test_size=1 - 0.66,
        train_size=0.66,
        random_state=43,
        shuffle=True,
        stratify=y if len(levels) > 1 and (counts > 2).all() else None,
    )
    return sorted(train), sorted(test)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.booleans(), min_size=6, max_size=400), st.sampled_from([0.34, 1 - 0.66]), st.data()
)
def test_a_third_is_held_out_exactly_as_flamby_does(
    labels: list[bool], test: float, data: st.DataObject
) -> None:
    y = np.array(labels, np.float32)
    seed = data.draw(st.sampled_from([None, 43]))
    split = Split(test=test, seed=seed)
    train, validation, held = split_rows(y, split=split, seed=43, stratify=True)
    assert (train.tolist(), held.tolist()) == flamby(y)
    assert len(validation) == 0


@pytest.mark.parametrize("n", [46, 50, 100, 150, 300, 350, 750, 1200])
def test_rounding_is_free_of_floating_point_noise(n: int) -> None:
    """0.34 * 150 is 51.00000000000001: scikit-learn would hold out 52 rows, and 51 for 1 - 0.66."""
    y = np.tile([0.0, 1.0], n // 2)
    _, _, test = split_rows(y, split=Split(test=0.34, seed=43), seed=0, stratify=True)
    assert test.tolist() == flamby(y)[1]


@settings(deadline=None, max_examples=50)
@given(
    st.integers(1, 300),
    st.floats(0, 0.45),
    st.floats(0, 0.45),
    st.integers(0, 2**40),
    st.booleans(),
)
def test_every_row_is_in_one_part_in_file_order(
    n: int, test: float, validation: float, seed: int, stratify: bool
) -> None:
    split = Split(test=test, validation=validation)
    sizes = part_sizes(n, split)
    if sizes[0] < 1:
        return
    y = np.arange(n) % 3 == 0
    parts = split_rows(y, split=split, seed=seed, stratify=stratify)
    assert tuple(map(len, parts)) == sizes
    assert sorted(np.concatenate(parts)) == list(range(n))
    assert all((np.diff(part) > 0).all() for part in parts)


def test_validation_rows_leave_the_test_rows_as_they_are() -> None:
    y = np.tile([0.0, 1.0], 50)
    without = split_rows(y, split=Split(test=0.2), seed=1, stratify=True)
    with_some = split_rows(y, split=Split(test=0.2, validation=0.1), seed=1, stratify=True)
    assert with_some[2].tolist() == without[2].tolist()
    assert y[with_some[1]].mean() == 0.5  # stratified as well


def test_the_split_follows_its_own_seed_before_the_studys() -> None:
    y = np.tile([0.0, 1.0], 50)
    one, other, own = (
        split_rows(y, split=Split(seed=own), seed=seed, stratify=True)[2].tolist()
        for own, seed in ((None, 1), (None, 2), (1, 2))
    )
    assert one != other
    assert one == own


def test_a_study_may_have_a_seed_that_scikit_learn_cannot_take() -> None:
    y = np.tile([0.0, 1.0], 50)
    small, wrapped, near = (
        split_rows(y, split=Split(), seed=seed, stratify=True)[2].tolist()
        for seed in (43, 2**32 + 43, 2**16 + 43)
    )
    assert small == wrapped
    assert small != near


def test_method_random_does_not_stratify() -> None:
    y = np.tile([0.0, 1.0], 50)
    stratified = split_rows(y, split=Split(), seed=1, stratify=True)[2]
    random = split_rows(y, split=Split(method="random"), seed=1, stratify=True)[2]
    plain = train_test_split(np.arange(100), test_size=0.2, random_state=1)[1]
    assert y[stratified].mean() == 0.5
    assert random.tolist() == sorted(plain)


def test_without_held_out_rows_scikit_learn_is_not_imported() -> None:
    code = """
import sys
sys.modules["sklearn"] = None
from cohortium.data.arrays import from_arrays
from cohortium.data.schema import Schema, Split
from cohortium.errors import DataError
sites = {"a": ([[0.0], [1.0], [2.0]], [0, 1, 0])}
def read(test):
    schema = Schema(split=Split(test=test))
    return from_arrays(sites, schema=schema, task_kind="binary-classification", seed=0)
assert len(read(0.0)["a"].data.train) == 3
for _ in range(2):
    try:
        read(0.2)
    except DataError as error:
        assert 'pip install "cohortium[demo]" or set data.split.test = 0' in str(error), error
        assert error.exit_code == 2
    else:
        raise SystemExit("scikit-learn was not needed")
"""
    subprocess.run([sys.executable, "-c", code], check=True)
