"""Blobs: bytes under the name of their SHA-256, uploaded in pieces that survive a crash.

An unfinished upload is a file whose name says how many of its bytes count: `ab/<sha256>.4194304`.
A piece is written behind them and synced before the file is renamed, so that after a crash at any
instant the name is true; what lies behind is cut off when the upload goes on. Where uploaders are
told apart, the name says whose it is, too: `ab/<sha256>.by-<who>.4194304`. The last piece is
written only if the whole has the digest, and the file then loses its suffix.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import obstore
from obstore.exceptions import BaseError
from obstore.store import from_url

from cohortium.errors import ArgumentError, Problem, RefusedError
from cohortium.transport.envelope import Data
from cohortium.transport.errors import ConflictError, UnavailableError, UnknownError

if TYPE_CHECKING:
    from obstore.store import RetryConfig

_DIGEST = re.compile(r"[0-9a-f]{64}")
_PIECE = 1 << 20
_RETRIES: RetryConfig = {"max_retries": 3, "retry_timeout": timedelta(seconds=20)}


class OffsetError(ConflictError):
    """A piece does not begin where the upload ends. `received`: the bytes that are there."""

    def __init__(self, offset: int, received: int) -> None:
        super().__init__(f"offset {offset}", str(received), "Go on from there.")
        self.received = received


class Blobs(Protocol):
    """A store of blobs. Digests are 64 lower-case hex digits; others raise RefusedError."""

    def size(self, digest: str) -> int | None:
        """Return the bytes of a blob that is complete, else None."""

    def received(self, digest: str, *, by: str = "") -> int:
        """Return the bytes of somebody's unfinished upload that are there, 0 if there is none."""

    def append(self, digest: str, offset: int, chunk: Data, *, total: int, by: str = "") -> int:
        """Keep the next piece of an upload; it is durable on return.

        Args:
            digest: of the whole.
            offset: bytes before this piece.
            chunk: the piece.
            total: bytes of the whole.
            by: who uploads, where each does so alone: nobody spoils what another has begun, and
                all of it has to be brought, also of a blob that is here.

        Returns:
            The bytes that are there now; `total` if the blob is complete, also if it was before.

        Raises:
            OffsetError: the upload is not at `offset`; nothing was changed.
            RefusedError: the piece goes beyond `total`, or the whole has another digest. Then the
                upload is dropped.
            OSError: there is no room, for one. What was there before can be gone on with.
        """

    def put(self, digest: str, data: Data) -> None:
        """Keep a whole blob; it is durable on return. Raises as `append` does."""

    def read(self, digest: str, start: int, stop: int) -> bytes:
        """Return bytes of a complete blob; 0 <= start < stop <= its size.

        Raises:
            UnknownError: there is no such blob.
        """

    def delete(self, digest: str) -> None:
        """Remove a blob, or an unfinished upload, if it is there."""

    def sweep(self, before: float) -> None:
        """Remove unfinished uploads that got nothing since `before`, in seconds since 1970."""

    def path(self, digest: str) -> Path | None:
        """Return the file of a complete blob, or None if it is in no file here."""


