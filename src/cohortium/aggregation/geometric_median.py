"""The geometric median (Pillutla et al. 2022, "Robust Aggregation for Federated Learning", RFA).

Legend: K updates.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from cohortium.aggregation.collection import Collection
from cohortium.aggregation.geometry import combine, gram, squared_distances
from cohortium.aggregation.rule import Fold
from cohortium.errors import RefusedError
from cohortium.part import part
from cohortium.types import Params

_FARTHEST_SQUARED = 1e300  # float64 ends at 1.8e308, and the sums below need room


@part
class GeometricMedian:
    """The point with the smallest weighted sum of distances to the updates, by smoothed Weiszfeld.

    Holds while the wrong updates have less than half of the total weight. Every iterate is a
    combination of the updates, so the iterations need their inner products only: two passes over
    the updates, however many iterations. The first iterate weighs each update by the radius around
    it that holds half of the weight. An update farther than 1e150 away does not count.

    >>> fold = GeometricMedian().begin(Params.of({"w": np.zeros(1)}))
    >>> for index, value in enumerate((1.0, 2.0, 1e9)):
    ...     fold.add(index, Params.of({"w": np.array([value])}), 10.0)
    >>> fold.finish()[0]["w"].round(3)
    array([2.])
    """

    iterations: Annotated[
        int, Field(ge=1, le=100_000, description="Steps of Weiszfeld's algorithm.")
    ] = 100
    smoothing: Annotated[
        float,
        Field(gt=0, description="Distances below this count as this, so that none is zero."),
    ] = 1e-6
    additive: ClassVar[bool] = False

    def begin(self, reference: Params) -> Fold:
        """Start a median of updates with the arrays of `reference`.

        Raises:
            RefusedError: an array of `reference` has a dtype that cannot be aggregated.
        """
        return Collection(reference, self._median)

    def _median(
        self, reference: Params, updates: Sequence[Params], weights: Sequence[float]
    ) -> Params:
        if len(updates) == 1:
            return updates[0]
        products_KK = gram(reference, updates)
        near = np.diagonal(products_KK) < _FARTHEST_SQUARED
        if not near.any():
            raise RefusedError(
                f"all {len(updates)} updates are farther than 1e150 from the model; expected some "
                "that are near. Lower the learning rate"
            )
        shares = np.zeros(len(updates))
        weights_K = np.asarray(weights)[near]
        shares[near] = self._shares(products_KK[np.ix_(near, near)], weights_K / weights_K.max())
        return combine(updates, shares.tolist())

    def _shares(
        self, products_KK: NDArray[np.float64], weights_K: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Algorithm 2 (smoothed Weiszfeld), on the coefficients of the iterate."""
        distances_K = _radii(products_KK, weights_K)
        for _ in range(self.iterations):
            shares_K = self._pulls(distances_K, weights_K)
            distances_K = _distances(products_KK, shares_K)
        return self._pulls(distances_K, weights_K)

    def _pulls(
        self, distances_K: NDArray[np.float64], weights_K: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        smoothed_K = np.maximum(distances_K, self.smoothing)
        pulls_K = weights_K * (smoothed_K.min() / smoothed_K)
        return np.asarray(pulls_K / pulls_K.sum())


def _radii(products_KK: NDArray[np.float64], weights_K: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the radius around each update that holds more than half of the weight.

    The first iterate takes these for distances. From the weighted mean, which a distant minority
    has moved far, each step comes back by half or so only.
    """
    distances_KK = np.sqrt(squared_distances(products_KK))
    order_KK = np.argsort(distances_KK, axis=1, kind="stable")
    held_KK = np.cumsum(weights_K[order_KK], axis=1)
    last_K = np.argmax(held_KK > 0.5 * weights_K.sum(), axis=1)
    farthest_K = np.take_along_axis(order_KK, last_K[:, None], axis=1)
    return np.take_along_axis(distances_KK, farthest_K, axis=1)[:, 0]


def _distances(
    products_KK: NDArray[np.float64], shares_K: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return how far each update is from the combination with these shares."""
    towards_K = products_KK @ shares_K
    squares_K = np.diagonal(products_KK) - 2.0 * towards_K + shares_K @ towards_K
    return np.asarray(np.sqrt(np.maximum(squares_K, 0.0)))
