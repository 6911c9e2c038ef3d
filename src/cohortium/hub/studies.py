"""Studies: submitted, answered by sites, started, steered, ended.

    submit ─▶ open ── start ─▶ running ⇄ paused ─▶ finished | failed | stopped
               └──── stop ────────────────────────▶ stopped

What a study's status is here is for people and for who starts and stops; what a run does, its
parties decide, each by its own journal.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from sqlalchemy import Connection, Engine, Row, Select, delete, insert, select, true, update

from cohortium.errors import Problem, RefusedError, StudyError
from cohortium.governance.grant import Grant
from cohortium.governance.roster import HUB, make_roster, run_id
from cohortium.hub.depot import Depot
from cohortium.hub.mailbox import Mailbox
from cohortium.hub.pseudonyms import Pseudonyms
from cohortium.hub.registry import Member, Registry
from cohortium.hub.runs import ENDED, Run, Runs
from cohortium.hub.tables import ANSWERS, STUDIES, STUDY_BLOBS
from cohortium.identity import Document
from cohortium.store.database import reading, writing
from cohortium.study.bundle import Bundle, named_files
from cohortium.study.read import parse
from cohortium.transport.errors import ConflictError, RequestError, UnknownError

_LOG = structlog.get_logger()

STEERS = {
    "pause": (("running",), "paused"),
    "resume": (("paused",), "running"),
    "stop": (("open", "running", "paused"), "stopped"),
}
"""What an order may be given to, and what it makes of it."""

CONTROLS = ("extend", "exclude", "readmit")
FILES = 100
"""The most files of a study."""


@dataclass(frozen=True)
class Answer:
    """What a site answered: its consent, or None and why it declines."""

    site: str
    grant: Document | None
    reason: str


class Studies:
    """The studies of a federation.

    Args:
        engine: the hub's database.
        registry: the members.
        runs: where started ones go.
        mailbox: tells members.
        depot: the studies' files.
        pseudonyms: of the sites, in honest broker mode.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        registry: Registry,
        runs: Runs,
        mailbox: Mailbox,
        depot: Depot,
        pseudonyms: Pseudonyms,
        clock: Callable[[], float],
    ) -> None:
        self._engine, self._registry, self._runs = engine, registry, runs
        self._mailbox, self._depot = mailbox, depot
        self._pseudonyms, self._clock = pseudonyms, clock

    # -- submitting and reading --------------------------------------------------------------------

    def submit(self, member: Member, text: str, files: Mapping[str, str]) -> str:
        """Take a study whose files are here as blobs; return its digest.

        One that ended may be submitted again: all sites are asked anew.

        Raises:
            StudyError: the study is invalid, or a file that it names is not given.
            ConflictError: a file is not here, or somebody else has submitted this study.
        """
        _check_role(member, "researcher", "coordinator")
        missing = self._missing(member, files.values())
        if missing:
            raise ConflictError(f"a file {missing[0][:12]} that is not here", "all files first")
        bundle = parse(text, {path: self._read(blob) for path, blob in files.items()}, where=_FILE)
        self._check_bundle(bundle, files)
        study = bundle.study
        row = {
            "name": study.study.name,
            "purpose": study.study.purpose,
            "submitted_by": member.name,
            "root": member.root,
            "submitted_at": self._clock(),
            "status": "open",
            "reason": "",
            "text": text,
            "files": dict(files),
            "sites": None if study.plan.sites is None else list(study.plan.sites),
            "run": "",
        }
        with writing(self._engine) as connection:
            if not self._put(connection, bundle.digest, row):
                return bundle.digest
            self._pseudonyms.draw(connection, bundle.digest)
            ring = self._tell(connection, bundle.digest, self._sites())
        ring()
        _LOG.info("study submitted", study=bundle.digest, site=member.name)
        return bundle.digest

    def bundle(self, digest: str) -> Bundle:
        """Return a study with its files."""
        row = self._row(digest)
        files = {path: self._read(blob) for path, blob in row.files.items()}
        return parse(row.text, files, where=row.name)

    def shown(self, member: Member) -> list[dict[str, Any]]:
        """Return the studies that a member may see, in the order of their submission."""
        query = select(STUDIES).where(STUDIES.c.digest.in_(self.visible(member)))
        with reading(self._engine) as connection:
            rows = connection.execute(query.order_by(STUDIES.c.position)).all()
        return [self._told(member, row) for row in rows]

    def show(self, member: Member, digest: str) -> dict[str, Any]:
        """Return one study.

        Raises:
            UnknownError: there is none, or none that the member may see.
        """
        visible = self.visible(member).where(STUDIES.c.digest == digest)
        with reading(self._engine) as connection:
            if connection.execute(visible).first() is None:
                raise _unknown(digest)
        return self._told(member, self._row(digest))

    def visible(self, member: Member) -> Select[tuple[str]]:
        """Return the query for the digests of the studies that a member may see.

        A site sees those that wait for approval and those that it has approved; a researcher its
        own.
        """
        query = select(STUDIES.c.digest)
        if member.role == "site":
            granted = select(ANSWERS.c.study).where(
                ANSWERS.c.site == member.name, ANSWERS.c.grant.is_not(None)
            )
            return query.where((STUDIES.c.status == "open") | STUDIES.c.digest.in_(granted))
        if member.role == "researcher":
            return query.where(STUDIES.c.root == member.root)
        return query.where(true())

    # -- answers of sites --------------------------------------------------------------------------

    def grant(self, member: Member, digest: str, document: Document) -> None:
        """Keep a site's signed consent; a new one replaces the one before.

        Raises:
            RefusedError: it is not this site's, to this study, or not signed as it must be.
            ConflictError: the study is not open, or the initial model is not here.
        """
        _check_role(member, "site")
        grant = Grant.of(document)
        self._check_grant(member, digest, grant)
        if self._missing(member, [grant.initial_blob]):
            expected = f"the blob {grant.initial_blob[:12]} first"
            raise ConflictError("an initial model that is not here", expected)
        blobs = [grant.initial_blob]
        self._answer(member, digest, grant=document.to_json(), reason="", blobs=blobs)

    def decline(self, member: Member, digest: str, reason: str) -> None:
        """Keep that a site does not take part; an earlier consent is taken back.

        Raises:
            ConflictError: the study is not open.
        """
        _check_role(member, "site")
        self._answer(member, digest, grant=None, reason=reason, blobs=())

    def forget(self, site: str) -> None:
        """Drop the answers of who was revoked: they bind nobody who has its name later."""
        with writing(self._engine) as connection:
            connection.execute(delete(ANSWERS).where(ANSWERS.c.site == site))

    def _answer(
        self,
        member: Member,
        digest: str,
        *,
        grant: dict[str, Any] | None,
        reason: str,
        blobs: Sequence[str],
    ) -> None:
        mine = ANSWERS.c.study == digest, ANSWERS.c.site == member.name
        row = {"grant": grant, "reason": reason, "time": self._clock()}
        with writing(self._engine) as connection:
            study = _open(connection, digest)
            connection.execute(delete(ANSWERS).where(*mine))
            connection.execute(insert(ANSWERS).values(study=digest, site=member.name, **row))
            _refer(connection, digest, blobs)
            ring = self._tell(connection, digest, [study.submitted_by])
        ring()
        said = "study declined" if grant is None else "study granted"
        _LOG.info(said, study=digest, site=member.name)

    def _check_grant(self, member: Member, digest: str, grant: Grant) -> None:
        if grant.study != digest:
            raise RefusedError("a consent to another study")
        if self._pseudonyms.on:
            name = self._pseudonyms.of(digest)[member.name]
            if grant.certificate.name != name or grant.certificate.root == member.root:
                raise RefusedError(
                    f"a certificate of {grant.certificate.name!r}; behind an honest broker it is "
                    f"one of {name!r}, with keys made for this study"
                )
        elif (grant.certificate.name, grant.certificate.root) != (member.name, member.root):
            raise RefusedError(f"a consent that is not signed with the key of {member.name}")
        if grant.site != member.name:
            raise RefusedError(f"a consent of {grant.site!r}, not of {member.name!r}")

    # -- running -----------------------------------------------------------------------------------

    def start(self, member: Member, digest: str) -> Run:
        """Start a study with the sites that have consented: all that it names, if it names any.

        Raises:
            StudyError: a site is missing, the sites' models differ, or they do not fit the plan.
            ConflictError: the study is not open.
        """
        row = self._mine(member, digest)
        if row.status != "open":
            raise ConflictError(f"a study that is {row.status}", "one that is open")
        bundle, now = self.bundle(digest), self._clock()
        names = self._pseudonyms.of(digest) if self._pseudonyms.on else None
        consents = self._consents(row, bundle, names or {}, now)
        roster = make_roster(
            bundle,
            consents,
            hub=self._registry.identity.certificate,
            researcher=self._submitter(row).certificate,
            nonce=secrets.token_hex(16),
            now=now,
            pseudonyms=names and {site: names[site] for site, _ in consents},
        )
        members = {names[site] if names else site: site for site, _ in consents}
        members |= {HUB: HUB, row.submitted_by: row.submitted_by}
        document = roster.sign(self._registry.identity.root)
        run = Run(run_id(document), digest, document, roster, members, "running", "")
        with writing(self._engine) as connection:
            _open(connection, digest)
            self._runs.add(connection, run, now)
            _set(connection, digest, status="running", run=run.id)
            notice = {"kind": "run", "run": run.id, "study": digest}
            ring = self._mailbox.notify(connection, members.values(), notice)
        ring()
        _LOG.info("run started", study=digest, run=run.id, sites=len(roster.seats))
        return run

    def steer(self, member: Member, digest: str, op: str, reason: str) -> str:
        """Pause, resume or stop a study; return its status.

        Raises:
            ConflictError: the study is not in a state in which this can be done.
        """
        row, now = self._mine(member, digest), self._clock()
        allowed, status = STEERS[op]
        with writing(self._engine) as connection:
            row = connection.execute(select(STUDIES).where(STUDIES.c.digest == digest)).one()
            if row.status == status:
                return status
            if row.status not in allowed:
                expected = f"one that is {' or '.join(allowed)}"
                raise ConflictError(f"a study that is {row.status}", expected)
            _set(connection, digest, status=status, reason=reason)
            if row.run:
                self._runs.set_status(connection, row.run, status, reason=reason, now=now)
                ring = self._order(connection, self._runs.get(row.run), op, reason=reason)
            else:
                ring = self._tell(connection, digest, self._sites())
        if row.run:
            self._runs.changed(row.run, status, reason)
        ring()
        _LOG.info("study steered", study=digest, run=row.run, op=op, site=member.name)
        return status

    def control(self, run_name: str, op: str, *, site: str, seconds: float, reason: str) -> None:
        """Extend a run's deadlines, exclude a site, or let it take part again.

        Raises:
            UnknownError: there is no such run, or no such site in it.
            ConflictError: the run has ended.
        """
        run = self._runs.get(run_name)
        if run.status in ENDED:
            raise ConflictError(f"a run that is {run.status}", "one that goes on")
        if op != "extend" and site not in {seat.site for seat in run.roster.seats}:
            raise UnknownError(f"{site!r}", "a site of this run")
        with writing(self._engine) as connection:
            ring = self._order(connection, run, op, site=site, seconds=seconds, reason=reason)
        ring()
        _LOG.info("run controlled", study=run.study, run=run.id, op=op, of=site)

    def end(self, run_name: str, status: str, reason: str) -> None:
        """Keep how a run ended, as the party that closes its rounds says; the first end counts."""
        run = self._runs.get(run_name)
        if run.status in ENDED:
            return
        with writing(self._engine) as connection:
            self._runs.set_status(connection, run.id, status, reason=reason, now=self._clock())
            _set(connection, run.study, status=status, reason=reason)
            ring = self._tell(connection, run.study, [n for n in run.members.values() if n != HUB])
        self._runs.changed(run.id, status, reason)
        ring()
        _LOG.info("run ended", study=run.study, run=run.id, status=status, reason=reason)

    def _order(
        self,
        connection: Connection,
        run: Run,
        op: str,
        *,
        site: str = "",
        seconds: float = 0.0,
        reason: str,
    ) -> Callable[[], None]:
        """Write an order to every host of a run. Each has a name, so that it is obeyed once."""
        notice = {
            "kind": "control",
            "run": run.id,
            "op": op,
            "site": site,
            "seconds": seconds,
            "reason": reason,
            "id": secrets.token_hex(16),
        }
        return self._mailbox.notify(connection, run.members.values(), notice)

    def _consents(
        self, row: Row[Any], bundle: Bundle, names: Mapping[str, str], now: float
    ) -> list[tuple[str, Document]]:
        """Return the sites that take part with their consents, in roster order.

        That of joining; of pseudonyms, where there are some: the other would tell who is who.
        """
        answers = {answer.site: answer.grant for answer in self._answers(row.digest)}
        given = {site: grant for site, grant in answers.items() if grant is not None}
        wanted = row.sites if row.sites is not None else list(given)
        if names:
            wanted.sort(key=lambda site: (len(names[site]), names[site]))
        rounds, problems = max(bundle.study.plan.rounds, 1), []
        for site in wanted:
            if site not in given:
                got = "no consent of " + site
                problems.append(Problem(row.name, "plan.sites", got, "one of every site", _WAIT))
                continue
            grant = Grant.of(given[site])
            if not names and grant.certificate.root != self._registry.active(site).root:
                raise ConflictError(f"a consent of who was {site} before", "one of the member")
            refusal = grant.refusal(study=row.digest, round_=rounds, now=now)
            if refusal:
                got, expected = f"of {names.get(site, site)}: {refusal}", f"{rounds} rounds, now"
                problems.append(Problem(row.name, "grant", got, expected, "Let it approve again"))
        if problems:
            raise StudyError(*problems)
        return [(site, given[site]) for site in wanted]

    # -- rows --------------------------------------------------------------------------------------

    def _put(self, connection: Connection, digest: str, row: Mapping[str, Any]) -> bool:
        """Write a new study, or one that ended before; return False if it is open or running."""
        named = STUDIES.c.digest == digest
        before = connection.execute(select(STUDIES).where(named)).one_or_none()
        if before is None:
            connection.execute(insert(STUDIES).values(digest=digest, **row))
        elif before.submitted_by != row["submitted_by"]:
            raise ConflictError("a study that somebody else has submitted", "one of your own")
        elif before.status not in ENDED and before.root != row["root"]:
            raise ConflictError("a study of who had this name before", "one of your own")
        elif before.status not in ENDED:
            return False
        else:
            connection.execute(update(STUDIES).where(named).values(**row))
            connection.execute(delete(ANSWERS).where(ANSWERS.c.study == digest))
        _refer(connection, digest, row["files"].values())
        return True

    def _mine(self, member: Member, digest: str) -> Row[Any]:
        """Return a study that a member may start and stop."""
        row = self._row(digest)
        if member.role != "coordinator" and row.root != member.root:
            if member.role == "researcher":
                raise _unknown(digest)
            raise RequestError(f"{member.name}, a {member.role}", "the submitter or a coordinator")
        return row

    def _submitter(self, row: Row[Any]) -> Member:
        """Return who submitted a study, if it is still a member, under the same root key."""
        member = self._registry.active(row.submitted_by)
        if member.root != row.root:
            raise ConflictError("a study of who had this name before", "one of a member")
        return member

    def _row(self, digest: str) -> Row[Any]:
        with reading(self._engine) as connection:
            query = select(STUDIES).where(STUDIES.c.digest == digest)
            row = connection.execute(query).one_or_none()
        if row is None:
            raise _unknown(digest)
        return row

    def _answers(self, digest: str) -> list[Answer]:
        """Return the answers of members that are not revoked, in the order of joining."""
        with reading(self._engine) as connection:
            rows = connection.execute(select(ANSWERS).where(ANSWERS.c.study == digest)).all()
        found = {row.site: row for row in rows}
        return [
            Answer(member.name, row.grant and Document.from_json(row.grant), row.reason)
            for member in self._registry.members()
            if member.revoked is None and (row := found.get(member.name)) is not None
        ]

    def _told(self, member: Member, row: Row[Any]) -> dict[str, Any]:
        """Return what a member is told of a study; behind a broker, nobody's name but its own."""
        answers, hidden = self._answers(row.digest), self._pseudonyms.on
        names = self._pseudonyms.of(row.digest) if hidden else {}
        if hidden:  # the order of joining would tell who is who
            answers.sort(key=lambda answer: (len(names[answer.site]), names[answer.site]))
        sees_all = not hidden or member.role == "coordinator"
        grants = [a for a in answers if a.grant is not None]
        declines = [a for a in answers if a.grant is None]
        return {
            "digest": row.digest,
            "name": row.name,
            "purpose": row.purpose,
            "submitted_by": row.submitted_by,
            "submitter_root": self._registry.get(row.submitted_by).root,
            "submitted_at": row.submitted_at,
            "status": row.status,
            "reason": row.reason,
            "text": row.text,
            "files": row.files,
            "sites": row.sites,
            "grants": [
                a.grant.to_json()
                for a in grants
                if a.grant is not None and (sees_all or a.site == member.name)
            ],
            "granted": [names.get(a.site, a.site) for a in grants],
            "declines": [{"site": names.get(a.site, a.site), "reason": a.reason} for a in declines],
            "run": row.run,
            "pseudonym": names.get(member.name, ""),
        }

    def _sites(self) -> list[str]:
        return [m.name for m in self._registry.members() if m.role in ("site", "coordinator")]

    def _tell(
        self, connection: Connection, digest: str, names: Sequence[str]
    ) -> Callable[[], None]:
        return self._mailbox.notify(connection, names, {"kind": "study", "digest": digest})

    def _missing(self, member: Member, blobs: Iterable[str]) -> list[str]:
        """Return the blobs that are not here, or that a member has neither brought nor may read.

        What a study refers to can be read by who sees the study.
        """
        visible = self.visible(member)
        return [b for b in blobs if not self._depot.is_at_hand(member.name, b, visible)]

    def _read(self, blob: str) -> bytes:
        return self._depot.blobs.read(blob, 0, self._depot.blobs.size(blob) or 0)

    def _check_bundle(self, bundle: Bundle, files: Mapping[str, str]) -> None:
        named = {path for _, path in named_files(bundle.study)}
        extra = sorted(set(files) - named)
        if extra:
            got, expected = f"the file {extra[0]!r}", "only files that the study names"
            raise StudyError(Problem(_FILE, "files", got, expected))
        if self._pseudonyms.on and bundle.study.plan.sites is not None:
            advice = "Behind an honest broker nobody may know who takes part. Leave the key out"
            raise StudyError(Problem(_FILE, "plan.sites", "names of sites", "none", advice))


