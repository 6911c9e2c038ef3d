"""Putting inputs on a common scale, apart from the rows that the scale was learned from.

Legend: N rows, F inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cohortium.data.schema import Feature
from cohortium.records import Part, SiteData

EPSILON = 1e-9  # FLamby's, Fed-Heart-Disease: keeps an input that never varies finite


@dataclass(frozen=True, eq=False)
class Normalization:
    """The map x -> (x - shift) / scale, input by input.

    Attributes:
        shift: shape (F,), float64.
        scale: shape (F,), float64.
    """

    shift: NDArray[np.float64]
    scale: NDArray[np.float64]

    @classmethod
    def fit(cls, part: Part) -> Normalization:
        """Return (x - mean) / (sd + 1e-9) of a part's rows; sd is the sample's (n - 1).

        In float64, so that an input that never varies has a standard deviation of exactly 0.

        Args:
            part: x of shape (N, F) with at least two rows.

        >>> part = Part(np.array([[1.0], [3.0]], np.float32), np.zeros(2, np.float32))
        >>> Normalization.fit(part).apply(part).x.ravel().round(3).tolist()
        [-0.7070000171661377, 0.7070000171661377]
        """
        mean = part.x.mean(axis=0, dtype=np.float64)
        sd = part.x.std(axis=0, ddof=1, dtype=np.float64)
        return cls(mean, sd + EPSILON)

    @classmethod
    def of_ranges(cls, features: Sequence[Feature]) -> Normalization:
        """Return the map from each number's range to [0, 1]; expanded categories stay 0 or 1.

        >>> Normalization.of_ranges([Feature(name="age", range=(0, 120))]).scale
        array([120.])
        """
        ranges = [feature.range or (0.0, 1.0) for feature in features for _ in feature.inputs]
        low, high = np.array(ranges, np.float64).T
        return cls(low, high - low)

    def apply(self, part: Part) -> Part:
        """Return the part with x normalised, float32."""
        x = np.subtract(part.x, self.shift, dtype=np.float64) / self.scale
        return Part(x.astype(np.float32), part.y)

    def apply_all(self, data: SiteData) -> SiteData:
        """Return all three parts of a site normalised."""
        return SiteData(self.apply(data.train), self.apply(data.validation), self.apply(data.test))
