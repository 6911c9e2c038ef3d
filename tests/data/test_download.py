"""Downloads over a real HTTP server on the loopback: what is not pinned is never kept."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from cohortium.data import download
from cohortium.data.download import Origin, Pin, get
from cohortium.data.sources import data_folder
from cohortium.errors import ArgumentError, CohortiumError, DataError, RunFailedError

FILES = {"one.data": b"1,2,3\n" * 40_000, "two.data": b"4,5,6\n"}
PINS = {name: Pin(hashlib.sha256(body).hexdigest(), len(body)) for name, body in FILES.items()}


@dataclass
class Site:
    """A web server whose answers a test decides: path to (status, stated length, body)."""

    url: str
    answers: dict[str, tuple[int, int, bytes]]
    asked: list[str] = field(default_factory=list)

    def serve(
        self, name: str, body: bytes, *, status: int = 200, stated: int | None = None
    ) -> None:
        self.answers[f"/heart/{name}"] = (status, len(body) if stated is None else stated, body)


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            served.asked.append(self.path)
            status, stated, body = served.answers.get(self.path, (404, 0, b""))
            self.send_response(status)
            self.send_header("Content-Length", str(stated))
            self.end_headers()
            self.wfile.write(body)

        def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
            """Stay silent."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        served = Site(f"http://127.0.0.1:{server.server_port}/heart", {})
        for name, body in FILES.items():
            served.serve(name, body)
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield served
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's data folder, and a table of origins with one small dataset."""
    monkeypatch.setenv("COHORTIUM_DATA", str(tmp_path / "kept"))
    origin = Origin("http://127.0.0.1:9/", PINS)
    monkeypatch.setitem(download.ORIGINS, "heart-disease", origin)
    return tmp_path / "kept"


