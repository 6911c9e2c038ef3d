"""The durable mailbox: frames and notices wait here until their readers have acknowledged them.

A frame is kept once, whatever the number of its readers; each reader has a delivery, numbered by
the database. Acknowledging is cumulative: the number up to which everything is durable at the
reader. What all have acknowledged is emptied, and its blob deleted; its name stays known until the
run's mail is dropped, so that a frame which is sent again is not delivered again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Engine, delete, func, insert, select, update

from cohortium.errors import RefusedError
from cohortium.governance.roster import HUB
from cohortium.host.receipts import read_receipt
from cohortium.hub.bells import Bells
from cohortium.hub.depot import Depot
from cohortium.hub.folder import Limits
from cohortium.hub.registry import Registry
from cohortium.hub.runs import Run, Runs
from cohortium.hub.tables import DELIVERIES, FACTS, FRAMES, RECEIPTS, RUNS
from cohortium.identity import Certificate, Document
from cohortium.store.database import reading, writing
from cohortium.transport.envelope import Frame
from cohortium.transport.errors import (
    ConflictError,
    RequestError,
    StorageFullError,
    TooLargeError,
)
from cohortium.types import PartyId

AT_ONCE = 64
LETTERS = 4 << 20
"""The most messages in one answer; and how long it may be before the last one, in characters."""

Message = dict[str, Any]
"""`{"seq", "kind": "frame" | "notice", "frame" | "notice": …}`."""

_Receipt = tuple[str, str, str, int, Document]
"""Run, party, who signed, number, and what was signed."""


class Mailbox:
    """The mail of all members.

    Args:
        engine: the hub's database.
        registry: the members.
        runs: says who may write to whom.
        depot: the blobs.
        bells: rung when mail has come.
        limits: the largest frame.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        registry: Registry,
        runs: Runs,
        depot: Depot,
        bells: Bells,
        limits: Limits,
    ) -> None:
        self._engine, self._registry, self._runs = engine, registry, runs
        self._depot, self._bells, self._limits = depot, bells, limits
        with reading(engine) as connection:
            query = select(FACTS.c.value).where(FACTS.c.key == "generation")
            self.generation: str = connection.execute(query).scalar_one()

    # -- sending -----------------------------------------------------------------------------------

    def post(self, member: str, frame: Frame) -> bool:
        """Keep a frame for its readers; return whether it is new.

        Raises:
            RequestError: the member does not carry the sender, a reader is not in the run, the
                frame is too large, or its blob is not here.
            StorageFullError: too many of the member's frames wait for others.
            SignatureError: the member did not sign it.
        """
        run = self._runs.get(frame.run)
        self._check(member, run, frame)
        readers = [run.members[host] for host in frame.keys]
        readers = [name for name in readers if self._registry.get(name).revoked is None]
        with writing(self._engine) as connection:
            known = select(FRAMES.c.id).where(FRAMES.c.id == frame.id)
            if connection.execute(known).first() is not None:
                return False
            _check_kept(connection, run)
            self._check_room(connection, member, run)
            row = {"id": frame.id, "run": frame.run, "blob": frame.blob}
            row["sender"] = member if readers else ""
            text = json.dumps(frame.to_json(), separators=(",", ":"))
            connection.execute(insert(FRAMES).values(**row, frame=text))
            if readers:
                rows = [{"host": name, "frame": frame.id, "notice": None} for name in readers]
                connection.execute(insert(DELIVERIES), rows)
        self._bells.ring(readers)
        return True

    def has(self, member: str, frame: str) -> bool:
        """Tell whether the mailbox was ever given a frame of a run that a member is in."""
        with reading(self._engine) as connection:
            query = select(FRAMES.c.run).where(FRAMES.c.id == frame)
            run = connection.execute(query).scalar()
        return run is not None and member in self._runs.get(run).hosts

    def notify(
        self, connection: Connection, names: Iterable[str], notice: Mapping[str, Any]
    ) -> Callable[[], None]:
        """Write a notice to some members; call what is returned once that is durable."""
        readers = [name for name in names if self._registry.get(name).revoked is None]
        if readers:
            text = json.dumps(dict(notice), separators=(",", ":"))
            rows = [{"host": name, "frame": None, "notice": text} for name in readers]
            connection.execute(insert(DELIVERIES), rows)
        return lambda: self._bells.ring(readers)

    def _check(self, member: str, run: Run, frame: Frame) -> None:
        if member not in run.hosts:
            raise RequestError("a frame of a run that you are not in", "one of your own runs")
        host, roster = run.hosts[member], run.roster
        if frame.host != host or roster.host_of(PartyId(frame.sender)) != host:
            got, expected = f"a frame of {frame.sender} by {frame.host}", f"of parties of {host}"
            raise RequestError(got, expected)
        if frame.sender not in run.parties:
            raise RequestError(f"the sender {frame.sender!r}", "a party of the run")
        if frame.size > self._limits.frame:
            expected = f"at most {self._limits.frame} bytes"
            raise TooLargeError(f"a frame of {frame.size} bytes", expected)
        _check_readers(run, frame)
        frame.check(self._certificate(run, host, frame.serial))
        if frame.blob and self._depot.blobs.size(frame.blob) != frame.payload_size:
            raise ConflictError("a frame whose blob is not here", "the blob first, and whole")

    def _check_room(self, connection: Connection, member: str, run: Run) -> None:
        mine, most = (FRAMES.c.run == run.id, FRAMES.c.sender == member), self._limits.frames
        if member == HUB:
            return
        waiting = select(FRAMES.c.id).where(*mine).limit(most).subquery()
        if connection.execute(select(func.count()).select_from(waiting)).scalar_one() >= most:
            got, expected = f"{most} frames of {member} that wait in this run", "fewer"
            raise StorageFullError(got, expected, "Wait until others have fetched theirs")

    def _certificate(self, run: Run, host: str, serial: int) -> Certificate:
        """Return the certificate under which a host signed: the run's, or a newer one."""
        pinned = run.certificate(host)
        if pinned.serial == serial:
            return pinned
        found = None if run.hides(host) else self._registry.certificate(host, serial)
        if found is None or found.root != pinned.root:
            raise RequestError(f"certificate {serial} of {host}", "one that this run knows")
        return found

    # -- receiving ---------------------------------------------------------------------------------

    def waiting(self, member: str, after: int) -> list[Message]:
        """Return the mail with numbers above `after`, in order; not all of it if it is much."""
        columns = DELIVERIES.c.seq, DELIVERIES.c.notice, FRAMES.c.frame
        query = (
            select(*columns)
            .join_from(DELIVERIES, FRAMES, FRAMES.c.id == DELIVERIES.c.frame, isouter=True)
            .where(DELIVERIES.c.host == member, DELIVERIES.c.seq > after)
            .order_by(DELIVERIES.c.seq)
            .limit(AT_ONCE)
        )
        found, size = list[Message](), 0
        with reading(self._engine) as connection:
            for seq, notice, frame in connection.execute(query):
                found.append(_message(seq, notice, frame))
                size += len(notice or frame or "")
                if size > LETTERS:
                    break
        return found

    def acknowledge(self, member: str, after: int, receipts: Sequence[Document] = ()) -> None:
        """Forget what a member has, everything up to a number, and keep what it signed for it.

        Raises:
            RefusedError: a receipt is not the member's own, or not of this form; then nothing is
                forgotten.
        """
        signed = self._read_receipts(member, receipts)
        mine = DELIVERIES.c.host == member, DELIVERIES.c.seq <= after
        with reading(self._engine) as connection:
            had = connection.execute(select(DELIVERIES.c.seq).where(*mine).limit(1)).first()
        if had is None and not signed:
            return
        with writing(self._engine) as connection:
            _keep_receipts(connection, signed)
            named = select(DELIVERIES.c.frame).where(*mine, DELIVERIES.c.frame.is_not(None))
            frames = connection.execute(named).scalars().all()
            connection.execute(delete(DELIVERIES).where(*mine))
            blobs = _empty(connection, frames)
        self._depot.release(blobs)

    def drop(self, member: str) -> None:
        """Forget all mail of a member that was revoked, and wake its polls: they end."""
        with writing(self._engine) as connection:
            mine = DELIVERIES.c.host == member
            named = select(DELIVERIES.c.frame).where(mine, DELIVERIES.c.frame.is_not(None))
            frames = connection.execute(named).scalars().all()
            connection.execute(delete(DELIVERIES).where(mine))
            blobs = _empty(connection, frames)
        self._depot.release(blobs)
        self._bells.ring([member])

    def purge(self, ended: float) -> list[str]:
        """Drop the mail of runs that ended before a time, read or not; return these runs."""
        old = RUNS.c.ended < ended, RUNS.c.kept
        with writing(self._engine) as connection:
            runs = connection.execute(select(RUNS.c.run).where(*old)).scalars().all()
            frames = select(FRAMES.c.id).where(FRAMES.c.run.in_(runs))
            blobs = connection.execute(
                select(FRAMES.c.blob).where(FRAMES.c.run.in_(runs), FRAMES.c.blob != "")
            ).scalars().all()  # fmt: skip
            connection.execute(delete(DELIVERIES).where(DELIVERIES.c.frame.in_(frames)))
            connection.execute(delete(FRAMES).where(FRAMES.c.run.in_(runs)))
            connection.execute(delete(RECEIPTS).where(RECEIPTS.c.run.in_(runs)))
            connection.execute(update(RUNS).where(*old).values(kept=False))
        self._depot.release(blobs)
        return list(runs)

    def count(self) -> int:
        """Return how many deliveries wait to be acknowledged."""
        with reading(self._engine) as connection:
            return connection.execute(select(func.count()).select_from(DELIVERIES)).scalar_one()

    # -- receipts ----------------------------------------------------------------------------------

    def put_receipts(self, member: str, receipts: Sequence[Document]) -> None:
        """Keep what a member has signed for; of each kind, the highest number.

        Raises:
            RefusedError: a receipt is not the member's own, or not of this form.
        """
        signed = self._read_receipts(member, receipts)
        if signed:
            with writing(self._engine) as connection:
                _keep_receipts(connection, signed)

    def receipts(self, member: str, run: str, party: str) -> list[Document]:
        """Return the newest receipt of each host for what a party has sent.

        Raises:
            RequestError: the member is not in the run.
        """
        if member not in self._runs.get(run).hosts:
            raise RequestError("receipts of a run that you are not in", "one of your own runs")
        query = select(RECEIPTS.c.receipt).where(RECEIPTS.c.run == run, RECEIPTS.c.party == party)
        with reading(self._engine) as connection:
            rows = connection.execute(query.order_by(RECEIPTS.c.host)).scalars().all()
        return [Document.from_json(row) for row in rows]

    def _read_receipts(self, member: str, receipts: Sequence[Document]) -> list[_Receipt]:
        return [(*self._read_receipt(member, document), document) for document in receipts]

    def _read_receipt(self, member: str, document: Document) -> tuple[str, str, str, int]:
        body = read_receipt(document.body)
        run = self._runs.get(body["run"])
        host = run.hosts.get(member)
        if host is None or body["host"] != host or body["from"] not in run.parties:
            raise RequestError("a receipt of another host", "one of your own")
        known = [] if run.hides(host) else self._registry.certificates(member)
        keys = [certificate.signing for certificate in (run.certificate(host), *known)]
        document.check("receipt", document.key if document.key in keys else keys[-1])
        number = body["number"]
        if not 0 <= number < 2**53:
            raise RefusedError("a receipt whose number is none")
        return run.id, body["from"], host, number


