"""Landlock: a process gives up files for itself and all that it starts, without any privilege.

See landlock(7). What it does not cover is left to the system-call filter: `chmod` and its like,
sockets that are not TCP, and signals before Linux 6.12. That a file exists, and how large it is,
can still be seen.
"""

from __future__ import annotations

import ctypes
import os
import stat
from collections.abc import Iterable
from pathlib import Path

_CREATE, _ADD, _RESTRICT = 444, 445, 446  # the numbers of the calls, on every processor
_PATH_BENEATH = 1

_WRITE, _READ, _LIST, _TRUNCATE, _CONTROL = 1 << 1, 1 << 2, 1 << 3, 1 << 14, 1 << 15
_OF_FILES = _WRITE | _READ | _TRUNCATE | _CONTROL  # what a rule on a file may allow

OLDEST = 3
"""The first version (Linux 6.2) under which a file that is only read cannot be truncated."""


class _Ruleset(ctypes.Structure):
    _fields_ = (
        ("files", ctypes.c_uint64),
        ("network", ctypes.c_uint64),
        ("scoped", ctypes.c_uint64),
    )


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


def version() -> int:
    """Return the kernel's version of Landlock; 0 where it has none or is told not to use it."""
    try:
        return _call(_CREATE, None, 0, 1)
    except OSError:
        return 0


def restrict(*, readable: Iterable[str], writable: Iterable[str] = ()) -> None:
    """Give up every file but those under some paths, and TCP and other processes where it can.

    Only for a process of one thread: other threads would keep what this one gives up. Paths that
    are not there are skipped.

    Args:
        readable: files and folders that may be read.
        writable: files and folders in which files may be read and written, but not made.

    Raises:
        OSError: the kernel has no Landlock, or one that is too old.
    """
    known = version()
    if known < OLDEST:
        raise OSError(None, f"this kernel has Landlock {known}, and {OLDEST} is needed")
    files = (1 << (16 if known >= 5 else 15)) - 1
    rules = _Ruleset(files, 3, 3)  # bind and connect; abstract sockets and signals
    size = 8 if known < 4 else 16 if known < 6 else 24
    ruleset = _call(_CREATE, ctypes.byref(rules), size, 0)
    try:
        for path in readable:
            _allow(ruleset, Path(path), _READ | _LIST)
        for path in writable:
            _allow(ruleset, Path(path), files & (_OF_FILES | _LIST))
        _call(_RESTRICT, ruleset, 0)
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: Path, rights: int) -> None:
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(place).st_mode):
            rights &= _OF_FILES
        _call(_ADD, ruleset, _PATH_BENEATH, ctypes.byref(_PathBeneath(rights, place)), 0)
    finally:
        os.close(place)


def _call(*arguments: object) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    result = int(libc.syscall(*arguments))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
