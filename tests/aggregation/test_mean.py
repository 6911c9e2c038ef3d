"""The weighted mean of federated averaging, by hand."""

from __future__ import annotations

import numpy as np

from cohortium.aggregation.mean import Mean
from cohortium.types import Params


def test_weights_are_training_rows() -> None:
    fold = Mean().begin(Params.of({"w": np.zeros(2, np.float32)}))
    fold.add(0, Params.of({"w": np.array([1, 0], np.float32)}), 10)
    fold.add(3, Params.of({"w": np.array([4, 2], np.float32)}), 20)
    fold.add(9, Params.of({"w": np.array([7, 4], np.float32)}), 30)
    mean, weight = fold.finish()
    np.testing.assert_allclose(mean["w"].astype(float), [5.0, 8 / 3], rtol=1e-6)
    assert weight == 60


def test_a_tree_of_means_is_the_mean() -> None:
    rng = np.random.default_rng(0)
    updates = [Params.of({"w": rng.standard_normal(50).astype(np.float32) + 1}) for _ in range(9)]
    star = Mean().begin(updates[0])
    root = Mean().begin(updates[0])
    for region in range(3):
        inner = Mean().begin(updates[0])
        for index in range(3 * region, 3 * region + 3):
            star.add(index, updates[index], 1.0 + index)
            inner.add(index, updates[index], 1.0 + index)
        root.add(region, *inner.finish())
    (flat, flat_weight), (nested, nested_weight) = star.finish(), root.finish()
    assert flat_weight == nested_weight
    difference = flat["w"].astype(float) - nested["w"].astype(float)
    assert np.linalg.norm(difference) <= 1e-6 * np.linalg.norm(flat["w"].astype(float))


def test_it_is_additive() -> None:
    assert Mean.additive
