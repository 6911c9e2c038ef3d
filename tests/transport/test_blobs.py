"""Blobs: uploads in pieces, through crashes, full disks and each other, to any store."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO, Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from obstore.store import from_url

from cohortium.errors import ArgumentError, RefusedError
from cohortium.transport.blobs import Blobs, FolderBlobs, ObjectBlobs, OffsetError
from cohortium.transport.errors import UnavailableError, UnknownError

DATA = hashlib.shake_128(b"blob").digest(1_000_000)
DIGEST = hashlib.sha256(DATA).hexdigest()
HALF = 500_000
Opener = Callable[[], Blobs]


@pytest.fixture(params=["folder", "file", "memory", "s3"])
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Opener:
    """Return what opens the same store again, as after a restart."""
    uploads = tmp_path / "uploads"
    match request.param:
        case "folder":
            return partial(FolderBlobs, tmp_path / "blobs")
        case "file":
            (tmp_path / "objects").mkdir()
            return partial(ObjectBlobs, f"file://{tmp_path}/objects", uploads)
        case "memory":
            blobs = ObjectBlobs("memory:///", uploads)
            return lambda: blobs
        case _:
            return partial(ObjectBlobs, request.getfixturevalue("bucket"), uploads)


@pytest.fixture(scope="module")
def s3_server() -> Iterator[str]:
    """Run a server that speaks S3, in this process, if one is installed."""
    server = pytest.importorskip("moto.server").ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the URL of a new place in a bucket."""
    use_s3(s3_server, monkeypatch)
    httpx.put(f"{s3_server}/blobs", headers={"Authorization": "AWS test:test"}).raise_for_status()
    return f"s3://blobs/{os.urandom(4).hex()}"


def use_s3(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "AWS_ENDPOINT": endpoint,
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)


# --- every store ---


def test_a_blob_comes_in_pieces_and_is_read_in_others(opener: Opener) -> None:
    blobs = opener()
    assert (blobs.size(DIGEST), blobs.received(DIGEST), blobs.path(DIGEST)) == (None, 0, None)
    for at in range(0, len(DATA), 300_000):
        assert blobs.received(DIGEST) == at
        end = blobs.append(DIGEST, at, DATA[at : at + 300_000], total=len(DATA))
        assert end == min(at + 300_000, len(DATA))
    assert blobs.size(DIGEST) == len(DATA)
    assert blobs.read(DIGEST, 0, len(DATA)) == DATA
    assert blobs.read(DIGEST, 299_999, 300_001) == DATA[299_999:300_001]
    assert blobs.read(DIGEST, len(DATA) - 1, len(DATA)) == DATA[-1:]


def test_an_upload_goes_on_after_a_restart(opener: Opener) -> None:
    opener().append(DIGEST, 0, DATA[:HALF], total=len(DATA))
    blobs = opener()
    assert (blobs.size(DIGEST), blobs.received(DIGEST)) == (None, HALF)
    blobs.append(DIGEST, HALF, DATA[HALF:], total=len(DATA))
    assert opener().read(DIGEST, 0, len(DATA)) == DATA


@pytest.mark.parametrize("offset", [0, 1, HALF - 1, HALF + 1, -1])
def test_a_piece_at_another_offset_changes_nothing(opener: Opener, offset: int) -> None:
    blobs = opener()
    blobs.append(DIGEST, 0, DATA[:HALF], total=len(DATA))
    with pytest.raises(OffsetError) as caught:
        blobs.append(DIGEST, offset, DATA[:10], total=len(DATA))
    assert (caught.value.received, caught.value.expected) == (HALF, str(HALF))
    blobs.append(DIGEST, HALF, DATA[HALF:], total=len(DATA))
    assert blobs.size(DIGEST) == len(DATA)


def test_what_is_not_what_its_digest_says_is_dropped_and_can_come_again(opener: Opener) -> None:
    blobs = opener()
    blobs.append(DIGEST, 0, b"x" * HALF, total=len(DATA))
    with pytest.raises(RefusedError, match="not what its digest"):
        blobs.append(DIGEST, HALF, DATA[HALF:], total=len(DATA))
    with pytest.raises(RefusedError, match="not what its digest"):
        blobs.append(DIGEST, 0, DATA[:-1], total=len(DATA) - 1)
    with pytest.raises(RefusedError, match="not what its digest"):
        blobs.put(DIGEST, DATA[:-1])
    assert (blobs.size(DIGEST), blobs.received(DIGEST)) == (None, 0)
    blobs.put(DIGEST, DATA)
    assert blobs.read(DIGEST, 0, len(DATA)) == DATA


