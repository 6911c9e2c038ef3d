"""Whatever is sent to the hub's API: no fault, and an answer as its OpenAPI says."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import (
    content_type_conformance,
    not_a_server_error,
    response_schema_conformance,
    status_code_conformance,
)
from tests.hub.federation import STUDY
from tests.hub.running import Hub, new_folder, running

from cohortium.hub.api import make_api
from cohortium.hub.metrics import Metrics
from cohortium.hub.service import HubService
from cohortium.identity import Identity
from cohortium.transport.signing import sign_request

CHECKS = (
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
)
EXAMPLES = 5
"""Per operation, kind of data and caller: a thousand requests in all."""


class Signature(requests.auth.AuthBase):
    """Signs what is sent, as it is sent."""

    def __init__(self, hub: Hub, identity: Identity) -> None:
        self.hub, self.identity = hub, identity

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        body = request.body or b""
        assert isinstance(body, str | bytes)
        fields = sign_request(
            request.method or "GET",
            request.path_url,
            body.encode() if isinstance(body, str) else body,
            signer=self.identity,
            hub=self.hub.trust.id,
            now=time.time(),
            nonce=secrets.token_hex(16),
            headers={k: v for k, v in request.headers.items() if isinstance(v, str)},
        )
        request.headers.update(fields)
        return request


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """A hub with a member of each role, and a study."""
    with running(new_folder(tmp_path_factory.mktemp("fuzz") / "hub")) as found:
        for name, role in (("a", "site"), ("ada", "researcher"), ("eve", "site")):
            identities[name] = found.member(name, role)
        identities["coordinator"] = found.folder.coordinator
        client = found.client(identities["ada"])
        known["digest"] = client.call("POST", "/v1/studies", {"text": STUDY, "files": {}})["digest"]
        yield found


identities: dict[str, Identity] = {}
known = {"name": "eve"}


@pytest.fixture(scope="module")
def schema(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What the API says of itself; long polls made short."""
    with HubService(new_folder(tmp_path_factory.mktemp("schema") / "hub")) as service:
        said = make_api(service, Metrics(service)).openapi()
    said["components"]["schemas"]["Poll"]["properties"]["wait"]["maximum"] = 0.01
    return schemathesis.openapi.from_dict(said)


@pytest.mark.parametrize("caller", ["", "a", "ada", "coordinator"])
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_no_fault_and_an_answer_as_declared(
    monkeypatch: pytest.MonkeyPatch, hub: Hub, schema: Any, mode: GenerationMode, caller: str
) -> None:
    monkeypatch.setattr("cohortium.hub.api.LONGEST_WAIT", 0.01)
    session = requests.Session()
    authority = str(hub.folder.tls / "ca.pem")
    session.trust_env = False
    session.auth = Signature(hub, identities[caller]) if caller else None
    statuses: list[int] = []

    for found in schema.get_all_operations():
        operation = found.ok()

        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode), is_known=st.booleans())
        def attack(case: Any, is_known: bool) -> None:
            if is_known:
                case.path_parameters.update(
                    {k: v for k, v in known.items() if k in case.path_parameters}
                )
            response = case.call(base_url=hub.url, session=session, verify=authority)
            statuses.append(response.status_code)
            case.validate_response(response, checks=CHECKS)

        with suppress(Unsatisfiable):  # nothing can be wrong where nothing is said
            attack()

    heard = sum(status != 401 for status in statuses) / len(statuses)
    assert heard > 0.9 if caller else heard < 0.3
    assert hub.coordinator.call("GET", "/v1/sites")


def test_the_api_says_of_every_path_what_may_come_back(schema: Any) -> None:
    paths = {operation.ok().path for operation in schema.get_all_operations()}

    assert {path for path in paths if path.startswith("/v1/")} >= {
        "/v1/hub", "/v1/join", "/v1/certificates", "/v1/directory", "/v1/lease", "/v1/inbox",
        "/v1/frames", "/v1/frames/{frame}", "/v1/runs/{run}", "/v1/runs/{run}/receipts",
        "/v1/runs/{run}/controls", "/v1/blobs/{digest}", "/v1/studies", "/v1/studies/{digest}",
        "/v1/studies/{digest}/grants", "/v1/studies/{digest}/declines",
        "/v1/studies/{digest}/start", "/v1/studies/{digest}/{op}", "/v1/invitations",
        "/v1/sites", "/v1/sites/{name}/revoke",
    }  # fmt: skip
    for found in schema.get_all_operations():
        declared = set(found.ok().definition.raw["responses"])
        assert declared >= {"200", "401", "403", "404", "409", "413", "422", "426", "503", "507"}