_FILE = "study.toml"
_WAIT = "Wait for its approval, or submit the study without it"


def _check_role(member: Member, *roles: str) -> None:
    if member.role not in roles:
        raise RequestError(f"{member.name}, a {member.role}", f"a {' or a '.join(roles)}")


def _open(connection: Connection, digest: str) -> Row[Any]:
    row = connection.execute(select(STUDIES).where(STUDIES.c.digest == digest)).one_or_none()
    if row is None:
        raise _unknown(digest)
    if row.status != "open":
        raise ConflictError(f"a study that is {row.status}", "one that is open")
    return row


def _set(connection: Connection, digest: str, **values: str) -> None:
    connection.execute(update(STUDIES).where(STUDIES.c.digest == digest).values(**values))


def _refer(connection: Connection, digest: str, blobs: Sequence[str]) -> None:
    """Let a study keep blobs for as long as it is known."""
    query = select(STUDY_BLOBS.c.blob).where(STUDY_BLOBS.c.study == digest)
    known = set(connection.execute(query).scalars())
    rows = [{"study": digest, "blob": blob} for blob in dict.fromkeys(blobs) if blob not in known]
    if rows:
        connection.execute(insert(STUDY_BLOBS), rows)


def _unknown(digest: str) -> UnknownError:
    return UnknownError(f"the study {digest[:12]}", "one that you may see")
