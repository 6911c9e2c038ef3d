"""Files of a service that only its owner may read, complete or as they were; and its lock."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import BinaryIO


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only its owner may read; after a crash it is complete or as it was."""
    part = path.with_name(f".{path.name}.part")
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def take_lock(path: Path, *, wait: bool = False) -> BinaryIO | None:
    """Lock a file, made if need be, until what is returned is closed or the process ends.

    Args:
        path: the file.
        wait: until whoever holds the lock lets go of it.

    Returns:
        the open file, or None where another process holds the lock.
    """
    file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        file.close()
        return None
    return file
