"""What sites consent to, and what a roster may say of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from cohortium.errors import RefusedError, StudyError
from cohortium.governance.grant import Grant, Rows, layout_of, specs
from cohortium.governance.roster import HUB, Roster, make_roster, run_id
from cohortium.identity import Certificate, Document, Identity
from cohortium.study.bundle import Bundle
from cohortium.study.study import Study
from cohortium.types import ArraySpec, Layout, PartyId, SiteId

LAYOUT = Layout((ArraySpec("w", (3,), "float32"), ArraySpec("n", (), "int64")))
HUB_KEYS = Identity.create(HUB, role="hub", now=0.0)
SITES = {name: Identity.create(name, role="site", now=0.0) for name in ("north", "south")}
RESEARCHER = Identity.create("ada", role="researcher", now=0.0)


def bundle(**plan: Any) -> Bundle:
    settings: dict[str, Any] = {"rounds": 2, "local": {"steps": 1}, **plan}
    task = {"kind": "regression", "model": "linear", "optimizer": {"kind": "sgd", "lr": 0.1}}
    study = {"name": "s", "purpose": "To test."}
    data = {"dataset": "d", "target": "y", "features": [{"name": "x", "range": [0, 1]}]}
    return Bundle.of(
        Study.from_dict({"study": study, "task": task, "plan": settings, "data": data})
    )


def grant(site: str, study: Bundle, **changes: Any) -> Grant:
    return Grant(
        **{
            "study": study.digest,
            "site": site,
            "certificate": SITES[site].certificate,
            "dataset": "d",
            "fingerprint": "ab" * 32,
            "purpose": "To test.",
            "researcher": "ada",
            "researcher_root": RESEARCHER.root.public,
            "rows": Rows(30, 0, 10),
            "inputs": (1,),
            "rounds": 2,
            "until": 100.0,
            "layout": LAYOUT,
            "initial": "cd" * 32,
            "initial_blob": "ef" * 32,
            "environment": {"python": "3.11"},
            "time": 1.0,
            **changes,
        }
    )


def roster(study: Bundle, *, pseudonyms: dict[str, str] | None = None, **changes: Any) -> Roster:
    consents = [
        (site, grant(site, study, **changes).sign(SITES[site].root)) for site in ("north", "south")
    ]
    return make_roster(
        study,
        consents,
        hub=HUB_KEYS.certificate,
        researcher=RESEARCHER.certificate,
        nonce="00" * 16,
        now=5.0,
        pseudonyms=pseudonyms,
    )


def test_a_consent_comes_back_as_it_was_signed() -> None:
    given = grant("north", bundle())
    document = Document.from_json(given.sign(SITES["north"].root).to_json())
    assert Grant.of(document) == given


def test_another_key_cannot_sign_a_site_s_consent() -> None:
    forged = grant("north", bundle()).sign(SITES["south"].root)
    with pytest.raises(RefusedError):
        Grant.of(forged)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("rounds", -1),
        ("rounds", 2.5),
        ("rounds", True),
        ("rows", {"train": 1, "validation": 0}),
        ("rows", "many"),
        ("inputs", [-1]),
        ("until", "tomorrow"),
        ("until", 10**400),
        ("time", 10**400),
        ("layout", [["w", [3], "object"]]),
        ("layout", [["w", [3], "float32"], ["w", [3], "float32"]]),
        ("purpose", 3),
        ("certificate", {}),
        ("environment", ["3.11"]),
    ],
)
def test_a_consent_of_another_form_is_refused(key: str, value: object) -> None:
    body = dict(grant("north", bundle()).sign(SITES["north"].root).body)
    document = Document.of("grant", body | {key: value}, SITES["north"].root)
    with pytest.raises(RefusedError):
        Grant.of(document)


@pytest.mark.parametrize(
    ("round_", "now", "why"),
    [(2, 100.0, ""), (3, 50.0, "rounds"), (1, 100.5, "ended")],
)
def test_a_consent_covers_its_rounds_and_its_time(round_: int, now: float, why: str) -> None:
    given = grant("north", bundle())
    told = given.refusal(study=given.study, round_=round_, now=now)
    assert (why in told) if why else told == ""
    assert given.refusal(study="another", round_=1, now=0.0)


def test_a_roster_comes_back_and_its_id_is_its_digest() -> None:
    made = roster(bundle())
    document = made.sign(HUB_KEYS.root)
    assert Roster.of(Document.from_json(document.to_json()), hub=HUB_KEYS.root.public) == made
    assert run_id(document) == document.digest[:32]


def test_who_carries_which_party() -> None:
    assert roster(bundle()).host_of(PartyId("@aggregator")) == HUB
    hosted = roster(bundle(sites=["north", "south"], hosts={"@aggregator": "south"}))
    assert hosted.host_of(PartyId("@aggregator")) == "south"
    assert hosted.host_of(PartyId("north")) == "north"
    assert hosted.root_of("south") == SITES["south"].root.public
    with pytest.raises(RefusedError):
        hosted.root_of("elsewhere")


def test_a_hub_cannot_change_what_a_site_consented_to() -> None:
    made = roster(bundle())
    for change in ({"rows": 1000}, {"site": "east"}, {"grant": None}):
        seats = (replace(made.seats[0], **change), made.seats[1])
        document = replace(made, seats=seats).sign(HUB_KEYS.root)
        with pytest.raises(RefusedError):
            Roster.of(document, hub=HUB_KEYS.root.public)


@pytest.mark.parametrize(
    "name",
    ["@aggregator", "a/b", "", "-"],
)
def test_a_seat_has_a_site_s_name_and_certificate(name: str) -> None:
    made = roster(bundle())
    seats = (replace(made.seats[0], site=SiteId(name), grant=None), made.seats[1])
    document = replace(made, seats=seats, broker=True).sign(HUB_KEYS.root)
    with pytest.raises(RefusedError, match="a site's name"):
        Roster.of(document, hub=HUB_KEYS.root.public)


def test_a_roster_s_certificates_are_of_whom_it_names() -> None:
    made = roster(bundle())
    other = Identity.create("east", role="site", now=0.0).certificate
    seats = (replace(made.seats[0], certificate=other, grant=None), made.seats[1])
    document = replace(made, seats=seats, broker=True).sign(HUB_KEYS.root)
    with pytest.raises(RefusedError, match="certificate of 'east'"):
        Roster.of(document, hub=HUB_KEYS.root.public)
    own = HUB_KEYS.certificate
    named = Certificate.issue(
        HUB_KEYS.root,
        name="mallory",
        role="hub",
        signing=own.signing,
        opening=own.opening,
        serial=2,
        now=1.0,
    )
    document = replace(made, hub=named).sign(HUB_KEYS.root)
    with pytest.raises(RefusedError, match="not the hub's"):
        Roster.of(document, hub=HUB_KEYS.root.public)


def test_who_gets_the_result_is_who_the_sites_consented_to() -> None:
    eve = Identity.create("ada", role="researcher", now=0.0)
    made = roster(bundle())
    document = replace(made, researcher=eve.certificate).sign(HUB_KEYS.root)
    with pytest.raises(RefusedError, match="consented to"):
        Roster.of(document, hub=HUB_KEYS.root.public)
    with pytest.raises(StudyError, match="another researcher"):
        roster(bundle(), researcher_root=eve.root.public)


def test_only_the_pinned_hub_makes_rosters() -> None:
    document = roster(bundle()).sign(Identity.create(HUB, role="hub", now=0.0).root)
    with pytest.raises(RefusedError):
        Roster.of(document, hub=HUB_KEYS.root.public)


@pytest.mark.parametrize(
    ("what", "value"),
    [("initial", "12" * 32), ("inputs", (2,)), ("layout", Layout(LAYOUT.specs[:1]))],
)
def test_sites_whose_models_differ_cannot_start(what: str, value: object) -> None:
    study = bundle()
    consents = [
        ("north", grant("north", study).sign(SITES["north"].root)),
        ("south", grant("south", study, **{what: value}).sign(SITES["south"].root)),
    ]
    with pytest.raises(StudyError, match="south"):
        make_roster(
            study,
            consents,
            hub=HUB_KEYS.certificate,
            researcher=RESEARCHER.certificate,
            nonce="00" * 16,
            now=5.0,
        )


def test_behind_a_broker_no_name_and_no_exact_count_is_told() -> None:
    study = bundle()
    names = {"north": "site-2", "south": "site-1"}
    keys = {s: Identity.create(name, role="site", now=0.0) for s, name in names.items()}
    consents = [
        (s, grant(s, study, rows=Rows(31, 0, 1), certificate=k.certificate).sign(k.root))
        for s, k in keys.items()
    ]
    made = make_roster(
        study,
        consents,
        hub=HUB_KEYS.certificate,
        researcher=RESEARCHER.certificate,
        nonce="00" * 16,
        now=5.0,
        pseudonyms=names,
    )
    assert [(seat.site, seat.rows, seat.grant) for seat in made.seats] == [
        ("site-2", 40, None),
        ("site-1", 40, None),
    ]
    again = Roster.of(made.sign(HUB_KEYS.root), hub=HUB_KEYS.root.public)
    assert again.broker


def test_layouts_come_back() -> None:
    assert layout_of(specs(LAYOUT)) == LAYOUT
