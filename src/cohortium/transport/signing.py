"""Signed requests and responses (RFC 9421) and their bodies' digests (RFC 9530), for both ends.

A request covers method, path, query, body, the hub it is for and the protocol's version; not the
authority, which a proxy may change. A response covers its status and body, and the request that it
answers: method, path, query, and all fields that sign it, so that a request which was changed on
its way gets no answer that is believed. Header fields that change what a message means (`Range`,
`Upload-Offset`, …) are covered wherever they are present. Keys are named "name:serial" after the
certificate that holds them.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from http_message_signatures import (
    HTTPMessageSignaturesException,
    HTTPMessageSigner,
    HTTPMessageVerifier,
    HTTPSignatureKeyResolver,
    InvalidSignature,
    VerifyResult,
)
from http_message_signatures.algorithms import ED25519

from cohortium.identity import Identity
from cohortium.transport.errors import ClockError, ProtocolError, UnauthorisedError
from cohortium.transport.nonces import Nonces

HUB = "Cohortium-Hub"
PROTOCOL = "Cohortium-Protocol"
PROTOCOL_VERSION = 1
SUPPORTED = frozenset({PROTOCOL_VERSION})
SKEW = 300.0
"""Seconds by which the clocks of the two ends may differ."""

Keys = Callable[[str], str | None]
"""Tells the public Ed25519 key (hex) of a "name:serial"; None: not known."""

_LABEL = "cohortium"
_REQUEST = ("@method", "@path", "@query", "content-digest", HUB.lower(), PROTOCOL.lower())
_RESPONSE = ("@status", "content-digest", '"@method";req', '"@path";req', '"@query";req')
_ANSWERED = tuple(
    f'"{field}";req'
    for field in ("signature", "signature-input", "content-digest", HUB.lower(), PROTOCOL.lower())
)
_MEANING = ("range", "content-range", "upload-offset", "upload-length", "upload-complete")
_LONGEST = 4096
"""Characters of a Signature-Input: each field that it names costs time before it is checked."""

_EVER = timedelta(days=36500)


class Headers(Protocol):
    """Header fields as a mapping, or as anything whose `items` repeats what came repeatedly."""

    def items(self) -> Iterable[tuple[str, str]]: ...


@dataclass(frozen=True)
class Request:
    """The part of a request that its response is bound to; `target` is path and query."""

    method: str
    target: str
    headers: Headers


def key_name(name: str, serial: int) -> str:
    """Return how signatures name the working key of a certificate.

    >>> key_name("site-a", 3), key_parts("site-a:3")
    ('site-a:3', ('site-a', 3))
    """
    return f"{name}:{serial}"


def key_parts(keyid: str) -> tuple[str, int]:
    """Return the name and the serial in a key's name.

    Raises:
        UnauthorisedError: it is not "name:serial".
    """
    name, _, serial = keyid.rpartition(":")
    if not name or not (serial.isascii() and serial.isdecimal()):
        raise UnauthorisedError(f"the key name {keyid[:80]!r}", "name:serial")
    return name, int(serial)


def content_digest(body: bytes | memoryview) -> str:
    """Return the Content-Digest field of a body (RFC 9530 §2).

    >>> content_digest(b"")
    'sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:'
    """
    return f"sha-256=:{base64.b64encode(hashlib.sha256(body).digest()).decode()}:"


def sign_request(
    method: str,
    target: str,
    body: bytes | memoryview = b"",
    *,
    signer: Identity,
    hub: str,
    now: float,
    nonce: str,
    headers: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Return the header fields to send: `headers`, and those that sign the request.

    Args:
        method: in capitals.
        target: path and query as they are sent, percent-encoded.
        body: as it is sent.
        signer: who signs.
        hub: the id of the hub that it is for.
        now: epoch seconds.
        nonce: random, new for each request.
        headers: other fields of the request.
    """
    fields = {
        **(headers or {}),
        HUB: hub,
        PROTOCOL: str(PROTOCOL_VERSION),
        "Content-Digest": content_digest(body),
    }
    message = _Request(method, _url(target), fields)
    covered = (*_REQUEST, *_meaning(fields))
    return fields | _signature(message, covered, signer=signer, now=now, nonce=nonce)


