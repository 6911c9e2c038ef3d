"""Calls over real sockets to a hub that signs, while the network and the hub misbehave."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from cohortium.errors import CohortiumError, InvalidInputError, RefusedError
from cohortium.identity import Identity
from cohortium.testing.relay import Relay
from cohortium.transport import wire
from cohortium.transport.client import HubClient
from cohortium.transport.errors import (
    ClockError,
    UnauthorisedError,
    UnavailableError,
    UnknownError,
    UnreachableError,
)
from cohortium.transport.trust import HubTrust

from .conftest import Dial
from .small_hub import SmallHub


def test_a_call_is_answered(dial: Dial, hub: SmallHub) -> None:
    client = dial()
    assert client.call("POST", "/v1/echo?x=%20y", {"a": [1, "é"]}) == {"said": {"a": [1, "é"]}}
    assert client.call("GET", "/v1/echo") == {"said": None}
    assert hub.seen == [("POST", "/v1/echo"), ("GET", "/v1/echo")]


def test_a_refusal_arrives_as_the_error_that_it_was(dial: Dial) -> None:
    with pytest.raises(UnknownError, match="got nothing; expected something"):
        dial().call("GET", "/v1/nothing")


def test_who_is_not_a_member_is_refused(dial: Dial) -> None:
    stranger = Identity.create("Site A", role="site", now=0.0)
    with pytest.raises(UnauthorisedError, match="signature"):
        dial(identity=stranger).call("GET", "/v1/echo")
    with pytest.raises(UnauthorisedError, match="signature"):
        dial(identity=None).call("GET", "/v1/echo")


def test_who_has_joined_nothing_yet_can_call_what_is_open(dial: Dial, hub: SmallHub) -> None:
    client = dial(identity=None)
    assert client.call("GET", "/v1/hub")["ca"] == hub.authority.pem
    assert client.call("POST", "/v1/join?x=1", {"mac": "ab"}) == {"said": {"mac": "ab"}}


def test_clocks_may_differ_by_minutes_but_not_by_more(dial: Dial, hub: SmallHub) -> None:
    client = dial()
    hub.skew = 200.0
    client.call("GET", "/v1/echo")
    hub.skew = 400.0
    with pytest.raises(ClockError, match=r"signed at .* UTC; expected .* clock, .* UTC"):
        client.call("GET", "/v1/echo")
    with pytest.raises(ClockError):
        dial(identity=None).call("GET", "/v1/hub")


def test_an_answer_of_before_is_not_taken_for_this_one(dial: Dial, hub: SmallHub) -> None:
    for client in (dial(), dial(identity=None)):
        client.call("GET", "/v1/hub")
        hub.faults.append(hub.answers[-1])
        with pytest.raises(UnauthorisedError):
            client.call("GET", "/v1/hub")


JUNK = {"Signature": "x=:AA==:", "Signature-Input": "x=()"}


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"<html>", b"[]", b"{}", b"[" * 200_000, b"9" * 5000, b" " * (1 << 20) + b"{}"),
        *(b'{"certificate": {"name": 1}}', b'{"certificate": null, "ca": 7}'),
    ],
)
@pytest.mark.parametrize("status", [200, 400, 403, 410])
def test_junk_instead_of_the_hub_s_keys_is_an_answer_that_nobody_signed(
    dial: Dial, hub: SmallHub, status: int, body: bytes
) -> None:
    """Somebody inside TLS answers: no refusal that ends a member's process can come of it."""
    hub.faults.extend([(200, JUNK, b"{}"), (status, JUNK, body)])
    with pytest.raises(UnauthorisedError):
        dial().call("GET", "/v1/echo")


def test_nobody_who_is_inside_tls_revokes(dial: Dial, hub: SmallHub) -> None:
    hub.faults.extend([(200, JUNK, b"{}"), (403, JUNK, b'{"error": "revoked"}')])
    with pytest.raises(UnauthorisedError):
        dial().call("GET", "/v1/echo")


