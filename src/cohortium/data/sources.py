"""Where the records of a named dataset come from, and the table of such sources.

To add one: a file beside this one, and a line in `SOURCES`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Protocol

import platformdirs

from cohortium.data.local import Records
from cohortium.data.site_folder import SiteFolder
from cohortium.data.table import shown
from cohortium.errors import DataError, Problem
from cohortium.registry import Registry

SOURCES = Registry(
    "dataset",
    group="cohortium.sources",
    builtin={
        "breast-cancer": "cohortium.data.breast_cancer:BreastCancer",
        "heart-disease": "cohortium.data.heart_disease:HeartDisease",
    },
)
DATASET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Source(Protocol):
    """A dataset that knows its own files."""

    def sites(self, folder: Path | None) -> Mapping[str, Records]:
        """Return every site's records, in roster order.

        Args:
            folder: where the files lie, or None where only what is bundled can be read.

        Raises:
            DataError: a file is missing or cannot be read.
        """


def open_dataset(
    name: str, folder: Path | None = None, *, where: str = "study"
) -> Mapping[str, Records]:
    """Return the records of a dataset, site by site.

    Args:
        name: a registered dataset, or any name: then the folder holds one `<site>.csv`,
            `<site>.parquet`, `<site>.npz` or folder of images per site.
        folder: where its files lie. By default the folder of that name in `data_folder()`, where
            there is one; else what the dataset itself brings.
        where: what messages call the study.

    Raises:
        DataError: no such dataset or folder, or a file is missing or cannot be read.
    """
    if not DATASET_NAME.fullmatch(name):
        expected = "letters, digits, '.', '_' and '-'"
        raise DataError(Problem(where, "data.dataset", repr(name), expected, "Rename it."))
    if folder is not None and not folder.is_dir():
        got = "a file" if folder.exists() else "no such folder"
        raise DataError(Problem(shown(folder), "--data", got, "the dataset's folder", "Check it."))
    kept = data_folder() / name
    folder = folder or (kept if kept.is_dir() else None)
    known = list(SOURCES)
    if name in known:
        source: Source = SOURCES[name]()
        return source.sites(folder)
    if folder is None:
        near = get_close_matches(name, known, n=1)
        advice = f"Did you mean {near[0]!r}? Or p" if near else "P"
        expected = f"{', '.join(known)}, or a folder of <site>.csv files"
        advice = f"{advice}ass the folder: --data DIR."
        raise DataError(Problem(where, "data.dataset", repr(name), expected, advice))
    return SiteFolder().sites(folder)


def data_folder() -> Path:
    """Return where downloaded datasets are kept: `COHORTIUM_DATA`, else the user's data folder."""
    if chosen := os.environ.get("COHORTIUM_DATA"):
        return Path(chosen).expanduser()
    return platformdirs.user_data_path("cohortium")
