"""A result on disk: the page for people, the figures for programs, the model, the plan.

Everything is written beside its place and then moved there, `result.json` last: whoever finds one
finds all that it speaks of, and an interrupted run leaves nothing half written.
"""

from __future__ import annotations

import datetime
import json
import math
import tempfile
from pathlib import Path
from typing import Any

from cohortium.errors import ArgumentError, Problem
from cohortium.learning.model_file import save
from cohortium.report.drawing import draw
from cohortium.report.page import render
from cohortium.runtime.result import Result

FILES = ("model.safetensors", "plan.svg", "report.html", "result.json")
"""What is written, in the order in which it is moved to its place."""


def write(result: Result, folder: str | Path) -> None:
    """Write `report.html`, `result.json`, `model.safetensors` and `plan.svg` into a folder.

    The model's bytes depend on the parameters, the study and the seed, and on nothing else.

    Args:
        result: what a run gave back.
        folder: created where it is missing; older files of these names are replaced.

    Raises:
        ArgumentError: the folder is a file, lies below one, or cannot be written.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".writing-", dir=folder) as aside:
            _write(result, Path(aside))
            (folder / FILES[-1]).unlink(missing_ok=True)  # never figures beside another's model
            for name in FILES:
                if (Path(aside) / name).exists():
                    (Path(aside) / name).replace(folder / name)
                else:
                    (folder / name).unlink(missing_ok=True)
    except OSError as error:
        got = error.strerror or type(error).__name__
        advice = "Choose another folder."
        raise ArgumentError(
            Problem(str(folder), "", got, "a folder for the results", advice)
        ) from error


def _write(result: Result, folder: Path) -> None:
    metadata = {"study": result.study, "digest": result.digest, "seed": str(result.seed)}
    save(result.model, folder / "model.safetensors", metadata=metadata)
    if result.plan is not None:
        _text(folder / "plan.svg", draw(result.plan))
    today = datetime.datetime.now(tz=datetime.UTC).date()
    _text(folder / "report.html", render(result, written=today))
    figures = json.dumps(_finite(result.to_json()), indent=2, ensure_ascii=False, allow_nan=False)
    _text(folder / "result.json", f"{figures}\n")


def _text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")


def _finite(value: Any) -> Any:
    """Return JSON values with null for what JSON has no number for: a loss that overflowed."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