def check_request(
    method: str,
    target: str,
    headers: Headers,
    body: bytes | memoryview = b"",
    *,
    keys: Keys,
    hub: str,
    now: float,
    nonces: Nonces,
) -> str:
    """Return the name of the key ("name:serial") that signed a request: `check_head`, then `take`.

    Raises as both do.
    """
    return check_head(method, target, headers, keys=keys, hub=hub, now=now).take(
        body, nonces, now=now
    )


@dataclass(frozen=True)
class Head:
    """The head of a request, signed as it must be; what its body must be follows from it.

    Attributes:
        keyid: "name:serial" of the key that signed it.
        nonce: which one of the key's requests it is.
        digest: Content-Digest of the body.
    """

    keyid: str
    nonce: str
    digest: str

    def take(self, body: bytes | memoryview, nonces: Nonces, *, now: float) -> str:
        """Check that the body is the one that was signed, and that it comes for the first time.

        Returns:
            `keyid`.

        Raises:
            UnauthorisedError: it is another body.
            ReplayError: the request came before.
            OSError: its nonce could not be written down.
        """
        _check_body(self.digest, body)
        nonces.use(self.keyid, self.nonce, now=now)
        return self.keyid


def check_head(
    method: str, target: str, headers: Headers, *, keys: Keys, hub: str, now: float
) -> Head:
    """Check who signed a request, before any of its body has been read.

    Args:
        method: in capitals.
        target: path and query exactly as they came.
        headers: the header fields as they came.
        keys: which keys may sign.
        hub: the id of this hub.
        now: epoch seconds.

    Raises:
        ProtocolError: it speaks another version of the protocol.
        UnauthorisedError: it is unsigned, signed by an unknown key, altered, or for another hub.
        ClockError: it was signed more than `SKEW` seconds from `now`.
    """
    fields = _fields(headers)
    _check_version(fields.get(PROTOCOL.lower()))
    message = _Request(method, _url(target), headers)
    found = _verified(message, (*_REQUEST, *_meaning(fields)), keys)
    if fields.get(HUB.lower()) != hub:
        raise UnauthorisedError("a request for another hub", f"one for the hub {hub}")
    _check_clock(found, now)
    if not found.nonce:
        raise UnauthorisedError("a signature without a nonce", "a nonce in each request")
    return Head(str(found.parameters["keyid"]), found.nonce, fields["content-digest"])


