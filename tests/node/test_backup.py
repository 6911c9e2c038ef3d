"""A backup is a whole node; one that is too old is noticed, and does no harm."""

from __future__ import annotations

import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.node.federation import Federation, Node, federation, study, until, until_ended

from cohortium.errors import ArgumentError
from cohortium.node.backup import backup, restore
from cohortium.node.folder import Home
from cohortium.node.site import opened


@pytest.fixture
def alliance(tmp_path: Path) -> Iterator[Federation]:
    with federation(tmp_path) as alliance:
        alliance.node("aachen", seed=1)
        alliance.node("bonn", seed=2)
        yield alliance


def round_of(node: Node, run: str) -> int:
    with opened(node.home) as site:
        known = site.runs.get(run)
        return -1 if known is None else known.round


def test_a_restored_node_goes_on_where_the_backup_was_taken(
    alliance: Federation, tmp_path: Path
) -> None:
    digest = alliance.approved(study(rounds=30))
    a, b = alliance.nodes.values()
    file = tmp_path / "aachen.backup"
    with b.up():
        with a.up():
            run = alliance.start(digest)
            until(lambda: round_of(a, run) > 1)
        backup(a.home, file)
        moved = Node(Home.at(tmp_path / "new machine"), a.records)
        restore(moved.home, file)
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert moved.home.identity() == a.home.identity()
        assert moved.home.fingerprint_key() == a.home.fingerprint_key()
        with moved.up(), opened(moved.home) as site:
            assert until_ended(site, run) == "finished"
        with opened(b.home) as site:
            assert until_ended(site, run) == "finished"


def test_a_node_that_wakes_from_an_old_backup_stays_out_of_the_run(
    alliance: Federation, tmp_path: Path
) -> None:
    digest = alliance.approved(study(rounds=2000, participation="quorum = 1"))
    a, b = alliance.nodes.values()
    file = tmp_path / "aachen.backup"
    with b.up():
        with a.up():
            run = alliance.start(digest)
            until(lambda: round_of(a, run) > 1)
            backup(a.home, file)
            taken = round_of(a, run)
            until(lambda: round_of(a, run) > taken + 2)
        old = Node(Home.at(tmp_path / "old"), a.records)
        restore(old.home, file)
        with old.up(), opened(old.home) as site:
            assert until_ended(site, run) == "failed"
            known = site.runs.get(run)
        assert known is not None
        assert "an old copy" in known.reason
        assert round_of(b, run) < 2000
        alliance.researcher().call("POST", f"/v1/studies/{digest}/stop", {})


def test_a_backup_holds_what_a_journal_names(alliance: Federation, tmp_path: Path) -> None:
    digest = alliance.approved(study(rounds=2000))
    a, b = alliance.nodes.values()
    file = tmp_path / "aachen.backup"
    with a.up(), b.up():
        run = alliance.start(digest)
        until(lambda: round_of(a, run) > 0)
        for _ in range(5):
            backup(a.home, file)
            with tarfile.open(file) as tar:
                names = tar.getnames()
            assert any(name.startswith(f"journal/{run}/aachen/") for name in names)
        alliance.researcher().call("POST", f"/v1/studies/{digest}/stop", {})
    assert "lock" not in names
    assert not [path for path in a.home.folder.iterdir() if path.name.startswith(".backup")]


def test_what_cannot_be_restored_says_so(alliance: Federation, tmp_path: Path) -> None:
    a = alliance.nodes["aachen"]
    file = tmp_path / "aachen.backup"
    backup(a.home, file)
    with pytest.raises(ArgumentError, match="an empty folder"):
        restore(a.home, file)
    (tmp_path / "text").write_text("no backup")
    fresh = Home.at(tmp_path / "fresh")
    with pytest.raises(ArgumentError, match="cohortium node backup FILE"):
        restore(fresh, tmp_path / "text")
    with tarfile.open(tmp_path / "empty", "w"):
        pass
    with pytest.raises(ArgumentError, match=r"no node\.sqlite"):
        restore(fresh, tmp_path / "empty")
    restore(fresh, file)
    with pytest.raises(ArgumentError, match="no node's folder"):
        backup(Home.at(tmp_path / "nowhere"), file)
