"""The hub over HTTPS: who is heard, who is refused and why, and that the others go on."""

from __future__ import annotations

import hashlib
import json
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import LogCapture
from tests.hub.federation import STUDY
from tests.hub.raw import Raw, error
from tests.hub.running import (
    PATIENCE,
    Hub,
    Waiting,
    joining,
    lease,
    new_folder,
    poll,
    running,
    until,
    upload,
)

from cohortium.errors import InvalidInputError
from cohortium.hub.parties import Parties
from cohortium.identity import Identity, Invitation
from cohortium.transport.errors import (
    ConflictError,
    ExpiredError,
    RequestError,
    RevokedError,
    UnknownError,
)
from cohortium.transport.joining import join


@pytest.fixture(scope="module")
def module_hub(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A hub that the tests of this module share, with two sites."""
    with running(new_folder(tmp_path_factory.mktemp("hub") / "hub")) as found:
        yield found


@pytest.fixture(scope="module")
def a(module_hub: Hub) -> Identity:
    return module_hub.member("a")


@pytest.fixture(scope="module")
def raw(module_hub: Hub, a: Identity) -> Raw:
    return Raw(module_hub, a)


def refusals(hub: Hub) -> dict[str, float]:
    """Return how often the hub has refused, by reason."""
    text = Raw(hub)("GET", "/metrics").text
    found = re.findall(r'cohortium_hub_refusals_total\{reason="([a-z-]+)"\} (\S+)', text)
    return {reason: float(count) for reason, count in found}


# --- who is heard ---


def test_a_hub_tells_who_it_is_and_signs_it(module_hub: Hub) -> None:
    said = module_hub.client(None).call("GET", "/v1/hub")

    assert said["id"] == module_hub.trust.id
    assert said["protocol"] == [1]
    assert said["ca"] == module_hub.trust.ca_pem
    assert said["broker"] is False


def test_a_hub_tells_whether_it_works(module_hub: Hub) -> None:
    assert Raw(module_hub)("GET", "/healthz").json() == {"status": "ok"}


def test_a_hub_whose_runs_nobody_carries_does_not_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Parties, "_run", lambda self: None)
    with running(new_folder(tmp_path / "hub")) as hub:
        assert error(Raw(hub)("GET", "/healthz")) == (503, "unavailable")


def test_joining_from_a_code_to_a_signed_request(module_hub: Hub) -> None:
    body = {"name": "oslo", "role": "site", "hours": 1}
    code = module_hub.coordinator.call("POST", "/v1/invitations", body)["code"]
    keys: Callable[[str, str], Identity] = lambda name, role: Identity.create(  # noqa: E731
        name, role=role, now=time.time()
    )

    joined = join(module_hub.url, code, roles=("site",), keys=keys)

    assert (joined.identity.name, joined.federation) == ("oslo", "Test")
    names = [m["name"] for m in module_hub.client(joined.identity).call("GET", "/v1/directory")]
    assert names == ["@hub", "oslo"]
    with pytest.raises(ExpiredError):
        join(module_hub.url, code, roles=("site",), keys=keys)


def test_a_wrong_code_is_refused(module_hub: Hub) -> None:
    wrong = Invitation.create(module_hub.trust.root).code
    identity = Identity.create("x", role="site", now=time.time())

    with pytest.raises(RequestError, match="a code that this hub did not give"):
        module_hub.join(wrong, identity)
    said = joining(wrong, identity)
    response = Raw(module_hub)("POST", "/v1/join", {**said, "mac": "0" * 64})
    assert error(response) == (403, "refused")


def test_a_request_without_a_signature_is_refused(module_hub: Hub) -> None:
    response = Raw(module_hub)("GET", "/v1/directory")

    assert error(response) == (401, "unauthorised")
    assert "signature" in response.headers  # the refusal itself is signed


def test_a_stranger_is_refused(module_hub: Hub) -> None:
    stranger = Identity.create("a", role="site", now=time.time())  # under a member's name
    nobody = Identity.create("nobody", role="site", now=time.time())

    for identity in (stranger, nobody):
        assert error(Raw(module_hub, identity)("GET", "/v1/directory")) == (401, "unauthorised")


def test_a_request_that_came_before_is_refused(module_hub: Hub, raw: Raw) -> None:
    headers = raw.signed("GET", "/v1/directory")
    before = refusals(module_hub).get("replayed", 0)

    assert raw.send("GET", "/v1/directory", b"", headers).status_code == 200
    assert error(raw.send("GET", "/v1/directory", b"", headers)) == (401, "replayed")

    assert refusals(module_hub)["replayed"] == before + 1


def test_a_request_that_came_before_a_restart_is_refused(tmp_path: Path) -> None:
    folder = new_folder(tmp_path / "hub")
    with running(folder) as hub:
        raw = Raw(hub, folder.coordinator)
        headers = raw.signed("GET", "/v1/sites")
        assert raw.send("GET", "/v1/sites", b"", headers).status_code == 200
    with running(folder) as hub:
        again = Raw(hub, folder.coordinator).send("GET", "/v1/sites", b"", headers)
        assert error(again) == (401, "replayed")


@pytest.mark.parametrize(
    ("change", "got"),
    [
        ({"hub": "0" * 32}, "another hub"),
        ({"now": -400.0}, "a message signed at 20"),
        ({"now": 400.0}, "a message signed at 20"),
    ],
)
def test_what_was_signed_for_elsewhere_or_another_time_is_refused(
    raw: Raw, change: dict[str, Any], got: str
) -> None:
    if "now" in change:  # seconds from now: the tests may have been collected long ago
        change = {"now": time.time() + float(change["now"])}
    response = raw("GET", "/v1/directory", **change)

    assert response.status_code == 401
    assert got in response.json()["got"]


def test_clocks_may_differ_by_five_minutes(raw: Raw) -> None:
    for offset in (-290, 290):
        assert raw("GET", "/v1/directory", now=time.time() + offset).status_code == 200


def test_a_changed_request_is_refused(raw: Raw) -> None:
    body = b'{"reason": ""}'
    headers = raw.signed("POST", f"/v1/studies/{'0' * 64}/declines", body)
    changes = [
        ("POST", f"/v1/studies/{'1' * 64}/declines", body),
        ("POST", f"/v1/studies/{'0' * 64}/declines?x=1", body),
        ("POST", f"/v1/studies/{'0' * 64}/declines", b'{"reason": "x"}'),
        ("PUT", f"/v1/studies/{'0' * 64}/declines", body),
    ]
    for method, path, sent in changes:
        assert error(raw.send(method, path, sent, headers)) == (401, "unauthorised")


def test_another_version_of_the_protocol_is_told_which_are_spoken(
    monkeypatch: pytest.MonkeyPatch, raw: Raw
) -> None:
    monkeypatch.setattr("cohortium.transport.signing.PROTOCOL_VERSION", 9)
    headers = raw.signed("GET", "/v1/directory")
    monkeypatch.undo()

    response = raw.send("GET", "/v1/directory", b"", headers)

    assert error(response) == (426, "protocol")
    assert response.json()["expected"] == "version 1"


# --- bodies ---


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 422),
        (b"{", 400),
        (b"[" * 100_000, 400),
        (b"null", 422),
        (b'{"instance": 1, "after": 0}', 422),
        (b'{"instance": "x", "after": -1}', 422),
        (b'{"instance": "x", "after": 1e400}', 422),
        (b'{"instance": "x", "after": 0, "wait": NaN}', 422),
        (b'{"instance": "x", "after": 0, "more": 1}', 422),
        (b'{"instance": "\\u0000", "after": 0}', 422),
        (b'{"instance": "\\ud800", "after": 0}', 422),
        (b'{"instance": "x", "after": 0, "receipts": [{}]}', 422),
    ],
)
def test_a_malformed_body_is_refused(raw: Raw, body: bytes, status: int) -> None:
    assert error(raw("POST", "/v1/inbox", body)) == (status, "malformed")


def test_words_for_people_may_be_any_text_but_nul(module_hub: Hub) -> None:
    raw = Raw(module_hub, module_hub.folder.coordinator)
    path = "/v1/sites/nobody/revoke"

    assert error(raw("POST", path, {"reason": "Grüße 🏥"})) == (404, "unknown")
    assert error(raw("POST", path, {"reason": "a\0b"})) == (422, "malformed")


def test_a_body_too_large_is_refused_and_not_kept(module_hub: Hub, raw: Raw) -> None:
    limit = module_hub.folder.settings.limits.request

    assert error(raw("POST", "/v1/inbox", bytes(limit + 1))) == (413, "too-large")
    assert error(Raw(module_hub)("POST", "/v1/join", bytes(65 * 1024))) == (413, "too-large")
    path = f"/v1/blobs/{'0' * 64}"
    piece = {"Upload-Offset": "0", "Upload-Length": str(5 << 20)}
    response = raw("PATCH", path, bytes((4 << 20) + 1), headers=piece)
    assert error(response) == (413, "too-large")
    assert raw("HEAD", path).status_code == 404


def test_who_stops_in_the_middle_of_a_body_is_given_up(
    monkeypatch: pytest.MonkeyPatch, module_hub: Hub
) -> None:
    monkeypatch.setattr("cohortium.hub.signed.SILENCE", 0.2)
    context = ssl.create_default_context(cadata=module_hub.trust.ca_pem)
    plain = socket.create_connection(("127.0.0.1", module_hub.port))
    with context.wrap_socket(plain, server_hostname="localhost") as line:
        line.sendall(b"POST /v1/join HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf")

        assert line.recv(64).startswith(b"HTTP/1.1 408 ")


@contextmanager
def line_to(hub: Hub) -> Iterator[ssl.SSLSocket]:
    context = ssl.create_default_context(cadata=hub.trust.ca_pem)
    plain = socket.create_connection(("127.0.0.1", hub.port))
    with context.wrap_socket(plain, server_hostname="localhost") as line:
        yield line


def test_nothing_is_read_of_a_body_that_no_member_has_signed(module_hub: Hub, raw: Raw) -> None:
    headers = raw.signed("POST", "/v1/frames", bytes(100_000)) | {"Host": "x"}
    headers["Signature-Input"] = headers["Signature-Input"].replace('"a:1"', '"a:7"')
    fields = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    with line_to(module_hub) as line:
        head = f"POST /v1/frames HTTP/1.1\r\nContent-Length: 100000\r\n{fields}\r\n"
        line.sendall(head.encode())

        assert line.recv(64).startswith(b"HTTP/1.1 401 ")


@pytest.mark.parametrize("begun", [b"", b"GET /v1/hub HTTP/1.1\r\nHost:", b"\r\n"])
def test_who_does_not_come_to_the_end_of_a_head_is_cut_off(
    begun: bytes, monkeypatch: pytest.MonkeyPatch, module_hub: Hub
) -> None:
    monkeypatch.setattr("cohortium.hub.server.HEAD", 0.2)
    with line_to(module_hub) as line:
        line.settimeout(PATIENCE)
        if begun:
            line.sendall(begun)

        with suppress(ConnectionResetError, ssl.SSLEOFError):
            assert line.recv(64) == b""


def test_a_head_without_end_is_cut_off(module_hub: Hub) -> None:
    with line_to(module_hub) as line, pytest.raises((OSError, ssl.SSLEOFError)):
        line.sendall(b"GET /v1/hub HTTP/1.1\r\n" + b"X: 0123456789\r\n" * 10_000_000)


def test_what_is_not_there_is_unknown(raw: Raw) -> None:
    for path in (
        f"/v1/studies/{'0' * 64}",
        f"/v1/runs/{'0' * 32}",
        f"/v1/frames/{'0' * 32}",
        f"/v1/blobs/{'0' * 64}",
        f"/v1/runs/{'0' * 32}/receipts?party=a",
        "/v1/nothing",
    ):
        assert error(raw("GET", path)) == (404, "unknown"), path
    assert error(raw("DELETE", "/v1/inbox")) == (405, "method")


# --- blobs ---


def test_a_blob_that_is_not_what_its_digest_says_is_refused(module_hub: Hub, a: Identity) -> None:
    content = b"x" * (5 << 20)
    digest = hashlib.sha256(content).hexdigest()
    client = module_hub.client(a)

    with pytest.raises(InvalidInputError, match="is not what its digest"):
        client.upload(digest, content[:-1] + b"y")
    client.upload(digest, content)

    head = Raw(module_hub, a)("HEAD", f"/v1/blobs/{digest}").headers
    assert (head["upload-offset"], head["upload-complete"]) == (str(5 << 20), "?1")


def test_an_upload_goes_on_where_it_was(raw: Raw) -> None:
    content = b"one two three"
    path = f"/v1/blobs/{hashlib.sha256(content).hexdigest()}"

    def send(start: int, stop: int) -> tuple[int, str]:
        headers = {"Upload-Offset": str(start), "Upload-Length": str(len(content))}
        response = raw("PATCH", path, content[start:stop], headers=headers)
        return response.status_code, response.headers["upload-offset"]

    assert send(0, 4) == (200, "4")
    assert send(0, 4) == (409, "4")  # the answer was lost
    assert raw("HEAD", path).headers["upload-complete"] == "?0"
    assert send(4, 13) == (200, "13")
    assert send(4, 13) == (200, "13")


def test_only_who_a_blob_is_addressed_to_reads_it(module_hub: Hub, a: Identity) -> None:
    digest = upload(module_hub.client(a), b"secret")

    assert error(Raw(module_hub, a)("GET", f"/v1/blobs/{digest}")) == (404, "unknown")


@pytest.mark.parametrize(
    ("wanted", "status", "got"),
    [
        ("", 200, b"0123456789"),
        ("bytes=0-3", 206, b"0123"),
        ("bytes=7-", 206, b"789"),
        ("bytes=7-99", 206, b"789"),
        ("bytes=10-", 416, b""),
        ("bytes=3-2", 416, b""),
        ("bytes=-3", 416, b""),
        ("bytes=0-1,3-4", 416, b""),
        ("lines=1-2", 416, b""),
    ],
)
def test_ranges_of_a_blob(submitted: Raw, wanted: str, status: int, got: bytes) -> None:
    digest = hashlib.sha256(b"0123456789").hexdigest()
    headers = {"Range": wanted} if wanted else {}

    response = submitted("GET", f"/v1/blobs/{digest}", headers=headers)

    assert response.status_code == status
    if status < 400:
        assert response.content == got


@pytest.fixture(scope="module")
def submitted(module_hub: Hub) -> Raw:
    """A researcher whose study has a file of ten bytes."""
    ada = module_hub.member("ada", "researcher")
    client = module_hub.client(ada)
    digest = upload(client, b"0123456789")
    text = STUDY.replace('"linear"', '{kind = "code", file = "net.py", build = "Net"}')
    client.call("POST", "/v1/studies", {"text": text, "files": {"net.py": digest}})
    return Raw(module_hub, ada)


# --- coordination ---


def test_only_coordinators_coordinate(module_hub: Hub, raw: Raw) -> None:
    body = {"name": "x", "role": "site", "hours": 1}
    calls: list[tuple[str, str, dict[str, Any]]] = [
        ("POST", "/v1/invitations", body),
        ("GET", "/v1/sites", {}),
        ("POST", "/v1/sites/a/revoke", {"reason": ""}),
        ("POST", f"/v1/runs/{'0' * 32}/controls", {"op": "extend", "seconds": 1}),
    ]
    for method, path, sent in calls:
        response = raw(method, path, sent or b"")
        assert error(response) == (403, "refused"), path
    assert "a" in [site["name"] for site in module_hub.coordinator.call("GET", "/v1/sites")]


def test_new_keys_are_signed_with_the_old_ones_or_themselves(module_hub: Hub) -> None:
    old = module_hub.member("rotating")
    new = old.rotated(time.time())
    newer = new.rotated(time.time())

    module_hub.client(old).call("POST", "/v1/certificates", certified(new))
    assert error(Raw(module_hub, old)("GET", "/v1/directory")) == (401, "unauthorised")
    assert Raw(module_hub, new)("GET", "/v1/directory").status_code == 200
    module_hub.client(newer).call("POST", "/v1/certificates", certified(newer))
    assert Raw(module_hub, newer)("GET", "/v1/directory").status_code == 200


def test_nobody_brings_anothers_keys(module_hub: Hub, a: Identity) -> None:
    eve = Identity.create("a", role="site", now=time.time()).rotated(time.time())

    assert error(Raw(module_hub, eve)("POST", "/v1/certificates", certified(eve))) == (
        401,
        "unauthorised",
    )
    b = module_hub.member("bringer")
    response = Raw(module_hub, b)("POST", "/v1/certificates", certified(a.rotated(time.time())))
    assert response.status_code == 422


def certified(identity: Identity) -> dict[str, Any]:
    return {"certificate": identity.certificate.to_json()}


# --- metrics and logs ---


def test_metrics_are_for_this_machine_or_who_has_the_token(tmp_path: Path) -> None:
    with running(new_folder(tmp_path / "hub", metrics_token="s3cret")) as hub:
        raw = Raw(hub)
        assert raw("GET", "/metrics").status_code == 200
        through_proxy = {"X-Forwarded-For": "203.0.113.9"}
        assert error(raw("GET", "/metrics", headers=through_proxy)) == (403, "refused")
        for token, status in (("s3cret", 200), ("wrong", 403)):
            headers = {**through_proxy, "Authorization": f"Bearer {token}"}
            assert raw("GET", "/metrics", headers=headers).status_code == status


def test_what_is_counted_and_logged_names_no_content(
    module_hub: Hub, submitted: Raw, log: LogCapture
) -> None:
    submitted("POST", "/v1/studies", {"text": "patient = 'Doe, Jane'", "files": {}})

    text = submitted("GET", "/metrics").text
    assert 'route="/v1/studies",status="422"' in text
    assert "cohortium_hub_sites_online" in text
    assert "cohortium_hub_mailbox_messages" in text
    entry = next(e for e in log.entries if e["event"] == "refused")
    assert (entry["site"], entry["reason"], entry["status"]) == ("ada", "malformed", 422)
    assert "Doe" not in json.dumps(log.entries, default=str) + text


# --- long polls ---


def test_a_poll_ends_as_soon_as_there_is_mail(hub: Hub) -> None:
    a, ada = hub.member("a"), hub.member("ada", "researcher")
    waiting = Waiting(hub, a)
    until(hub, "a", online=True)

    digest = hub.client(ada).call("POST", "/v1/studies", {"text": STUDY, "files": {}})["digest"]

    said = waiting.answer.result(timeout=20)
    assert [message["notice"] for message in said["messages"]] == [
        {"kind": "study", "digest": digest}
    ]
    again = poll(hub.client(a), after=said["messages"][-1]["seq"], wait=0.0)
    assert again["messages"] == []


def test_who_is_revoked_is_refused_at_once_and_its_poll_ends(hub: Hub) -> None:
    a = hub.member("a")
    waiting = Waiting(hub, a)
    until(hub, "a", online=True)

    hub.coordinator.call("POST", "/v1/sites/a/revoke", {"reason": "left the consortium"})

    with pytest.raises(RevokedError, match="left the consortium"):
        waiting.answer.result(timeout=20)
    for method, path in (("GET", "/v1/directory"), ("GET", "/v1/studies"), ("GET", "/v1/nothing")):
        assert error(Raw(hub, a)(method, path)) == (403, "revoked")
    assert refusals(hub)["revoked"] == 4


def test_two_processes_with_one_key_are_told_apart(hub: Hub) -> None:
    a = hub.member("a")
    lease(hub.client(a), "one")
    waiting = Waiting(hub, a)
    until(hub, "a", online=True)

    with pytest.raises(ConflictError, match=r"a second process of a: one is running since 20"):
        lease(hub.client(a), "copy", "one")
    with pytest.raises(ConflictError, match="not the newest of a"):
        poll(hub.client(a), "copy", wait=0.0)

    assert not waiting.answer.done()  # the one that was first goes on
    waiting.cut()


def test_a_killed_nodes_successor_takes_over_at_once(tmp_path: Path) -> None:
    """The lease would last for an hour; that the poll's connection broke ends it."""
    with running(new_folder(tmp_path / "hub", lease=3600.0)) as hub:
        a = hub.member("a")
        lease(hub.client(a), "one")
        waiting = Waiting(hub, a)
        until(hub, "a", online=True)
        with ThreadPoolExecutor(1) as pool:
            taken = pool.submit(lease, hub.client(a), "two", "one")
            waiting.cut()
            assert taken.result(timeout=20) == {"seconds": 3600.0}

        with pytest.raises(ConflictError, match="another one took over"):
            poll(hub.client(a), "one", wait=0.0)


def test_a_node_that_stops_lets_its_successor_in(tmp_path: Path) -> None:
    with running(new_folder(tmp_path / "hub", lease=3600.0)) as hub:
        client = hub.client(hub.member("a"))
        lease(client, "one")
        client.call("POST", "/v1/lease", {"instance": "one", "ended": True})

        assert lease(client, "two", "one") == {"seconds": 3600.0}


def test_fifty_nodes_wait_at_once_without_a_thread_each(hub: Hub) -> None:
    nodes = [hub.member(f"n{i}") for i in range(50)]
    ada = hub.member("ada", "researcher")
    waiting = [Waiting(hub, node) for node in nodes]
    for node in nodes:
        until(hub, node.name, online=True)
    sites = hub.coordinator.call("GET", "/v1/sites")
    assert sum(site["online"] for site in sites) == 50  # more than the hub's pool has threads

    hub.client(ada).call("POST", "/v1/studies", {"text": STUDY, "files": {}})

    for each in waiting:
        assert len(each.answer.result(timeout=30)["messages"]) == 1


def test_a_hub_that_stops_ends_its_polls(tmp_path: Path) -> None:
    with running(new_folder(tmp_path / "hub")) as hub:
        waiting = Waiting(hub, hub.member("a"))
        until(hub, "a", online=True)
        hub.clients.remove(waiting.client)

    assert waiting.answer.result(timeout=20)["messages"] == []
    waiting.cut()


def test_a_hub_that_stops_waits_for_no_idle_connection(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with running(new_folder(tmp_path / "hub")) as hub:
        client = hub.client(hub.member("a"))
        client.call("GET", "/v1/studies")
        hub.clients.remove(client)  # its connection stays open
    client.close()

    assert "timeout graceful shutdown exceeded" not in caplog.text


def test_addresses_are_kept_and_shown_to_who_may_know(hub: Hub) -> None:
    a = hub.member("a")
    body = {"instance": "one", "predecessor": "", "address": "https://a.example.org:9443"}

    hub.client(a).call("POST", "/v1/lease", body)

    [entry] = [e for e in hub.coordinator.call("GET", "/v1/directory") if e["name"] == "a"]
    assert entry["address"] == "https://a.example.org:9443"


def test_an_honest_broker_takes_no_address(tmp_path: Path) -> None:
    with running(new_folder(tmp_path / "hub", broker=True)) as hub:
        client = hub.client(hub.member("a"))
        body = {"instance": "one", "predecessor": "", "address": "https://a.example.org"}

        with pytest.raises(RequestError, match="nobody link directly"):
            client.call("POST", "/v1/lease", body)


def test_unknown_headers_do_no_harm(raw: Raw, a: Identity) -> None:
    for headers in ({"X-Anything": "1"}, {"Range": "bytes=0-1"}, {"Cookie": "a=b"}):
        assert raw("GET", "/v1/directory", headers=headers).status_code == 200
    assert raw("GET", "/v1/directory?x=%00").status_code == 200
    with pytest.raises(UnknownError):
        raw.hub.client(a).call("GET", "/v1/certificates/nobody")