class FolderBlobs:
    """Blobs as files that only their owner can read.

    Any number of threads and processes may share a folder. A lock on its 256 subfolders lets one
    of them change the blobs whose digests begin alike.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder

    def size(self, digest: str) -> int | None:
        try:
            return self._file(digest).stat().st_size
        except FileNotFoundError:
            return None

    def received(self, digest: str, *, by: str = "") -> int:
        return _count(self._part(digest, by))

    def append(self, digest: str, offset: int, chunk: Data, *, total: int, by: str = "") -> int:
        with self._locked(digest) as shard:
            size = None if by else self.size(digest)
            if size is not None:
                return size
            part, end = self._part(digest, by), offset + len(chunk)
            if offset != _count(part):
                raise OffsetError(offset, _count(part))
            if end > total:
                raise RefusedError(f"{end} bytes of a blob of {total}")
            if end == total:
                _check(part, chunk, digest=digest, offset=offset)
            _write(part, chunk, offset=offset)
            if end < total:
                part.rename(part.with_suffix(f".{end}"))
            else:
                part.rename(self._file(digest))
                os.fsync(shard)
            return end

    def put(self, digest: str, data: Data) -> None:
        _check_whole(digest, data)
        with self._locked(digest) as shard:
            if self.size(digest) is None:
                self._part(digest).unlink(missing_ok=True)  # its name would be false from now on
                part = self._part(digest)
                _write(part, data, offset=0)
                part.rename(self._file(digest))
                os.fsync(shard)

    def read(self, digest: str, start: int, stop: int) -> bytes:
        try:
            with self._file(digest).open("rb") as file:
                file.seek(start)
                return file.read(stop - start)
        except FileNotFoundError:
            raise _unknown(digest) from None

    def delete(self, digest: str) -> None:
        with self._locked(digest):
            file = self._file(digest)
            for path in (file, *file.parent.glob(f"{digest}.*")):
                path.unlink(missing_ok=True)

    def sweep(self, before: float) -> None:
        for part in self._folder.glob("??/*.[0-9]*"):
            with self._locked(part.name[:64]), suppress(FileNotFoundError):
                if part.stat().st_mtime < before:
                    part.unlink()

    def path(self, digest: str) -> Path | None:
        file = self._file(digest)
        return file if file.is_file() else None

    def _file(self, digest: str) -> Path:
        return self._folder / _key(digest)

    def _part(self, digest: str, by: str = "") -> Path:
        file = self._file(digest)
        whose = "." + _tag(by) if by else ""
        parts = file.parent.glob(f"{digest}{whose}.[0-9]*")
        return next(parts, file.with_name(f"{digest}{whose}.0"))

    @contextmanager
    def _locked(self, digest: str) -> Iterator[int]:
        """Hold the lock of a digest's subfolder; yields the latter's descriptor."""
        shard = self._file(digest).parent
        if not shard.is_dir():
            shard.mkdir(mode=0o700, exist_ok=True)
            _sync_folder(self._folder)
        descriptor = os.open(shard, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield descriptor
        finally:
            os.close(descriptor)


class ObjectBlobs:
    """Blobs in an object store, such as `s3://bucket/prefix`; unfinished uploads in a folder.

    The store's credentials and region are those of its own environment variables. A blob that is
    complete in the folder, but not in the store, as after a crash between the two, goes there as
    soon as somebody asks for its size or sends its last piece again.
    """

    def __init__(self, url: str, uploads: Path) -> None:
        try:
            self._store = from_url(url, retry_config=_RETRIES)
        except (BaseError, ValueError) as error:
            got = str(error).partition("\n")[0]
            raise ArgumentError(Problem(url, "", got, "a URL such as s3://bucket/prefix")) from None
        self._uploads = FolderBlobs(uploads)

    def size(self, digest: str) -> int | None:
        self._move(digest)
        with _answered():
            try:
                return obstore.head(self._store, _key(digest))["size"]
            except FileNotFoundError:
                return None

    def received(self, digest: str, *, by: str = "") -> int:
        return self._uploads.received(digest, by=by)

    def append(self, digest: str, offset: int, chunk: Data, *, total: int, by: str = "") -> int:
        size = None if by else self.size(digest)
        if size is not None:
            return size
        received = self._uploads.append(digest, offset, chunk, total=total, by=by)
        self._move(digest)
        return received

    def put(self, digest: str, data: Data) -> None:
        _check_whole(digest, data)
        with _answered():
            obstore.put(self._store, _key(digest), data)

    def read(self, digest: str, start: int, stop: int) -> bytes:
        with _answered():
            try:
                return bytes(obstore.get_range(self._store, _key(digest), start=start, end=stop))
            except FileNotFoundError:
                raise _unknown(digest) from None

    def delete(self, digest: str) -> None:
        self._uploads.delete(digest)
        with _answered(), suppress(FileNotFoundError):
            obstore.delete(self._store, _key(digest))

    def sweep(self, before: float) -> None:
        self._uploads.sweep(before)

    def path(self, digest: str) -> Path | None:
        """Return None: an object is in no file."""
        _key(digest)
        return None

    def _move(self, digest: str) -> None:
        whole = self._uploads.path(digest)
        if whole is None:
            return
        try:
            file = whole.open("rb")
        except FileNotFoundError:
            return  # another thread moved it just now
        with file, _answered():
            obstore.put(self._store, _key(digest), file)
        self._uploads.delete(digest)


@contextmanager
def _answered() -> Iterator[None]:
    """Make of an object store's failure what a member sees: that it has to try again.

    Not found is a failure, too, where no object is looked for: so says S3 of a missing bucket.
    """
    try:
        yield
    except (BaseError, FileNotFoundError) as error:
        raise UnavailableError(
            "no answer of the object store", "one", "This is tried again; see the hub's log."
        ) from error


def _key(digest: str) -> str:
    if not _DIGEST.fullmatch(digest):
        raise RefusedError("a blob is named by 64 hex digits")
    return f"{digest[:2]}/{digest}"


def _tag(by: str) -> str:
    """Return what a file's name says of who uploads; it begins with no digit, as counts do."""
    return "by-" + hashlib.sha256(by.encode()).hexdigest()[:16]


def _count(part: Path) -> int:
    return int(part.suffix[1:])


def _write(part: Path, chunk: Data, *, offset: int) -> None:
    """Write a piece behind the `offset` bytes that count, and sync it. Undone if it fails."""
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.ftruncate(descriptor, offset)
        rest, at = memoryview(chunk).cast("B"), offset
        while rest:
            written = os.pwrite(descriptor, rest, at)
            rest, at = rest[written:], at + written
        os.fsync(descriptor)
    except OSError:
        os.ftruncate(descriptor, offset)  # gives back the room
        raise
    finally:
        os.close(descriptor)


def _check(part: Path, chunk: Data, *, digest: str, offset: int) -> None:
    """Drop an upload that does not have its digest with this last piece."""
    sha = hashlib.sha256()
    if offset:
        with part.open("rb") as file:
            for at in range(0, offset, _PIECE):
                sha.update(file.read(min(_PIECE, offset - at)))
    sha.update(chunk)
    if sha.hexdigest() != digest:
        part.unlink(missing_ok=True)
        raise _wrong(digest)


def _check_whole(digest: str, data: Data) -> None:
    _key(digest)
    if hashlib.sha256(data).hexdigest() != digest:
        raise _wrong(digest)


def _wrong(digest: str) -> RefusedError:
    return RefusedError(f"a blob is not what its digest {digest[:8]} says")


def _unknown(digest: str) -> UnknownError:
    return UnknownError(f"blob {digest[:8]}", "one that is here")


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
