"""The four UCI hospitals, by the protocol of Fed-Heart-Disease, against a plain transcription."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split

from cohortium.data.download import ORIGINS
from cohortium.data.heart_disease import COLUMNS, HOSPITALS, HeartDisease, file_name
from cohortium.data.prepare import Prepared, pool, prepare
from cohortium.data.schema import Feature, Schema, Split
from cohortium.errors import DataError

NUMBERS = ("age", "sex", "trestbps", "chol", "fbs", "thalach", "exang", "oldpeak")
SCHEMA = Schema(
    dataset="heart-disease",
    target="num",
    positive="> 0",
    features=(
        *(Feature(name=name) for name in NUMBERS),
        Feature(name="cp", type="category", categories=(1, 2, 3, 4)),
        Feature(name="restecg", type="category", categories=(0, 1, 2)),
    ),
    split=Split(test=0.34, seed=43),
)


@pytest.fixture(scope="module")
def folder() -> Path:
    data = os.environ.get("COHORTIUM_TEST_DATA")
    if not data:
        pytest.skip("COHORTIUM_TEST_DATA is not set: it holds heart_disease/processed.*.data")
    return Path(data) / "heart_disease"


@pytest.fixture(scope="module")
def hospitals(folder: Path) -> dict[str, Prepared]:
    tables = HeartDisease().sites(folder)
    return {
        site: prepare(table, schema=SCHEMA, task_kind="binary-classification", seed=0, site=site)
        for site, table in tables.items()
    }


def transcribed(path: Path) -> tuple[NDArray[np.float32], NDArray[np.float32], list[int]]:
    """Return inputs, labels and test rows of one file, as the protocol's sentences read."""
    cells = [line.split(",") for line in path.read_text().split()]
    kept = [[cell for k, cell in enumerate(row) if k not in (10, 11, 12)] for row in cells]
    rows = np.array([row for row in kept if "?" not in row], float)
    plain = rows[:, [0, 1, 3, 4, 5, 7, 8, 9]]
    dummies = [rows[:, 2] == level for level in (2, 3, 4)] + [rows[:, 6] == k for k in (1, 2)]
    y = (rows[:, -1] > 0).astype(np.float32)
    few = min((y == 0).sum(), (y == 1).sum()) <= 2
    _, test = train_test_split(
        np.arange(len(y)),
        test_size=1 - 0.66,
        train_size=0.66,
        random_state=43,
        shuffle=True,
        stratify=None if few else y,
    )
    return np.column_stack([plain, *dummies]).astype(np.float32), y, sorted(test)


def test_as_many_rows_as_the_protocol_says(hospitals: dict[str, Prepared]) -> None:
    counts = {
        site: (p.summary.rows_in_cohort - p.summary.rows_missing, len(p.raw.train), len(p.raw.test))
        for site, p in hospitals.items()
    }
    assert counts == {
        "cleveland": (303, 199, 104),
        "hungarian": (261, 172, 89),
        "switzerland": (46, 30, 16),
        "va": (130, 85, 45),
    }
    assert [p.summary.rows_read for p in hospitals.values()] == [303, 294, 123, 200]


@pytest.mark.parametrize("site", HOSPITALS)
def test_records_equal_a_plain_transcription(
    site: str, folder: Path, hospitals: dict[str, Prepared]
) -> None:
    x, y, test = transcribed(folder / file_name(site))
    train = [row for row in range(len(y)) if row not in test]
    prepared = hospitals[site]
    np.testing.assert_array_equal(prepared.raw.train.x, x[train])
    np.testing.assert_array_equal(prepared.raw.test.x, x[test])
    np.testing.assert_array_equal(prepared.data.train.y, y[train])
    np.testing.assert_array_equal(prepared.data.test.y, y[test])
    mean, sd = x[train].mean(axis=0, dtype=float), x[train].std(axis=0, ddof=1, dtype=float)
    scaled = prepared.data.test.x.astype(np.float64)
    np.testing.assert_allclose(scaled, (x[test] - mean) / (sd + 1e-9), rtol=1e-5, atol=1e-6)


def test_the_pooled_test_is_on_the_pooled_training_scale(
    folder: Path, hospitals: dict[str, Prepared]
) -> None:
    read = [transcribed(folder / file_name(site)) for site in HOSPITALS]
    train = np.concatenate([np.delete(x, test, axis=0) for x, _, test in read]).astype(float)
    test = np.concatenate([x[rows] for x, _, rows in read]).astype(float)
    pooled = pool(list(hospitals.values()))
    expected = (test - train.mean(axis=0)) / (train.std(axis=0, ddof=1) + 1e-9)
    np.testing.assert_allclose(pooled.test.x.astype(float), expected, rtol=1e-5, atol=1e-6)
    assert (len(pooled.train), len(pooled.test)) == (486, 254)


def test_inputs_are_the_protocols_thirteen() -> None:
    assert SCHEMA.inputs == (*NUMBERS, "cp=2", "cp=3", "cp=4", "restecg=1", "restecg=2")


def test_the_pinned_files_are_those_that_are_read() -> None:
    assert list(ORIGINS["heart-disease"].files) == [file_name(site) for site in HOSPITALS]


def write_all(folder: Path) -> Path:
    for site in HOSPITALS:
        rows = ["63,1,1,145,233,1,2,150,0,2.3,3,0,6,0", "?,1,4,95,0,?,0,127,0,.7,1,?,?,1"]
        (folder / file_name(site)).write_text("\n".join(rows), encoding="utf-8")
    return folder


def test_three_columns_are_dropped_and_the_question_mark_is_missing(tmp_path: Path) -> None:
    table = HeartDisease().sites(write_all(tmp_path))["va"]
    assert list(table.columns) == [*COLUMNS[:10], "num"]
    assert table.column("age").missing().tolist() == [False, True]
    assert table.column("oldpeak").numbers().tolist() == [2.3, 0.7]
    assert table.rows.tolist() == [1, 2]


def test_a_missing_hospital_is_refused(tmp_path: Path) -> None:
    (write_all(tmp_path) / "processed.va.data").unlink()
    with pytest.raises(DataError, match=r"processed\.va\.data: got no such file.*data get heart"):
        HeartDisease().sites(tmp_path)


def test_another_file_of_that_name_is_refused(tmp_path: Path) -> None:
    (write_all(tmp_path) / "processed.va.data").write_text("63,1,1\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"processed\.va\.data: row 1: got 3 values; expected 14"):
        HeartDisease().sites(tmp_path)
