"""What a hospital's person is shown, and what is signed then."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import typer
from tests.node.federation import Federation, federation, study

from cohortium.cli import node_verbs
from cohortium.node.site import opened


@pytest.fixture(scope="module")
def alliance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    with federation(tmp_path_factory.mktemp("alliance")) as alliance:
        alliance.node("aachen", seed=1)
        yield alliance


def test_what_is_signed_is_what_was_shown(
    alliance: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another study of the same name comes while the person reads."""
    home = alliance.nodes["aachen"].home
    shown = alliance.submit(study("good", rounds=1))

    def read(question: str) -> bool:
        alliance.submit(study("good", rounds=3000))
        return bool(question)

    monkeypatch.setattr(typer, "confirm", read)
    node_verbs.study_approve(home.folder, "good", dataset=None, rounds=None, days=90.0, yes=False)
    with opened(home) as site:
        approved = [offer.digest for offer in site.consents.all() if offer.decision]
    assert approved == [shown]
