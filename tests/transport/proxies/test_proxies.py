"""A client behind the proxies of hospitals: squid, tinyproxy and nginx, none of them simulated."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.transport.authority import Authority
from tests.transport.conftest import Dial
from tests.transport.small_hub import SmallHub

from cohortium.transport.client import PIECE, HubClient
from cohortium.transport.errors import UnauthorisedError, UnreachableError
from cohortium.transport.probe import probe
from cohortium.transport.trust import HubTrust, meet

from .servers import nginx, squid, tinyproxy

DATA = os.urandom(PIECE + 54321)
DIGEST = hashlib.sha256(DATA).hexdigest()
ROOM = f"client_max_body_size {PIECE};"


@pytest.fixture
def hospital(tmp_path: Path) -> Authority:
    """Return the authority of a hospital's IT department."""
    return Authority(tmp_path / "hospital", "The hospital's own authority")


def works(client: HubClient) -> None:
    """Do everything that a client does: call, poll, upload, download."""
    assert client.call("POST", "/v1/echo?name=a%20b", {"a": "é"}) == {"said": {"a": "é"}}
    client.upload(DIGEST, DATA)
    into = bytearray(len(DATA))
    client.download(DIGEST, len(DATA), into)
    assert into == DATA
    assert client.call("POST", "/v1/wait", {"seconds": 0.2}, wait=0.2) == {"waited": 0.2}


def failure(client: HubClient) -> UnreachableError:
    with pytest.raises(UnreachableError) as caught:
        client.call("GET", "/v1/echo")
    return caught.value


# --- a proxy to go through ---


@pytest.fixture
def plain_squid() -> Iterator[str]:
    with squid() as port:
        yield f"http://127.0.0.1:{port}"


def test_through_a_proxy_that_alone_knows_the_hubs_name(
    dial: Dial, hub: SmallHub, plain_squid: str
) -> None:
    url = f"https://hub.test:{hub.port}"
    assert failure(dial(url, patience=0.0)).reason == "name"
    works(dial(url, proxy=plain_squid))
    assert meet(url, hub.id, proxy=plain_squid) == hub.trust
    found = probe(url, hub=hub.trust, proxy=plain_squid)
    assert (found.problem, found.proxy, found.inspected) == (None, plain_squid, False)


