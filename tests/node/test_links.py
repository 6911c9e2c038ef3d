"""Direct links: the same frames, straight to a peer that listens; the hub where that fails."""

from __future__ import annotations

import hashlib
import secrets
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.node.federation import Federation, federation, study, until_ended

from cohortium.errors import ArgumentError
from cohortium.identity import Identity, key_id
from cohortium.node import links as links_module
from cohortium.node.links import Desk, Links, PeerTrust, listening
from cohortium.node.settings import read_settings
from cohortium.node.site import opened
from cohortium.transport.blobs import FolderBlobs
from cohortium.transport.client import HubClient
from cohortium.transport.envelope import Data, Frame, Head, seal
from cohortium.transport.errors import RequestError, UnauthorisedError, UnknownError
from cohortium.transport.nonces import Nonces
from cohortium.transport.signing import Request, sign_request


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def direct(port: int) -> str:
    return f'[direct]\nlisten = "127.0.0.1:{port}"\naddress = "https://localhost:{port}"\n'


@pytest.fixture
def alliance(tmp_path: Path) -> Iterator[Federation]:
    with federation(tmp_path) as alliance:
        for number, name in enumerate(("aachen", "bonn", "celle")):
            alliance.node(name, seed=number, toml=direct(free_port()))
        yield alliance


def finish(alliance: Federation, digest: str) -> str:
    run = alliance.start(digest)
    for node in alliance.nodes.values():
        with opened(node.home) as site:
            assert until_ended(site, run) == "finished"
    return run


def ring(name: str) -> str:
    return study(name, topology="cyclic", plan='sites = ["aachen", "bonn", "celle"]')


