"""Blobs go up and come down whole, whatever happens on the way, and little is sent twice."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from cohortium.errors import CohortiumError, RefusedError
from cohortium.testing.relay import Relay
from cohortium.transport.client import PIECE
from cohortium.transport.errors import RequestError, UnknownError

from .conftest import Dial
from .small_hub import SmallHub

MIB = 1 << 20
DATA = os.urandom(2 * PIECE + 12345)
DIGEST = hashlib.sha256(DATA).hexdigest()
PATH = f"/v1/blobs/{DIGEST}"


def put(hub: SmallHub, data: bytes = DATA) -> str:
    digest = hashlib.sha256(data).hexdigest()
    hub.blobs.put(digest, data)
    return digest


def held(hub: SmallHub, digest: str = DIGEST) -> bytes:
    path = hub.blobs.path(digest)
    assert path is not None
    return path.read_bytes()


def through(relay: Relay) -> str:
    return f"https://localhost:{relay.port}"


@pytest.mark.parametrize("size", [0, 1, 1000, 1 << 16, (1 << 16) + 1, PIECE, PIECE + 1])
def test_what_goes_up_comes_down(dial: Dial, hub: SmallHub, size: int) -> None:
    data = DATA[:size]
    digest = hashlib.sha256(data).hexdigest()
    client = dial()
    client.upload(digest, data)
    assert held(hub, digest) == data
    into = bytearray(size)
    client.download(digest, size, into)
    assert into == data


@pytest.mark.parametrize("size", [0, 5, 2 * PIECE + 3])
def test_files_go_up_and_come_down(dial: Dial, hub: SmallHub, tmp_path: Path, size: int) -> None:
    data = DATA[:size]
    (tmp_path / "up").write_bytes(data)
    digest, client = hashlib.sha256(data).hexdigest(), dial()
    client.upload(digest, tmp_path / "up")
    client.download(digest, size, tmp_path / "down")
    assert (tmp_path / "down").read_bytes() == data
    assert not (tmp_path / "down.part").exists()


def test_an_upload_goes_on_after_a_cut_in_the_middle_of_a_piece(
    dial: Dial, hub: SmallHub, relay: Relay
) -> None:
    client = dial(through(relay))
    client.call("GET", "/v1/echo")
    relay.cut_after(PIECE + MIB)
    client.upload(DIGEST, DATA)
    assert held(hub) == DATA
    assert hub.seen.count(("PATCH", PATH)) == 3
    assert hub.received < len(DATA) + MIB + (1 << 18)  # the cut piece's beginning came twice


def test_a_download_goes_on_after_a_cut_in_the_middle_of_a_piece(
    dial: Dial, hub: SmallHub, relay: Relay
) -> None:
    put(hub)
    client, into = dial(through(relay)), bytearray(len(DATA))
    client.call("GET", "/v1/echo")
    relay.cut_after(PIECE + MIB)
    client.download(DIGEST, len(DATA), into)
    assert into == DATA
    assert hub.seen.count(("GET", PATH)) == 4
    assert relay.passed < len(DATA) + PIECE


def test_a_blob_goes_both_ways_over_a_slow_link_and_with_a_slow_reader(
    dial: Dial, hub: SmallHub, relay: Relay
) -> None:
    data = DATA[: 3 * MIB]
    digest = hashlib.sha256(data).hexdigest()
    relay.limit(8.0 * MIB)
    relay.delay(0.001)
    client = dial(through(relay), timeout=0.5, patience=0.0)  # silence is not slowness
    client.upload(digest, data)
    into = bytearray(len(data))
    client.download(digest, len(data), into)
    assert into == data


def test_a_lost_answer_does_not_send_the_piece_again(dial: Dial, hub: SmallHub) -> None:
    hub.faults.extend(["", "lost"])  # of HEAD, of the first PATCH
    dial().upload(DIGEST, DATA)
    assert held(hub) == DATA
    methods = [method for method, _ in hub.seen]
    assert methods == ["HEAD", "PATCH", "PATCH", "HEAD", "PATCH", "PATCH"]  # one is refused


def test_the_hub_dies_in_the_middle_of_an_upload(dial: Dial, hub: SmallHub) -> None:
    waits = threading.Event()
    client = dial(patience=None, waiting=lambda error, seconds: waits.set())
    pieces = iter(range(3))

    def die() -> None:
        if next(pieces) == 2:
            threading.Thread(target=restart).start()
            hub.faults.append("lost")

    def restart() -> None:
        hub.stop()
        waits.wait()
        hub.start()
        hub.on_request = list

    hub.on_request = die
    client.upload(DIGEST, DATA)
    assert held(hub) == DATA


def test_what_is_there_is_not_sent(dial: Dial, hub: SmallHub) -> None:
    put(hub)
    dial().upload(DIGEST, DATA)
    assert hub.seen == [("HEAD", PATH)]
    assert hub.received == 0


def test_what_is_there_in_part_is_not_sent_again(dial: Dial, hub: SmallHub) -> None:
    hub.blobs.append(DIGEST, 0, DATA[:1_000_000], total=len(DATA))
    dial().upload(DIGEST, DATA)
    assert held(hub) == DATA
    assert hub.received == len(DATA) - 1_000_000


def test_other_bytes_than_the_digest_says_are_refused(dial: Dial, hub: SmallHub) -> None:
    with pytest.raises(RequestError, match="is not what its digest"):
        dial().upload(DIGEST, DATA[::-1])
    assert hub.blobs.size(DIGEST) is None


def test_an_upload_that_cannot_go_on_ends(dial: Dial, hub: SmallHub) -> None:
    hub.blobs.append(DIGEST, 0, DATA[:-5], total=len(DATA))
    with pytest.raises(CohortiumError):
        dial().upload(DIGEST, DATA[:-10])


def corrupted(hub: SmallHub) -> None:
    path = hub.blobs.path(put(hub))
    assert path is not None
    path.chmod(0o600)
    path.write_bytes(DATA[:-1] + bytes([DATA[-1] ^ 1]))


def test_a_blob_that_the_hub_spoilt_is_refused(dial: Dial, hub: SmallHub, tmp_path: Path) -> None:
    corrupted(hub)
    for into in (bytearray(len(DATA)), tmp_path / "blob"):
        with pytest.raises(RefusedError, match=f"blob {DIGEST[:8]}: what the hub sent is"):
            dial().download(DIGEST, len(DATA), into)
    assert not list(tmp_path.glob("blob*"))


@pytest.mark.parametrize("size", [len(DATA) - 1, len(DATA) + 1])
def test_a_blob_of_another_size_is_refused(dial: Dial, hub: SmallHub, size: int) -> None:
    put(hub)
    with pytest.raises(RefusedError, match="the hub sent bytes"):
        dial().download(DIGEST, size, bytearray(size))


def test_a_blob_that_is_not_there_is_unknown(dial: Dial) -> None:
    with pytest.raises(UnknownError):
        dial().download(DIGEST, 5, bytearray(5))


KILLED = """
import json, os, signal, sys
from pathlib import Path
from cohortium.identity import Identity
from cohortium.transport.client import HubClient
from cohortium.transport.trust import HubTrust
given = json.loads(sys.stdin.read())
client = HubClient(
    given["url"], Identity.from_json(given["identity"]), HubTrust.from_json(given["hub"])
)
fetch, fetched = client._fetch, []
def once(*arguments, **options):
    if fetched:
        os.kill(os.getpid(), signal.SIGKILL)
    fetched.append(fetch(*arguments, **options))