def test_an_answer_of_any_size_is_not_kept(
    dial: Dial, hub: SmallHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "LARGEST", 1000)
    client = dial()
    assert len(client.call("POST", "/v1/echo", {"a": "b" * 900})["said"]["a"]) == 900
    with pytest.raises(RefusedError, match="1,000 bytes"):
        client.call("POST", "/v1/echo", {"a": "b" * 1000})


def test_an_answer_of_another_hub_is_refused(dial: Dial, hub: SmallHub) -> None:
    client = dial()
    hub.identity = Identity.create("@hub", role="hub", now=0.0)
    with pytest.raises(UnauthorisedError, match=client.hub.id):
        client.call("GET", "/v1/hub")


def test_new_keys_of_the_hub_are_learnt_and_told(dial: Dial, hub: SmallHub) -> None:
    told: list[HubTrust] = []
    client = dial(renewed=told.append)
    first = hub.identity
    hub.identity = first.rotated(now=1.0)
    assert client.call("GET", "/v1/echo") == {"said": None}
    assert [each.certificate for each in told] == [hub.identity.certificate]
    assert client.hub == told[0]
    hub.identity = first  # whoever has only the old keys is not believed any more
    with pytest.raises(UnauthorisedError):
        client.call("GET", "/v1/echo")


@pytest.mark.parametrize(
    ("status", "reason"), [(200, "address"), (404, "address"), (403, "proxy"), (407, "proxy")]
)
def test_an_answer_that_nobody_signed_is_not_the_hubs(
    dial: Dial, hub: SmallHub, status: int, reason: str
) -> None:
    hub.faults.append((status, {}, b"<html>"))
    with pytest.raises(UnreachableError, match="something else than the hub") as caught:
        dial().call("GET", "/v1/echo")
    assert caught.value.reason == reason


@pytest.mark.parametrize("fault", ["lost", (502, {}, b""), (503, {}, b""), (504, {}, b"")])
def test_what_got_lost_is_sent_again_signed_anew(
    dial: Dial, hub: SmallHub, fault: str | tuple[int, dict[str, str], bytes]
) -> None:
    told: list[tuple[CohortiumError, float]] = []
    hub.faults.extend([fault, fault])
    client = dial(waiting=lambda error, seconds: told.append((error, seconds)))
    assert client.call("POST", "/v1/echo", {"n": 1}) == {"said": {"n": 1}}
    assert len(hub.seen) == 3
    assert [type(error) for error, _ in told] == [UnreachableError, UnreachableError]
    assert 0 < told[0][1] < told[1][1] < 1


def test_patience_ends(dial: Dial, hub: SmallHub) -> None:
    client = dial(patience=0.3)
    hub.stop()
    with pytest.raises(UnreachableError, match="refused the connection") as caught:
        client.call("GET", "/v1/echo")
    assert caught.value.reason == "refused"
    hub.start()


def test_a_hub_that_is_away_is_waited_for_for_ever(dial: Dial, hub: SmallHub) -> None:
    waits = threading.Event()
    client = dial(patience=None, waiting=lambda error, seconds: waits.set())
    client.call("GET", "/v1/echo")
    hub.stop()
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(client.call, "GET", "/v1/echo")
        waits.wait()
        hub.start()
        assert answer.result() == {"said": None}


def test_a_hub_without_room_is_waited_for(dial: Dial, hub: SmallHub) -> None:
    hub.unavailable = 2
    assert dial().call("GET", "/v1/echo") == {"said": None}
    hub.unavailable = 1
    with pytest.raises(UnavailableError, match="no room"):
        dial(patience=0.0).call("GET", "/v1/echo")


def test_long_polls_keep_nobody_waiting(dial: Dial) -> None:
    client = dial()
    ended = threading.Event()

    def poll() -> object:
        answer = client.call("POST", "/v1/wait", {"seconds": 1}, wait=1)
        ended.set()
        return answer

    with ThreadPoolExecutor(8) as pool:
        polls = [pool.submit(poll) for _ in range(8)]
        assert client.call("GET", "/v1/echo") == {"said": None}
        assert not ended.is_set()
        assert [each.result() for each in polls] == [{"waited": 1}] * 8


