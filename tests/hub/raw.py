"""Requests as somebody writes them who is no client of ours."""

from __future__ import annotations

import json
import secrets
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx
from tests.hub.running import Hub

from cohortium.identity import Identity
from cohortium.transport.signing import sign_request


@dataclass(frozen=True)
class Raw:
    """Sends what it is told to.

    Attributes:
        hub: where to.
        identity: who signs; None sends without a signature.
    """

    hub: Hub
    identity: Identity | None = None

    def __call__(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | bytes = b"",
        *,
        headers: Mapping[str, str] | None = None,
        **signing: Any,
    ) -> httpx.Response:
        """Send one request; `signing` changes what is signed."""
        sent = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.send(method, path, sent, self.signed(method, path, sent, headers, **signing))

    def signed(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        **changes: Any,
    ) -> dict[str, str]:
        """Return signed header fields."""
        fields = {"Content-Type": "application/json", **(headers or {})}
        if self.identity is None:
            return fields
        said = {
            "signer": self.identity,
            "hub": self.hub.trust.id,
            "now": time.time(),
            "nonce": secrets.token_hex(16),
        }
        return sign_request(method, path, body, headers=fields, **{**said, **changes})

    def send(
        self, method: str, path: str, body: bytes, headers: Mapping[str, str]
    ) -> httpx.Response:
        """Send header fields and a body as they are."""
        context = ssl.create_default_context(cadata=self.hub.trust.ca_pem)
        with httpx.Client(verify=context, timeout=30, trust_env=False) as client:
            return client.request(method, self.hub.url + path, content=body, headers=headers)


def error(response: httpx.Response) -> tuple[int, str]:
    """Return the status and the word of a refusal."""
    return response.status_code, response.json()["error"]