def test_a_piece_beyond_the_end_is_refused(opener: Opener) -> None:
    blobs = opener()
    blobs.append(DIGEST, 0, DATA[:HALF], total=len(DATA))
    with pytest.raises(RefusedError, match="bytes of a blob of"):
        blobs.append(DIGEST, HALF, DATA[HALF:] + b"x", total=len(DATA))
    assert blobs.received(DIGEST) == HALF


def test_a_blob_that_is_there_needs_no_second_upload(opener: Opener) -> None:
    blobs = opener()
    blobs.put(DIGEST, memoryview(DATA))
    blobs.put(DIGEST, DATA)
    assert blobs.append(DIGEST, 0, DATA[:10], total=len(DATA)) == len(DATA)
    assert (blobs.size(DIGEST), blobs.received(DIGEST)) == (len(DATA), 0)


def test_nobody_spoils_what_another_uploads(opener: Opener) -> None:
    opener().append(DIGEST, 0, b"x" * HALF, total=len(DATA), by="c")
    blobs = opener()
    assert blobs.received(DIGEST, by="b") == 0
    blobs.append(DIGEST, 0, DATA[:HALF], total=len(DATA), by="b")
    assert (blobs.received(DIGEST, by="b"), blobs.received(DIGEST)) == (HALF, 0)
    blobs.append(DIGEST, HALF, DATA[HALF:], total=len(DATA), by="b")
    assert blobs.read(DIGEST, 0, len(DATA)) == DATA


def test_who_uploads_alone_brings_all_of_it(opener: Opener) -> None:
    blobs = opener()
    blobs.put(DIGEST, DATA)
    assert blobs.append(DIGEST, 0, DATA[:HALF], total=len(DATA), by="b") == HALF
    with pytest.raises(RefusedError, match="not what its digest"):
        blobs.append(DIGEST, HALF, b"x" * (len(DATA) - HALF), total=len(DATA), by="b")
    assert blobs.append(DIGEST, 0, DATA, total=len(DATA), by="c") == len(DATA)
    assert blobs.read(DIGEST, 0, len(DATA)) == DATA


def test_a_blob_goes_with_all_its_uploads(opener: Opener) -> None:
    blobs = opener()
    for who in ("a", "b"):
        blobs.append(DIGEST, 0, DATA[:HALF], total=len(DATA), by=who)
    blobs.delete(DIGEST)
    assert [blobs.received(DIGEST, by=who) for who in ("a", "b")] == [0, 0]
    blobs.append(DIGEST, 0, DATA[:HALF], total=len(DATA), by="a")
    blobs.sweep(1e12)
    assert blobs.received(DIGEST, by="a") == 0


def test_an_empty_blob_is_one(opener: Opener) -> None:
    empty, blobs = hashlib.sha256(b"").hexdigest(), opener()
    assert blobs.size(empty) is None
    assert blobs.append(empty, 0, b"", total=0) == 0
    assert blobs.size(empty) == 0


def test_what_is_deleted_is_unknown(opener: Opener) -> None:
    blobs = opener()
    with pytest.raises(UnknownError):
        blobs.read(DIGEST, 0, 1)
    blobs.put(DIGEST, DATA)
    blobs.delete(DIGEST)
    blobs.delete(DIGEST)
    with pytest.raises(UnknownError):
        blobs.read(DIGEST, 0, 1)
    blobs.append(DIGEST, 0, DATA[:HALF], total=len(DATA))
    blobs.delete(DIGEST)
    assert blobs.received(DIGEST) == 0


def test_uploads_that_nobody_goes_on_with_are_swept_away(opener: Opener, tmp_path: Path) -> None:
    blobs, other = opener(), hashlib.sha256(b"other").hexdigest()
    blobs.append(DIGEST, 0, DATA[:HALF], total=len(DATA))
    blobs.append(other, 0, b"ot", total=5)
    (part,) = tmp_path.glob(f"*/*/{DIGEST}.*")
    os.utime(part, (1000, 1000))
    blobs.sweep(2000)
    assert (blobs.received(DIGEST), blobs.received(other)) == (0, 2)
    blobs.put(DIGEST, DATA)
    blobs.sweep(1e12)
    assert (blobs.size(DIGEST), blobs.received(other)) == (len(DATA), 0)


