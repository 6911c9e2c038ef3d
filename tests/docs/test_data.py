"""The page on data says how the demo's patients are really spread."""

from __future__ import annotations

import re
from pathlib import Path

from cohortium.data.breast_cancer import (
    GAIN_SD,
    HOSPITALS,
    OFFSET_SD,
    SEED,
    SHARES,
    SMALLEST,
    TARGET,
    BreastCancer,
)

PAGE = (Path(__file__).parents[2] / "docs/data.md").read_text(encoding="utf-8")


def test_the_table_of_hospitals_is_true() -> None:
    rows = re.findall(r"^\| (hospital-\d+) \| (\d+) \| (\d+) \((\d+) %\) \|$", PAGE, re.MULTILINE)
    stated = {name: tuple(map(int, numbers)) for name, *numbers in rows}
    assert stated.keys() == set(HOSPITALS)
    for name, table in BreastCancer().sites(None).items():
        malignant = table.column(TARGET).numbers()
        assert stated[name] == (
            len(table),
            malignant.sum(),
            round(100 * malignant.mean()),
        )


def test_the_parameters_of_the_shift_are_stated() -> None:
    words = " ".join(PAGE.split())
    assert f"gain = exp(N(0, {GAIN_SD}))" in words
    assert f"offset = N(0, {OFFSET_SD})" in words
    assert f"is {SEED}" in words
    assert f"{', '.join(map(str, SHARES[:-1]))} and {SHARES[-1]}" in words
    assert f"at least {SMALLEST} each" in words
