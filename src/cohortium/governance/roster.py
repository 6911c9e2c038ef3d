"""Who takes part in a run, by which keys, and who carries which party: signed by the hub, checked
by every site against its own consent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from cohortium.data.names import SITE_NAME
from cohortium.errors import Problem, RefusedError, StudyError
from cohortium.governance.grant import Grant, layout_of, specs
from cohortium.identity import Certificate, Document, SigningKey
from cohortium.plan.plan import Member, Plan
from cohortium.study.bundle import Bundle
from cohortium.study.compile import compile_plan
from cohortium.types import Layout, PartyId, SiteId

KIND = "roster"
HUB = "@hub"
"""The hub's name among the hosts."""

PRIVATE_STEP = 10
"""Row counts of a study with pseudonyms are rounded up to a multiple of this."""


@dataclass(frozen=True)
class Seat:
    """One site in a run.

    Attributes:
        site: its name in this run.
        certificate: its working keys; `certificate.root` is the key that the run pins.
        rows: training rows that it declared; the most that its update may weigh.
        trains: False where it only evaluates.
        grant: its signed consent; None in a study with pseudonyms, where only the broker has it.
    """

    site: SiteId
    certificate: Certificate
    rows: int
    trains: bool
    grant: Document | None


@dataclass(frozen=True)
class Roster:
    """What a run is, beside the study itself.

    Attributes:
        study: digest of the study bundle.
        nonce: 32 hex digits, so that no two runs share an id.
        seats: the sites, in roster order.
        hosts: who carries the parties that are no sites.
        layout: the model's arrays.
        initial: digest of the model that round 1 starts from.
        initial_blob: SHA-256 of its safetensors file.
        inputs: shape of one row.
        researcher: who gets the result.
        hub: the hub's certificate.
        broker: whether sites appear under pseudonyms.
        time: when the run began, seconds since 1970.
    """

    study: str
    nonce: str
    seats: tuple[Seat, ...]
    hosts: Mapping[PartyId, str]
    layout: Layout
    initial: str
    initial_blob: str
    inputs: tuple[int, ...]
    researcher: Certificate
    hub: Certificate
    broker: bool
    time: float

    @property
    def members(self) -> tuple[Member, ...]:
        """The sites as a plan knows them."""
        return tuple(Member(seat.site, seat.rows, trains=seat.trains) for seat in self.seats)

    def host_of(self, party: PartyId) -> str:
        """Return who carries a party: a site its own, anyone else by the table, or the hub."""
        if any(PartyId(seat.site) == party for seat in self.seats):
            return party
        return self.hosts.get(party, HUB)

    def root_of(self, host: str) -> str:
        """Return the key that this run pins for a host.

        Raises:
            RefusedError: no such host is in the run.
        """
        if host == HUB:
            return self.hub.root
        if host == self.researcher.name:
            return self.researcher.root
        for seat in self.seats:
            if seat.site == host:
                return seat.certificate.root
        raise RefusedError(f"{host} is not in this run")

    def plan(self, bundle: Bundle) -> Plan:
        """Return the compiled plan.

        Raises:
            RefusedError: the bundle is another study's.
            StudyError: the sites do not fit it.
        """
        if bundle.digest != self.study:
            raise RefusedError("the study is not the one that the run was started for")
        return compile_plan(bundle, self.members)

    def sign(self, hub: SigningKey) -> Document:
        """Return the roster signed with the hub's root key; the document's digest names the run."""
        seats = [
            {
                "site": seat.site,
                "certificate": seat.certificate.to_json(),
                "rows": seat.rows,
                "trains": seat.trains,
                "grant": None if seat.grant is None else seat.grant.to_json(),
            }
            for seat in self.seats
        ]
        body = {
            **{key: getattr(self, key) for key in _PLAIN},
            "seats": seats,
            "hosts": dict(self.hosts),
            "layout": specs(self.layout),
            "inputs": list(self.inputs),
            "researcher": self.researcher.to_json(),
            "hub": self.hub.to_json(),
        }
        return Document.of(KIND, body, hub)

    @classmethod
    def of(cls, document: Document, *, hub: str) -> Self:
        """Return the roster in a signed document.

        Args:
            document: as the hub gave it.
            hub: the hub's root key, as pinned when joining.

        Raises:
            RefusedError: it is not signed by the hub, not of this form, or holds a consent that its
                site did not sign, or that says something else.
        """
        body = document.check(KIND, hub)
        try:
            seats = tuple(_seat(entry) for entry in body["seats"])
            found = cls(
                **{key: body[key] for key in _PLAIN},
                seats=seats,
                hosts={PartyId(str(k)): str(v) for k, v in body["hosts"].items()},
                layout=layout_of(body["layout"]),
                inputs=tuple(int(n) for n in body["inputs"]),
                researcher=Certificate.from_json(body["researcher"]),
                hub=Certificate.from_json(body["hub"]),
            )
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise RefusedError(f"a roster that cannot be read ({type(error).__name__})") from error
        found._check(hub)
        return found

    def _check(self, hub: str) -> None:
        self.hub.check(hub)
        if (self.hub.name, self.hub.role) != (HUB, "hub"):
            raise RefusedError("the roster holds a certificate that is not the hub's")
        self.researcher.check(self.researcher.root)
        sites = {seat.site for seat in self.seats}
        if len(sites) != len(self.seats):
            raise RefusedError("the roster names a site twice")
        if self.researcher.name in {HUB, *sites}:
            raise RefusedError(f"the roster's researcher is called {self.researcher.name}")
        for seat in self.seats:
            if not SITE_NAME.fullmatch(seat.site):
                raise RefusedError(f"{seat.site!r} in the roster is not a site's name")
            if seat.certificate.name != seat.site:
                raise RefusedError(f"{seat.site} has a certificate of {seat.certificate.name!r}")
            seat.certificate.check(seat.certificate.root)
            if seat.grant is None and self.broker:
                continue
            if seat.grant is None:
                raise RefusedError(f"the roster has no consent of {seat.site}")
            grant = Grant.of(seat.grant)
            same = (grant.site, grant.rows.train, grant.certificate.root, grant.study)
            if same != (seat.site, seat.rows, seat.certificate.root, self.study):
                raise RefusedError(f"the roster does not say what {seat.site} consented to")
            if not grant.names(self.researcher):
                raise RefusedError(f"{seat.site} consented to a study of another researcher")


