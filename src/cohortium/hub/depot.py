"""Blobs at the hub: who sent one, what refers to it, who may read it, and when it may go."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from threading import Lock

from sqlalchemy import Connection, Engine, Select, delete, func, insert, select, union_all, update

from cohortium.hub.folder import Limits
from cohortium.hub.runs import ENDED
from cohortium.hub.tables import BLOBS, DELIVERIES, FRAMES, STUDIES, STUDY_BLOBS
from cohortium.store.database import reading, writing
from cohortium.transport.blobs import Blobs
from cohortium.transport.errors import ConflictError, StorageFullError, TooLargeError

PIECE = 4 << 20
"""The most bytes of a blob that go in one request or answer."""

GRACE = 24 * 3600.0
"""Seconds that a blob is kept to which nothing refers yet: what will is on its way."""


class Depot:
    """The hub's blobs.

    Args:
        engine: the hub's database.
        blobs: where they are.
        limits: how much may be sent.
        clock: seconds since 1970.
    """

    def __init__(
        self, engine: Engine, blobs: Blobs, *, limits: Limits, clock: Callable[[], float]
    ) -> None:
        self._engine, self.blobs, self._limits, self._clock = engine, blobs, limits, clock
        self._locks = tuple(Lock() for _ in range(64))

    def append(self, member: str, digest: str, offset: int, *, chunk: bytes, total: int) -> int:
        """Take the next piece of a member's own upload; return how many bytes are here now.

        Raises:
            TooLargeError: the blob is larger than the hub takes.
            StorageFullError: the member has too much here already.
            ConflictError: it was announced with another size.
            OffsetError: another offset is next.
            RefusedError: it is complete, and not what its digest says.
        """
        with self._lock(digest):  # two may send the same one
            if self._expect(member, digest, total) and self.blobs.size(digest) is not None:
                return total
            received = self.blobs.append(digest, offset, chunk, total=total, by=member)
            if received == total:
                self._complete(member, digest)
            return received

    def put(self, member: str, digest: str, data: bytes | bytearray | memoryview) -> None:
        """Keep a whole blob of a party that the hub itself carries. It has no quota."""
        with self._lock(digest):
            with writing(self._engine) as connection:
                _announce(connection, member, digest, size=len(data), now=self._clock())
            self.blobs.put(digest, data)

    def received(self, member: str, digest: str) -> int:
        """Return how many bytes of a member's own upload are here."""
        return self.blobs.received(digest, by=member)

    def is_at_hand(self, member: str, digest: str, studies: Select[tuple[str]]) -> bool:
        """Tell whether a blob is here that a member may refer to: it brought it, or may read it.

        Of others' blobs nobody learns by their digests whether they are here.
        """
        if self.blobs.size(digest) is None:
            return False
        mine = BLOBS.c.digest == digest, BLOBS.c.owner == member, BLOBS.c.whole
        with reading(self._engine) as connection:
            brought = connection.execute(select(BLOBS.c.digest).where(*mine)).first()
        return brought is not None or self.is_readable(member, digest, studies)

    def is_readable(self, member: str, digest: str, studies: Select[tuple[str]]) -> bool:
        """Tell whether a blob is addressed to a member, or belongs to one of these studies."""
        sent = (
            select(DELIVERIES.c.seq)
            .join(FRAMES, FRAMES.c.id == DELIVERIES.c.frame)
            .where(DELIVERIES.c.host == member, FRAMES.c.blob == digest)
        )
        shown = select(STUDY_BLOBS.c.blob).where(
            STUDY_BLOBS.c.blob == digest, STUDY_BLOBS.c.study.in_(studies)
        )
        with reading(self._engine) as connection:
            return any(connection.execute(q.limit(1)).first() is not None for q in (sent, shown))

    def release(self, digests: Iterable[str]) -> None:
        """Delete those blobs to which nothing refers any more."""
        wanted = set(digests)
        if not wanted:
            return
        with reading(self._engine) as connection:
            free = wanted.difference(connection.execute(_referred(wanted)).scalars())
        for digest in free:
            with self._lock(digest):  # the file first: a crash leaves none that nobody knows
                self.blobs.delete(digest)
                with writing(self._engine) as connection:
                    connection.execute(delete(BLOBS).where(BLOBS.c.digest == digest))

    def sweep(self) -> None:
        """Delete what was sent long ago and nothing refers to, unfinished blobs included."""
        old = BLOBS.c.time < self._clock() - GRACE
        with reading(self._engine) as connection:
            digests = connection.execute(select(BLOBS.c.digest).where(old)).scalars().all()
        self.release(digests)

    def total(self) -> int:
        """Return the bytes of all blobs, unfinished ones counted as whole."""
        with reading(self._engine) as connection:
            query = select(func.coalesce(func.sum(BLOBS.c.size), 0))
            return int(connection.execute(query).scalar_one())

    def _lock(self, digest: str) -> Lock:
        return self._locks[int(digest[:2], 16) % len(self._locks)]

    def _expect(self, member: str, digest: str, total: int) -> bool:
        """Write down that a blob is to come; tell whether the member has brought it before."""
        mine = BLOBS.c.digest == digest, BLOBS.c.owner == member
        with reading(self._engine) as connection:
            row = connection.execute(select(BLOBS).where(*mine)).one_or_none()
        if row is not None:
            if row.size != total:
                raise ConflictError(f"a blob of {total} bytes", f"{row.size}, as announced")
            return bool(row.whole)
        limits = self._limits
        if total > min(limits.blob, limits.pending):
            most = min(limits.blob, limits.pending)
            raise TooLargeError(f"a blob of {total} bytes", f"at most {most}")
        with writing(self._engine) as connection:
            pending = _pending(connection, member) + total
            if pending > limits.pending:
                got, expected = f"{pending} bytes of blobs of {member}", f"at most {limits.pending}"
                raise StorageFullError(got, expected, "Wait until others have fetched theirs")
            _announce(connection, member, digest, size=total, now=self._clock())
        return False

    def _complete(self, member: str, digest: str) -> None:
        mine = BLOBS.c.digest == digest, BLOBS.c.owner == member
        with writing(self._engine) as connection:
            connection.execute(update(BLOBS).where(*mine).values(whole=True))


def _announce(connection: Connection, member: str, digest: str, *, size: int, now: float) -> None:
    known = select(BLOBS.c.digest).where(BLOBS.c.digest == digest, BLOBS.c.owner == member)
    if connection.execute(known).first() is None:
        row = {"digest": digest, "owner": member, "size": size, "time": now, "whole": False}
        connection.execute(insert(BLOBS).values(row))


def _referred(digests: Iterable[str]) -> Select[tuple[str]]:
    found = union_all(
        select(FRAMES.c.blob).where(FRAMES.c.blob.in_(digests)),
        select(STUDY_BLOBS.c.blob).where(STUDY_BLOBS.c.blob.in_(digests)),
    ).subquery()
    return select(found.c.blob)


def _pending(connection: Connection, member: str) -> int:
    ended = (
        select(STUDY_BLOBS.c.blob)
        .join(STUDIES, STUDIES.c.digest == STUDY_BLOBS.c.study)
        .where(STUDIES.c.status.in_(ENDED))
    )
    query = select(func.coalesce(func.sum(BLOBS.c.size), 0)).where(
        BLOBS.c.owner == member, BLOBS.c.digest.not_in(ended)
    )
    return int(connection.execute(query).scalar_one())
