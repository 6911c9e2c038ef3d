"""Which requests came already: kept in a file, so that `kill -9` does not forget them."""

from __future__ import annotations

import hashlib
import struct
import threading
from pathlib import Path
from typing import BinaryIO

from cohortium.transport.errors import ReplayError

WINDOW = 600.0
"""Seconds for which a nonce is remembered: a signed request can be valid for twice 300 s."""

_RECORD = struct.Struct("<d16s")


class Nonces:
    """Refuses a nonce that the same key used within the last `WINDOW` seconds.

    Two files take turns: records are appended to one; once its first record is older than `WINDOW`,
    it becomes the older file, and what that one held is forgotten. A record is written before its
    request is let through, so the end of a process loses none; a loss of power may lose those of
    its last seconds.
    """

    def __init__(self, path: Path) -> None:
        """Open the file at `path` (made if missing) and read what it holds.

        Raises:
            OSError: the file cannot be read or written.
        """
        self._path, self._older_path = path, path.with_name(path.name + ".older")
        self._lock = threading.Lock()
        self._since, self._seen = _read(self._path)
        self._older = _read(self._older_path)[1]
        self._file = _open(self._path)

    def use(self, keyid: str, nonce: str, *, now: float) -> None:
        """Take a nonce of the key `keyid` at `now` (epoch seconds).

        Raises:
            ReplayError: it was used before.
            OSError: it cannot be written down (a full disk); it then counts as not used.
        """
        mark = hashlib.sha256(f"{keyid}\n{nonce}".encode()).digest()[:16]
        with self._lock:
            if mark in self._seen or mark in self._older:
                raise ReplayError("a request that came before", "a new nonce in each request")
            if self._since is not None and now - self._since > WINDOW:
                self._take_turns()
            self._file.write(_RECORD.pack(now, mark))
            self._since = now if self._since is None else self._since
            self._seen.add(mark)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _take_turns(self) -> None:
        self._path.replace(self._older_path)
        self._file.close()
        self._file = _open(self._path)
        self._older, self._seen, self._since = self._seen, set(), None


def _read(path: Path) -> tuple[float | None, set[bytes]]:
    """Return the time of the first record, and all nonces; a torn record at the end is none."""
    held = path.read_bytes() if path.exists() else b""
    whole = held[: len(held) // _RECORD.size * _RECORD.size]
    records = list(_RECORD.iter_unpack(whole))
    return (records[0][0] if records else None), {mark for _, mark in records}


def _open(path: Path) -> BinaryIO:
    """Open for appending without a buffer; cut off a torn record."""
    file = path.open("ab", buffering=0)
    file.truncate(file.tell() // _RECORD.size * _RECORD.size)
    return file