def _keep_receipts(connection: Connection, receipts: Sequence[_Receipt]) -> None:
    for run, party, host, number, document in receipts:
        key = RECEIPTS.c.run == run, RECEIPTS.c.party == party, RECEIPTS.c.host == host
        kept = connection.execute(select(RECEIPTS.c.number).where(*key)).scalar()
        values = {"number": number, "receipt": document.to_json()}
        if kept is None:
            row = {"run": run, "party": party, "host": host, **values}
            connection.execute(insert(RECEIPTS).values(row))
        elif number > kept:
            connection.execute(update(RECEIPTS).where(*key).values(values))


def _check_readers(run: Run, frame: Frame) -> None:
    """Check that every reader is in the run, and every host that has a key carries a reader."""
    researcher = run.roster.researcher.name
    strangers = [to for to in frame.to if to not in run.parties and to != researcher]
    if strangers:
        raise RequestError(f"a frame to {strangers[0]!r}", "parties of the run")
    hosts = {to if to == researcher else run.roster.host_of(PartyId(to)) for to in frame.to}
    if hosts != frame.keys.keys():
        raise RequestError(
            f"keys for {', '.join(sorted(frame.keys))}",
            f"one for each of {', '.join(sorted(hosts))}",
        )


def _check_kept(connection: Connection, run: Run) -> None:
    if not connection.execute(select(RUNS.c.kept).where(RUNS.c.run == run.id)).scalar_one():
        raise ConflictError("a frame of a run that ended long ago", "one whose mail is kept")


def _empty(connection: Connection, frames: Sequence[str]) -> list[str]:
    """Empty the frames that nobody waits for any more; return their blobs."""
    if not frames:
        return []
    awaited = select(DELIVERIES.c.frame).where(DELIVERIES.c.frame.in_(frames))
    done = set(frames).difference(connection.execute(awaited).scalars())
    mine = FRAMES.c.id.in_(done)
    query = select(FRAMES.c.blob).where(mine, FRAMES.c.blob != "")
    blobs = list(connection.execute(query).scalars())
    connection.execute(update(FRAMES).where(mine).values(frame="", blob="", sender=""))
    return blobs


def _message(seq: int, notice: str | None, frame: str | None) -> Message:
    if notice is not None:
        return {"seq": seq, "kind": "notice", "notice": json.loads(notice)}
    return {"seq": seq, "kind": "frame", "frame": json.loads(frame or "null")}
