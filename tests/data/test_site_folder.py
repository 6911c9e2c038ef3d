"""A folder of sites: which entries are sites; studies run on them as on Python's arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import cohortium as co
from cohortium.data.arrays import Arrays
from cohortium.data.site_folder import SiteFolder
from cohortium.data.sources import open_dataset
from cohortium.data.table import Table
from cohortium.errors import DataError

TABLE = "age,ill\n41,0\n52,1\n"


def folder_of(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).write_text(TABLE, encoding="utf-8")
    return folder


def image_folder(folder: Path, images: NDArray[np.uint8], labels: Any) -> Path:
    folder.mkdir()
    rows = ["file,label"]
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        Image.fromarray(image).save(folder / f"{number}.png")
        rows.append(f"{number}.png,{label}")
    (folder / "labels.csv").write_text("\n".join(rows), encoding="utf-8")
    return folder


def test_every_kind_of_records_is_a_site(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    folder = folder_of(tmp_path / "mine", "c.csv", "a.CSV", "notes.txt", ".hidden.csv")
    (folder / "sub.csv").mkdir()
    table = pyarrow.table({"age": [41, 52], "ill": [0, 1]})
    pyarrow.parquet.write_table(table, folder / "d.parquet")
    np.savez(folder / "e.npz", x=np.zeros((2, 1)), y=[0, 1])
    image_folder(folder / "b", np.zeros((2, 3, 3), np.uint8), [0, 1])
    sites = open_dataset("mine", folder)
    kinds = {site: type(records) for site, records in sites.items()}
    assert kinds == {"a": Table, "b": Arrays, "c": Table, "d": Table, "e": Arrays}
    assert [len(records) for records in sites.values()] == [2] * 5
    for site in "acd":
        records = sites[site]
        assert isinstance(records, Table)
        assert records.column("age").numbers().tolist() == [41, 52]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["a.txt"], "got no records; expected one <site>.csv per site"),
        (["a.csv", "a.CSV"], "got the records of one site twice"),
        (["-a.csv"], "got the site name '-a'"),
    ],
)
def test_a_folder_without_sites_is_refused(tmp_path: Path, names: list[str], said: str) -> None:
    with pytest.raises(DataError) as caught:
        SiteFolder().sites(folder_of(tmp_path / "mine", *names))
    assert said in str(caught.value)


def study_of(**data: Any) -> dict[str, Any]:
    return {
        "study": {"name": "films", "purpose": "See what is on a film."},
        "task": {
            "kind": "binary-classification",
            "model": {"kind": "linear", "framework": "numpy"},
            "optimizer": {"kind": "sgd", "lr": 0.1},
        },
        "data": {"dataset": "films", "normalize": "none", "split": {"test": 0.25}, **data},
        "plan": {"rounds": 2, "local": {"epochs": 1}},
    }


def test_a_study_runs_on_files_as_on_pythons_arrays(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    sites = {site: (rng.normal(size=(12, 5)), np.arange(12) % 2) for site in ("a", "b")}
    (tmp_path / "films").mkdir()
    for site, (x, y) in sites.items():
        np.savez(tmp_path / "films" / f"{site}.npz", x=x, y=y)
    study = study_of(shape=[5])
    files = co.simulate(study, data=tmp_path / "films")
    assert files.model.digest == co.simulate(study, sites).model.digest
    assert files.sites == {"a": 9, "b": 9}


MODEL = b"""
from torch import nn
def net():
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 1))
"""


def test_a_study_of_images_runs_on_folders_as_on_pythons_arrays(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "net.py").write_bytes(MODEL)
    (tmp_path / "films").mkdir()
    sites = {}
    for site in ("a", "b"):
        images, labels = rng.integers(0, 256, (10, 4, 3), np.uint8), np.arange(10) % 2
        image_folder(tmp_path / "films" / site, images, np.where(labels, "ill", "well"))
        scaled = images[:, None].astype(np.float32) / np.float32(255)
        sites[site] = (scaled, np.where(labels, "ill", "well"))
    study = study_of(shape=[1, 4, 3], positive=["ill"])
    study["task"]["model"] = {"kind": "code", "file": "net.py", "build": "net"}
    bundle = co.Bundle.of(co.Study.from_dict(study), folder=tmp_path)
    files = co.simulate(bundle, data=tmp_path / "films")
    assert files.model.digest == co.simulate(bundle, sites).model.digest


def test_sites_with_images_of_other_sizes_are_refused(tmp_path: Path) -> None:
    (tmp_path / "films").mkdir()
    for site, size in (("a", 3), ("b", 4)):
        image_folder(tmp_path / "films" / site, np.zeros((8, size, 2), np.uint8), [0, 1] * 4)
    with pytest.raises(DataError) as caught:
        co.simulate(study_of(), data=tmp_path / "films")
    assert "site 'b': train: got inputs of shape (N, 1, 4, 2); expected (N, 1, 3, 2)" in str(
        caught.value
    )
    with pytest.raises(DataError, match=r"\(N, 1, 3, 2\); expected \(N, 1, 4, 2\), as data.shape"):
        co.simulate(study_of(shape=[1, 4, 2]), data=tmp_path / "films")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"normalize": "site"}, 'expected shape (N, F) under data.normalize = "site"'),
        ({"normalize": "site", "shape": [1, 3, 2]}, 'write normalize = "none"'),
        ({"cohort": [{"column": "age", "min": 18}]}, "got a data.cohort filter"),
        ({"target": "y", "features": [{"name": "age"}]}, "expected shape (N, 1), the inputs of"),
        ({"target": "y", "features": [{"name": "age"}], "shape": [1]}, "features and a shape"),
        ({"shape": []}, "data.shape: got a list of 0"),
        ({"shape": [0]}, "at least 1"),
    ],
)
def test_what_images_cannot_have_is_refused(tmp_path: Path, data: Any, said: str) -> None:
    (tmp_path / "films").mkdir()
    image_folder(tmp_path / "films" / "a", np.zeros((8, 3, 2), np.uint8), [0, 1] * 4)
    with pytest.raises(co.errors.InvalidInputError) as caught:
        co.simulate(study_of(**data), data=tmp_path / "films")
    assert said in str(caught.value)