@pytest.mark.parametrize(
    "digest", ["", "ab", DIGEST.upper(), DIGEST + "0", "../" * 21 + "x", "é" * 64]
)
def test_what_is_no_digest_names_nothing(opener: Opener, digest: str) -> None:
    blobs = opener()
    for use in (
        blobs.size,
        blobs.received,
        blobs.delete,
        blobs.path,
        lambda name: blobs.put(name, b""),
        lambda name: blobs.read(name, 0, 1),
        lambda name: blobs.append(name, 0, b"", total=0),
    ):
        with pytest.raises(RefusedError, match="64 hex"):
            use(digest)


@pytest.mark.parametrize("opener", ["folder", "file"], indirect=True)
@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40), st.booleans()), max_size=30))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_sequence_of_pieces_ends_in_the_blob_or_in_none(
    opener: Opener, pieces: list[tuple[int, int, bool]]
) -> None:
    """Pieces anywhere, some of them wrong, then an honest upload: it always gets through."""
    data, blobs = DATA[:40], opener()
    digest = hashlib.sha256(data).hexdigest()
    for start, length, wrong in pieces:
        piece = bytes(length) if wrong else data[start : start + length]
        with suppress(RefusedError):
            blobs.append(digest, start, piece, total=len(data))
        assert blobs.size(digest) in {None, len(data)}
    for _ in range(2):  # the first may end what somebody else began wrongly
        if blobs.size(digest) is None:
            at = blobs.received(digest)
            try:
                blobs.append(digest, at, data[at:], total=len(data))
            except RefusedError:
                assert blobs.received(digest) == 0
    assert blobs.read(digest, 0, len(data)) == data
    blobs.delete(digest)


