"""Whatever stands between a member and its hub is named, with what to do about it."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from cohortium.errors import InvalidInputError
from cohortium.identity import Identity
from cohortium.testing.relay import Relay
from cohortium.transport.errors import ClockError, UnauthorisedError, UnreachableError
from cohortium.transport.probe import probe
from cohortium.transport.route import route
from cohortium.transport.signing import Request, sign_response
from cohortium.transport.trust import HubTrust, meet

from .authority import Authority
from .conftest import Dial
from .small_hub import Reply, SmallHub


def failure(dial: Dial, url: str, **options: object) -> UnreachableError:
    with pytest.raises(UnreachableError) as caught:
        dial(url, patience=0.0, **options).call("GET", "/v1/echo")
    return caught.value


@pytest.fixture
def deaf() -> Iterator[int]:
    """Yield a port that nobody listens on, and that nobody else gets."""
    with closing(socket.socket()) as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


def test_a_name_that_is_not_known(dial: Dial) -> None:
    error = failure(dial, "https://hub.invalid")
    assert error.reason == "name"
    assert "the name of https://hub.invalid is not known here" in str(error)


def test_nobody_listens(dial: Dial, deaf: int) -> None:
    error = failure(dial, f"https://localhost:{deaf}")
    assert error.reason == "refused"
    assert "Is it running, and is the port right?" in str(error)


def test_nobody_answers(dial: Dial, relay: Relay) -> None:
    relay.stall()
    error = failure(dial, f"https://localhost:{relay.port}", timeout=0.3)
    assert error.reason == "timeout"
    assert "firewall" in str(error)


def test_a_port_that_does_not_speak_tls(dial: Dial, tmp_path: Path) -> None:
    with SmallHub(tmp_path / "plain", plain=True) as plain:
        error = failure(dial, plain.url)
    assert error.reason == "address"
    assert "does not speak TLS" in str(error)


def test_a_certificate_that_nobody_vouches_for(dial: Dial, hub: SmallHub) -> None:
    untrusting = HubTrust(hub.identity.certificate)
    error = failure(dial, hub.url, hub=untrusting)
    assert error.reason == "certificate"
    assert error.lasting
    assert "ask IT for the file of its CA and name it: --ca FILE" in str(error)


def test_a_file_of_authorities_makes_it_trusted(dial: Dial, hub: SmallHub) -> None:
    client = dial(hub=HubTrust(hub.identity.certificate), ca=hub.authority.certificate)
    assert client.call("GET", "/v1/echo") == {"said": None}


def test_a_certificate_for_another_name(dial: Dial, tmp_path: Path) -> None:
    elsewhere = Authority(tmp_path / "ca", "the hub's own authority")
    with SmallHub(tmp_path / "other", authority=elsewhere, hosts=("hub.test",)) as hub:
        error = failure(dial, hub.url, hub=hub.trust)
    assert error.reason == "certificate"
    assert "localhost" in str(error)


def test_a_certificate_whose_time_is_over(dial: Dial, tmp_path: Path) -> None:
    with SmallHub(tmp_path / "other", until=-timedelta(hours=1)) as hub:
        error = failure(dial, hub.url, hub=hub.trust)
    assert "expired" in str(error)


def test_the_environment_names_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://me:secret@proxy.test:3128")
    monkeypatch.setenv("NO_PROXY", "hub.near,.inside.test")
    assert route("https://hub.test").proxy == "http://me:secret@proxy.test:3128"
    assert route("https://hub.test").shown_proxy == "http://me:***@proxy.test:3128"
    assert route("https://hub.test", proxy="").proxy == ""
    assert route("https://hub.test", proxy="http://other:1").proxy == "http://other:1"
    for near in ("hub.near", "a.inside.test:8443", "localhost:1", "127.0.0.1", "[::1]:2"):
        assert route(f"https://{near}").proxy == ""
    monkeypatch.setenv("HTTPS_PROXY", "proxy.test:3128")
    assert route("https://hub.test").proxy == "http://proxy.test:3128"


@pytest.mark.parametrize("proxy", ["socks5://me:secret@a:1", "http://me:secret@a:x", "a:3128"])
def test_a_proxy_that_is_none_is_refused_without_its_password(proxy: str) -> None:
    with pytest.raises(InvalidInputError, match="proxy: got") as caught:
        route("https://hub.test", proxy=proxy)
    assert "secret" not in str(caught.value)


def test_a_proxy_that_is_not_there_is_named_without_its_password(dial: Dial, deaf: int) -> None:
    error = failure(dial, "https://hub.test", proxy=f"http://me:secret@localhost:{deaf}")
    assert error.reason == "refused"
    assert "the proxy http://me:***@localhost:" in str(error)


def test_a_hub_is_met_by_its_id_alone(hub: SmallHub) -> None:
    assert meet(hub.url, hub.id) == hub.trust


def test_another_hub_than_the_invitations_is_not_met(hub: SmallHub) -> None:
    with pytest.raises(UnauthorisedError, match="Is the address right, and the invitation"):
        meet(hub.url, "0" * 32)


def test_a_hub_whose_tls_is_anothers_is_not_met(hub: SmallHub, tmp_path: Path) -> None:
    hub.said_authority = Authority(tmp_path / "other", "another").pem
    with pytest.raises(UnreachableError) as caught:
        meet(hub.url, hub.id)
    assert caught.value.reason == "certificate"


def test_an_authority_that_somebody_put_in_is_not_believed(hub: SmallHub, tmp_path: Path) -> None:
    """Who sits in between has the hub's certificate, but cannot sign that its authority is his."""
    request = Request("GET", "/v1/hub", {})
    said = {
        "certificate": hub.identity.certificate.to_json(),
        "ca": Authority(tmp_path / "other", "another").pem,
    }
    body = json.dumps(said).encode()
    stranger = Identity.create("@hub", role="hub", now=0.0)
    fields = sign_response(200, body, request=request, signer=stranger, now=time.time())
    hub.faults.append((200, fields, body))
    with pytest.raises(UnauthorisedError):
        meet(hub.url, hub.id)