def content(folder: Path) -> dict[str, bytes]:
    """Every file under a folder, hidden ones too."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def refused(**settings: object) -> str:
    """Return the message of a `get` that fails, having seen that nothing was kept."""
    with pytest.raises(CohortiumError) as caught:
        get("heart-disease", **settings)  # type: ignore[arg-type]
    assert not content(data_folder())
    return str(caught.value)


def test_all_files_arrive_and_are_announced(site: Site, kept: Path) -> None:
    told: list[tuple[str, int, int]] = []
    folder = get("heart-disease", base_url=site.url, progress=lambda *news: told.append(news))
    assert folder == kept / "heart-disease"
    assert content(kept) == {f"heart-disease/{name}": body for name, body in FILES.items()}
    assert site.asked == ["/heart/one.data", "/heart/two.data"]
    assert told[-1] == ("two.data", 6, 6)
    sizes = [done for name, done, total in told if (name, total) == ("one.data", 240_000)]
    assert sizes == sorted(sizes)
    assert len(sizes) > 1
    assert sizes[-1] == 240_000


def test_what_is_there_is_not_fetched_again(site: Site, kept: Path) -> None:
    folder = get("heart-disease", base_url=site.url)
    site.asked.clear()
    (folder / "two.data").write_bytes(b"4,5,7\n")  # damaged since
    get("heart-disease", base_url=site.url)
    assert site.asked == ["/heart/two.data"]
    assert (folder / "two.data").read_bytes() == FILES["two.data"]
    get("heart-disease", base_url="http://127.0.0.1:9")  # nobody listens: nothing is asked


@pytest.mark.parametrize("file", list(FILES))
def test_a_corrupted_file_is_refused_and_nothing_kept(site: Site, file: str) -> None:
    site.serve(file, FILES[file][:-2] + b"9\n")
    message = refused(base_url=site.url)
    assert f"{file}: got other content (SHA-256 " in message
    assert "Nothing was kept" in message
    assert "cohortium data get heart-disease --from DIR" in message
    assert len(site.asked) == list(FILES).index(file) + 1  # nothing is tried twice


def test_half_a_body_is_refused(site: Site) -> None:
    site.serve("one.data", FILES["one.data"][:100_000], stated=240_000)
    assert "got 100000 bytes; expected 240000 bytes" in refused(base_url=site.url)


def test_a_body_without_end_is_cut_off(site: Site) -> None:
    site.serve("two.data", b"x" * 5_000_000)
    told: list[str] = []
    message = refused(base_url=site.url, progress=lambda name, *_: told.append(name))
    assert "got more than 6 bytes; expected 6 bytes" in message
    assert told.count("two.data") == 1  # one chunk was enough to see it


@pytest.mark.parametrize("status", [404, 500, 403])
def test_an_error_of_the_server_is_named(site: Site, status: int) -> None:
    site.serve("one.data", b"sorry", status=status)
    message = refused(base_url=site.url)
    assert f"{site.url}/one.data answered {status} " in message
    assert "--from DIR" in message


def test_a_failed_refresh_keeps_what_was_there(site: Site, kept: Path) -> None:
    folder = get("heart-disease", base_url=site.url)
    (folder / "one.data").unlink()
    site.serve("one.data", b"bad")
    with pytest.raises(RunFailedError):
        get("heart-disease", base_url=site.url)
    assert content(kept) == {"heart-disease/two.data": FILES["two.data"]}


def test_offline_is_said(site: Site) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    message = refused(base_url=f"http://127.0.0.1:{port}")
    assert "could not be read: " in message
    assert "Connection refused" in message
    assert "--from DIR" in message


def test_a_proxy_that_wants_a_login_is_said(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", site.url.removesuffix("/heart"))
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    site.answers["http://data.invalid/one.data"] = (407, 0, b"")
    message = refused(base_url="http://data.invalid")
    assert "answered 407 " in message
    assert "Behind a proxy, set HTTPS_PROXY." in message


def test_a_failed_download_is_a_failed_run_and_wrong_input_is_not(
    site: Site, tmp_path: Path
) -> None:
    with pytest.raises(RunFailedError) as failed:
        get("heart-disease", base_url=f"{site.url}/nowhere")
    assert failed.value.exit_code == 1
    with pytest.raises(DataError) as wrong:
        get("heart-disease", source=tmp_path)
    assert wrong.value.exit_code == 2


def test_a_folder_serves_as_well(tmp_path: Path, kept: Path) -> None:
    source = tmp_path / "stick"
    source.mkdir()
    for name, body in FILES.items():
        (source / name).write_bytes(body)
    get("heart-disease", source=source)
    assert content(kept) == {f"heart-disease/{name}": body for name, body in FILES.items()}
    assert content(source) == FILES


def test_a_folders_files_are_checked_too(tmp_path: Path) -> None:
    assert "one.data: got No such file or directory" in refused(source=tmp_path)
    for name, body in FILES.items():
        (tmp_path / name).write_bytes(body.replace(b"\n", b"\r\n"))
    message = refused(source=tmp_path)
    assert "one.data: got more than 240000 bytes; expected 240000 bytes" in message
    assert "unchanged to the byte" in message


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("breast-cancer", "It comes with scikit-learn"),
        ("mine", "expected heart-disease"),
        ("../x", "expected heart-disease"),
    ],
)
def test_a_dataset_without_published_files_is_refused(name: str, said: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        get(name)
    assert said in str(caught.value)


@pytest.mark.parametrize("url", ["file:///etc/", "ftp://host/", "heart"])
def test_only_the_web_is_asked(url: str) -> None:
    with pytest.raises(ArgumentError, match="an http or https address"):
        get("heart-disease", base_url=url)


def test_a_data_folder_that_cannot_be_made_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("not a folder", encoding="utf-8")
    monkeypatch.setenv("COHORTIUM_DATA", str(tmp_path / "file"))
    with pytest.raises(DataError, match="Set COHORTIUM_DATA to another folder"):
        get("heart-disease", base_url="http://127.0.0.1:9")