def test_uploads_of_one_blob_at_the_same_time_do_not_disturb_each_other(opener: Opener) -> None:
    """Each thread does what a client does: asks where to go on, and sends from there."""
    failures: list[BaseException] = []

    def upload(blobs: Blobs, piece: int) -> None:
        try:
            while blobs.size(DIGEST) is None:
                at = blobs.received(DIGEST)
                try:
                    blobs.append(DIGEST, at, DATA[at : at + piece], total=len(DATA))
                except OffsetError:
                    continue
        except BaseException as error:
            failures.append(error)
            raise

    threads = [
        threading.Thread(target=upload, args=(opener(), 70_000 + 9_999 * i)) for i in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert opener().read(DIGEST, 0, len(DATA)) == DATA


# --- a folder ---


def test_a_blob_is_a_file_that_only_its_owner_reads(tmp_path: Path) -> None:
    blobs = FolderBlobs(tmp_path / "blobs")
    old = os.umask(0)
    try:
        blobs.put(DIGEST, DATA)
    finally:
        os.umask(old)
    path = blobs.path(DIGEST)
    assert path == tmp_path / "blobs" / DIGEST[:2] / DIGEST
    assert path.read_bytes() == DATA
    modes = [stat.S_IMODE(each.stat().st_mode) for each in (path, path.parent, path.parent.parent)]
    assert modes == [0o600, 0o700, 0o700]
    assert [each.name for each in path.parent.iterdir()] == [DIGEST]


CHILD = """
import os, signal, sys
from pathlib import Path
from cohortium.transport.blobs import FolderBlobs

folder, digest, point, call = sys.argv[1:5]
data = Path(folder, "data").read_bytes()
blobs = FolderBlobs(Path(folder, "blobs"))

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

def half(descriptor, data, at, pwrite=os.pwrite):
    pwrite(descriptor, data[: len(data) // 2], at)
    die()

def renamed(self, target, rename=Path.rename):
    rename(self, target)
    die()

match point:
    case "before the piece": os.pwrite = die
    case "half the piece": os.pwrite = half
    case "before it is synced": os.fsync = die
    case "before it is renamed": Path.rename = die
    case "after it is renamed": Path.rename = renamed

at = blobs.received(digest)
if call == "put":
    blobs.put(digest, data)
else:
    blobs.append(digest, at, data[at : at + 400_000], total=len(data))
"""
POINTS = [
    "before the piece",
    "half the piece",
    "before it is synced",
    "before it is renamed",
    "after it is renamed",
]


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("there", [0, 400_000, 800_000])
def test_an_upload_survives_a_kill_at_any_instant(tmp_path: Path, there: int, point: str) -> None:
    """What is said to be there is there, and is what was sent: here and then to the end."""
    blobs = begun(tmp_path, there)
    killed(tmp_path, point, "append")
    end = min(there + 400_000, len(DATA))
    done = end if point == "after it is renamed" else there
    assert (blobs.size(DIGEST) or blobs.received(DIGEST)) == done
    if done < len(DATA):
        (part,) = (tmp_path / "blobs").glob("*/*") if done or there else [None]
        assert part is None or part.read_bytes()[:done] == DATA[:done]
        blobs.append(DIGEST, done, DATA[done : done + 1], total=len(DATA))  # shorter than before
        blobs.append(DIGEST, done + 1, DATA[done + 1 :], total=len(DATA))
    assert blobs.read(DIGEST, 0, len(DATA) + 1) == DATA


@pytest.mark.parametrize("point", POINTS)
def test_a_kill_while_a_whole_blob_replaces_an_upload(tmp_path: Path, point: str) -> None:
    blobs = begun(tmp_path, 400_000)
    killed(tmp_path, point, "put")
    if point == "after it is renamed":
        assert blobs.read(DIGEST, 0, len(DATA)) == DATA
        return
    done = blobs.received(DIGEST)
    blobs.append(DIGEST, done, DATA[done:], total=len(DATA))
    assert blobs.read(DIGEST, 0, len(DATA)) == DATA


def begun(tmp_path: Path, there: int) -> FolderBlobs:
    (tmp_path / "data").write_bytes(DATA)
    blobs = FolderBlobs(tmp_path / "blobs")
    for at in range(0, there, 400_000):
        blobs.append(DIGEST, at, DATA[at : at + 400_000], total=len(DATA))
    return blobs


def killed(tmp_path: Path, point: str, call: str) -> None:
    done = subprocess.run([sys.executable, "-c", CHILD, str(tmp_path), DIGEST, point, call])
    assert done.returncode == -signal.SIGKILL


def test_what_lies_behind_the_bytes_that_count_is_cut_off(tmp_path: Path) -> None:
    """Left by a crash, of a piece that was longer than the blob."""
    blobs = begun(tmp_path, 400_000)
    (part,) = (tmp_path / "blobs").glob("*/*")
    with part.open("ab") as file:
        file.write(bytes(len(DATA)))
    blobs.append(DIGEST, 400_000, DATA[400_000:], total=len(DATA))
    path = blobs.path(DIGEST)
    assert path is not None
    assert path.read_bytes() == DATA


class FullDisk:
    """A disk with so many bytes left: the write that fills it is short, the next one fails."""

    def __init__(self, room: int) -> None:
        self.room, self.pwrite = room, os.pwrite

    def __call__(self, descriptor: int, data: memoryview, at: int) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = self.pwrite(descriptor, data[: self.room], at)
        self.room -= written
        return written


@pytest.mark.parametrize("opener", ["folder", "file"], indirect=True)
def test_a_full_disk_leaves_an_upload_to_go_on_with(
    opener: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs = opener()
    blobs.append(DIGEST, 0, DATA[:HALF], total=len(DATA))
    for chunk in (DATA[HALF:-1], DATA[HALF:]):
        monkeypatch.setattr(os, "pwrite", FullDisk(1000))
        with pytest.raises(OSError, match="No space left") as caught:
            blobs.append(DIGEST, HALF, chunk, total=len(DATA))
        assert caught.value.errno == errno.ENOSPC
        monkeypatch.undo()
        assert (blobs.size(DIGEST), blobs.received(DIGEST)) == (None, HALF)
        (part,) = tmp_path.glob(f"*/*/{DIGEST}.*")
        assert part.stat().st_size == HALF  # what did not fit takes no room
    blobs.append(DIGEST, HALF, DATA[HALF:], total=len(DATA))
    assert blobs.read(DIGEST, 0, len(DATA)) == DATA


FULL = """
import errno, hashlib, os, sys
from pathlib import Path
from cohortium.transport.blobs import FolderBlobs

blobs, data = FolderBlobs(Path(sys.argv[1], "blobs")), bytes(700_000)
digest = hashlib.sha256(data).hexdigest()
blobs.append(digest, 0, data[:300_000], total=len(data))
big = Path(sys.argv[1], "big")
big.write_bytes(bytes(500_000))
try:
    blobs.append(digest, 300_000, data[300_000:], total=len(data))
except OSError as error:
    assert error.errno == errno.ENOSPC, error
else:
    raise SystemExit("the disk was not full")
assert blobs.received(digest) == 300_000
big.unlink()
assert blobs.append(digest, 300_000, data[300_000:], total=len(data)) == len(data)
assert hashlib.sha256(blobs.path(digest).read_bytes()).hexdigest() == digest
print("went on")
"""


def test_a_disk_of_one_megabyte_fills_and_empties(tmp_path: Path) -> None:
    """A real one, where an unprivileged mount is allowed."""
    unshare = shutil.which("unshare")
    mounting = [unshare or "", "-rm", "sh", "-c"]
    mount = f"mount -t tmpfs -o size=1m none '{tmp_path}'"
    if not unshare or subprocess.run([*mounting, mount], capture_output=True).returncode:
        pytest.skip("no unprivileged mounts here")
    child = f'{mount} && exec "$0" -c "$1" \'{tmp_path}\''
    done = subprocess.run(
        [*mounting, child, sys.executable, FULL], capture_output=True, text=True, check=False
    )
    assert done.stdout == "went on\n", done.stderr


# --- an object store ---


def test_a_blob_that_did_not_reach_the_store_gets_there_when_it_is_asked_for(
    tmp_path: Path,
) -> None:
    """The hub was killed between the last piece and the store."""
    (tmp_path / "objects").mkdir()
    uploads = FolderBlobs(tmp_path / "uploads")
    uploads.put(DIGEST, DATA)
    blobs = ObjectBlobs(f"file://{tmp_path}/objects", tmp_path / "uploads")
    assert blobs.size(DIGEST) == len(DATA)
    assert uploads.size(DIGEST) is None
    assert (tmp_path / "objects" / DIGEST[:2] / DIGEST).read_bytes() == DATA


def test_a_store_that_does_not_answer_is_tried_again_and_loses_nothing(tmp_path: Path) -> None:
    objects = tmp_path / "objects"
    objects.mkdir()
    blobs = ObjectBlobs(f"file://{objects}", tmp_path / "uploads")
    blobs.append(DIGEST, 0, DATA[:HALF], total=len(DATA))
    objects.rmdir()
    objects.write_text("in the way")
    for attempt in (
        lambda: blobs.append(DIGEST, HALF, DATA[HALF:], total=len(DATA)),
        lambda: blobs.put(DIGEST, DATA),
    ):
        with pytest.raises(UnavailableError) as caught:
            attempt()
        assert "objects" not in str(caught.value)  # what the store said is for the hub's log
    objects.unlink()
    objects.mkdir()
    at = blobs.received(DIGEST)
    assert blobs.append(DIGEST, at, DATA[at:], total=len(DATA)) == len(DATA)
    assert blobs.read(DIGEST, 0, len(DATA)) == DATA


class NoBucket(BaseHTTPRequestHandler):
    """An S3 whose bucket somebody removed."""

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_PUT = do_HEAD = do_GET = answer  # noqa: N815

    def log_message(self, *args: object) -> None:
        """Keep the tests' output clean."""


def test_a_bucket_that_is_gone_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), NoBucket) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        use_s3(f"http://127.0.0.1:{server.server_port}", monkeypatch)
        blobs = ObjectBlobs("s3://blobs", tmp_path)
        with pytest.raises(UnavailableError):
            blobs.append(DIGEST, 0, DATA, total=len(DATA))
        with pytest.raises(UnavailableError):
            blobs.put(DIGEST, DATA)
        server.shutdown()
    assert FolderBlobs(tmp_path).read(DIGEST, 0, len(DATA)) == DATA


