"""Loaded by Python itself in processes whose PYTHONPATH names this folder: kills them at a point.

The file that COHORTIUM_TEST_FAULT names holds one fault as JSON: `at`, a function; `when`, before
or after it; and what its last argument must be. The process that comes there takes the file away,
so that a fault strikes once, and dies as by kill -9. The programs themselves know nothing of it.
"""

from __future__ import annotations

import functools
import importlib
import importlib.abc
import importlib.util
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
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


def strike(point: str, when: str, subject: Any, arguments: Sequence[Any]) -> None:
    path = os.environ["COHORTIUM_TEST_FAULT"]
    try:
        with open(path, encoding="utf-8") as file:  # noqa: PTH123 - before anything is imported
            fault = json.load(file)
    except (FileNotFoundError, ValueError):
        return
    if fault.pop("at") != point or fault.pop("when") != when:
        return
    said = describe(subject, arguments)
    if all(said.get(key) == value for key, value in fault.items()):
        try:
            os.rename(path, path + ".struck")  # noqa: PTH104
        except FileNotFoundError:
            return
        os.kill(os.getpid(), signal.SIGKILL)


def wrap(point: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def struck(self: Any, *args: Any, **kwargs: Any) -> Any:
        strike(point, "before", self, args)
        found = function(self, *args, **kwargs)
        strike(point, "after", self, args)
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


if os.environ.get("COHORTIUM_TEST_FAULT"):
    sys.meta_path.insert(0, Finder())
