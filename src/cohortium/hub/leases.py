"""One process per member: a new one names the one before, and takes over when that one is gone.

Two processes with one key would answer each other's mail and split a journal in two; a process that
wakes from an old copy of its disk would say again, differently, what was said before. Both show
here: the first as a lease that is still alive, the second as a wrong predecessor.

A lease is alive while a long poll is open, and for `seconds` after the last one was answered. When
the connection of a poll breaks, its process is taken for dead at once, so that a node that was
killed and started again goes on without waiting.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from threading import Lock

from sqlalchemy import Connection, Engine, delete, insert, select

from cohortium.hub.bells import Bells
from cohortium.hub.tables import LEASES
from cohortium.store.database import reading, writing
from cohortium.transport.errors import ConflictError, UnavailableError

POLLS = 8
"""The most polls of a member at once; more than one is open where connections have broken."""


class StillAliveError(ConflictError):
    """The predecessor may be alive. Waiting may help."""


@dataclass
class _Lease:
    """A member's newest process.

    Attributes:
        instance: its own name for itself, random.
        since: when it took over.
        until: when it is taken for dead, if nothing comes from it.
        polls: long polls that are open.
        seen: when it last showed a sign of life; 0 where this hub has seen none.
    """

    instance: str
    since: float
    until: float = 0.0
    polls: int = 0
    seen: float = 0.0


class Leases:
    """The newest process of each member.

    Args:
        engine: the hub's database.
        seconds: how long a process may be silent.
        clock: seconds since 1970.
        bells: rung for `lease/NAME` when a lease ends.
    """

    def __init__(
        self, engine: Engine, *, seconds: float, clock: Callable[[], float], bells: Bells
    ) -> None:
        self._engine, self.seconds, self._clock, self._bells = engine, seconds, clock, bells
        self._lock = Lock()
        with reading(engine) as connection:
            rows = connection.execute(select(LEASES)).all()
        self._leases = {row.name: _Lease(row.instance, row.since) for row in rows}

    def take(self, name: str, instance: str, predecessor: str) -> float:
        """Let a process act for a member; return for how many seconds it may be silent.

        Args:
            name: of the member.
            instance: random, new for each process.
            predecessor: the instance of the process before, as its folder says; empty for none.

        Raises:
            StillAliveError: the process before may be alive.
            ConflictError: another process has been there since.
        """
        with self._lock:
            lease, now = self._leases.get(name), self._clock()
            if lease is not None and lease.instance != instance:
                if lease.instance != predecessor:
                    raise _superseded(name, lease)
                if self._is_alive(lease, now):
                    raise _alive(name, lease)
            if lease is None or lease.instance != instance:
                lease = self._put(name, instance, now)
            lease.until, lease.seen = now + self.seconds, now
        return self.seconds

    def check(self, name: str, instance: str) -> None:
        """Check that a process is the newest of a member.

        Raises:
            ConflictError: another process has taken over.
        """
        with self._lock:
            lease = self._leases.get(name)
            if lease is None:  # the keys are new, or the hub was restored: the first one counts
                self._put(name, instance, self._clock())
            elif lease.instance != instance:
                raise _superseded(name, lease)

    def poll_opened(self, name: str, instance: str) -> None:
        """Keep a lease alive until `poll_closed`.

        Raises:
            UnavailableError: as many are open as one process can have need of.
            ConflictError: as `check`.
        """
        self.check(name, instance)
        with self._lock:
            lease = self._leases[name]
            if lease.polls >= POLLS:
                raise UnavailableError(f"{POLLS + 1} polls of {name} at once", f"at most {POLLS}")
            lease.polls, lease.seen = lease.polls + 1, self._clock()

    def poll_closed(self, name: str, instance: str, *, broken: bool) -> None:
        """A long poll was answered, or its connection broke: then its process is taken for dead."""
        with self._lock:
            lease = self._leases.get(name)
            if lease is None or lease.instance != instance:
                return
            lease.polls, lease.seen = lease.polls - 1, self._clock()
            lease.until = 0.0 if broken else self._clock() + self.seconds
        self._bells.ring([bell(name)])

    def end(self, name: str, instance: str) -> None:
        """Let a successor take over at once: the process stops."""
        with self._lock:
            lease = self._leases.get(name)
            if lease is not None and lease.instance == instance:
                lease.until = 0.0
        self._bells.ring([bell(name)])

    def left(self, name: str) -> float:
        """Return the seconds after which a member's process is taken for dead, if it is silent."""
        with self._lock:
            lease = self._leases.get(name)
            if lease is None:
                return 0.0
            return self.seconds if lease.polls else max(0.0, lease.until - self._clock())

    def forget(self, connection: Connection, name: str) -> Callable[[], None]:
        """Drop a member's lease with its old keys; call what is returned once that is durable."""
        connection.execute(delete(LEASES).where(LEASES.c.name == name))

        def forgotten() -> None:
            with self._lock:
                self._leases.pop(name, None)

        return forgotten

    def is_online(self, name: str) -> bool:
        """Tell whether a member's process shows signs of life."""
        with self._lock:
            lease = self._leases.get(name)
            return lease is not None and self._is_alive(lease, self._clock())

    def silence(self, name: str) -> str:
        """Return since when nothing came from a member, in words; empty while it is online."""
        if self.is_online(name):
            return ""
        with self._lock:
            lease = self._leases.get(name)
            if lease is None or not lease.seen:
                return "not heard from since the hub started"
            return f"not heard from since {_time(lease.seen)}"

    def _is_alive(self, lease: _Lease, now: float) -> bool:
        return lease.polls > 0 or now < lease.until

    def _put(self, name: str, instance: str, now: float) -> _Lease:
        with writing(self._engine) as connection:
            connection.execute(delete(LEASES).where(LEASES.c.name == name))
            row = {"name": name, "instance": instance, "since": now}
            connection.execute(insert(LEASES).values(row))
        self._leases[name] = _Lease(instance, now)
        return self._leases[name]


def bell(name: str) -> str:
    """Return the bell that rings when a member's lease ends; no member can have this name."""
    return f"lease/{name}"


def _superseded(name: str, lease: _Lease) -> ConflictError:
    since = _time(lease.since)
    return ConflictError(
        f"a process that is not the newest of {name}: another one took over at {since}",
        "the newest process, or its successor",
        "Two copies of a folder must not run. If this one was restored from a backup, make new "
        "keys with: cohortium node rotate-keys",
    )


def _alive(name: str, lease: _Lease) -> StillAliveError:
    since = _time(lease.since)
    return StillAliveError(
        f"a second process of {name}: one is running since {since}",
        "one process per member",
        "Stop the other one first",
    )


def _time(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S} UTC"
