"""A small hub, a member of it, and a relay between them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cohortium.testing.relay import Relay
from cohortium.transport.client import HubClient

from .small_hub import SmallHub

Dial = Callable[..., HubClient]
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def no_proxies_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[SmallHub]:
    with SmallHub(tmp_path / "hub") as hub:
        yield hub


@pytest.fixture
def relay(hub: SmallHub) -> Iterator[Relay]:
    with Relay(hub.port) as relay:
        yield relay


@pytest.fixture
def dial(hub: SmallHub) -> Iterator[Dial]:
    """Yield what makes a client of the hub; by default a member's, directly, with patience."""
    clients: list[HubClient] = []

    def dial(url: str = "", **options: Any) -> HubClient:
        given: dict[str, Any] = {
            "identity": hub.join("Site A"),
            "hub": hub.trust,
            "timeout": 10.0,
        } | options
        clients.append(HubClient(url or hub.url, given.pop("identity"), given.pop("hub"), **given))
        return clients[-1]

    yield dial
    for client in clients:
        client.close()
