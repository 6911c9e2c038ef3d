"""Fetching a public dataset's files once, checked against pinned digests before they are kept."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol
from urllib.error import HTTPError
from urllib.request import Request, build_opener

from cohortium.data.sources import data_folder
from cohortium.data.table import shown
from cohortium.errors import ArgumentError, CohortiumError, DataError, Problem, RunFailedError

SECONDS_OF_SILENCE = 30.0
CHUNK = 1 << 16
PROXY_LOGIN = HTTPStatus.PROXY_AUTHENTICATION_REQUIRED

Progress = Callable[[str, int, int], None]
"""Told (file, bytes so far, bytes in all)."""


@dataclass(frozen=True)
class Pin:
    """What a file must be, to the byte."""

    sha256: str
    size: int


@dataclass(frozen=True)
class Origin:
    """Where a dataset's files are published, and what they must be."""

    base_url: str
    files: dict[str, Pin]


ORIGINS = {
    "heart-disease": Origin(
        "https://archive.ics.uci.edu/ml/machine-learning-databases/heart-disease/",
        {
            "processed.cleveland.data": Pin(
                "a74b7efa387bc9d108d7d0115d831fe9b414b29ae7124f331b622b4efa0427c8", 18461
            ),
            "processed.hungarian.data": Pin(
                "d1ad108f785768cd3d7e82dc522e6f5a61eea93cccfb3a46ee8076f73fc3d796", 10263
            ),
            "processed.switzerland.data": Pin(
                "834a405ccf5b66ab4056bb77794adc8df0b7125186454c0a1d002d33c6c3b314", 4109
            ),
            "processed.va.data": Pin(
                "e7c93d8d0d2acdadfa4c5e8de768e2191e7f618b952e29623f1f0d5949ff6b8f", 6737
            ),
        },
    ),
}


def get(
    name: str,
    *,
    source: Path | None = None,
    base_url: str | None = None,
    progress: Progress | None = None,
) -> Path:
    """Put a dataset's files into the user's data folder and return the folder they lie in.

    Files that are there already, and right, stay. All others are fetched and checked first; only
    then does any of them appear, each in one step. Nothing is tried twice.

    Args:
        name: a dataset with published files, such as "heart-disease".
        source: a folder to copy them from instead of downloading.
        base_url: where to download from instead of the publisher (http or https).
        progress: told about each file as it arrives.

    Raises:
        ArgumentError: no files are published for such a dataset, or the address is not http(s).
        DataError: a file in `source` is missing or is not the pinned one.
        RunFailedError: a download failed, or brought other bytes than the pinned ones.
    """
    origin, target = _origin(name), data_folder() / name
    shelf: _Shelf = _Folder(source) if source else _Web(_address(base_url or origin.base_url), name)
    try:
        _fetch(origin, target, shelf, progress)
    except OSError as error:  # reading is reported by the shelf: this is the folder to write to
        got, expected = error.strerror or "an error", "a folder that can be written"
        advice = "Set COHORTIUM_DATA to another folder."
        raise DataError(Problem(shown(target), "", got, expected, advice)) from error
    return target


class _Shelf(Protocol):
    """Where files are taken from."""

    def chunks(self, file: str) -> Generator[bytes]:
        """Yield a file's content; its own errors, never an `OSError`."""

    def refuse(self, file: str, got: str, expected: str) -> CohortiumError:
        """Return the error for a file that is not the pinned one."""