def sign_response(
    status: int,
    body: bytes | memoryview = b"",
    *,
    request: Request,
    signer: Identity,
    now: float,
    headers: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Return the header fields to answer `request` with: `headers`, and those that sign the answer.

    Args:
        status: HTTP's.
        body: as it is sent; empty where the request's method is HEAD.
        request: what is answered, signed or not.
        signer: who answers.
        now: epoch seconds.
        headers: other fields of the answer.

    The answer to a request that no signature can cover (its target is no URL's, or its own
    signature is not ASCII) goes unsigned.
    """
    fields = {**(headers or {}), "Content-Digest": content_digest(body)}
    message = _Response(status, fields, _asked(request))
    covered = (*_RESPONSE, *_answered(request), *_meaning(fields))
    try:
        return fields | _signature(message, covered, signer=signer, now=now, nonce=None)
    except HTTPMessageSignaturesException:
        return fields


def check_response(
    status: int,
    headers: Headers,
    body: bytes | memoryview = b"",
    *,
    request: Request,
    keys: Keys,
    now: float,
) -> str:
    """Return the name of the key that signed the answer to `request`.

    An answer to a signed request is new because it covers that request's signature; any other must
    have been signed within `SKEW` seconds of `now`.

    Raises:
        UnauthorisedError: it is unsigned, signed by an unknown key, altered, or answers another
            request.
        ClockError: the request was not signed, and the answer is too old or too new.
    """
    fields = _fields(headers)
    answered = _answered(request)
    message = _Response(status, headers, _asked(request))
    found = _verified(message, (*_RESPONSE, *answered, *_meaning(fields)), keys)
    _check_body(fields.get("content-digest", ""), body)
    if not answered:
        _check_clock(found, now)
    return str(found.parameters["keyid"])


@dataclass(frozen=True)
class _Request:
    """What the library reads of a request."""

    method: str
    url: str
    headers: Headers


@dataclass(frozen=True)
class _Response:
    """What the library reads of a response."""

    status_code: int
    headers: Headers
    request: _Request


@dataclass(frozen=True)
class _KnownKeys(HTTPSignatureKeyResolver):
    keys: Keys

    def resolve_public_key(self, key_id: str) -> Ed25519PublicKey | None:
        public = self.keys(key_id)
        return None if public is None else _public_key(public)


@lru_cache(maxsize=4096)
def _public_key(public: str) -> Ed25519PublicKey:
    return Ed25519PublicKey.from_public_bytes(bytes.fromhex(public))


def _signature(
    message: _Request | _Response,
    covered: tuple[str, ...],
    *,
    signer: Identity,
    now: float,
    nonce: str | None,
) -> dict[str, str]:
    """Return the two fields of a signature (RFC 9421 §3.1, §4)."""
    prepared = _SIGNER.prepare(
        message,
        key_id=key_name(signer.name, signer.certificate.serial),
        created=datetime.fromtimestamp(now, UTC),
        nonce=nonce,
        label=_LABEL,
        covered_component_ids=covered,
        use_existing_digest=True,
    )
    signature = base64.b64encode(signer.signing.private.sign(prepared.signature_base)).decode()
    return {
        "Signature-Input": f"{_LABEL}={prepared.signature_params}",
        "Signature": f"{_LABEL}=:{signature}:",
    }


_SIGNER = HTTPMessageSigner(signature_algorithm=ED25519)


def _verified(message: _Request | _Response, covered: tuple[str, ...], keys: Keys) -> VerifyResult:
    """Return the message's one signature, which holds and covers `covered` (RFC 9421 §3.2)."""
    if sum(len(v) for k, v in message.headers.items() if k.lower() == "signature-input") > _LONGEST:
        raise unsigned()
    verifier = HTTPMessageVerifier(signature_algorithm=ED25519, key_resolver=_KnownKeys(keys))
    verifier.max_clock_skew = _EVER  # our own check names both times
    try:
        found = verifier.verify(message, max_age=None)[0]
    except InvalidSignature as error:
        raise unsigned() from error
    for component in covered:
        name = component if component.startswith('"') else f'"{component}"'
        if name not in found.covered_components:
            raise UnauthorisedError(f"a signature that leaves out {component}", _A_SIGNATURE)
    return found


_A_SIGNATURE = "an Ed25519 signature of a known key (RFC 9421)"


def unsigned() -> UnauthorisedError:
    """Return the one refusal of what has no signature that holds.

    It does not tell which keys are known, and so who is a member.
    """
    return UnauthorisedError("no signature that holds", _A_SIGNATURE)


def _check_version(version: str | None) -> None:
    if version is None or version in {str(each) for each in SUPPORTED}:
        return  # a message without it is refused as unsigned
    spoken = ", ".join(str(each) for each in sorted(SUPPORTED))
    advice = "Install the same version of Cohortium at both ends."
    raise ProtocolError(f"protocol version {version[:20]}", f"version {spoken}", advice)


def _check_body(digest: str, body: bytes | memoryview) -> None:
    if digest != content_digest(body):
        raise UnauthorisedError("a body that is not what its Content-Digest says", "the same bytes")


def _check_clock(found: VerifyResult, now: float) -> None:
    created = found.parameters["created"]
    if abs(now - int(created)) > SKEW:
        signed, here = (datetime.fromtimestamp(at, UTC) for at in (int(created), now))
        raise ClockError(
            f"a message signed at {signed:%Y-%m-%d %H:%M:%S} UTC",
            f"at most {SKEW:.0f} s from this end's clock, {here:%Y-%m-%d %H:%M:%S} UTC",
            "Set the clock that is wrong, best by NTP.",
        )


def _fields(headers: Headers) -> dict[str, str]:
    """Return the fields by lower-case name; what came repeatedly is joined (RFC 9110 §5.3)."""
    fields: dict[str, str] = {}
    for name, value in headers.items():
        name = name.lower()
        fields[name] = f"{fields[name]}, {value}" if name in fields else value
    return fields


def _meaning(fields: Mapping[str, str]) -> tuple[str, ...]:
    present = {name.lower() for name in fields}
    return tuple(name for name in _MEANING if name in present)


def _answered(request: Request) -> tuple[str, ...]:
    signed = any(name.lower() == "signature" for name, _ in request.headers.items())
    return _ANSWERED if signed else ()


def _asked(request: Request) -> _Request:
    return _Request(request.method, _url(request.target), request.headers)


def _url(target: str) -> str:
    # The library reads whole URLs; the authority is not covered, so any will do.
    return f"https://hub.invalid{target}"
