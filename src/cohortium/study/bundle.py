"""The study bundle: a study and the files that it names, known by one digest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path, PurePosixPath, PureWindowsPath
from stat import S_ISREG
from typing import Any

from cohortium.errors import Problem, StudyError
from cohortium.study.study import PYTHON, Study

FILE_LIMIT = 1 << 30
"""Largest file of a bundle in bytes (1 GiB)."""


@dataclass(frozen=True)
class Bundle:
    """What a consortium signs: a study, and every byte of the files it names.

    Attributes:
        study: the study.
        files: path as the study names it, to content.
        model_fingerprint: what identifies a model object that Python handed over; None where the
            study itself names the model.
        where: what messages call the study; not part of what is signed.

    Raises:
        StudyError: the study names a file whose content is not given.
    """

    study: Study
    files: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    model_fingerprint: str | None = None
    where: str = field(default=PYTHON, compare=False)

    def __post_init__(self) -> None:
        _check_held(self.study, self.files, where=self.where)

    @classmethod
    def of(
        cls,
        study: Study,
        *,
        folder: Path | None = None,
        model_fingerprint: str | None = None,
        where: str = PYTHON,
    ) -> Bundle:
        """Read the files that a study names.

        Args:
            study: the study.
            folder: where its files lie; None refuses a study that names any.
            model_fingerprint: identifies a model object, for the digest.
            where: what messages call the study.

        Raises:
            StudyError: a file is missing, too large, not a plain file, outside the folder, or code
                that is not Python.
        """
        read, problems = {}, []
        for key, path in named_files(study):
            try:
                read[path] = _read(path, folder, suffix=_SUFFIXES.get(key, ""))
            except _FileError as error:
                problems.append(Problem(where, key, error.got, error.expected, error.advice))
        if problems:
            raise StudyError(*problems)
        return cls(study, read, model_fingerprint, where)

    @cached_property
    def digest(self) -> str:
        """SHA-256 as hex: over the canonical JSON of the study with all its defaults, of the
        SHA-256 of each file by path, and of the model's fingerprint.

        Canonical: keys sorted, no white space, ASCII only (as `json.dumps` escapes it).
        """
        content = {
            "study": self.study.canonical(),
            "files": {path: hashlib.sha256(data).hexdigest() for path, data in self.files.items()},
            "model": self.model_fingerprint,
        }
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode("ascii")).hexdigest()

    def override(self, settings: Mapping[str, Any], *, where: str = PYTHON) -> Bundle:
        """Return the bundle with some of the study's settings changed; see `Study.override`.

        Raises:
            StudyError: a setting that is refused, or that names a file which is not in the bundle.
        """
        study = self.study.override(settings, where=where)
        _check_held(study, self.files, where=where)
        files = {path: self.files[path] for _, path in named_files(study)}
        return replace(self, study=study, files=files)


def named_files(study: Study) -> Iterator[tuple[str, str]]:
    """Yield the key and the path of every file that a study names."""
    code = getattr(study.task.model, "file", None)
    if code is not None:
        yield "task.model.file", code
    if study.task.initial_model is not None:
        yield "task.initial_model", study.task.initial_model


_SUFFIXES = {"task.model.file": ".py"}


def _check_held(study: Study, files: Mapping[str, bytes], *, where: str) -> None:
    missing = [(key, path) for key, path in named_files(study) if path not in files]
    if missing:
        expected = "a file of the bundle"
        raise StudyError(*(Problem(where, key, f"{path!r}", expected) for key, path in missing))


class _FileError(Exception):
    def __init__(self, got: str, expected: str, advice: str = "") -> None:
        super().__init__(got)
        self.got, self.expected, self.advice = got, expected, advice


def _read(path: str, folder: Path | None, *, suffix: str) -> bytes:
    if folder is None:
        raise _FileError(
            f"the file {path!r}",
            "no file in a study that Python builds",
            "Say where it lies: Bundle.of(study, folder=...), or read the study from a file",
        )
    place = _inside(path, folder)
    if not path.endswith(suffix):
        raise _FileError(f"{path!r}", f"a file that ends in {suffix}")
    status = place.stat()
    if not S_ISREG(status.st_mode):
        raise _FileError(f"{path!r}, which is not a plain file", "a file beside the study")
    if status.st_size > FILE_LIMIT:
        raise _FileError(f"{path!r} of {status.st_size} bytes", f"at most {FILE_LIMIT} bytes")
    try:
        return place.read_bytes()
    except OSError as error:
        got = f"{path!r}, which cannot be read ({error.strerror})"
        raise _FileError(got, "a file that you may read") from error


def _inside(path: str, folder: Path) -> Path:
    """Return where `path` leads, links followed, if that is inside the folder."""
    plain = PurePosixPath(path)
    windows = "\\" in path or PureWindowsPath(path).drive
    if plain.is_absolute() or ".." in plain.parts or windows:
        raise _FileError(
            f"{path!r}",
            "a relative path inside the study's folder, with forward slashes and without '..'",
            "Move the file beside the study",
        )
    if str(plain) != path or path == ".":
        raise _FileError(f"{path!r}", "the path in its shortest form", f"Write {str(plain)!r}")
    try:
        place = (folder / plain).resolve(strict=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: links that form a circle
        raise _FileError(
            f"{path!r}, which is not there",
            "a file beside the study",
            "Put it there, or correct the path",
        ) from error
    if not place.is_relative_to(folder.resolve()):
        raise _FileError(
            f"{path!r}, which leads outside the study's folder",
            "a file inside it",
            "Copy the file there instead of linking to it",
        )
    return place
