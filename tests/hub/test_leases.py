"""One process per member."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from tests.hub.federation import Federation

from cohortium.hub.leases import POLLS, StillAliveError
from cohortium.transport.errors import ConflictError, UnavailableError


def test_the_first_process_needs_no_predecessor(fed: Federation) -> None:
    assert fed.service.leases.take("a", "one", "") == fed.service.settings.lease
    assert fed.service.leases.is_online("a")


def test_a_second_process_with_the_same_keys_is_refused_with_the_time(fed: Federation) -> None:
    fed.service.leases.take("a", "one", "")

    with pytest.raises(StillAliveError, match=r"one is running since 20\d\d-.* UTC"):
        fed.service.leases.take("a", "two", "one")


def test_a_successor_takes_over_when_the_one_before_has_been_silent(fed: Federation) -> None:
    leases = fed.service.leases
    leases.take("a", "one", "")
    fed.clock.now += fed.service.settings.lease + 0.1

    leases.take("a", "two", "one")

    with pytest.raises(ConflictError, match="another one took over"):
        leases.check("a", "one")


def test_a_copy_that_names_an_older_predecessor_is_refused_for_good(fed: Federation) -> None:
    """It was restored from a backup: what came after it is not in its journals."""
    leases = fed.service.leases
    for instance, before in (("one", ""), ("two", "one")):
        leases.take("a", instance, before)
        fed.clock.now += 100

    with pytest.raises(ConflictError, match="not the newest of a") as caught:
        leases.take("a", "copy", "one")

    assert not isinstance(caught.value, StillAliveError)


def test_a_process_takes_its_lease_again(fed: Federation) -> None:
    fed.service.leases.take("a", "one", "")

    fed.service.leases.take("a", "one", "")

    fed.service.leases.check("a", "one")


def test_an_open_poll_keeps_a_process_alive_however_long(fed: Federation) -> None:
    leases = fed.service.leases
    leases.take("a", "one", "")
    leases.poll_opened("a", "one")
    fed.clock.now += 3600

    assert leases.is_online("a")
    with pytest.raises(StillAliveError):
        leases.take("a", "two", "one")


@pytest.mark.parametrize("broken", [True, False])
def test_when_a_polls_connection_breaks_its_process_is_taken_for_dead(
    fed: Federation, broken: bool
) -> None:
    leases = fed.service.leases
    leases.take("a", "one", "")
    leases.poll_opened("a", "one")

    leases.poll_closed("a", "one", broken=broken)

    assert leases.is_online("a") is not broken


def test_who_stops_lets_its_successor_in_at_once(fed: Federation) -> None:
    leases = fed.service.leases
    leases.take("a", "one", "")

    leases.end("a", "one")

    leases.take("a", "two", "one")


def test_who_is_the_newest_is_known_after_a_restart(fed: Federation) -> None:
    fed.service.leases.take("a", "one", "")

    fed.restarted()

    with pytest.raises(ConflictError):
        fed.service.leases.check("a", "copy")
    with pytest.raises(ConflictError):
        fed.service.leases.take("a", "copy", "")
    fed.service.leases.take("a", "two", "one")


def test_with_new_keys_the_first_process_that_comes_is_the_right_one(fed: Federation) -> None:
    """Who holds the root key says which copy goes on; the other one's keys are worth nothing."""
    fed.service.leases.take("a", "one", "")

    rotated = fed.identities["a"].rotated(fed.clock())
    fed.service.registry.rotate("a", rotated.certificate)

    fed.service.leases.check("a", "restored")
    with pytest.raises(ConflictError):
        fed.service.leases.check("a", "one")


def test_members_do_not_disturb_each_other(fed: Federation) -> None:
    fed.service.leases.take("a", "one", "")

    fed.service.leases.take("b", "one", "")

    assert fed.service.leases.left("c") == 0.0
    assert 0 < fed.service.leases.left("a") <= fed.service.settings.lease


def test_since_when_nothing_came_is_told_of_who_is_silent(fed: Federation) -> None:
    leases = fed.service.leases
    assert leases.silence("a") == "not heard from since the hub started"
    leases.take("a", "one", "")
    assert leases.silence("a") == ""
    leases.poll_opened("a", "one")
    seen = fed.clock.now = fed.clock.now + 7
    leases.poll_closed("a", "one", broken=True)
    fed.clock.now += 100

    at = f"{datetime.fromtimestamp(seen, UTC):%Y-%m-%d %H:%M:%S} UTC"
    assert leases.silence("a") == f"not heard from since {at}"


def test_a_member_has_only_so_many_polls_open(fed: Federation) -> None:
    leases = fed.service.leases
    leases.take("a", "one", "")
    for _ in range(POLLS):
        leases.poll_opened("a", "one")
    with pytest.raises(UnavailableError, match=f"at most {POLLS}"):
        leases.poll_opened("a", "one")

    leases.poll_closed("a", "one", broken=False)

    leases.poll_opened("a", "one")