def test_a_long_poll_may_last_longer_than_silence(dial: Dial) -> None:
    client = dial(timeout=0.3, patience=0.0)
    assert client.call("POST", "/v1/wait", {"seconds": 0.6}, wait=0.6) == {"waited": 0.6}
    with pytest.raises(UnreachableError) as caught:
        client.call("POST", "/v1/wait", {"seconds": 0.6})
    assert caught.value.reason == "timeout"


@pytest.mark.parametrize("patience", [30.0, None])
def test_closing_ends_what_other_threads_wait_for(
    dial: Dial, hub: SmallHub, patience: float | None
) -> None:
    client = dial(patience=patience, timeout=60.0)
    polling = threading.Event()
    hub.on_request = polling.set
    with ThreadPoolExecutor(1) as pool:
        poll = pool.submit(client.call, "POST", "/v1/wait", {"seconds": 60})
        polling.wait()
        client.close()
        error = poll.exception(timeout=10)
    assert isinstance(error, UnreachableError)
    assert error.reason == "closed"
    with pytest.raises(UnreachableError, match="closed here"):
        client.call("GET", "/v1/echo")


def test_closing_ends_a_pause(dial: Dial, hub: SmallHub) -> None:
    waits = threading.Event()
    client = dial(patience=None, waiting=lambda error, seconds: waits.set())
    hub.stop()
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(client.call, "GET", "/v1/echo")
        waits.wait()
        client.close()
        assert isinstance(call.exception(timeout=10), UnreachableError)
    hub.start()


def test_a_cut_connection_is_made_again(dial: Dial, relay: Relay) -> None:
    client = dial(f"https://localhost:{relay.port}")
    client.call("GET", "/v1/echo")
    relay.cut_after(100)
    assert client.call("GET", "/v1/echo") == {"said": None}


def test_a_link_that_stalls_counts_as_lost_after_the_silence(dial: Dial, relay: Relay) -> None:
    client = dial(f"https://localhost:{relay.port}", timeout=0.3, patience=None)
    client.call("GET", "/v1/echo")
    relay.stall()
    threading.Timer(1.0, relay.restore).start()
    assert client.call("GET", "/v1/echo") == {"said": None}


def test_a_slow_link_is_borne(dial: Dial, relay: Relay) -> None:
    relay.delay(0.05)
    client = dial(f"https://localhost:{relay.port}", timeout=2.0, patience=0.0)
    assert client.call("GET", "/v1/echo") == {"said": None}


def test_trust_is_kept_as_json(hub: SmallHub) -> None:
    kept = HubTrust.from_json(hub.trust.to_json())
    assert kept == hub.trust
    assert (kept.id, kept.root) == (hub.id, hub.identity.root.public)


@pytest.mark.parametrize("change", ["ca_pem", "certificate", "name"])
def test_trust_that_is_malformed_or_forged_is_refused(hub: SmallHub, change: str) -> None:
    site = hub.join("Site A").certificate
    forged = replace(hub.identity.certificate, signing=site.signing)
    certificate = {"ca_pem": hub.identity.certificate, "certificate": forged, "name": site}[change]
    ca = 5 if change == "ca_pem" else ""
    with pytest.raises(CohortiumError):
        HubTrust.from_json({"certificate": certificate.to_json(), "ca_pem": ca})


@pytest.mark.parametrize(
    "url",
    ["http://hub.test", "hub.test", "https://", "https://a/b", "https://a?b", "https://a:99999"],
)
def test_an_address_that_is_none_is_refused(hub: SmallHub, url: str) -> None:
    with pytest.raises(InvalidInputError, match="https://name:port"):
        HubClient(url, None, hub.trust)


def test_requests_name_the_hub_that_they_are_for(dial: Dial, hub: SmallHub) -> None:
    other = Identity.create("@hub", role="hub", now=time.time())
    client = dial(hub=HubTrust(other.certificate, hub.authority.pem))
    with pytest.raises(UnauthorisedError):
        client.call("GET", "/v1/echo")


def test_a_file_of_authorities_that_is_none_is_refused(hub: SmallHub, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nothing")
    for path in (tmp_path / "ca.pem", tmp_path / "missing.pem"):
        with pytest.raises(InvalidInputError, match="a PEM file with certificates"):
            HubClient(hub.url, None, hub.trust, ca=path)
