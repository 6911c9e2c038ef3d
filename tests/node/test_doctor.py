"""The doctor finds what stands in the way, and says what to do and whom to ask."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.node.federation import Federation, federation, write_records

from cohortium.node import admin, doctor
from cohortium.node.doctor import Check, examine, lacking
from cohortium.node.folder import Home
from cohortium.node.settings import Settings
from cohortium.transport.errors import UnreachableError
from cohortium.transport.probe import Probe


@pytest.fixture(scope="module")
def alliance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    with federation(tmp_path_factory.mktemp("alliance")) as alliance:
        alliance.node("aachen", seed=1)
        yield alliance


def by_name(checks: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


def test_a_node_that_joined_is_well(alliance: Federation) -> None:
    node = alliance.nodes["aachen"]
    checks = admin.doctor(node.home.folder)
    assert not lacking(checks)
    found = by_name(checks)
    assert found["hub"].ok
    assert "joined as aachen" in found["membership"].found
    assert "hub's own authority" in found["TLS inspection"].found
    assert found["clock"].ok
    assert found["dataset records"].ok
    if "strong" in found["isolation"].found:
        assert "blocked" in found["attack: open a network connection"].found
        assert "blocked" in found["attack: read a file in the home folder"].found


def test_changed_records_are_seen(alliance: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "available", tuple)
    node = alliance.nodes["aachen"]
    kept = node.records.read_bytes()
    write_records(node.records, seed=5)
    check = by_name(examine(node.home))["dataset records"]
    assert not check.ok
    assert "data add records" in check.advice
    node.records.unlink()
    assert not by_name(examine(node.home))["dataset records"].ok
    node.records.write_bytes(kept)


def test_before_joining_a_hub_can_be_tried(
    alliance: Federation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "available", tuple)
    home = Home.at(tmp_path / "new")
    found = by_name(examine(home))
    assert "doctor --url" in found["hub"].advice
    assert "cohortium node join" in found["membership"].advice
    assert by_name(examine(home, url=alliance.hub.url))["hub"].ok
    assert not home.folder.exists()


def test_a_hub_that_cannot_be_reached_is_something_to_ask_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "available", tuple)
    (check,) = [c for c in examine(Home.at(tmp_path), url="https://localhost:9") if c.name == "hub"]
    assert not check.ok
    assert "localhost:9" in check.ask
    assert "outbound only" in check.ask
    assert check in lacking([check])


def test_inspection_of_tls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def seen(url: str, **_: object) -> Probe:
        closed = UnreachableError("certificate", "not trusted", "Ask for the CA")
        return Probe(
            url, "http://proxy:3128", closed, "CN=hub", "CN=Proxy CA", True, -900.0, 0.1, (7,)
        )

    monkeypatch.setattr(doctor, "probe", seen)
    monkeypatch.setattr(doctor, "available", tuple)
    found = by_name(examine(Home.at(tmp_path), url="https://hub.example"))
    assert "hub.ca in node.toml" in found["TLS inspection"].advice
    assert "PEM file" in found["TLS inspection"].ask
    assert "CN=Proxy CA" in found["TLS inspection"].found
    assert found["proxy"].found == "http://proxy:3128"
    assert "900 s ahead of" in found["clock"].found
    assert "NTP" in found["clock"].ask
    assert not found["protocol"].ok
    names = {check.name for check in lacking(list(found.values()))}
    assert names >= {"hub", "TLS inspection", "clock", "protocol", "isolation"}


def test_no_isolation_is_a_reason_not_to_run_only_where_it_is_demanded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "available", tuple)
    (tmp_path / "node.toml").write_text('isolation = "best"\n[limits]\ndisk_free_gib = 1e9')
    found = by_name(examine(Home.at(tmp_path)))
    assert not found["isolation"].ok
    assert "bubblewrap" in found["isolation"].ask
    assert not found["disk"].ok
    assert Settings().isolation == "strong"
