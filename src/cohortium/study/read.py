"""Reading a study file and the files that it names, from disk or as they came from elsewhere."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cohortium.errors import Problem, StudyError
from cohortium.study.bundle import Bundle, named_files
from cohortium.study.study import Study

STUDY_LIMIT = 1_000_000
"""Largest study file in bytes."""

_LONG_KEY = re.compile(
    r"""(?<![\w"'.\\-])(?:(?:[\w-]+|"(?:[^"\\\n]|\\.)*"|'[^'\n]*')[ \t]*\.[ \t]*){33}"""
)
"""A key of more parts than any study needs: tomllib takes hours for one of a megabyte."""


def read(path: Path | str) -> Bundle:
    """Read a study file and the files that it names.

    Args:
        path: a TOML file; the files that it names lie beside it.

    Returns:
        the bundle, validated.

    Raises:
        StudyError: with every problem found in the file, or in a file that it names.
    """
    path = Path(path)
    tables = _tables(_text(path), where=path.name)
    study = Study.from_dict(tables, where=path.name)
    return Bundle.of(study, folder=path.parent, where=path.name)


def parse(text: str, files: Mapping[str, bytes], *, where: str) -> Bundle:
    """Return the bundle of a study that came as text, with the files that it names.

    Args:
        text: what the study file says.
        files: path as the study names it, to content; what it does not name is left out.
        where: what messages call the study.

    Raises:
        StudyError: with every problem found in the text, or a file that is not given.
    """
    study = Study.from_dict(_tables(text, where=where), where=where)
    named = {path: files[path] for _, path in named_files(study) if path in files}
    return Bundle(study, named, where=where)


def _text(path: Path) -> str:
    where = path.name or str(path)
    try:
        status = path.stat()
        if not path.is_file():
            got = "a folder" if path.is_dir() else "something that is not a plain file"
            advice = "Name the file in it" if path.is_dir() else ""
            raise StudyError(Problem(where, "", got, "a study file", advice))
        if status.st_size > STUDY_LIMIT:
            got, expected = f"{status.st_size} bytes", f"at most {STUDY_LIMIT} bytes"
            raise StudyError(Problem(where, "", got, expected, "Is it a study file?"))
        return path.read_bytes().decode("utf-8-sig")
    except (OSError, ValueError) as error:
        raise StudyError(_unreadable(error, where)) from error


def _unreadable(error: OSError | ValueError, where: str) -> Problem:
    if isinstance(error, FileNotFoundError):
        advice = "Correct the path, or write a new study with: cohortium new DIR"
        return Problem(where, "", "no such file", "a study file", advice)
    if isinstance(error, UnicodeDecodeError):
        got = f"a byte that is not UTF-8 at position {error.start + 1}"
        return Problem(where, "", got, "text in UTF-8", "Save the file as UTF-8")
    reason = error.strerror if isinstance(error, OSError) else str(error)
    return Problem(where, "", f"a file that cannot be read ({reason})", "a study file")


def _tables(text: str, *, where: str) -> dict[str, Any]:
    advice = "See the study reference, or start from: cohortium new DIR"
    try:
        if found := _LONG_KEY.search(text):
            line = text.count("\n", 0, found.start()) + 1
            raise StudyError(Problem(where, "", f"a key of very many parts in line {line}", "TOML"))
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        reason, _, place = str(error).rpartition(" (")
        got = f"invalid TOML, {place.removesuffix(')')}: {reason}"
        raise StudyError(Problem(where, "", got, "TOML", advice)) from error
    except RecursionError as error:
        raise StudyError(
            Problem(where, "", "lists in lists without end", "TOML", advice)
        ) from error
    except ValueError as error:
        raise StudyError(Problem(where, "", f"invalid TOML: {error}", "TOML", advice)) from error
