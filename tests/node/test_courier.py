"""A node asks the hub only for what it does not know."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from cohortium.identity import Identity
from cohortium.node.courier import HubCourier
from cohortium.transport.trust import HUB_NAME, HubTrust

HUB = Identity.create(HUB_NAME, role="hub", now=0.0)
BONN = Identity.create("bonn", role="site", now=0.0)


def test_the_hub_s_certificate_is_that_of_its_last_answer() -> None:
    asked: list[str] = []

    def call(method: str, path: str) -> dict[str, Any]:
        asked.append(path)
        return {"certificate": BONN.certificate.to_json()}

    client: Any = SimpleNamespace(hub=HubTrust(HUB.certificate), call=call)
    courier = HubCourier(client, Path(), turned_away=lambda _: None)
    assert courier.certificate(HUB_NAME) == HUB.certificate
    assert courier.certificate(HUB_NAME, serial=1) == HUB.certificate
    assert not asked
    newer = HUB.rotated(1.0).certificate
    client.hub = HubTrust(newer)
    assert courier.certificate(HUB_NAME) == newer
    assert courier.certificate("bonn") == BONN.certificate
    courier.certificate(HUB_NAME, serial=1)
    assert [path.partition("?")[0] for path in asked] == [
        "/v1/certificates/bonn",
        "/v1/certificates/%40hub",
    ]
