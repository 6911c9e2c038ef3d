"""Loaded by Python itself in processes whose PYTHONPATH names this folder: faults, at a point.

Each `*.json` in the folder that COHORTIUM_TEST_FAULTS names is one fault: `at`, a function; `when`,
before or after it; what its last argument must be; `nth`, at the how manyeth time; what to `do`:

    kill      die as by kill -9; a process that comes there takes the file away: it strikes once
    wait      once, until somebody writes to the pipe beside it
    reverse   always hand the mail of an answer out backwards
    twice     always hand it out twice

The file that COHORTIUM_TEST_CLOCK names holds by how many seconds this process's clock is wrong.
The programs themselves know nothing of all this.
"""
# ruff: noqa: PTH104, PTH123, PTH208

from __future__ import annotations

import functools
import importlib
import importlib.abc
import importlib.util
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from types import ModuleType
from typing import Any

POINTS = {
    "journal": ("cohortium.host.journal", "SqlJournal", "append"),
    "snapshot": ("cohortium.host.journal", "SqlJournal", "compact"),
    "work": ("cohortium.host.host", "Host", "_performed"),
    "post": ("cohortium.host.host", "Host", "_post"),
    "deliver": ("cohortium.host.host", "Host", "deliver"),
    "keep": ("cohortium.hub.mailbox", "Mailbox", "post"),
    "hand out": ("cohortium.hub.mailbox", "Mailbox", "waiting"),
    "blob": ("cohortium.transport.blobs", "FolderBlobs", "append"),
}


def describe(subject: Any, arguments: Sequence[Any]) -> dict[str, Any]:
    """Return what a fault may ask for."""
    value = arguments[-1] if arguments else None
    said: dict[str, Any] = {"party": str(getattr(subject, "party", ""))}
    said["kind"] = type(value).__name__
    value = getattr(value, "release", value)
    for key in ("round", "attempt", "sender"):
        said[key] = getattr(value, key, None)
    step = getattr(value, "step", "")
    said["step"] = str(getattr(step, "id", step)).partition("/")[0]
    return said


def faults() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the faults that are armed, each with its file."""
    folder = os.environ["COHORTIUM_TEST_FAULTS"]
    for name in sorted(os.listdir(folder)):
        if name.endswith(".json"):
            path = f"{folder}/{name}"
            with suppress(FileNotFoundError, ValueError), open(path, encoding="utf-8") as file:
                yield path, json.load(file)


def strike(point: str, when: str, subject: Any, arguments: Sequence[Any]) -> list[str]:
    """Die or wait, if that is due; return what to do with what the point returns."""
    changes = []
    for path, fault in faults():
        do, nth = fault.pop("do"), fault.pop("nth")
        if fault.pop("at") != point or fault.pop("when") != when:
            continue
        said = describe(subject, arguments)
        if not all(said.get(key) == value for key, value in fault.items()):
            continue
        if do in CHANGES:
            changes.append(do)
            continue
        seen[path] = seen.get(path, 0) + 1
        with suppress(FileNotFoundError):
            if seen[path] == nth:
                os.rename(path, path + ".struck")
                ACTS[do](path)
    return changes


def die(path: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def wait(path: str) -> None:
    with open(path + ".come", "w", encoding="utf-8") as come:
        come.write("x")
    with open(path + ".go", "rb", buffering=0) as go:
        go.read(1)


ACTS: dict[str, Callable[[str], None]] = {"kill": die, "wait": wait}
CHANGES: dict[str, Callable[[Any], Any]] = {
    "reverse": lambda mail: mail[::-1],
    "twice": lambda mail: [message for message in mail for _ in range(2)],
}
seen: dict[str, int] = {}


def wrap(point: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def struck(self: Any, *args: Any, **kwargs: Any) -> Any:
        strike(point, "before", self, args)
        found = function(self, *args, **kwargs)
        for change in strike(point, "after", self, args):
            found = CHANGES[change](found)
        return found

    return struck


class Finder(importlib.abc.MetaPathFinder):
    """Finds modules with points as always, and wraps the points when they have been read."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        points = [(p, cls, fn) for p, (module, cls, fn) in POINTS.items() if module == name]
        if not points:
            return None
        sys.meta_path.remove(self)
        try:
            spec = importlib.util.find_spec(name)
        finally:
            sys.meta_path.insert(0, self)
        if spec is None or spec.loader is None:
            return spec
        read = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            read(module)
            for point, cls, function in points:
                owner = getattr(module, cls)
                setattr(owner, function, wrap(point, getattr(owner, function)))

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def wrong(clock: Callable[[], float]) -> Callable[[], float]:
    """Return a clock that is wrong by as much as the file says, if there is one."""

    def now() -> float:
        try:
            with open(os.environ["COHORTIUM_TEST_CLOCK"], encoding="utf-8") as file:
                return clock() + float(file.read())
        except FileNotFoundError:
            return clock()

    return now


if os.environ.get("COHORTIUM_TEST_FAULTS"):
    sys.meta_path.insert(0, Finder())
if os.environ.get("COHORTIUM_TEST_CLOCK"):
    time.time = wrong(time.time)
