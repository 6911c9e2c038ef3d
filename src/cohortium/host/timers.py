"""One thread that reports deadlines when they are due."""

from __future__ import annotations

import heapq
import itertools
import threading
from collections.abc import Callable


class Timers:
    """Calls back at times of a clock; closing it drops what is not due.

    Args:
        clock: seconds, such as `time.time`.
        call: is told what is due, in a thread of its own.
    """

    def __init__(self, clock: Callable[[], float], call: Callable[[object], None]) -> None:
        self._clock, self._call = clock, call
        self._due: list[tuple[float, int, object]] = []
        self._order = itertools.count()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="timers", daemon=True)
        self._thread.start()

    def add(self, due: float, what: object) -> None:
        """Report `what` at `due`."""
        with self._changed:
            heapq.heappush(self._due, (due, next(self._order), what))
            self._changed.notify()

    def clear(self) -> None:
        """Drop everything that is not due yet."""
        with self._changed:
            self._due.clear()

    def close(self) -> None:
        """End the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def _run(self) -> None:
        while (what := self._next()) is not None:
            self._call(what)

    def _next(self) -> object | None:
        with self._changed:
            while not self._closed:
                left = self._due[0][0] - self._clock() if self._due else None
                if left is not None and left <= 0:
                    return heapq.heappop(self._due)[2]
                self._changed.wait(left)
        return None