client._fetch = once
client.download(given["digest"], given["size"], Path(given["into"]))
"""


def test_a_killed_process_leaves_what_the_next_goes_on_with(
    dial: Dial, hub: SmallHub, tmp_path: Path
) -> None:
    put(hub)
    into, member = tmp_path / "blob", hub.join("Site A")
    given = {
        "url": hub.url,
        "identity": member.to_json(),
        "hub": hub.trust.to_json(),
        "digest": DIGEST,
        "size": len(DATA),
        "into": str(into),
    }
    ended = subprocess.run(
        [sys.executable, "-c", KILLED], input=json.dumps(given), text=True, check=False
    )
    assert ended.returncode == -signal.SIGKILL
    assert not into.exists()
    hub.seen.clear()
    dial().download(DIGEST, len(DATA), into)
    assert into.read_bytes() == DATA
    assert len(hub.seen) == 2


def test_a_part_of_another_size_is_no_harm(dial: Dial, hub: SmallHub, tmp_path: Path) -> None:
    put(hub)
    (tmp_path / "blob.part").write_bytes(DATA + b"more")
    dial().download(DIGEST, len(DATA), tmp_path / "blob")
    assert (tmp_path / "blob").read_bytes() == DATA


def test_many_threads_share_a_client(dial: Dial, hub: SmallHub) -> None:
    client = dial()
    blobs = [os.urandom(200_000) for _ in range(8)]
    into = [bytearray(200_000) for _ in blobs]

    def carry(number: int) -> None:
        digest = hashlib.sha256(blobs[number]).hexdigest()
        client.upload(digest, blobs[number])
        client.download(digest, len(blobs[number]), into[number])

    threads = [threading.Thread(target=carry, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert into == blobs
