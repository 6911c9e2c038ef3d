"""Nodes that take part in real runs through a real hub, in this process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.node.federation import Federation, federation, study, until_ended

from cohortium.node.site import opened


@pytest.fixture
def alliance(tmp_path: Path) -> Iterator[Federation]:
    with federation(tmp_path) as alliance:
        alliance.node("aachen", seed=1)
        alliance.node("bonn", seed=2)
        yield alliance


def test_two_nodes_finish_a_study(alliance: Federation) -> None:
    digest = alliance.approved(study())
    with alliance.nodes["aachen"].up(), alliance.nodes["bonn"].up():
        run = alliance.start(digest)
        for node in alliance.nodes.values():
            with opened(node.home) as site:
                assert until_ended(site, run) == "finished"
                known = site.runs.get(run)
                assert known is not None
                assert known.round == 3
                assert site.consents.get(digest).seconds > 0
