"""A hub that says something else than was approved is refused, whatever it signs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from tests.node.federation import study

from cohortium.errors import CohortiumError, RefusedError
from cohortium.governance.grant import Grant, Rows
from cohortium.governance.roster import HUB, Roster, Seat, make_roster
from cohortium.host.run import HostedRun
from cohortium.identity import Document, Identity
from cohortium.node.carrying import check_run
from cohortium.node.consents import Offer
from cohortium.study.bundle import Bundle
from cohortium.study.read import parse
from cohortium.types import ArraySpec, Layout, PartyId, SiteId

LAYOUT = Layout((ArraySpec("weight", (1, 2), "float32"), ArraySpec("bias", (1,), "float32")))
HUB_KEYS = Identity.create(HUB, role="hub", now=0.0)
ADA = Identity.create("ada", role="researcher", now=0.0)
SITES = {name: Identity.create(name, role="site", now=0.0) for name in ("aachen", "bonn")}
BUNDLE = parse(study(plan='sites = ["aachen", "bonn"]'), {}, where="study")


def grant(site: str, keys: Identity | None = None, bundle: Bundle = BUNDLE) -> Document:
    keys = keys or SITES[site]
    return Grant(
        study=bundle.digest,
        site=site,
        certificate=keys.certificate,
        dataset="records",
        fingerprint="00" * 32,
        purpose="p",
        researcher="ada",
        researcher_root=ADA.root.public,
        rows=Rows(33, 0, 10),
        inputs=(2,),
        rounds=3,
        until=1e12,
        layout=LAYOUT,
        initial="11" * 32,
        initial_blob="22" * 32,
        environment={},
        time=0.0,
    ).sign(keys.root)


GRANTS = {site: grant(site) for site in SITES}


def offer(document: Document | None, decision: str = "approved") -> Offer:
    kept = document if document is not None else None
    return Offer(
        BUNDLE.digest, "hearts", "p", "running", decision, "records", kept, None, 0.0, True
    )


def roster(grants: dict[str, Document], bundle: Bundle = BUNDLE) -> Roster:
    return make_roster(
        bundle,
        list(grants.items()),
        hub=HUB_KEYS.certificate,
        researcher=ADA.certificate,
        nonce="0" * 32,
        now=1.0,
    )


def hosted(said: Roster, bundle: Bundle = BUNDLE) -> HostedRun:
    return HostedRun.of(said.sign(HUB_KEYS.root), bundle, hub=HUB_KEYS.root.public)


def check(said: Roster, kept: Offer) -> Seat:
    return check_run(hosted(said), kept, keys=SITES["aachen"], broker=False)


def test_what_was_approved_is_carried() -> None:
    seat = check(roster(GRANTS), offer(GRANTS["aachen"]))
    assert (seat.site, seat.rows) == ("aachen", 33)


@pytest.mark.parametrize("decision", ["", "declined"])
def test_what_was_not_approved_is_not(decision: str) -> None:
    with pytest.raises(RefusedError, match="has not approved"):
        check(roster(GRANTS), offer(GRANTS["aachen"], decision))


def test_a_run_without_this_site() -> None:
    eve = Identity.create("aachen", role="site", now=0.0)
    imposed = {**GRANTS, "aachen": grant("aachen", eve)}
    with pytest.raises(RefusedError, match="under its own key"):
        check(roster(imposed), offer(GRANTS["aachen"]))


def test_another_consent_than_the_one_that_was_kept() -> None:
    document = replace(Grant.of(GRANTS["aachen"]), rounds=300).sign(SITES["aachen"].root)
    with pytest.raises(RefusedError, match="another consent"):
        check(roster({**GRANTS, "aachen": document}), offer(GRANTS["aachen"]))


def seat_of(said: Roster, **changes: object) -> Roster:
    mine, other = said.seats
    return replace(said, seats=(replace(mine, **changes), other))  # type: ignore[arg-type]


def other_seat_of(said: Roster, **changes: object) -> Roster:
    mine, other = said.seats
    return replace(said, seats=(mine, replace(other, **changes)))  # type: ignore[arg-type]


OTHER_ADA = Identity.create("ada", role="researcher", now=0.0)
BONN = Identity.create("bonn", role="researcher", now=0.0)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda r: replace(r, initial="33" * 32), "another initial"),
        (lambda r: replace(r, layout=Layout(LAYOUT.specs[:1])), "another layout"),
        (lambda r: replace(r, inputs=(3,)), "another inputs"),
        (lambda r: replace(r, hosts={PartyId("@aggregator"): "bonn"}), "carried by bonn"),
        (lambda r: replace(r, hosts={}), "@aggregator is carried by nobody"),
        (lambda r: replace(r, hosts={**r.hosts, PartyId("@clerk"): HUB}), "@clerk is carried"),
        (lambda r: seat_of(r, trains=False), "whether aachen trains"),
        (lambda r: other_seat_of(r, trains=False), "whether bonn trains"),
        (lambda r: replace(r, seats=r.seats[::-1]), "among other sites"),
        (lambda r: replace(r, researcher=OTHER_ADA.certificate), "another researcher"),
        (lambda r: replace(r, researcher=BONN.certificate), "researcher is called"),
        (lambda r: replace(r, researcher=HUB_KEYS.certificate), "researcher is called"),
        (lambda r: replace(r, broker=True), "an honest broker starts"),
        (lambda r: seat_of(r, rows=330), "aachen consented to"),
        (lambda r: seat_of(r, grant=None), "no consent of aachen"),
        (lambda r: replace(r, seats=(r.seats[0],)), "among other sites"),
        (lambda r: replace(r, study="44" * 32), "consented to"),
    ],
)
def test_a_roster_that_says_something_else(change: Callable[[Roster], Roster], why: str) -> None:
    with pytest.raises(CohortiumError, match=why):
        check(change(roster(GRANTS)), offer(GRANTS["aachen"]))


def test_a_host_that_the_study_names_cannot_be_left_out() -> None:
    text = study(plan='sites = ["aachen", "bonn"]\nhosts = {"@aggregator" = "bonn"}')
    bundle = parse(text, {}, where="study")
    grants = {site: grant(site, bundle=bundle) for site in SITES}
    said = roster(grants, bundle=bundle)
    kept = replace(offer(grants["aachen"]), digest=bundle.digest)
    keys = SITES["aachen"]
    check_run(hosted(said, bundle), kept, keys=keys, broker=False)
    with pytest.raises(RefusedError, match="@aggregator is carried by nobody"):
        check_run(hosted(replace(said, hosts={}), bundle), kept, keys=keys, broker=False)


def test_a_roster_that_somebody_else_signed() -> None:
    with pytest.raises(RefusedError):
        HostedRun.of(roster(GRANTS).sign(ADA.root), BUNDLE, hub=HUB_KEYS.root.public)


def test_behind_a_broker_rows_are_rounded_and_names_are_not_ones_own() -> None:
    bundle = parse(study(), {}, where="study")
    names = {"aachen": "site-2", "bonn": "site-1"}
    keys = {site: Identity.create(name, role="site", now=0.0) for site, name in names.items()}
    grants = {site: grant(site, keys[site], bundle) for site in names}
    said = make_roster(
        bundle,
        list(grants.items()),
        hub=HUB_KEYS.certificate,
        researcher=ADA.certificate,
        nonce="0" * 32,
        now=1.0,
        pseudonyms=names,
    )
    kept = replace(offer(grants["aachen"]), digest=bundle.digest)
    run = hosted(said, bundle)
    seat = check_run(run, kept, keys=keys["aachen"], broker=True)
    assert (seat.site, seat.rows, seat.grant) == (SiteId("site-2"), 40, None)
    told = replace(said, seats=tuple(replace(s, rows=s.rows + 10) for s in said.seats))
    with pytest.raises(RefusedError, match="does not say of this site"):
        check_run(hosted(told, bundle), kept, keys=keys["aachen"], broker=True)
    with pytest.raises(RefusedError, match="an honest broker starts"):
        check_run(run, kept, keys=keys["aachen"], broker=False)
    eve = Identity.create("eve", role="researcher", now=0.0).certificate
    sent = hosted(replace(said, researcher=eve), bundle)
    with pytest.raises(RefusedError, match="another researcher"):
        check_run(sent, kept, keys=keys["aachen"], broker=True)
