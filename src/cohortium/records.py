"""Records as training sees them, after schema, cohort, split and normalisation.

Legend: N rows, F features. Nothing here leaves the site.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from cohortium.types import Array


@dataclass(frozen=True)
class Part:
    """Rows for one use (training, validation or test).

    Attributes:
        x: inputs, shape (N, F) or (N, ...), float32.
        y: targets, shape (N,), float32 for binary and regression tasks, int64 for class indices.
    """

    x: Array
    y: Array

    def __post_init__(self) -> None:
        if len(self.x) != len(self.y):
            raise ValueError(f"{len(self.x)} inputs and {len(self.y)} targets")

    def __len__(self) -> int:
        return len(self.y)

    def none(self) -> Part:
        """Return no rows of the same shapes."""
        return Part(self.x[:0], self.y[:0])

    @classmethod
    def join(cls, parts: list[Part]) -> Part:
        """Stack the rows of several parts in order."""
        return cls(np.concatenate([p.x for p in parts]), np.concatenate([p.y for p in parts]))


@dataclass(frozen=True)
class SiteData:
    """One site's records, split. `validation` is empty unless the study's split asks for it."""

    train: Part
    validation: Part
    test: Part

    @property
    def digest(self) -> str:
        """SHA-256 over all parts' shapes, dtypes and bytes, as hex; for the site's own use."""
        sha = hashlib.sha256()
        for part in (self.train, self.validation, self.test):
            for array in (part.x, part.y):
                sha.update(repr((array.shape, array.dtype.str)).encode())
                sha.update(np.ascontiguousarray(array).data)
        return sha.hexdigest()
