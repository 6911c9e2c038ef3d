"""Breast Cancer Wisconsin (Diagnostic), spread over ten hospitals as unequal as real consortia.

569 real patients (Wolberg, Mangasarian, Street, Street 1993; bundled with scikit-learn): no
network. How they are spread is simulated, and was fixed here before anything was measured:

- sizes proportional to `SHARES`, at least 8 patients each, by largest remainder;
- `MALIGNANT` per hospital, so that prevalence differs from 20 % to 65 %;
- a measurement shift per hospital and feature: x -> gain * x + offset * sd, where sd is the
  feature's over all patients, gain = exp(N(0, 0.05)) and offset = N(0, 0.25), from `SEED`.

Nothing here depends on a study's seed: the hospitals are always the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import floor
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray

from cohortium.data.extra import needs
from cohortium.data.local import Records
from cohortium.data.schema import Feature
from cohortium.data.site_folder import SiteFolder
from cohortium.data.table import Table

with needs("scikit-learn", "for the embedded patients", extra="demo"):
    from sklearn.datasets import load_breast_cancer

SHARES = (511, 382, 47, 35, 35, 34, 33, 30, 22, 15)
SMALLEST = 8
MALIGNANT = (0.31, 0.42, 0.65, 0.20, 0.60, 0.25, 0.50, 0.30, 0.40, 0.50)
SEED = 2020
GAIN_SD, OFFSET_SD = 0.05, 0.25
HOSPITALS = tuple(f"hospital-{number:02d}" for number in range(1, len(SHARES) + 1))
TARGET = "malignant"
QUANTITIES = (
    "radius",
    "texture",
    "perimeter",
    "area",
    "smoothness",
    "compactness",
    "concavity",
    "concave_points",
    "symmetry",
    "fractal_dimension",
)
FEATURES = tuple(f"{what}_{name}" for what in ("mean", "error", "worst") for name in QUANTITIES)


class BreastCancer:
    """Ten hospitals of simulated unequal size; columns are `FEATURES` and `malignant` (0 or 1)."""

    @overload
    def sites(self, folder: None) -> dict[str, Table]: ...

    @overload
    def sites(self, folder: Path | None) -> Mapping[str, Records]: ...

    def sites(self, folder: Path | None) -> Mapping[str, Records]:
        """Return the ten hospitals' records; of a folder, those of the sites in it instead."""
        if folder is not None:
            return SiteFolder().sites(folder)
        x, benign = load_breast_cancer(return_X_y=True)
        y = 1 - benign
        draw = np.random.RandomState(
            SEED
        )  # unlike a Generator's, its stream never changes (NEP 19)
        patients = assign_patients(y, draw)
        shape = (len(HOSPITALS), len(FEATURES))
        gain = np.exp(draw.normal(0.0, GAIN_SD, shape))
        offset = draw.normal(0.0, OFFSET_SD, shape) * x.std(axis=0, ddof=1)
        return {
            name: _table(name, gain[k] * x[patients[k]] + offset[k], y[patients[k]])
            for k, name in enumerate(HOSPITALS)
        }


def features() -> tuple[Feature, ...]:
    """Return the schema's features of this dataset, in the order of its columns."""
    return tuple(Feature(name=name) for name in FEATURES)


def hospital_sizes(patients: int) -> list[int]:
    """Return how many patients each hospital has.

    >>> hospital_sizes(569)
    [254, 190, 23, 17, 17, 17, 17, 15, 11, 8]
    """
    smallest = [share * patients < SMALLEST * sum(SHARES) for share in SHARES]
    rest = patients - SMALLEST * sum(smallest)
    larger = sum(share for share, small in zip(SHARES, smallest, strict=True) if not small)
    quotas = [
        float(SMALLEST) if small else rest * share / larger
        for share, small in zip(SHARES, smallest, strict=True)
    ]
    return apportion(quotas, patients)


def assign_patients(y: NDArray[np.int64], draw: np.random.RandomState) -> list[NDArray[np.int64]]:
    """Return the patients of each hospital, in file order, each patient at one hospital.

    Args:
        y: 1 for malignant, shape (N,).
        draw: decides who goes where.
    """
    sizes = hospital_sizes(len(y))
    malignant = apportion([p * n for p, n in zip(MALIGNANT, sizes, strict=True)], int(y.sum()))
    benign = [n - m for n, m in zip(sizes, malignant, strict=True)]
    hands = [
        np.split(draw.permutation(np.flatnonzero(y == label)), np.cumsum(counts)[:-1])
        for label, counts in ((1, malignant), (0, benign))
    ]
    return [np.sort(np.concatenate(hand)) for hand in zip(*hands, strict=True)]


def apportion(quotas: Sequence[float], total: int) -> list[int]:
    """Round quotas to whole numbers that add up to `total`, by largest remainder.

    >>> apportion([1.5, 1.2, 0.3], 3)
    [2, 1, 0]
    """
    counts = [floor(quota) for quota in quotas]
    by_remainder = sorted(range(len(quotas)), key=lambda k: counts[k] - quotas[k])
    for k in by_remainder[: total - sum(counts)]:
        counts[k] += 1
    return counts


def _table(name: str, x: NDArray[np.float64], y: NDArray[np.int64]) -> Table:
    columns = dict(zip(FEATURES, x.T, strict=True))
    return Table.of(columns | {TARGET: y}, where=f"breast-cancer, {name}")
