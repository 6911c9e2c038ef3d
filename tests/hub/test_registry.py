"""Who is let in, who is not, and how a membership ends."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from structlog.testing import LogCapture
from tests.hub.federation import Federation
from tests.hub.running import joining

from cohortium.errors import ArgumentError, RefusedError
from cohortium.identity import (
    Document,
    Identity,
    Invitation,
    SignatureError,
    SigningKey,
    canonical,
    fingerprint,
)
from cohortium.transport.errors import (
    ClockError,
    ConflictError,
    ExpiredError,
    RequestError,
    RevokedError,
    UnknownError,
)


def identity(name: str, role: str = "site") -> Identity:
    return Identity.create(name, role=role, now=time.time())


def join(fed: Federation, code: str, who: Identity, **changes: Any) -> dict[str, Any]:
    said = joining(code, who, **{"time": fed.clock(), **changes})
    return fed.service.registry.join(Document.from_json(said["document"]), said["mac"])


def invited(fed: Federation, name: str = "oslo", role: str = "site", hours: float = 1) -> str:
    return fed.service.registry.invite(name, role, hours=hours)[0].code


def test_who_has_the_code_joins_and_both_sides_see_the_same_mark(fed: Federation) -> None:
    oslo, code = identity("oslo"), invited(fed)

    said = join(fed, code, oslo)

    hub = fed.service.registry.identity
    document = Document.from_json(said["hub"])
    Invitation.parse(code).check(canonical(document.to_json()), said["mac"])
    assert document.check("joined", hub.root.public)["member_root"] == oslo.root.public
    assert said["fingerprint"] == fingerprint(oslo.root.public, hub.root.public)
    assert fed.member("oslo").certificate == oslo.certificate


def test_a_member_is_still_one_after_a_restart(fed: Federation) -> None:
    fed.restarted()

    assert [m.name for m in fed.service.registry.members()] == [
        "@hub", "coordinator", "ada", "a", "b", "c",
    ]  # fmt: skip
    assert fed.member("a").certificate == fed.identities["a"].certificate


def test_who_does_not_know_its_name_asks_with_the_code(fed: Federation) -> None:
    invitation = Invitation.parse(invited(fed, "oslo", "researcher"))
    document = Document.of("ask", {"time": fed.clock()}, SigningKey.generate())

    said = fed.service.registry.join(document, invitation.mac(canonical(document.to_json())))

    assert said == {"name": "oslo", "role": "researcher"}
    with pytest.raises(UnknownError):
        fed.member("oslo")


def test_who_lost_the_answer_may_ask_again_with_the_same_keys(fed: Federation) -> None:
    oslo, code = identity("oslo"), invited(fed)
    first = join(fed, code, oslo)

    fed.restarted()

    assert join(fed, code, oslo)["fingerprint"] == first["fingerprint"]


def test_a_used_code_is_nothing_to_who_was_revoked_and_ends_with_its_time(fed: Federation) -> None:
    oslo, code = identity("oslo"), invited(fed)
    join(fed, code, oslo)
    fed.service.registry.revoke("oslo", "")
    with pytest.raises(RevokedError):
        join(fed, code, oslo)

    fed.clock.now += 73 * 3600

    with pytest.raises(RequestError, match="did not give"):
        join(fed, code, oslo)


@pytest.mark.parametrize("at", [10**400, float("1e300"), -1, True, "now", None])
def test_a_time_that_is_none_is_refused(fed: Federation, at: object) -> None:
    said = joining(invited(fed), identity("oslo"), time=at)
    with pytest.raises(RefusedError, match="a join whose time is none"):
        fed.service.registry.join(Document.from_json(said["document"]), said["mac"])


@pytest.mark.parametrize("name", ["A", "a ", "Site  one", "NEW"])
def test_names_that_people_take_for_one_another_are_refused(fed: Federation, name: str) -> None:
    for known in ("site one", "new"):
        fed.service.registry.invite(known, "site")
    with pytest.raises(ConflictError, match="much like"):
        fed.service.registry.invite(name, "site")


def test_a_code_that_was_used_lets_nobody_else_in(fed: Federation) -> None:
    code = invited(fed)
    join(fed, code, identity("oslo"))

    with pytest.raises(ExpiredError, match="used already"):
        join(fed, code, identity("oslo"))


def test_of_many_who_come_with_one_code_at_once_one_gets_in(fed: Federation) -> None:
    code, all_ready = invited(fed), threading.Barrier(4)

    def come(_: int) -> str:
        oslo = identity("oslo")
        all_ready.wait()
        try:
            join(fed, code, oslo)
        except ExpiredError:
            return ""
        return oslo.root.public

    with ThreadPoolExecutor(4) as pool:
        got_in = [root for root in pool.map(come, range(4)) if root]

    assert got_in == [fed.member("oslo").root]


def test_a_code_expires(fed: Federation) -> None:
    code = invited(fed, hours=1)
    fed.clock.now += 3601

    with pytest.raises(ExpiredError, match="time is over"):
        join(fed, code, identity("oslo"))


def test_a_newer_code_voids_the_older(fed: Federation) -> None:
    older, newer = invited(fed), invited(fed)

    with pytest.raises(RequestError, match="did not give"):
        join(fed, older, identity("oslo"))
    join(fed, newer, identity("oslo"))


def test_another_secret_is_refused(fed: Federation) -> None:
    invited(fed)
    wrong = Invitation.create(fed.service.registry.identity.root.public).code

    with pytest.raises(RequestError, match="did not give"):
        join(fed, wrong, identity("oslo"))


def test_a_changed_document_is_refused(fed: Federation) -> None:
    """Who sits in between puts its own keys in, and cannot make the MAC."""
    said = joining(invited(fed), identity("oslo"), time=fed.clock())
    theirs = joining(invited(fed, "bergen"), identity("oslo"), time=fed.clock())

    with pytest.raises(RequestError, match="did not give"):
        fed.service.registry.join(Document.from_json(theirs["document"]), said["mac"])


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"name": "bergen"}, RefusedError, "something else than its certificate"),
        ({"role": "coordinator"}, RefusedError, "something else than its certificate"),
        ({"root": "00" * 32}, RefusedError, "something else than its certificate"),
        ({"time": "noon"}, RefusedError, "whose time is none"),
        ({"more": 1}, RefusedError, "other entries"),
    ],
)
def test_a_document_that_is_not_what_it_must_be_is_refused(
    fed: Federation, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        join(fed, invited(fed), identity("oslo"), **changes)

    join(fed, invited(fed), identity("oslo"))  # the code was not spent


def test_the_name_on_the_code_is_the_one_to_join_under(fed: Federation) -> None:
    with pytest.raises(ConflictError, match=r"'bergen' \(site\); expected 'oslo' \(site\)"):
        join(fed, invited(fed), identity("bergen"))


def test_the_role_on_the_code_is_the_one_to_join_in(fed: Federation) -> None:
    with pytest.raises(ConflictError, match="coordinator"):
        join(fed, invited(fed), identity("oslo", "coordinator"))


def test_a_wrong_clock_is_told_with_both_times(fed: Federation) -> None:
    now = fed.clock()
    with pytest.raises(ClockError, match=f"{now - 301:.0f}.*{now:.0f}"):
        join(fed, invited(fed), identity("oslo"), time=now - 301)


def test_a_certificate_by_another_root_is_refused(fed: Federation) -> None:
    other = identity("oslo").certificate.to_json()

    with pytest.raises(SignatureError):
        join(fed, invited(fed), identity("oslo"), certificate=other)


@pytest.mark.parametrize(
    ("name", "role", "hours"),
    [
        ("@hub", "site", 1),
        ("", "site", 1),
        ("a" * 65, "site", 1),
        ("x", "hub", 1),
        ("x", "site", 0),
    ],
)
def test_an_invitation_that_cannot_be_given_is_refused(
    fed: Federation, name: str, role: str, hours: float
) -> None:
    with pytest.raises(ArgumentError):
        fed.service.registry.invite(name, role, hours=hours)


def test_a_members_name_is_taken(fed: Federation) -> None:
    with pytest.raises(ConflictError, match="who is a member"):
        invited(fed, "a")


def test_invitations_of_the_past_are_forgotten_with_their_secrets(fed: Federation) -> None:
    invited(fed, hours=1)
    fed.clock.now += 7 * 86_400
    fed.service.sweep()
    assert [each.name for each in fed.service.registry.invited()] == ["oslo"]

    fed.clock.now += 3_700
    fed.service.sweep()

    assert fed.service.registry.invited() == ()


def test_what_happens_to_members_is_logged(fed: Federation, log: LogCapture) -> None:
    rotated = fed.identities["a"].rotated(fed.clock())
    fed.service.registry.rotate("a", rotated.certificate)
    fed.service.registry.revoke("a", "left")

    events = [(e["event"], e["site"]) for e in log.entries if e.get("site") == "a"]
    assert events == [("member joined", "a"), ("keys rotated", "a"), ("member revoked", "a")]


def test_new_keys_count_and_the_old_ones_do_not(fed: Federation) -> None:
    rotated = fed.identities["a"].rotated(fed.clock())

    fed.service.registry.rotate("a", rotated.certificate)
    fed.service.registry.rotate("a", rotated.certificate)  # an answer was lost
    fed.restarted()

    assert fed.service.registry.key("a:1") is None
    assert fed.service.registry.key("a:2") == rotated.signing.public
    assert fed.service.registry.certificate("a", 1) == fed.identities["a"].certificate


def test_a_certificate_must_be_ones_own_and_newer(fed: Federation) -> None:
    registry, a = fed.service.registry, fed.identities["a"]

    with pytest.raises(SignatureError):
        registry.rotate("a", fed.identities["b"].rotated(fed.clock()).certificate)
    registry.rotate("a", a.rotated(fed.clock()).certificate)
    with pytest.raises(ConflictError, match="serial 1; expected above 2"):
        registry.rotate("a", a.certificate)


def test_who_is_revoked_may_not_act_and_can_be_invited_anew(fed: Federation) -> None:
    registry = fed.service.registry
    registry.revoke("a", "lost its laptop")

    with pytest.raises(RevokedError, match="lost its laptop"):
        registry.active("a")
    fed.restarted()
    registry = fed.service.registry
    with pytest.raises(RevokedError):
        registry.active("a")

    anew = identity("a")
    join(fed, invited(fed, "a"), anew)

    assert registry.active("a").root == anew.root.public
    assert registry.key("a:1") == anew.signing.public


def test_the_hub_cannot_be_revoked(fed: Federation) -> None:
    with pytest.raises(ConflictError):
        fed.service.registry.revoke("@hub", "")


def test_the_hubs_new_keys_are_known_when_it_starts(fed: Federation) -> None:
    folder = fed.service.folder
    folder.save_identity(folder.identity.rotated(fed.clock()))

    fed.restarted()

    assert fed.member("@hub").certificate.serial == 2
    assert fed.service.registry.certificate("@hub", 1) is not None
