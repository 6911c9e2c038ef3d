"""Signed requests and responses: published vectors, and everything that must not pass."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from http_message_signatures import HTTPMessageSigner, HTTPMessageVerifier, MappingKeyResolver
from http_message_signatures.algorithms import ED25519
from hypothesis import given
from hypothesis import strategies as st

from cohortium.identity import Certificate, Identity, OpeningKey, SigningKey, key_id
from cohortium.transport.errors import (
    ClockError,
    ProtocolError,
    ReplayError,
    UnauthorisedError,
)
from cohortium.transport.nonces import Nonces
from cohortium.transport.signing import (
    HUB,
    PROTOCOL,
    SKEW,
    Request,
    check_head,
    check_request,
    check_response,
    key_parts,
    sign_request,
    sign_response,
)

VECTORS = json.loads(Path(__file__).with_name("vectors").joinpath("signing.json").read_text())
NOW = 1_750_000_000.0
SITE = Identity.create("Site A", role="site", now=NOW)
HUB_ITSELF = Identity.create("@hub", role="hub", now=NOW)
HUB_ID = key_id(HUB_ITSELF.root.public)
KNOWN = {"Site A:1": SITE.signing.public, "@hub:1": HUB_ITSELF.signing.public}
TARGET, BODY = "/v1/inbox?after=7", b'{"wait":55}'

Fields = dict[str, str]


@pytest.fixture
def nonces(tmp_path: Path) -> Iterator[Nonces]:
    with closing(Nonces(tmp_path / "nonces")) as opened:
        yield opened


def signed(nonce: str = "n", *, now: float = NOW, **headers: str) -> Fields:
    return sign_request(
        "POST", TARGET, BODY, signer=SITE, hub=HUB_ID, now=now, nonce=nonce, headers=headers
    )


def check(headers: Any, nonces: Nonces, *, now: float = NOW, **changed: Any) -> str:
    asked: dict[str, Any] = {"method": "POST", "target": TARGET, "body": BODY} | changed
    return check_request(
        asked["method"],
        asked["target"],
        headers,
        asked["body"],
        keys=asked.get("keys", KNOWN.get),
        hub=asked.get("hub", HUB_ID),
        now=now,
        nonces=nonces,
    )


def test_the_library_makes_and_takes_the_signature_that_the_rfc_prints() -> None:
    vector = VECTORS["rfc9421-b2.6"]
    key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(vector["private"]))
    assert key.public_key().public_bytes_raw().hex() == vector["public"]
    keys = MappingKeyResolver(
        public_keys={vector["keyid"]: key.public_key()}, private_keys={vector["keyid"]: key}
    )
    message = SimpleNamespace(
        method=vector["method"], url=vector["url"], headers=dict(vector["headers"])
    )
    signer = HTTPMessageSigner(signature_algorithm=ED25519, key_resolver=keys)
    signer.sign(
        message,
        key_id=vector["keyid"],
        created=datetime.fromtimestamp(vector["created"], UTC),
        label=vector["label"],
        include_alg=False,
        use_existing_digest=True,
        covered_component_ids=vector["covered"],
    )
    assert message.headers["Signature-Input"] == vector["signature_input"]
    assert message.headers["Signature"] == vector["signature"]
    assert key.sign("\n".join(vector["base"]).encode()) == raw(vector["signature"])
    verifier = HTTPMessageVerifier(signature_algorithm=ED25519, key_resolver=keys)
    assert verifier.verify(message, max_age=None)[0].parameters["keyid"] == vector["keyid"]


def test_an_exchange_is_signed_over_the_bases_that_are_written_out(tmp_path: Path) -> None:
    vector = VECTORS["exchange"]
    asks, answers = vector["request"], vector["response"]
    headers = sign_request(
        asks["method"],
        asks["target"],
        asks["body"].encode(),
        signer=member(asks),
        hub=vector["hub"],
        now=asks["now"],
        nonce=asks["nonce"],
    )
    request = Request(asks["method"], asks["target"], headers)
    back = sign_response(
        answers["status"],
        answers["body"].encode(),
        request=request,
        signer=member(answers),
        now=answers["now"],
    )
    for part, fields in ((asks, headers), (answers, back)):
        assert fields["Signature-Input"] == part["signature_input"]
        assert fields["Signature"] == part["signature"]
        key = SigningKey(bytes.fromhex(part["secret"])).private
        assert key.sign("\n".join(part["base"]).encode()) == raw(fields["Signature"])


def raw(field: str) -> bytes:
    return base64.b64decode(field.split(":")[1])


def member(part: dict[str, Any]) -> Identity:
    root, signing = SigningKey.generate(), SigningKey(bytes.fromhex(part["secret"]))
    opening = OpeningKey.generate()
    certificate = Certificate.issue(
        root,
        name=part["name"],
        role="site",
        signing=signing.public,
        opening=opening.public,
        serial=part["serial"],
        now=0.0,
    )
    return Identity(root, signing, opening, certificate)


def test_a_request_tells_whose_key_signed_it(nonces: Nonces) -> None:
    assert key_parts(check(signed(), nonces)) == ("Site A", 1)


@pytest.mark.parametrize("name", ["", "site", "site:", ":1", "site:x", "site:٣"])
def test_a_key_that_is_not_name_and_serial_is_refused(name: str) -> None:
    with pytest.raises(UnauthorisedError, match="name:serial"):
        key_parts(name)


CHANGES: dict[str, dict[str, Any]] = {
    "method": {"method": "PUT"},
    "path": {"target": "/v1/lease?after=7"},
    "query": {"target": "/v1/inbox?after=8"},
    "no query": {"target": "/v1/inbox"},
    "body": {"body": b'{"wait":56}'},
    "no body": {"body": b""},
    "another hub": {"hub": "0" * 32},
    "unknown key": {"keys": lambda keyid: None},
    "another's key": {"keys": lambda keyid: HUB_ITSELF.signing.public},
    "a key that is none": {"keys": lambda keyid: "no hex"},
    "lower-case method": {"method": "post"},
    "a target that is none": {"target": "/v1/inbox?{|}"},
}


@pytest.mark.parametrize("changed", CHANGES.values(), ids=CHANGES.keys())
def test_a_request_that_is_not_what_was_signed_is_refused(
    changed: dict[str, Any], nonces: Nonces
) -> None:
    with pytest.raises(UnauthorisedError):
        check(signed(), nonces, **changed)
    check(signed(), nonces)  # and costs the sender nothing


def without(name: str) -> Callable[[Fields], Fields]:
    return lambda fields: {key: value for key, value in fields.items() if key != name}


def resigned(signed_in: str, by: str) -> Callable[[Fields], Fields]:
    return lambda fields: (
        fields | {"Signature-Input": fields["Signature-Input"].replace(signed_in, by)}
    )


TAMPERED: dict[str, Callable[[Fields], Any]] = {
    "no signature": without("Signature"),
    "no signature input": without("Signature-Input"),
    "no digest": without("Content-Digest"),
    "no hub": without("Cohortium-Hub"),
    "no version": without("Cohortium-Protocol"),
    "range taken away": without("Range"),
    "range changed": lambda fields: fields | {"Range": "bytes=0-1"},
    "offset added": lambda fields: fields | {"Upload-Offset": "0"},
    "query not covered": resigned('"@query" ', ""),
    "nonce changed": resigned('nonce="n"', 'nonce="m"'),
    "created changed": resigned("created=", "created=1"),
    "algorithm changed": resigned("ed25519", "hmac-sha256"),
    "two signatures": lambda fields: (
        fields
        | {name: f"{fields[name]}, b{fields[name]}" for name in ("Signature-Input", "Signature")}
    ),
    "digest twice": lambda fields: SimpleNamespace(
        items=lambda: [*fields.items(), ("content-digest", fields["Content-Digest"])]
    ),
    "garbage": lambda fields: fields | {"Signature-Input": "cohortium=((", "Signature": "\xff"},
}


@pytest.mark.parametrize("tamper", TAMPERED.values(), ids=TAMPERED.keys())
def test_header_fields_that_were_tampered_with_are_refused(
    tamper: Callable[[Fields], Any], nonces: Nonces
) -> None:
    fields = signed(Range="bytes=0-9")
    with pytest.raises(UnauthorisedError):
        check(tamper(fields), nonces)
    check(fields, nonces)


def test_one_refusal_does_not_tell_which_keys_are_known(nonces: Nonces) -> None:
    told = set()
    for keys in (KNOWN.get, lambda keyid: None):
        for fields in ({}, signed() | {"Cohortium-Hub": "0"}, signed() | {"Signature": "x=:AA==:"}):
            with pytest.raises(UnauthorisedError) as caught:
                check(fields, nonces, keys=keys)
            told.add(str(caught.value))
    assert len(told) == 1


def test_a_head_is_checked_before_its_body_has_come(nonces: Nonces) -> None:
    head = check_head("POST", TARGET, signed(), keys=KNOWN.get, hub=HUB_ID, now=NOW)
    with pytest.raises(UnauthorisedError, match="a body that is not"):
        head.take(b"other", nonces, now=NOW)
    assert head.take(BODY, nonces, now=NOW) == "Site A:1"
    with pytest.raises(ReplayError):
        head.take(BODY, nonces, now=NOW)


def test_a_signature_that_names_fields_without_end_is_not_looked_at(nonces: Nonces) -> None:
    fields = signed()
    named = " ".join(f'"x{i}"' for i in range(1000))
    fields["Signature-Input"] = fields["Signature-Input"].replace(
        '("@method"', f'({named} "@method"'
    )
    with pytest.raises(UnauthorisedError, match="no signature that holds"):
        check(fields | {f"x{i}": "v" for i in range(1000)}, nonces, keys=asked_for)


def asked_for(keyid: str) -> str:
    raise AssertionError(f"{keyid} was looked up")


def test_a_signature_that_leaves_something_out_is_refused_though_it_holds(nonces: Nonces) -> None:
    fields = signed()
    message = SimpleNamespace(method="POST", url=f"https://h{TARGET}", headers=dict(fields))
    keys = MappingKeyResolver(public_keys={}, private_keys={"Site A:1": SITE.signing.private})
    HTTPMessageSigner(signature_algorithm=ED25519, key_resolver=keys).sign(
        message,
        key_id="Site A:1",
        created=datetime.fromtimestamp(NOW, UTC),
        nonce="n",
        use_existing_digest=True,
        covered_component_ids=["@method", "@path", "content-digest", HUB.lower(), PROTOCOL.lower()],
    )
    with pytest.raises(UnauthorisedError, match="leaves out @query"):
        check(message.headers, nonces)


def test_a_signature_without_a_nonce_is_refused(nonces: Nonces) -> None:
    with pytest.raises(UnauthorisedError, match="without a nonce"):
        check(signed(""), nonces)


@given(st.text(max_size=60), st.text(max_size=60), st.text(max_size=20))
def test_nothing_that_somebody_may_send_breaks_the_check(a: str, b: str, c: str) -> None:
    request = Request("POST", f"/{c}", {"Signature-Input": a, "Signature": b, "Content-Digest": c})
    with pytest.raises(UnauthorisedError):
        check_request(
            request.method,
            request.target,
            request.headers,
            keys=KNOWN.get,
            hub=HUB_ID,
            now=NOW,
            nonces=NO_NONCES,
        )
    answer = sign_response(401, b"{}", request=request, signer=HUB_ITSELF, now=NOW)
    if "Signature" in answer:
        check_response(401, answer, b"{}", request=request, keys=KNOWN.get, now=NOW)


class _NoNonces(Nonces):
    def __init__(self) -> None:
        """Keep nothing: no request comes as far as its nonce."""


NO_NONCES = _NoNonces()


@pytest.mark.parametrize("off", [-SKEW, SKEW])
def test_clocks_may_differ_by_five_minutes(off: float, nonces: Nonces) -> None:
    check(signed(now=NOW + off), nonces)


@pytest.mark.parametrize("off", [-SKEW - 1, SKEW + 1, 1e9])
def test_larger_differences_are_refused_with_both_times(off: float, nonces: Nonces) -> None:
    with pytest.raises(ClockError) as caught:
        check(signed(now=NOW + off), nonces)
    for at in (NOW, NOW + off):
        assert f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S} UTC" in str(caught.value)


def test_another_version_of_the_protocol_is_named_before_anything_else(nonces: Nonces) -> None:
    with pytest.raises(ProtocolError, match="got protocol version 2; expected version 1"):
        check({PROTOCOL: "2"}, nonces)


def test_a_request_is_taken_once(nonces: Nonces) -> None:
    fields = signed()
    check(fields, nonces)
    with pytest.raises(ReplayError):
        check(fields, nonces, now=NOW + SKEW)
    check(signed("another"), nonces)


def answered(request: Request, headers: Fields | None = None) -> Fields:
    return sign_response(200, b"{}", request=request, signer=HUB_ITSELF, now=NOW, headers=headers)


def read(fields: Fields, request: Request, **changed: Any) -> str:
    said: dict[str, Any] = {"status": 200, "body": b"{}", "now": NOW} | changed
    return check_response(
        said["status"], fields, said["body"], request=request, keys=KNOWN.get, now=said["now"]
    )


def test_a_response_is_bound_to_its_request() -> None:
    first, second = (Request("POST", TARGET, signed(nonce)) for nonce in ("1", "2"))
    fields = answered(first)
    assert read(fields, first) == "@hub:1"
    for other in (second, replace(first, method="GET"), replace(first, target="/v1/inbox")):
        with pytest.raises(UnauthorisedError):
            read(fields, other)


@pytest.mark.parametrize(
    "field", ["Signature", "Signature-Input", "Content-Digest", "Cohortium-Hub", PROTOCOL]
)
def test_an_answer_to_a_request_that_was_changed_on_its_way_is_not_believed(field: str) -> None:
    request = Request("POST", TARGET, signed())
    other = signed("another", Range="bytes=0-9")
    for on_its_way in ({**signed(), field: other[field] + "x"}, without(field)(signed())):
        fields = answered(replace(request, headers=on_its_way))
        with pytest.raises(UnauthorisedError):
            read(fields, request)


@pytest.mark.parametrize("changed", [{"status": 201}, {"body": b"[]"}, {"body": b""}])
def test_a_response_that_was_changed_is_refused(changed: dict[str, Any]) -> None:
    request = Request("POST", TARGET, signed())
    with pytest.raises(UnauthorisedError):
        read(answered(request), request, **changed)


def test_what_changes_an_answers_meaning_is_covered() -> None:
    request = Request("HEAD", TARGET, signed())
    fields = answered(request, {"Upload-Offset": "5"})
    assert read(fields, request) == "@hub:1"
    for changed in (fields | {"Upload-Offset": "6"}, fields | {"Content-Range": "bytes 0-1/2"}):
        with pytest.raises(UnauthorisedError):
            read(changed, request)


def test_a_site_cannot_answer_for_the_hub_without_being_named() -> None:
    request = Request("POST", TARGET, signed())
    fields = sign_response(200, b"{}", request=request, signer=SITE, now=NOW)
    assert read(fields, request) == "Site A:1"  # the caller's `keys` decides who may answer


def test_an_answer_to_an_unsigned_request_must_be_new() -> None:
    asked = Request("GET", "/v1/hub?nonce=ab", {})
    fields = answered(asked)
    assert read(fields, asked) == "@hub:1"
    with pytest.raises(ClockError):
        read(fields, asked, now=NOW + SKEW + 1)
    signed_for = Request("POST", TARGET, signed())
    assert read(answered(signed_for), signed_for, now=NOW + 1e6) == "@hub:1"


def test_the_answer_to_a_request_that_no_signature_covers_goes_unsigned() -> None:
    assert "Signature" not in answered(Request("GET", "/v1/hub?{|}", {}))
