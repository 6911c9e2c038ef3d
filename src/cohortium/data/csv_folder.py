"""A folder with one `<site>.csv` per site: any hospital's own export."""

from __future__ import annotations

from pathlib import Path

from cohortium.data.names import SITE_NAME, SITE_NAME_RULE
from cohortium.data.table import Table, read_csv, shown
from cohortium.errors import DataError, Problem


class CsvFolder:
    """Sites are the files' names without `.csv`, in alphabetical order; other files are ignored."""

    def sites(self, folder: Path) -> dict[str, Table]:
        """Return every site's records.

        Raises:
            DataError: no CSV file, a file that cannot be read, or a name that is no site's.
        """
        files = sorted(
            path
            for path in folder.iterdir()
            if path.suffix.lower() == ".csv" and path.is_file() and not path.name.startswith(".")
        )
        if not files:
            raise _error(folder, "no CSV file", "one <site>.csv per site", "Check --data DIR.")
        for path in files:
            if not SITE_NAME.fullmatch(path.stem):
                raise _error(path, f"the site name {path.stem!r}", SITE_NAME_RULE, "Rename it.")
        if len({path.stem for path in files}) < len(files):
            raise _error(folder, "two files of one site", "one <site>.csv per site", "Rename one.")
        return {path.stem: read_csv(path) for path in files}


def _error(path: Path, got: str, expected: str, advice: str) -> DataError:
    return DataError(Problem(shown(path), "", got, expected, advice))