def test_through_the_proxy_that_the_environment_names(
    dial: Dial, hub: SmallHub, plain_squid: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"https://hub.test:{hub.port}"
    monkeypatch.setenv("HTTPS_PROXY", plain_squid)
    works(dial(url))
    monkeypatch.setenv("NO_PROXY", "hub.test")
    assert failure(dial(url, patience=0.0)).reason == "name"


def test_a_proxy_that_does_not_let_through(dial: Dial, hub: SmallHub) -> None:
    with squid(access="deny all") as port:
        error = failure(dial(f"https://hub.test:{hub.port}", proxy=f"http://127.0.0.1:{port}"))
    assert error.reason == "proxy"
    assert f"the proxy http://127.0.0.1:{port} answered 403" in str(error)
    assert f"Ask IT to let this machine connect to https://hub.test:{hub.port}" in str(error)


def test_a_hub_that_the_proxy_cannot_reach_is_waited_for(
    dial: Dial, hub: SmallHub, plain_squid: str
) -> None:
    waits = threading.Event()
    client = dial(
        f"https://hub.test:{hub.port}",
        proxy=plain_squid,
        patience=None,
        waiting=lambda error, seconds: waits.set(),
    )
    hub.stop()
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(client.call, "GET", "/v1/echo")
        waits.wait()
        hub.start()
        assert answer.result() == {"said": None}


def test_a_proxy_that_dies_in_the_middle_of_an_upload_and_comes_back(
    dial: Dial, hub: SmallHub
) -> None:
    waits, pieces = threading.Event(), threading.Event()

    def on_request() -> None:
        if hub.seen[-1][0] == "PATCH":
            pieces.set()

    hub.on_request = on_request
    with ThreadPoolExecutor(1) as pool:
        with squid() as port:
            client = dial(
                f"https://hub.test:{hub.port}",
                proxy=f"http://127.0.0.1:{port}",
                patience=None,
                waiting=lambda error, seconds: waits.set(),
            )
            upload = pool.submit(client.upload, DIGEST, DATA)
            pieces.wait()
            hub.faults.append("lost")
        waits.wait()
        with squid(port=port):
            upload.result()
    assert hub.blobs.size(DIGEST) == len(DATA)


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[str]:
    with tinyproxy(tmp_path, user="ward", password="Secret") as port:
        yield f"127.0.0.1:{port}"


def test_a_proxy_that_wants_a_password(dial: Dial, guarded: str) -> None:
    works(dial(proxy=f"http://ward:Secret@{guarded}"))


@pytest.mark.parametrize("login", ["", "ward:Wrong@"])
def test_a_proxy_that_does_not_get_its_password(dial: Dial, guarded: str, login: str) -> None:
    error = failure(dial(proxy=f"http://{login}{guarded}"))
    assert error.reason == "proxy"
    assert f"the proxy http://{'ward:***@' if login else ''}{guarded} answered 40" in str(error)
    assert "http://user:password@name:port" in str(error)
    assert "Wrong" not in str(error)


# --- a proxy that ends TLS ---


def test_behind_nginx_with_a_private_authority(
    dial: Dial, hub: SmallHub, hospital: Authority, tmp_path: Path
) -> None:
    with nginx(tmp_path, hub.port, authority=hospital, settings=ROOM) as port:
        url = f"https://localhost:{port}"
        works(dial(url, ca=hospital.certificate))
        works(dial(url, hub=HubTrust(hub.identity.certificate, hospital.pem)))
        error = failure(dial(url))
        assert error.reason == "certificate"
        assert "--ca FILE" in str(error)


def test_an_answer_that_is_altered_under_way_is_refused(
    dial: Dial, hub: SmallHub, hospital: Authority, tmp_path: Path
) -> None:
    alters = 'sub_filter_types *; sub_filter "said" "Said";'
    with nginx(tmp_path, hub.port, authority=hospital, settings=alters) as port:
        client = dial(f"https://localhost:{port}", ca=hospital.certificate)
        with pytest.raises(UnauthorisedError, match="Content-Digest"):
            client.call("GET", "/v1/echo")


def test_an_answer_is_not_compressed_under_way(
    dial: Dial, hub: SmallHub, hospital: Authority, tmp_path: Path
) -> None:
    zips = f"{ROOM} gzip on; gzip_types *; gzip_min_length 1; gzip_proxied any;"
    with nginx(tmp_path, hub.port, authority=hospital, settings=zips) as port:
        works(dial(f"https://localhost:{port}", ca=hospital.certificate))


def test_a_request_that_is_altered_under_way_is_refused(
    dial: Dial, hub: SmallHub, hospital: Authority, tmp_path: Path
) -> None:
    alters = "rewrite ^/v1/echo$ /v1/nothing;"
    with nginx(tmp_path, hub.port, authority=hospital, settings=alters) as port:
        client = dial(f"https://localhost:{port}", ca=hospital.certificate)
        with pytest.raises(UnauthorisedError):
            client.call("GET", "/v1/echo")


def test_a_hub_that_is_away_behind_nginx_is_waited_for(
    dial: Dial, hub: SmallHub, hospital: Authority, tmp_path: Path
) -> None:
    told: list[str] = []
    waits = threading.Event()

    def waiting(error: Exception, seconds: float) -> None:
        told.append(str(error))
        waits.set()

    with nginx(tmp_path, hub.port, authority=hospital) as port:
        client = dial(
            f"https://localhost:{port}", ca=hospital.certificate, patience=None, waiting=waiting
        )
        hub.stop()
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(client.call, "GET", "/v1/echo")
            waits.wait()
            hub.start()
            assert answer.result() == {"said": None}
    assert "answered for https://localhost" in told[0]
    assert "502" in told[0]


def test_a_proxy_without_room_for_a_piece_says_what_to_set(
    dial: Dial, hub: SmallHub, hospital: Authority, tmp_path: Path
) -> None:
    with nginx(tmp_path, hub.port, authority=hospital) as port:
        client = dial(f"https://localhost:{port}", ca=hospital.certificate)
        with pytest.raises(UnreachableError, match="let bodies of 4 MiB through") as caught:
            client.upload(DIGEST, DATA)
    assert caught.value.reason == "proxy"


# --- a proxy that looks into TLS ---


def test_through_a_proxy_that_inspects_tls(dial: Dial, hub: SmallHub, hospital: Authority) -> None:
    url = f"https://hub.test:{hub.port}"
    with squid(hub=hub.authority, inspects_as=hospital) as port:
        proxy = f"http://127.0.0.1:{port}"
        error = failure(dial(url, proxy=proxy))
        assert error.reason == "certificate"
        assert "Does a proxy here look into TLS? Then ask IT for the file of its CA" in str(error)
        works(dial(url, proxy=proxy, ca=hospital.certificate))

        with pytest.raises(UnreachableError, match="--ca FILE"):
            meet(url, hub.id, proxy=proxy)
        assert meet(url, hub.id, proxy=proxy, ca=hospital.certificate) == hub.trust

        found = probe(url, hub=hub.trust, proxy=proxy)
        assert found.inspected is True
        assert found.issuer == "CN=The hospital's own authority"
        assert isinstance(found.problem, UnreachableError)
        trusted = probe(url, hub=hub.trust, proxy=proxy, ca=hospital.certificate)
        assert (trusted.problem, trusted.inspected) == (None, True)
