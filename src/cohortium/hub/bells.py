"""Wakes who waits for mail, without polling: a bell per member, rung after what it tells is kept.

Who waits may be a thread or a task of an event loop: a bell only calls what it was given.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager


class Bells:
    """The bells of all members. Safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[str, set[Callable[[], None]]] = {}
        self.closed = False

    @contextmanager
    def listening(self, name: str, wake: Callable[[], None]) -> Iterator[None]:
        """Have `wake` called whenever the bell of `name` rings; at once if all is closed."""
        with self._lock:
            self._waiting.setdefault(name, set()).add(wake)
            closed = self.closed
        if closed:
            wake()
        try:
            yield
        finally:
            with self._lock:
                rest = self._waiting[name]
                rest.discard(wake)
                if not rest:
                    del self._waiting[name]

    def ring(self, names: Iterable[str]) -> None:
        """Wake who waits on any of these bells."""
        with self._lock:
            wakes = [wake for name in names for wake in self._waiting.get(name, ())]
        for wake in wakes:
            wake()

    def close(self) -> None:
        """Wake everybody, and let nobody wait again."""
        with self._lock:
            self.closed = True
            wakes = [wake for waiting in self._waiting.values() for wake in waiting]
        for wake in wakes:
            wake()
