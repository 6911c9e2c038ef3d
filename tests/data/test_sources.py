"""Opening a dataset by name: from a folder, from the user's data folder, or bundled."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from cohortium.data.local import Records
from cohortium.data.sources import SOURCES, data_folder, open_dataset
from cohortium.data.table import Table
from cohortium.errors import DataError


@pytest.fixture(autouse=True)
def _own_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COHORTIUM_DATA", str(tmp_path / "kept"))


def folder_of(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).write_text("age,ill\n41,0\n52,1\n", encoding="utf-8")
    return folder


@pytest.mark.parametrize("name", list(SOURCES))
def test_every_source_returns_tables_or_says_what_to_do(name: str) -> None:
    sites: Mapping[str, Records] = {}
    said = ""
    try:
        sites = open_dataset(name)
    except DataError as error:
        said = str(error)
    assert sites or (f"cohortium data get {name}" in said and "--data DIR" in said)
    assert all(isinstance(table, Table) and len(table) for table in sites.values())


def test_the_users_data_folder_is_next(tmp_path: Path) -> None:
    folder_of(tmp_path / "kept" / "mine", "kept.csv")
    assert list(open_dataset("mine")) == ["kept"]
    assert list(open_dataset("mine", folder_of(tmp_path / "here", "given.csv"))) == ["given"]


def test_a_bundled_dataset_gives_way_to_a_folder(tmp_path: Path) -> None:
    assert list(open_dataset("breast-cancer", folder_of(tmp_path / "own", "x.csv"))) == ["x"]


def test_without_the_variable_it_is_the_users_own_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COHORTIUM_DATA")
    assert data_folder().name == "cohortium"
    monkeypatch.setenv("COHORTIUM_DATA", "~/somewhere")
    assert data_folder() == Path.home() / "somewhere"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nothing-like-it", "expected breast-cancer, heart-disease, or a folder of <site>.csv"),
        ("hart-disease", "Did you mean 'heart-disease'? Or pass the folder: --data DIR."),
        ("../etc", "letters, digits"),
        ("", "letters, digits"),
        ("heart-disease", "Run cohortium data get heart-disease, or pass their folder: --data"),
    ],
)
def test_what_is_not_there_is_refused(name: str, said: str) -> None:
    with pytest.raises(DataError) as caught:
        open_dataset(name)
    assert said in str(caught.value)


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="got no such folder"):
        open_dataset("mine", tmp_path / "nowhere")
