"""A folder with one file, or one folder of images, per site: any hospital's own export."""

from __future__ import annotations

from pathlib import Path

from cohortium.data.local import LABELS, SUFFIXES, LocalDataset, Records, read_local
from cohortium.data.names import SITE_NAME, SITE_NAME_RULE
from cohortium.data.table import shown
from cohortium.errors import DataError, Problem

EXPECTED = "one <site>.csv per site, or .parquet, .npz, or a folder of images with labels.csv"


class SiteFolder:
    """Sites are the files' names without their ending, in alphabetical order.

    A folder with a `labels.csv` in it is a site's images. Anything else is ignored.
    """

    def sites(self, folder: Path) -> dict[str, Records]:
        """Return every site's records.

        Raises:
            DataError: no site, a file that cannot be read, or a name that is no site's.
        """
        places = sorted(path for path in folder.iterdir() if _is_site(path))
        if not places:
            raise _error(folder, "no records", EXPECTED, "Check --data DIR.")
        for path in places:
            if not SITE_NAME.fullmatch(_site(path)):
                raise _error(path, f"the site name {_site(path)!r}", SITE_NAME_RULE, "Rename it.")
        if len({_site(path) for path in places}) < len(places):
            raise _error(folder, "the records of one site twice", EXPECTED, "Rename one.")
        return {_site(path): read_local(LocalDataset.detect(_site(path), path)) for path in places}


def _is_site(path: Path) -> bool:
    if path.name.startswith("."):
        return False
    if path.is_dir():
        return (path / LABELS).is_file()
    return path.suffix.lower() in SUFFIXES and path.is_file()


def _site(path: Path) -> str:
    return path.name if path.is_dir() else path.stem


def _error(path: Path, got: str, expected: str, advice: str) -> DataError:
    return DataError(Problem(shown(path), "", got, expected, advice))