_PLAIN = ("study", "nonce", "initial", "initial_blob", "broker", "time")


def run_id(document: Document) -> str:
    """Return what a run is called: 32 hex digits of its signed roster's digest."""
    return document.digest[:32]


def make_roster(
    bundle: Bundle,
    consents: Sequence[tuple[str, Document]],
    *,
    hub: Certificate,
    researcher: Certificate,
    nonce: str,
    now: float,
    pseudonyms: Mapping[str, str] | None = None,
) -> Roster:
    """Return the roster of a new run, after checking that it can run.

    Args:
        bundle: the study.
        consents: each site's name and its signed consent, in roster order.
        hub: the hub's certificate.
        researcher: that of who gets the result.
        nonce: 32 random hex digits.
        now: seconds since 1970.
        pseudonyms: in honest broker mode, site to its name in this study.

    Raises:
        StudyError: a site is missing, the sites' models differ, or they do not fit the plan.
    """
    study, where = bundle.study, bundle.study.study.name
    grants = {site: Grant.of(document) for site, document in consents}
    named = pseudonyms or {site: site for site in grants}
    consenting = [(named[site], grant) for site, grant in grants.items()]
    _check_alike(consenting, where)
    _check_researcher(consenting, researcher, where=where)
    only = frozenset(study.plan.evaluation_only)
    documents = dict(consents)
    seats = tuple(
        Seat(
            SiteId(named[site]),
            grant.certificate,
            _rounded(grant.rows.train) if pseudonyms else grant.rows.train,
            site not in only and named[site] not in only,
            None if pseudonyms else documents[site],
        )
        for site, grant in grants.items()
    )
    first = next(iter(grants.values()))
    roster = Roster(
        study=bundle.digest,
        nonce=nonce,
        seats=seats,
        hosts={},
        layout=first.layout,
        initial=first.initial,
        initial_blob=first.initial_blob,
        inputs=first.inputs,
        researcher=researcher,
        hub=hub,
        broker=pseudonyms is not None,
        time=now,
    )
    return replace(roster, hosts=hosts_of(bundle, roster.plan(bundle)))


def hosts_of(bundle: Bundle, plan: Plan) -> Mapping[PartyId, str]:
    """Return who carries the parties that are no sites: whom the study names, else the hub."""
    chosen: Mapping[str, str] = bundle.study.plan.hosts
    sites = {PartyId(site) for site in plan.rows}
    return {party: chosen.get(party, HUB) for party in plan.parties if party not in sites}


def _seat(entry: Mapping[str, Any]) -> Seat:
    grant = entry["grant"]
    rows = entry["rows"]
    if isinstance(rows, bool) or not isinstance(rows, int) or rows < 0:
        raise ValueError("rows are no count")
    return Seat(
        SiteId(str(entry["site"])),
        Certificate.from_json(entry["certificate"]),
        rows,
        bool(entry["trains"]),
        None if grant is None else Document.from_json(grant),
    )


def _rounded(rows: int) -> int:
    return -(-rows // PRIVATE_STEP) * PRIVATE_STEP


def _check_alike(grants: Sequence[tuple[str, Grant]], where: str) -> None:
    """Refuse sites whose models are not the same: they could not end with the same bits."""
    if not grants:
        got, advice = "no site that consented", "Wait for approvals: cohortium study show"
        raise StudyError(Problem(where, "", got, "at least one", advice))
    name, first = grants[0]
    for other, grant in grants[1:]:
        for what in ("layout", "inputs", "initial"):
            if getattr(grant, what) != getattr(first, what):
                got = f"another {what} at {other} ({_versions(grant)})"
                expected = f"that of {name} ({_versions(first)})"
                advice = "Bring both to the same versions, and let that site approve again"
                raise StudyError(Problem(where, what, got, expected, advice))


def _check_researcher(
    grants: Sequence[tuple[str, Grant]], researcher: Certificate, *, where: str
) -> None:
    """Refuse a researcher who joined anew, under another key, since a site was asked."""
    for site, grant in grants:
        if not grant.names(researcher):
            got, expected = f"another researcher, at {site}", f"{researcher.name}, by today's key"
            raise StudyError(Problem(where, "researcher", got, expected, "Let it approve again"))


def _versions(grant: Grant) -> str:
    return ", ".join(f"{name} {version}" for name, version in sorted(grant.environment.items()))
