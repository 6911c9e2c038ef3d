"""A hospital's dataset: what it is, what it is known by, and the same bits as in a simulation."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pytest
from PIL import Image
from pyarrow import parquet

from cohortium.data.arrays import from_arrays
from cohortium.data.breast_cancer import TARGET, features
from cohortium.data.local import (
    LocalDataset,
    Summary,
    content_digest,
    prepare_local,
    prepare_records,
    read_local,
    summary,
    write_local,
)
from cohortium.data.sources import open_dataset
from cohortium.data.table import Table
from cohortium.errors import DataError
from cohortium.runtime.bench import Bench
from cohortium.study.study import Study

ImageFolder = Callable[..., Path]
GREY = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20


def study_of(data: Mapping[str, Any], **task: Any) -> Study:
    return Study(
        study={"name": "local", "purpose": "See that bits are the same.", "seed": 5},
        task={
            "kind": "binary-classification",
            "model": {"kind": "linear", "framework": "numpy"},
            "optimizer": {"kind": "sgd", "lr": 0.1},
            **task,
        },
        data=data,
        plan={"rounds": 1, "local": {"epochs": 1}},
    )


HEART = {
    "dataset": "heart-disease",
    "target": "num",
    "positive": "> 0",
    "features": [
        {"name": "age"},
        {"name": "oldpeak"},
        {"name": "cp", "type": "category", "categories": [1, 2, 3, 4]},
    ],
    "cohort": [{"column": "sex", "equals": 1}],
    "split": {"test": 0.3, "validation": 0.1},
}
CANCER = {
    "dataset": "breast-cancer",
    "target": TARGET,
    "features": [{"name": feature.name} for feature in features()],
    "split": {"test": 0.2},
}


@pytest.fixture(params=["breast-cancer", "heart-disease"])
def known(request: pytest.FixtureRequest) -> tuple[Study, Path | None]:
    """A study of a dataset that comes with Cohortium, and where its files lie."""
    if request.param == "breast-cancer":
        return study_of(CANCER), None
    data = os.environ.get("COHORTIUM_TEST_DATA")
    if not data:
        pytest.skip("COHORTIUM_TEST_DATA is not set: it holds heart_disease/processed.*.data")
    return study_of(HEART), Path(data) / "heart_disease"


def test_each_hospitals_own_file_gives_the_bits_of_the_simulation(
    known: tuple[Study, Path | None], tmp_path: Path
) -> None:
    study, folder = known
    assert study.data.dataset is not None
    simulated = Bench.of(study, data=folder).sites
    assert len(simulated) in (4, 10)
    for site, records in open_dataset(study.data.dataset, folder).items():
        dataset = write_local(records, tmp_path / site, name=site)
        assert dataset == LocalDataset.detect(site, tmp_path / f"{site}.csv")
        prepared = prepare_local(dataset, study, site=site)
        expected = simulated[site]  # type: ignore[index]
        assert prepared.data.digest == expected.data.digest
        assert prepared.raw.digest == expected.raw.digest
        assert prepared.summary == expected.summary


def test_a_parquet_file_gives_the_bits_of_a_csv_file(tmp_path: Path) -> None:
    study = study_of(CANCER)
    records = open_dataset("breast-cancer")["hospital-01"]
    assert isinstance(records, Table)
    write_local(records, tmp_path / "a", name="a")
    parquet.write_table(pa.table(dict(records.columns)), tmp_path / "a.parquet")
    digests = {
        prepare_local(LocalDataset.detect("a", tmp_path / name), study, site="a").data.digest
        for name in ("a.csv", "a.parquet")
    }
    assert len(digests) == 1


def test_images_and_arrays_give_the_bits_of_pythons_arrays(
    image_folder: ImageFolder, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    pixels, y = rng.integers(0, 256, (12, 4, 3, 3), np.uint8), np.arange(12) % 3
    study = study_of(
        {"normalize": "none", "shape": [3, 4, 3], "split": {"validation": 0.1}},
        kind="multiclass-classification",
        classes=3,
    )
    x = pixels.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
    images = LocalDataset.detect("films", image_folder(pixels, y))
    arrays = write_local(read_local(images), tmp_path / "films", name="films")
    assert arrays.kind == "arrays"
    expected = from_arrays(
        {"a": (x, y)},
        schema=study.data,
        task_kind="multiclass-classification",
        classes=3,
        seed=study.study.seed,
    )["a"]
    for dataset in (images, arrays):
        prepared = prepare_local(dataset, study, site="a")
        assert prepared.data.digest == expected.data.digest
        assert prepared.summary == expected.summary


def test_targets_are_refused_by_the_row_of_their_label(image_folder: ImageFolder) -> None:
    dataset = LocalDataset.detect("films", image_folder([GREY] * 3, [0, "secret", "?"]))
    with pytest.raises(DataError) as caught:
        prepare_local(dataset, study_of({"normalize": "none"}), site="a")
    assert "labels.csv: column 'label': got another value in row 4; expected a target" in str(
        caught.value
    )
    dataset = LocalDataset.detect("films", image_folder([GREY] * 3, [0, "secret", 1], name="b"))
    with pytest.raises(DataError) as caught:
        prepare_local(dataset, study_of({"normalize": "none"}), site="a")
    assert "got another value in row 3" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_arrays_that_do_not_fit_a_study_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.array([[1.0, np.inf], [0, 0]]), y=[0, 1])
    dataset = LocalDataset.detect("a", tmp_path / "a.npz")
    with pytest.raises(DataError, match=r"a\.npz: got NaN or infinity in row 0; expected finite"):
        prepare_local(dataset, study_of({"split": {"test": 0.0}}), site="a")


def test_a_table_needs_features(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x,y\n1,0\n", encoding="utf-8")
    dataset = LocalDataset.detect("a", tmp_path / "a.csv")
    with pytest.raises(DataError, match="at least one feature and a target"):
        prepare_records(read_local(dataset), study_of({"shape": [1]}), site="a")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda folder: folder / "nowhere.csv", "got no such file; expected a file that ends in"),
        (lambda folder: folder, "got a folder without labels.csv; expected a folder of images"),
        (lambda folder: folder / "scan.dcm", "got a file that ends in '.dcm'; expected a file"),
        (lambda folder: folder / "plain", "got a file that ends in ''"),
    ],
)  # fmt: skip
def test_what_is_no_dataset_is_refused(
    tmp_path: Path, make: Callable[[Path], Path], said: str
) -> None:
    for name in ("scan.dcm", "plain"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(DataError) as caught:
        LocalDataset.detect("a", make(tmp_path))
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"name": "../a"}, "name: got '../a'; expected a letter or digit"),
        ({"labels": Path("l.csv")}, "labels: got labels of a dataset of kind csv"),
        ({"options": {"x": "inputs"}}, "options: got 'x'; expected no option"),
        ({"kind": "arrays", "options": {"z": "a"}}, "options: got 'z'; expected one of x, y"),
    ],
)
def test_a_description_that_does_not_fit_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError) as caught:
        LocalDataset(**{"name": "a", "kind": "csv", "path": Path("a.csv"), **settings})
    assert said in str(caught.value)


def test_labels_may_lie_elsewhere_and_have_other_columns(image_folder: ImageFolder) -> None:
    folder = image_folder([GREY, GREY], [0, 1])
    (folder / "labels.csv").unlink()
    elsewhere = folder.parent / "truth.csv"
    elsewhere.write_text("scan,finding\n0.png,1\n1.png,0\n", encoding="utf-8")
    assert LocalDataset.detect("films", folder, elsewhere).labels == elsewhere
    dataset = LocalDataset(
        "films", "images", folder, elsewhere, {"file": "scan", "label": "finding"}
    )
    assert summary(dataset) == Summary(2, {"image": "4 x 3 pixels in grey", "label": "number"})
    prepared = prepare_local(
        dataset, study_of({"normalize": "none", "split": {"test": 0.0}}), site="a"
    )
    assert prepared.data.train.y.tolist() == [1, 0]


def test_a_summary_tells_types_and_no_values(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("age,name,note\n41,Ann,\n?,Bo,NA\n", encoding="utf-8")
    table = {"age": [41.5, None], "ill": [True, False], "sex": ["m", "f"]}
    parquet.write_table(pa.table(table), tmp_path / "a.parquet")
    np.savez(tmp_path / "a.npz", x=np.zeros((2, 3), np.uint8), y=["m", "f"])
    found = {
        ending: summary(LocalDataset.detect("a", tmp_path / f"a.{ending}"))
        for ending in ("csv", "parquet", "npz")
    }
    assert found == {
        "csv": Summary(2, {"age": "number", "name": "text", "note": "empty"}),
        "parquet": Summary(2, {"age": "number", "ill": "number", "sex": "text"}),
        "npz": Summary(2, {"x": "uint8 of shape (2, 3)", "y": "str32 of shape (2,)"}),
    }


def test_the_digest_is_that_of_the_content(tmp_path: Path) -> None:
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_bytes(b"x,y\n1,0\n")
    first, second = (
        content_digest(LocalDataset.detect(n[0], tmp_path / n)) for n in ("a.csv", "b.csv")
    )
    assert first == second == hashlib.sha256(b"[]0  8 x,y\n1,0\n").hexdigest()
    (tmp_path / "b.csv").write_bytes(b"x,y\n1,1\n")
    assert content_digest(LocalDataset.detect("b", tmp_path / "b.csv")) != first
    with pytest.raises(DataError, match="No such file"):
        content_digest(LocalDataset("a", "csv", tmp_path / "c.csv"))


def test_every_image_and_label_counts_for_the_digest(image_folder: ImageFolder) -> None:
    folder = image_folder([GREY, GREY.T], [0, 1])
    seen = [content_digest(LocalDataset.detect("films", folder))]

    def expect_another(**settings: Any) -> None:
        dataset = LocalDataset("films", "images", folder, **settings)
        seen.append(content_digest(dataset))
        assert len(set(seen)) == len(seen)

    Image.fromarray(GREY + 1).save(folder / "1.png")
    expect_another()
    labels = (folder / "labels.csv").read_text(encoding="utf-8")
    (folder / "labels.csv").write_text(labels.replace("1.png,1", "1.png,0"), encoding="utf-8")
    expect_another()
    (folder / "1.png").rename(folder / "2.png")
    (folder / "labels.csv").write_text(labels.replace("1.png", "2.png"), encoding="utf-8")
    expect_another()
    expect_another(options={"label": "label"})


def test_a_digest_is_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.csv").write_bytes(b"x,y\n" * 1000)
    dataset = LocalDataset.detect("a", tmp_path / "a.csv")
    whole = content_digest(dataset)
    monkeypatch.setattr("cohortium.data.local.CHUNK", 7)
    assert content_digest(dataset) == whole


WITHOUT = """
import sys
from pathlib import Path
for name in ("pyarrow", "PIL"):
    sys.modules[name] = None  # as if it were not installed
from cohortium.data.local import LocalDataset, read_local
from cohortium.errors import DataError
for name, package, extra in (("a.parquet", "pyarrow", "tables"), ("films", "pillow", "images")):
    try:
        read_local(LocalDataset.detect("a", Path(sys.argv[1]) / name))
    except DataError as error:
        assert f"got no {package} in this environment" in str(error), error
        assert f'pip install "cohortium[{extra}]"' in str(error), error
    else:
        raise AssertionError(name)
assert len(read_local(LocalDataset.detect("a", Path(sys.argv[1]) / "a.csv"))) == 1
"""


def test_without_an_optional_package_it_says_what_to_install(
    image_folder: ImageFolder, tmp_path: Path
) -> None:
    image_folder([GREY], [0])
    (tmp_path / "a.parquet").write_bytes(b"")
    (tmp_path / "a.csv").write_text("x,y\n1,0\n", encoding="utf-8")
    subprocess.run([sys.executable, "-c", WITHOUT, str(tmp_path)], check=True)