def test_models_go_straight_to_peers(alliance: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cohortium.transport.envelope.INLINE", 64)  # so that models are blobs
    went: list[tuple[bool, bool, bool]] = []
    post = Links.post

    def noted(self: Links, frame: Frame, ciphertext: Data) -> bool:
        arrived = post(self, frame, ciphertext)
        among_peers = not {"@hub", "ada"} & set(frame.keys)
        went.append((among_peers, bool(frame.blob), arrived))
        return arrived

    monkeypatch.setattr(Links, "post", noted)
    digest = alliance.approved(ring("directly"))
    a, b, c = alliance.nodes.values()
    with a.up(), b.up(), c.up():
        finish(alliance, digest)
    assert (True, True, True) in went
    assert all(arrived == among_peers for among_peers, _, arrived in went)
    for node in (a, b, c):
        assert not list((node.home.inbox / "direct").glob("*/*"))


def test_a_peer_that_cannot_be_reached_gets_it_through_the_hub(alliance: Federation) -> None:
    toml = alliance.nodes["bonn"].home.folder / "node.toml"
    elsewhere = f"https://localhost:{free_port()}"
    lines = [
        f'address = "{elsewhere}"' if line.startswith("address") else line
        for line in toml.read_text().splitlines()
    ]
    toml.write_text("\n".join(lines))
    digest = alliance.approved(ring("detour"))
    a, b, c = alliance.nodes.values()
    with a.up(), b.up(), c.up():
        finish(alliance, digest)


def test_behind_a_broker_nobody_listens(tmp_path: Path) -> None:
    with federation(tmp_path, broker=True) as alliance:
        node = alliance.node("aachen", toml=direct(free_port()))
        with pytest.raises(ArgumentError, match="honest broker"), node.up() as agent:
            agent.ended.wait(20)


@pytest.mark.parametrize(
    "toml",
    ['[direct]\nlisten = "127.0.0.1:1"', '[direct]\naddress = "https://a.example:1"'],
)
def test_an_address_and_a_listener_need_each_other(tmp_path: Path, toml: str) -> None:
    (tmp_path / "node.toml").write_text(toml)
    with pytest.raises(ArgumentError, match="need each other"):
        read_settings(tmp_path / "node.toml")


RUN = "ab" * 16


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[tuple[HubClient, Desk, list[Frame]]]:
    """A listener of "bonn", and "aachen"'s way to it; both are in a run."""
    sites = {name: Identity.create(name, role="site", now=0.0) for name in ("aachen", "bonn")}
    taken: list[Frame] = []

    def lookup(host: str, serial: int | None, run: str) -> object:
        if host not in sites or run != RUN or serial not in (None, 1):
            raise UnknownError(host, "a host of the run")
        return sites[host].certificate

    nonces = Nonces(tmp_path / "nonces")
    desk = Desk(
        identity=sites["bonn"],
        blobs=FolderBlobs(tmp_path / "blobs"),
        nonces=nonces,
        runs=lambda: [RUN],
        lookup=lookup,  # type: ignore[arg-type]
        deliver=taken.append,
    )
    with listening("127.0.0.1:0", "https://localhost", desk, tmp_path) as port:
        client = way(port, sites["aachen"], sites["bonn"])
        yield client, desk, taken
        client.close()
    nonces.close()


def way(port: int, caller: Identity, called: Identity) -> HubClient:
    pem = ssl.get_server_certificate(("localhost", port))
    trust = PeerTrust(called.certificate, pem)
    return HubClient(f"https://localhost:{port}", caller, trust, proxy="", patience=2.0)


def port_of(client: HubClient) -> int:
    return int(client._wire._way.url.rpartition(":")[2])


def test_a_blob_is_brought_in_pieces(
    peer: tuple[HubClient, Desk, list[Frame]], monkeypatch: pytest.MonkeyPatch
) -> None:
    client, desk, _ = peer
    monkeypatch.setattr("cohortium.transport.client.PIECE", 1000)
    content = bytes(range(256)) * 20
    digest = hashlib.sha256(content).hexdigest()
    client.upload(digest, content)
    client.upload(digest, content)
    path = desk.blobs.path(digest)
    assert path is not None
    assert path.read_bytes() == content


def test_only_hosts_of_a_run_that_goes_on_here_are_heard(
    peer: tuple[HubClient, Desk, list[Frame]],
) -> None:
    client, desk, taken = peer
    eve = Identity.create("aachen", role="site", now=0.0)
    stranger = way(port_of(client), eve, desk.identity)
    with pytest.raises(UnauthorisedError):
        stranger.call("POST", "/v1/frames", {})
    stranger.close()
    unsigned = HubClient(f"https://localhost:{port_of(client)}", None, client.hub, proxy="")
    with pytest.raises(UnauthorisedError):
        unsigned.call("POST", "/v1/frames", {})
    unsigned.close()
    assert not taken


def test_a_request_for_another_peer_is_not_taken(
    peer: tuple[HubClient, Desk, list[Frame]],
) -> None:
    client, desk, taken = peer
    signer = client.identity
    assert signer is not None

    def answer(to: Identity) -> int:
        fields = sign_request(
            "POST",
            "/v1/frames",
            b"{}",
            signer=signer,
            hub=key_id(to.root.public),
            now=time.time(),
            nonce=secrets.token_hex(8),
        )
        return desk.handle(Request("POST", "/v1/frames", fields), b"{}")[0]

    assert answer(Identity.create("celle", role="site", now=0.0)) == 401
    assert answer(desk.identity) == 403
    assert not taken


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/v1/frames", {}),
        ("POST", "/v1/elsewhere", {}),
        ("GET", "/v1/blobs/xyz", None),
        ("PATCH", "/v1/blobs/" + "0" * 64, {"no": "offset"}),
    ],
)
def test_nonsense_is_refused(
    peer: tuple[HubClient, Desk, list[Frame]], method: str, path: str, body: dict[str, str] | None
) -> None:
    client, _, taken = peer
    with pytest.raises(RequestError):
        client.call(method, path, body)
    assert not taken


def test_a_peer_that_failed_is_left_alone_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = Identity.create("aachen", role="site", now=0.0)
    asked: list[str] = []

    def lookup(host: str, serial: int | None, run: str) -> object:
        asked.append(host)
        raise UnknownError(host, "somebody")

    links = Links(keys, lookup)  # type: ignore[arg-type]
    links.addresses = {"bonn": "https://localhost:9"}
    head = Head(
        run=RUN,
        sender="aachen",
        to=("bonn",),
        number=1,
        kind="release",
        round=1,
        attempt=0,
        step="train/aachen",
    )
    bonn = Identity.create("bonn", role="site", now=0.0).certificate
    frame, _ = seal(head, [b"model"], signer=keys, receivers={"bonn": bonn})
    assert not links.post(frame, b"")
    assert not links.post(frame, b"")
    assert asked == ["bonn"]
    later = time.monotonic() + links_module.SHUNNED + 1
    monkeypatch.setattr("cohortium.node.links.time.monotonic", lambda: later)
    assert not links.post(frame, b"")
    assert asked == ["bonn", "bonn"]
    links.close()
