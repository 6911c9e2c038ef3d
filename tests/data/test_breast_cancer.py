"""The embedded hospitals: real patients, each once, spread as documented, always the same."""

from __future__ import annotations

from math import floor

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_breast_cancer

from cohortium.data import breast_cancer
from cohortium.data.breast_cancer import (
    FEATURES,
    GAIN_SD,
    HOSPITALS,
    MALIGNANT,
    OFFSET_SD,
    SEED,
    SHARES,
    SMALLEST,
    TARGET,
    BreastCancer,
    apportion,
    assign_patients,
)
from cohortium.data.prepare import prepare
from cohortium.data.schema import Schema

SITES = BreastCancer().sites(None)
BUNCH = load_breast_cancer()
SD = BUNCH.data.std(axis=0, ddof=1)
PATIENTS = assign_patients(1 - BUNCH.target, np.random.RandomState(SEED))


def test_every_patient_is_at_one_hospital() -> None:
    assert tuple(SITES) == HOSPITALS
    assert sorted(np.concatenate(PATIENTS)) == list(range(569))
    for table, patients in zip(SITES.values(), PATIENTS, strict=True):
        np.testing.assert_array_equal(table.columns[TARGET], 1 - BUNCH.target[patients])


def test_sizes_are_in_proportion_and_at_least_eight() -> None:
    sizes = [len(table) for table in SITES.values()]
    assert (sum(sizes), min(sizes)) == (569, SMALLEST)
    for size, share in zip(sizes, SHARES, strict=True):
        assert abs(size - 569 * share / sum(SHARES)) < 1


def test_prevalence_differs_as_stated() -> None:
    counts = [int(table.column(TARGET).numbers().sum()) for table in SITES.values()]
    assert sum(counts) == 212
    for count, table, share in zip(counts, SITES.values(), MALIGNANT, strict=True):
        assert abs(count - share * len(table)) < 1


def test_columns_are_scikit_learns_in_its_order() -> None:
    for ours, theirs in zip(FEATURES, BUNCH.feature_names, strict=True):
        assert set(ours.split("_")) == set(theirs.split())
    assert [feature.name for feature in breast_cancer.features()] == list(FEATURES)


def test_each_hospital_measures_with_one_gain_and_offset_per_feature() -> None:
    """Least squares finds the lines: exactly on real patients, and spread as stated."""
    gains, offsets = [], []
    for table, patients in zip(SITES.values(), PATIENTS, strict=True):
        for name, real, sd in zip(FEATURES, BUNCH.data[patients].T, SD, strict=True):
            measured = table.column(name).numbers()
            gain, offset = np.polyfit(real, measured, 1)
            np.testing.assert_allclose(measured, gain * real + offset, rtol=0, atol=1e-9 * sd)
            gains.append(np.log(gain))
            offsets.append(offset / sd)
    # 300 draws: the standard error of a standard deviation is 4 % of it
    assert abs(np.std(gains) / GAIN_SD - 1) < 0.15
    assert abs(np.std(offsets) / OFFSET_SD - 1) < 0.15
    assert abs(np.mean(offsets)) < 0.05


def test_the_hospitals_are_always_the_same() -> None:
    again = BreastCancer().sites(None)
    for name, table in SITES.items():
        for column, values in table.columns.items():
            np.testing.assert_array_equal(values, again[name].columns[column])
    first = SITES["hospital-10"].column("mean_radius").numbers()[:2]
    np.testing.assert_allclose(first, [11.787101229039983, 20.43789497756056], rtol=1e-12)


def test_they_are_ready_to_train_on() -> None:
    schema = Schema(dataset="breast-cancer", target=TARGET, features=breast_cancer.features())
    for site, table in SITES.items():
        prepared = prepare(
            table, schema=schema, task_kind="binary-classification", seed=0, site=site
        )
        assert prepared.summary.rows_missing == 0
        assert prepared.summary.warnings == ()
        assert min(prepared.summary.class_counts) >= 2


@given(st.lists(st.floats(0, 50), min_size=1, max_size=20), st.data())
def test_apportioned_counts_add_up_and_stay_within_one_of_the_quotas(
    quotas: list[float], data: st.DataObject
) -> None:
    floors = sum(map(floor, quotas))
    total = data.draw(st.integers(floors, floors + len(quotas)))
    counts = apportion(quotas, total)
    assert sum(counts) == total
    assert all(0 <= count - floor(quota) <= 1 for count, quota in zip(counts, quotas, strict=True))
