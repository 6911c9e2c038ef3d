"""What studies may use of this machine, and whose turn it is.

A step of a study takes a *turn* while it computes, one step of a study at a time. Turns are given
to the study that has had the least computing time so far; a study that was away does not make up
for the time that it missed. Nobody polls: whoever waits is woken by the turn that ends, by the hour
that comes, or by the stop.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from datetime import time as time_of_day
from pathlib import Path
from threading import Condition

from cohortium.errors import RefusedError
from cohortium.node.settings import Limits

GIB = 1 << 30


class StoppedError(RefusedError):
    """The node is stopping: no turn is given any more."""


class Hours:
    """The hours of the day in which steps may start; they may span midnight. None: always.

    >>> night = Hours("20:00-06:00")
    >>> night.wait(datetime(2026, 1, 1, 5, 59)), night.wait(datetime(2026, 1, 1, 19, 0))
    (0.0, 3600.0)
    """

    def __init__(self, text: str | None) -> None:
        begin, _, end = (text or "00:00-00:00").partition("-")
        self.begin, self.end = time_of_day.fromisoformat(begin), time_of_day.fromisoformat(end)

    def wait(self, now: datetime) -> float:
        """Return the seconds until steps may start; 0 while they may. `now` is local time."""
        clock = now.time()
        inside = self.begin <= clock < self.end
        if self.begin >= self.end:
            inside = clock >= self.begin or clock < self.end
        if inside:
            return 0.0
        opens = datetime.combine(now.date(), self.begin, tzinfo=now.tzinfo)
        if opens < now:
            opens += timedelta(days=1)
        return (opens - now).total_seconds()


@dataclass
class _Account:
    """A study's computing seconds, as they count for its turn, and its steps."""

    seconds: float = 0.0
    waiting: int = 0
    running: bool = False


@dataclass
class Turns:
    """Gives turns to studies.

    Attributes:
        limits: what the hospital set.
        folder: the disk whose free space counts.
        now: local time, for the hours of the day.
        spent: is told of each turn's study and seconds.
    """

    limits: Limits
    folder: Path
    now: Callable[[], datetime] = field(default=lambda: datetime.now().astimezone())
    spent: Callable[[str, float], None] = field(default=lambda *_: None)
    _accounts: dict[str, _Account] = field(default_factory=dict)
    _changed: Condition = field(default_factory=Condition)
    _stopped: bool = False

    @contextmanager
    def turn(self, study: str) -> Iterator[None]:
        """Wait for the study's turn, and hold it.

        Raises:
            StoppedError: the node is stopping.
            RefusedError: the disk is fuller than the hospital allows.
        """
        account = self._wait(study)
        began = time.monotonic()
        try:
            check_disk(self.limits, self.folder)
            yield
        finally:
            seconds = time.monotonic() - began
            with self._changed:
                account.running = False
                account.seconds += seconds
                self._changed.notify_all()
            self.spent(study, seconds)

    def stop(self) -> None:
        """Give no more turns."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def served(self) -> Mapping[str, float]:
        """Return the computing seconds of each study, as they count for its turn."""
        with self._changed:
            return {study: account.seconds for study, account in self._accounts.items()}

    def _wait(self, study: str) -> _Account:
        hours = Hours(self.limits.hours)
        with self._changed:
            account = self._enter(study)
            try:
                while not self._stopped:
                    closed = hours.wait(self.now())
                    if not closed and self._is_next(account):
                        account.running = True
                        return account
                    self._changed.wait(closed or None)
            finally:
                account.waiting -= 1
        raise StoppedError("the node is stopping")

    def _enter(self, study: str) -> _Account:
        account = self._accounts.setdefault(study, _Account())
        if not account.waiting and not account.running:
            others = [a.seconds for a in self._accounts.values() if a.waiting or a.running]
            account.seconds = max(account.seconds, min(others, default=account.seconds))
        account.waiting += 1
        return account

    def _is_next(self, account: _Account) -> bool:
        accounts = self._accounts.values()
        if account.running or sum(a.running for a in accounts) >= self.limits.studies:
            return False
        return account.seconds <= min(a.seconds for a in accounts if a.waiting and not a.running)


def check_disk(limits: Limits, folder: Path) -> None:
    """Refuse to start anything on a disk that is fuller than the hospital allows.

    Raises:
        RefusedError: it is.
    """
    free = shutil.disk_usage(folder).free
    if free < limits.disk_free_gib * GIB:
        raise RefusedError(
            f"the disk has {free / GIB:.1f} GiB free, and limits.disk_free_gib asks for "
            f"{limits.disk_free_gib:g}; make room, or lower it"
        )
