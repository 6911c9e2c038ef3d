"""The four hospitals of UCI Heart Disease, as the Fed-Heart-Disease protocol reads them.

Janosi, Steinbrunn, Pfisterer, Detrano 1988 (UCI, CC BY 4.0). Protocol: Ogier du Terrail et al.,
FLamby, NeurIPS 2022, Fed-Heart-Disease.
"""

from __future__ import annotations

from pathlib import Path

from cohortium.data.table import Table, read_csv, shown
from cohortium.errors import DataError, Problem

HOSPITALS = ("cleveland", "hungarian", "switzerland", "va")
COLUMNS = (
    "age",
    "sex",
    "cp",
    "trestbps",
    "chol",
    "fbs",
    "restecg",
    "thalach",
    "exang",
    "oldpeak",
    "slope",
    "ca",
    "thal",
    "num",
)
DROPPED = COLUMNS[10:13]  # mostly missing outside Cleveland


class HeartDisease:
    """Reads `processed.<hospital>.data`: no header, `?` is missing, 14 columns of which 11 stay.

    `num` is the target: above 0 means heart disease.
    """

    def sites(self, folder: Path | None) -> dict[str, Table]:
        """Return the four hospitals' records.

        Raises:
            DataError: no folder, or not all four files in it.
        """
        if folder is None:
            raise _missing("heart-disease", "its files are not on this machine")
        files = {site: folder / file_name(site) for site in HOSPITALS}
        for path in files.values():
            if not path.is_file():
                raise _missing(shown(path), "no such file")
        kept = [name for name in COLUMNS if name not in DROPPED]
        return {site: read_csv(path, names=COLUMNS).only(kept) for site, path in files.items()}


def file_name(hospital: str) -> str:
    """Return what UCI calls a hospital's file."""
    return f"processed.{hospital}.data"


def _missing(where: str, got: str) -> DataError:
    expected = "the files " + ", ".join(map(file_name, HOSPITALS))
    advice = "Run cohortium data get heart-disease, or pass their folder: --data DIR."
    return DataError(Problem(where, "", got, expected, advice))