def test_a_hub_is_not_met_with_clocks_that_differ(hub: SmallHub) -> None:
    hub.skew = -4000.0
    with pytest.raises(ClockError):
        meet(hub.url, hub.id)


def test_a_probe_tells_what_is_there(hub: SmallHub) -> None:
    for known in (hub.trust, None):
        found = probe(hub.url, hub=known)
        assert found.problem is None
        assert (found.proxy, found.inspected, found.protocols) == ("", False, (1,))
        assert (found.subject, found.issuer) == ("CN=localhost", "CN=the hub's own authority")
        assert found.clock is not None
        assert abs(found.clock) < 2
        assert found.latency is not None
        assert 0 < found.latency < 5


def test_a_probe_tells_how_far_clocks_are_apart(hub: SmallHub) -> None:
    hub.skew = 4000.0
    found = probe(hub.url, hub=hub.trust)
    assert isinstance(found.problem, ClockError)
    assert found.clock is not None
    assert abs(found.clock - 4000) < 2


def test_a_probe_sees_that_the_certificate_is_not_the_hubs(hub: SmallHub, tmp_path: Path) -> None:
    proxy = Authority(tmp_path / "proxy", "Inspecting proxy of a hospital")
    known = HubTrust(hub.identity.certificate, proxy.pem)  # whoever it is, it is not this one
    found = probe(hub.url, hub=known)
    assert found.inspected is True
    assert isinstance(found.problem, UnreachableError)
    assert found.problem.reason == "certificate"


def test_a_probe_of_nothing_says_so(deaf: int) -> None:
    found = probe(f"https://localhost:{deaf}")
    assert isinstance(found.problem, UnreachableError)
    assert (found.problem.reason, found.issuer, found.inspected) == ("refused", "", None)


def test_a_probe_of_something_else_says_so(hub: SmallHub) -> None:
    page: Reply = (200, {}, b"<html>Please log in</html>")
    hub.faults.extend([page] * 4)
    found = probe(hub.url, ca=hub.authority.certificate)
    assert isinstance(found.problem, UnreachableError)
    assert (found.problem.reason, found.protocols) == ("address", ())
