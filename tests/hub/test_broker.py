"""An honest broker: sites stay unknown to each other and to researchers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.hub.federation import DIGEST, STUDY, Federation, federation, receipt
from tests.store.servers import BACKENDS

from cohortium.errors import RefusedError, StudyError
from cohortium.governance.roster import Roster
from cohortium.identity import Identity, SignatureError
from cohortium.transport.errors import RequestError, UnknownError


@pytest.fixture(params=BACKENDS)
def fed(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Federation]:
    """A federation around a broker; its sites have names that a text is searched for."""
    with federation(tmp_path, request.param, broker=True) as found:
        for site in ("Rikshospitalet", "Haukeland"):
            found.join(site)
        yield found


SITES = ["Rikshospitalet", "Haukeland"]


def pseudonym(fed: Federation, site: str) -> str:
    return fed.service.pseudonyms.of(DIGEST)[site]


def mentions(value: object) -> list[str]:
    return [site for site in SITES if site in json.dumps(value)]


def test_each_site_has_a_name_of_its_own_in_a_study(fed: Federation) -> None:
    fed.submit()

    names = {
        site: fed.service.studies.show(fed.member(site), DIGEST)["pseudonym"] for site in SITES
    }

    assert len(set(names.values())) == 2
    assert all(name.startswith("site-") for name in names.values())
    fed.restarted()
    assert {site: pseudonym(fed, site) for site in SITES} == names


def test_a_site_that_joins_later_gets_one_too(fed: Federation) -> None:
    fed.submit()
    before = dict(fed.service.pseudonyms.of(DIGEST))

    fed.join("Ullevaal")

    after = fed.service.pseudonyms.of(DIGEST)
    assert {site: after[site] for site in before} == before
    assert after["Ullevaal"] not in before.values()


def test_the_order_of_names_says_nothing(fed: Federation) -> None:
    """Twelve sites in the order of joining: one chance in 479 million."""
    for i in range(7):
        fed.join(f"clinic-{i}")
    fed.submit()

    names = list(fed.service.pseudonyms.of(DIGEST).items())
    joined = [m.name for m in fed.service.registry.members() if m.role == "site"]

    numbers = dict(names)
    assert [numbers[site] for site in joined] != [f"site-{i}" for i in range(1, 13)]
    assert len(joined) == 12


def test_nobody_but_the_coordinator_reads_a_sites_name(fed: Federation) -> None:
    run = fed.started(SITES)
    service = fed.service

    for name in ("ada", *SITES):
        member = fed.member(name)
        told = {
            "study": service.studies.show(member, DIGEST),
            "studies": service.studies.shown(member),
            "directory": service.directory(member),
            "run": service.run(member, run.id),
            "notices": fed.notices(name),
        }
        assert set(mentions(told)) <= {name}, name
        if name == "ada":
            assert mentions(told) == []
        with pytest.raises(RequestError):
            service.sites(member)
    coordinator = fed.member("coordinator")
    assert mentions(service.studies.show(coordinator, DIGEST)) == SITES


def test_a_run_knows_pseudonyms_keys_of_the_study_and_rounded_counts(fed: Federation) -> None:
    run = fed.started(SITES)

    roster = Roster.of(run.document, hub=fed.service.registry.identity.root.public)
    assert {seat.site for seat in roster.seats} == {pseudonym(fed, site) for site in SITES}
    assert {seat.rows for seat in roster.seats} == {110}  # 103
    assert all(seat.grant is None for seat in roster.seats)
    roots = {fed.member(site).root for site in SITES}
    assert roots.isdisjoint(seat.certificate.root for seat in roster.seats)


def test_a_consent_bears_the_pseudonym_and_other_keys(fed: Federation) -> None:
    fed.submit()
    site = fed.member("Haukeland")
    name = pseudonym(fed, "Haukeland")
    own = fed.identities["Haukeland"]
    wrong = Identity.create("site-99", role="site", now=fed.clock())

    for identity in (own, wrong):
        grant = fed.consent("Haukeland", certificate=identity.certificate)
        with pytest.raises((RefusedError, SignatureError)):
            fed.service.studies.grant(site, DIGEST, grant)
    fed.grant("Haukeland")
    assert fed.service.studies.show(fed.member("ada"), DIGEST)["granted"] == [name]
    assert fed.service.studies.show(fed.member("ada"), DIGEST)["grants"] == []
    assert len(fed.service.studies.show(site, DIGEST)["grants"]) == 1


def test_frames_and_receipts_go_under_pseudonyms(fed: Federation) -> None:
    run = fed.started(SITES)
    first, second = SITES
    mine, theirs = pseudonym(fed, first), pseudonym(fed, second)
    frame, _ = fed.frame(run, mine, [theirs], signer=fed.study_keys[first])

    assert fed.post(first, frame)
    [message] = [m for m in fed.service.mailbox.waiting(second, 0) if m["kind"] == "frame"]
    assert message["frame"] == frame.to_json()
    fed.service.mailbox.put_receipts(second, [receipt(run.id, mine, 1, by=fed.study_keys[second])])
    [found] = fed.service.mailbox.receipts(first, run.id, mine)
    assert found.body["host"] == theirs
    own = receipt(run.id, mine, 2, by=fed.identities[second])
    with pytest.raises(RefusedError):  # it would tell who it is
        fed.service.mailbox.put_receipts(second, [own])


def test_the_hub_may_have_new_keys_in_the_middle_of_a_run(fed: Federation) -> None:
    run, [first, _] = fed.started(SITES), SITES
    fed.service.folder.save_identity(fed.service.folder.identity.rotated(fed.clock()))
    fed.restarted()
    hub = fed.service.registry.identity
    frame, _ = fed.frame(run, "@aggregator", [pseudonym(fed, first)], signer=hub)

    assert fed.post("@hub", frame)
    mine = receipt(run.id, pseudonym(fed, first), 1, by=hub)
    fed.service.mailbox.put_receipts("@hub", [mine])

    assert fed.service.mailbox.receipts(first, run.id, pseudonym(fed, first)) == [mine]


def test_certificates_are_those_of_the_study(fed: Federation) -> None:
    run = fed.started(SITES)
    first, second = SITES
    name = pseudonym(fed, second)

    found = fed.service.certificate(fed.member(first), name, run=run.id)

    assert found == fed.study_keys[second].certificate
    for stranger, host, run_name in (
        (first, second, run.id),
        (first, second, ""),
        (first, "site-999", run.id),
        ("a", name, run.id),
    ):
        with pytest.raises(UnknownError):
            fed.service.certificate(fed.member(stranger), host, run=run_name)


def test_the_order_of_seats_says_nothing(fed: Federation) -> None:
    run = fed.started([*SITES, "a", "b", "c"])

    seats = [str(seat.site) for seat in run.roster.seats]

    assert seats == sorted(seats)


def test_the_order_of_answers_says_nothing(fed: Federation) -> None:
    fed.submit()
    for site in (*SITES, "a", "b", "c"):
        if site in ("a", "b"):
            fed.service.studies.decline(fed.member(site), DIGEST, "no")
        else:
            fed.grant(site)

    told = fed.service.studies.show(fed.member("ada"), DIGEST)

    for names in (told["granted"], [each["site"] for each in told["declines"]]):
        assert names == sorted(names, key=lambda name: (len(name), name))


def test_nobody_sees_when_a_site_is_online(fed: Federation) -> None:
    fed.started(SITES)
    for site in SITES:
        fed.service.leases.take(site, "one", "")

    entries = fed.service.directory(fed.member("ada"))

    assert {each["name"] for each in entries if each["online"]} == {"@hub"}


def test_what_a_start_is_refused_for_names_nobody(fed: Federation) -> None:
    fed.submit()
    first, second = SITES
    fed.grant(first)
    fed.grant(second, initial="0" * 64)

    with pytest.raises(StudyError, match="another initial at site-") as differing:
        fed.service.studies.start(fed.member("ada"), DIGEST)
    fed.grant(second, until=0.0)
    with pytest.raises(StudyError, match=r"of site-.*: the consent has ended") as ended:
        fed.service.studies.start(fed.member("ada"), DIGEST)

    assert mentions([str(differing.value), str(ended.value)]) == []


def test_a_study_must_not_name_sites(fed: Federation) -> None:
    with pytest.raises(StudyError, match="nobody may know who takes part"):
        fed.submit(STUDY.replace("[plan]", '[plan]\nsites = ["Haukeland"]'))


def test_who_declines_stays_unknown(fed: Federation) -> None:
    fed.submit()
    fed.service.studies.decline(fed.member("Haukeland"), DIGEST, "no")

    study = fed.service.studies.show(fed.member("ada"), DIGEST)

    assert study["declines"] == [{"site": pseudonym(fed, "Haukeland"), "reason": "no"}]
