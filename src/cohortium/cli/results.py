"""A result on the command line: shown, judged, and a folder for it."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.text import Text

from cohortium.cli.output import console, print_notes
from cohortium.errors import AcceptanceError, ArgumentError, Problem
from cohortium.report.table import arms_table
from cohortium.report.writing import FILES
from cohortium.runtime.result import Result


def show(result: Result, folder: Path) -> None:
    """Show what a run gave, and where it lies."""
    console.print(arms_table(result))
    print_notes(result.warnings)
    for criterion in result.acceptance:
        mark = ("met", "green") if criterion.met else ("not met", "red")
        console.print(Text.assemble(mark, f"  {criterion.text}"))
    console.print(
        Text.assemble(
            f"\n{result.seconds:.1f} s. Look at ",
            (str(folder / "report.html"), "bold"),
            f"; the figures are in {folder / 'result.json'}, the model in "
            f"{folder / 'model.safetensors'}.",
        )
    )


def check_acceptance(result: Result, folder: Path) -> None:
    """Fail where the consensus model misses what was agreed.

    Raises:
        AcceptanceError: with every criterion that it misses.
    """
    missed = "; ".join(
        f"{c.text}: {'undefined' if c.value is None else f'{c.value:.4f}'}"
        for c in result.acceptance
        if not c.met
    )
    if missed:
        raise AcceptanceError(
            f"the consensus model misses what was agreed ({missed})",
            f"Look at {folder / 'report.html'}; more rounds, or another plan, must be agreed anew",
        )


def check_folder(folder: Path) -> None:
    """Refuse a folder that results cannot be written into, before anything runs.

    Made and, where it was not there, removed: permissions alone do not tell.

    Raises:
        ArgumentError: they cannot.
    """
    made = [path for path in (folder, *folder.absolute().parents) if not os.path.lexists(path)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".cohortium-", dir=folder):
            blocked = [name for name in FILES if (folder / name).is_dir()]
        if blocked:
            raise IsADirectoryError(None, f"a folder named {blocked[0]} in it")
    except OSError as error:
        expected, advice = "a folder for the results", "Choose another DIR"
        raise ArgumentError(
            Problem(str(folder), "--out", hindrance(error), expected, advice)
        ) from error
    finally:
        for path in made:
            if os.path.isdir(path):  # noqa: PTH112 - Path's own raises where a name is too long
                path.rmdir()


def hindrance(error: OSError) -> str:
    """Return what stands in the way of a file, in words."""
    if isinstance(error, FileExistsError | NotADirectoryError):
        return "a file"
    return error.strerror or type(error).__name__