@dataclass(frozen=True)
class _Web:
    url: str
    name: str

    def chunks(self, file: str) -> Generator[bytes]:
        request = Request(self.url + file, headers={"User-Agent": "cohortium"})  # noqa: S310
        try:
            # An opener of its own: urlopen's keeps the proxies that were set at its first use.
            with build_opener().open(request, timeout=SECONDS_OF_SILENCE) as body:
                while chunk := body.read(CHUNK):
                    yield chunk
        except HTTPError as error:
            with error:
                cause = f"{self.url}{file} answered {error.code} {error.reason}"
                raise RunFailedError(cause, self._advice(error.code == PROXY_LOGIN)) from error
        except (OSError, HTTPException) as error:
            reason = str(getattr(error, "reason", error)) or type(error).__name__
            cause = f"{self.url}{file} could not be read: {reason}"
            raise RunFailedError(cause, self._advice(True)) from error

    def refuse(self, file: str, got: str, expected: str) -> CohortiumError:
        cause = f"{self.url}{file}: got {got}; expected {expected}. Nothing was kept"
        return RunFailedError(cause, self._advice(False))

    def _advice(self, proxy: bool) -> str:
        way = f"Download it another way, then run: cohortium data get {self.name} --from DIR"
        return f"Behind a proxy, set HTTPS_PROXY. {way}" if proxy else way


@dataclass(frozen=True)
class _Folder:
    folder: Path

    def chunks(self, file: str) -> Generator[bytes]:
        try:
            with (self.folder / file).open("rb") as body:
                while chunk := body.read(CHUNK):
                    yield chunk
        except OSError as error:
            got = error.strerror or "an unreadable file"
            raise self.refuse(file, got, "the published file") from error

    def refuse(self, file: str, got: str, expected: str) -> CohortiumError:
        advice = "Get it from its publisher, unchanged to the byte, and check --from DIR."
        return DataError(Problem(shown(self.folder / file), "", got, expected, advice))


def _origin(name: str) -> Origin:
    if name in ORIGINS:
        return ORIGINS[name]
    advice = "Your own files need no download: pass their folder, --data DIR."
    if name == "breast-cancer":
        advice = "It comes with scikit-learn: there is nothing to download."
    known = ", ".join(sorted(ORIGINS))
    raise ArgumentError(Problem("<command>", "NAME", repr(name), known, advice))


def _address(url: str) -> str:
    if url.startswith(("https://", "http://")):
        return url.rstrip("/") + "/"
    raise ArgumentError(Problem("<command>", "base_url", repr(url), "an http or https address"))


def _fetch(origin: Origin, target: Path, shelf: _Shelf, progress: Progress | None) -> None:
    """Put the files that are not there yet into `target`, all checked before the first appears."""
    wanted = {file: pin for file, pin in origin.files.items() if not _holds(target / file, pin)}
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as scratch:
        for file, pin in wanted.items():
            with closing(shelf.chunks(file)) as chunks:
                told = partial(progress, file) if progress else None
                got = _write(chunks, Path(scratch, file), limit=pin.size, progress=told)
            if got != pin:
                raise shelf.refuse(file, *_compared(got, pin))
        target.mkdir(exist_ok=True)
        for file in wanted:
            Path(scratch, file).replace(target / file)


def _holds(path: Path, pin: Pin) -> bool:
    return path.is_file() and path.stat().st_size == pin.size and _sha256(path) == pin.sha256


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write(
    chunks: Iterator[bytes], path: Path, *, limit: int, progress: Callable[[int, int], None] | None
) -> Pin:
    """Write what comes and return what it was; stop once it is larger than it may be."""
    sha, size = hashlib.sha256(), 0
    with path.open("wb") as file:
        for chunk in chunks:
            file.write(chunk)
            sha.update(chunk)
            size += len(chunk)
            if progress:
                progress(min(size, limit), limit)
            if size > limit:
                break
    return Pin(sha.hexdigest(), size)


def _compared(got: Pin, pin: Pin) -> tuple[str, str]:
    if got.size < pin.size:
        return f"{got.size} bytes", f"{pin.size} bytes"
    if got.size > pin.size:
        return f"more than {pin.size} bytes", f"{pin.size} bytes"
    return f"other content (SHA-256 {got.sha256[:16]}...)", f"SHA-256 {pin.sha256[:16]}..."