def test_two_that_move_a_blob_at_the_same_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "objects").mkdir()
    blobs = ObjectBlobs(f"file://{tmp_path}/objects", tmp_path / "uploads")
    FolderBlobs(tmp_path / "uploads").put(DIGEST, DATA)
    open_, faster = Path.open, [True]

    def late(path: Path, mode: str = "r") -> IO[Any]:
        if faster:
            faster.pop()
            assert blobs.size(DIGEST) == len(DATA)
        return open_(path, mode)

    monkeypatch.setattr(Path, "open", late)
    assert blobs.size(DIGEST) == len(DATA)
    assert not faster


@pytest.mark.parametrize("url", ["", "blobs", "nfs://server/blobs", "s3://"])
def test_a_url_of_no_object_store_is_refused_at_once(url: str, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="s3://bucket/prefix"):
        ObjectBlobs(url, tmp_path)


def test_objects_have_the_names_of_files(bucket: str, tmp_path: Path) -> None:
    """Also those of several megabytes, which travel in parts."""
    data = DATA * 12
    digest = hashlib.sha256(data).hexdigest()
    blobs = ObjectBlobs(bucket, tmp_path)
    blobs.append(digest, 0, data, total=len(data))
    assert from_url(bucket).get(f"{digest[:2]}/{digest}").bytes() == data
    assert blobs.received(digest) == 0
