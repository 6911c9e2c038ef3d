"""Who a member is: keys, certificates, signed documents, invitation codes. No I/O, no clock.

A member's root key (Ed25519) never leaves it. It certifies the working keys that are in daily use:
an Ed25519 key that signs and an X25519 key that opens what is sealed for the member. New working
keys are a certificate with a higher serial; nobody else has to do anything.

Public keys, signatures and digests are lower-case hex. Every signature names what it is for, so
that none can be passed off as one of another kind.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Annotated, Any, TypeVar

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from pydantic import ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass as strict_dataclass

from cohortium.errors import ArgumentError, Problem, RefusedError

T = TypeVar("T")

KEY_BYTES = 32
PublicKey = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Signature = Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]
HostName = Annotated[str, Field(pattern=r"^@?[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}$")]
Kind = Annotated[str, Field(pattern=r"^[a-z][a-z-]{0,31}$")]
STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
"""How values that come from elsewhere are checked: exact types, no unknown field."""

_KIND = re.compile(r"[a-z][a-z-]{0,31}")
_SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


class SignatureError(RefusedError):
    """A signature, a certificate or a code does not prove what it should."""


# --- keys ---


@dataclass(frozen=True)
class SigningKey:
    """An Ed25519 key (RFC 8032). `secret`: its 32 bytes; they are not printed.

    >>> key = SigningKey.from_bytes(bytes(32))
    >>> verify(key.public, "note", b"hello", key.sign("note", b"hello"))
    """

    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        _check_secret(self.secret)

    @classmethod
    def generate(cls) -> SigningKey:
        """Make a new key."""
        return cls(secrets.token_bytes(KEY_BYTES))

    @classmethod
    def from_bytes(cls, raw: bytes) -> SigningKey:
        """Return the key of 32 bytes. Raises RefusedError for any other number."""
        return cls(raw)

    def to_bytes(self) -> bytes:
        """Return the 32 secret bytes."""
        return self.secret

    @cached_property
    def private(self) -> Ed25519PrivateKey:
        """The library's key, for the one format with rules of its own: RFC 9421."""
        return Ed25519PrivateKey.from_private_bytes(self.secret)

    @cached_property
    def public(self) -> str:
        return self.private.public_key().public_bytes_raw().hex()

    def sign(self, kind: str, message: bytes) -> bytes:
        """Return the 64-byte signature of a message as one of a kind."""
        return self.private.sign(_tagged(kind, message))


def verify(public: str, kind: str, message: bytes, signature: bytes) -> None:
    """Check a signature that `SigningKey.sign` made.

    Raises:
        SignatureError: it is another key's, kind's or message's, or key or signature are malformed.
    """
    try:
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public))
        key.verify(signature, _tagged(kind, message))
    except (InvalidSignature, ValueError):
        raise SignatureError(f"this is no signature of a {kind} by key {public[:8]}") from None


@dataclass(frozen=True)
class OpeningKey:
    """An X25519 key that opens what `wrap` closed. `secret`: its 32 bytes; they are not printed.

    >>> key = OpeningKey.from_bytes(bytes(range(32)))
    >>> key.open(wrap(key.public, b"content key", b"for you"), b"for you")
    b'content key'
    """

    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        _check_secret(self.secret)

    @classmethod
    def generate(cls) -> OpeningKey:
        """Make a new key."""
        return cls(secrets.token_bytes(KEY_BYTES))

    @classmethod
    def from_bytes(cls, raw: bytes) -> OpeningKey:
        """Return the key of 32 bytes. Raises RefusedError for any other number."""
        return cls(raw)

    def to_bytes(self) -> bytes:
        """Return the 32 secret bytes."""
        return self.secret

    @cached_property
    def _private(self) -> X25519PrivateKey:
        return X25519PrivateKey.from_private_bytes(self.secret)

    @cached_property
    def public(self) -> str:
        return self._private.public_key().public_bytes_raw().hex()

    def open(self, wrapped: bytes, info: bytes) -> bytes:
        """Return the secret that `wrap` closed for this key (RFC 9180 §6.1, base mode).

        Raises:
            RefusedError: it was closed for another key or under another `info`, or was changed.
        """
        try:
            return _SUITE.decrypt(wrapped, self._private, info)
        except (InvalidTag, ValueError):
            raise RefusedError("what is wrapped does not open with this key") from None


def wrap(public: str, secret: bytes, info: bytes) -> bytes:
    """Close a short secret for the holder of a key: HPKE (RFC 9180 §6.1) in base mode.

    Args:
        public: the receiver's X25519 key.
        secret: what to close; the result is 48 bytes longer.
        info: what it is for; opening needs the same.

    Raises:
        RefusedError: `public` is no key that can be used.
    """
    try:
        key = X25519PublicKey.from_public_bytes(bytes.fromhex(public))
        return _SUITE.encrypt(secret, key, info)
    except ValueError:
        raise RefusedError(f"{public[:8]!r} is no X25519 key to close anything for") from None


@lru_cache(maxsize=4096)
def _check_opening(public: str) -> None:
    """Refuse a point of low order: whoever sends to many would fail at this one's key."""
    wrap(public, b"", b"")


def key_id(public: str) -> str:
    """Return the first 128 bits of a key's SHA-256, as 32 hex digits: what a hub is known by."""
    return hashlib.sha256(bytes.fromhex(public)).hexdigest()[:32]


def fingerprint(a: str, b: str) -> str:
    """Return what two members compare by voice: 100 bits over both root keys, in any order.

    Not 80 bits: who sits between the two chooses a key on either side, so that a match costs the
    square root of the number of fingerprints.

    >>> fingerprint("00" * 32, "11" * 32)
    'Y2BR-0ME0-N44P-9663-WJS0'
    """
    first, second = sorted([bytes.fromhex(a), bytes.fromhex(b)])
    digest = hashlib.sha256(b"cohortium/1 fingerprint\0" + first + second).digest()
    return _grouped(_base32(int.from_bytes(digest) >> (256 - 100), digits=20), size=4)


def _check_secret(secret: bytes) -> None:
    if not isinstance(secret, bytes) or len(secret) != KEY_BYTES:
        raise RefusedError(f"a secret key is {KEY_BYTES} bytes")


def _tagged(kind: str, message: bytes) -> bytes:
    if not _KIND.fullmatch(kind):
        raise ValueError(f"{kind!r} is no kind of signature")
    return b"cohortium/1 " + kind.encode() + b"\0" + message


# --- what is signed ---


def canonical(value: object) -> bytes:
    r"""Return a JSON value as the one text that is signed: sorted keys, no white space, ASCII.

    Raises:
        RefusedError: it is no JSON value, or a number in it is not finite.

    >>> canonical({"b": [1, 2.5, None], "a": "\u00e9"})
    b'{"a":"\\u00e9","b":[1,2.5,null]}'
    """
    try:
        _check_keys(value)
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise RefusedError(f"this cannot be signed as JSON: {error}") from None
    return text.encode("ascii")


def _check_keys(value: object) -> None:
    """Refuse what json.dumps would turn into text: {1: 2} sorts otherwise than {"1": 2}."""
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise TypeError("a key is no text")
        for item in value.values():
            _check_keys(item)
    elif isinstance(value, list | tuple):
        for item in value:
            _check_keys(item)


def read(kind: type[T], value: object) -> T:
    """Make a strict dataclass of a JSON object from elsewhere.

    Raises:
        RefusedError: a field is missing, unknown or not of its type. Names the field, not its
            value, which may be a secret.
    """
    name = kind.__name__.lower()
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise RefusedError(f"a {name} is an object, not a {type(value).__name__}")
    try:
        return kind(**value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise RefusedError(f"{name}: {place}: {first['msg']}") from None


@strict_dataclass(frozen=True, config=STRICT)
class Document:
    """A signed JSON object: a grant, a roster, a receipt.

    Attributes:
        kind: what it is; the signature covers it.
        body: what it says.
        key: who signed it.
        signature: of the canonical body.
    """

    kind: Kind
    body: Mapping[str, Any]
    key: PublicKey
    signature: Signature

    @classmethod
    def of(cls, kind: str, body: Mapping[str, Any], signer: SigningKey) -> Document:
        """Sign a body. Raises RefusedError if it is not JSON."""
        text = canonical(dict(body))
        return cls(kind, json.loads(text), signer.public, signer.sign(kind, text).hex())

    def check(self, kind: str, key: str) -> Mapping[str, Any]:
        """Return the body, if this is a document of `kind` that `key` signed.

        Raises:
            SignatureError: it is of another kind or key, or was changed.
        """
        if self.kind != kind or self.key != key:
            raise SignatureError(
                f"this is a {self.kind} by key {self.key[:8]}, not a {kind} by {key[:8]}"
            )
        verify(key, kind, canonical(self.body), bytes.fromhex(self.signature))
        return self.body

    @property
    def digest(self) -> str:
        """SHA-256 over kind, body and key. Without the signature: one statement, one digest."""
        said = {"kind": self.kind, "body": self.body, "key": self.key}
        return hashlib.sha256(canonical(said)).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """Return the four fields as a JSON object."""
        return dict(vars(self))

    @classmethod
    def from_json(cls, value: object) -> Document:
        """Read `to_json`. Checks the form, not the signature. Raises RefusedError."""
        return read(cls, value)


@strict_dataclass(frozen=True, kw_only=True, config=STRICT)
class Certificate:
    """A root key's word for a member's working keys.

    Attributes:
        name: of the member.
        role: "site", "researcher", "coordinator" or "hub".
        root: the key that certifies.
        signing: the Ed25519 working key.
        opening: the X25519 working key.
        serial: from 1; of two certificates of a root, the one with the higher serial holds.
        issued: seconds since 1970.
        signature: by the root key, over the other fields.
    """

    name: HostName
    role: Annotated[str, Field(pattern=r"^[a-z]{1,32}$")]
    root: PublicKey
    signing: PublicKey
    opening: PublicKey
    serial: Annotated[int, Field(ge=1, lt=1 << 53)]
    issued: float
    signature: Signature

    @classmethod
    def issue(
        cls,
        root: SigningKey,
        *,
        name: str,
        role: str,
        signing: str,
        opening: str,
        serial: int,
        now: float,
    ) -> Certificate:
        """Certify working keys."""
        unsigned = cls(
            name=name,
            role=role,
            root=root.public,
            signing=signing,
            opening=opening,
            serial=serial,
            issued=now,
            signature="0" * 128,
        )
        return replace(unsigned, signature=root.sign("certificate", unsigned._signed).hex())

    def check(self, root: str) -> None:
        """Check that `root` certified these keys.

        Raises:
            SignatureError: another key did, or a field was changed.
            RefusedError: nothing can be closed for its opening key.
        """
        if self.root != root:
            raise SignatureError(
                f"the certificate of {self.name} is by key {self.root[:8]}, not {root[:8]}"
            )
        verify(root, "certificate", self._signed, bytes.fromhex(self.signature))
        _check_opening(self.opening)

    @property
    def _signed(self) -> bytes:
        return canonical({k: v for k, v in self.to_json().items() if k != "signature"})

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a JSON object."""
        return dict(vars(self))

    @classmethod
    def from_json(cls, value: object) -> Certificate:
        """Read `to_json`. Checks the form, not the signature. Raises RefusedError."""
        return read(cls, value)


# --- a member's own ---


@dataclass(frozen=True)
class Identity:
    """A member's secret keys and the certificate of its working keys.

    Attributes:
        root: signs certificates and nothing else.
        signing: signs requests, frames and documents.
        opening: opens what is sealed for the member.
        certificate: of `signing` and `opening`.
        retired: the opening key before a rotation: what was under way then can still be opened.
    """

    root: SigningKey
    signing: SigningKey
    opening: OpeningKey
    certificate: Certificate
    retired: OpeningKey | None = None

    @property
    def name(self) -> str:
        return self.certificate.name

    @property
    def role(self) -> str:
        return self.certificate.role

    @classmethod
    def create(cls, name: str, *, role: str, now: float) -> Identity:
        """Make a member: a root key, and working keys with serial 1."""
        return cls._certified(SigningKey.generate(), name=name, role=role, serial=1, now=now)

    def rotated(self, now: float) -> Identity:
        """Return the same member with new working keys under the next serial."""
        return self._certified(
            self.root,
            name=self.name,
            role=self.role,
            serial=self.certificate.serial + 1,
            now=now,
            retired=self.opening,
        )

    @classmethod
    def _certified(
        cls,
        root: SigningKey,
        *,
        name: str,
        role: str,
        serial: int,
        now: float,
        retired: OpeningKey | None = None,
    ) -> Identity:
        signing, opening = SigningKey.generate(), OpeningKey.generate()
        certificate = Certificate.issue(
            root,
            name=name,
            role=role,
            signing=signing.public,
            opening=opening.public,
            serial=serial,
            now=now,
        )
        return cls(root, signing, opening, certificate, retired)

    def open(self, wrapped: bytes, info: bytes) -> bytes:
        """Open what was wrapped for this member's opening key, or for the one before it.

        Raises:
            RefusedError: neither opens it.
        """
        try:
            return self.opening.open(wrapped, info)
        except RefusedError:
            if self.retired is None:
                raise
            return self.retired.open(wrapped, info)

    def to_json(self) -> dict[str, Any]:
        """Return everything, secret keys included: for a file that only the member can read."""
        keys: dict[str, SigningKey | OpeningKey | None] = {
            "root": self.root,
            "signing": self.signing,
            "opening": self.opening,
            "retired": self.retired,
        }
        secret = {name: key.secret.hex() if key else None for name, key in keys.items()}
        return {**secret, "certificate": self.certificate.to_json()}

    @classmethod
    def from_json(cls, value: object) -> Identity:
        """Read `to_json`.

        Raises:
            RefusedError: a part is missing or malformed, or the certificate is not of these keys.
        """
        kept = read(_Kept, value)
        identity = cls(
            SigningKey(bytes.fromhex(kept.root)),
            SigningKey(bytes.fromhex(kept.signing)),
            OpeningKey(bytes.fromhex(kept.opening)),
            Certificate.from_json(kept.certificate),
            OpeningKey(bytes.fromhex(kept.retired)) if kept.retired else None,
        )
        certificate = identity.certificate
        certificate.check(identity.root.public)
        working = (identity.signing.public, identity.opening.public)
        if (certificate.signing, certificate.opening) != working:
            raise RefusedError(f"the certificate of {identity.name} is not of the keys beside it")
        return identity


@strict_dataclass(frozen=True, kw_only=True, config=STRICT)
class _Kept:
    root: PublicKey  # secret keys have the same form
    signing: PublicKey
    opening: PublicKey
    retired: PublicKey | None
    certificate: Mapping[str, Any]


# --- invitations ---


@dataclass(frozen=True)
class Invitation:
    """What a coordinator gives a new member by a safe way: the hub to trust, and a secret, once.

    Attributes:
        hub: the `key_id` of the hub's root key.
        secret: 16 random bytes; they are not printed.
    """

    hub: str
    secret: bytes = field(repr=False)

    @classmethod
    def create(cls, root: str) -> Invitation:
        """Make an invitation to the hub with a root key."""
        return cls(key_id(root), secrets.token_bytes(16))

    @property
    def code(self) -> str:
        """Both, and 19 bits that catch a slip, as 11 groups of five signs (Crockford's base 32).

        >>> code = Invitation("00" * 16, bytes(16)).code
        >>> code
        '00000-00000-00000-00000-00000-00000-00000-00000-00000-00000-04JKZ'
        >>> Invitation.parse("ooooo " * 10 + "o4jkz") == Invitation.parse(code)
        True
        """
        data = bytes.fromhex(self.hub) + self.secret
        return _grouped(_base32(int.from_bytes(data) << 19 | _slip(data), digits=55), size=5)

    @classmethod
    def parse(cls, code: str) -> Invitation:
        """Read a code as people type it: in any case, with or without groups, O as 0, I and L as 1.

        Raises:
            ArgumentError: it is no code, or there is a slip in it.
        """
        signs = re.sub(r"[\s-]", "", code).upper().translate(str.maketrans("OIL", "011"))
        if len(signs) != 55:
            raise _no_code(f"{len(signs)} signs")
        strange = sorted(set(signs).difference(_CROCKFORD))
        if strange:
            raise _no_code(f"the sign {strange[0]!r}, which no code has")
        value = 0
        for sign in signs:
            value = value << 5 | _CROCKFORD.index(sign)
        data = (value >> 19).to_bytes(32)
        if value & ((1 << 19) - 1) != _slip(data):
            raise _no_code("a code with a slip in it")
        return cls(data[:16].hex(), data[16:])

    def mac(self, message: bytes) -> str:
        """Return HMAC-SHA256 under the secret, as hex: who made it had the invitation."""
        return hmac.new(self.secret, message, hashlib.sha256).hexdigest()

    def check(self, message: bytes, mac: str) -> None:
        """Check what `mac` made. Raises SignatureError."""
        if not hmac.compare_digest(self.mac(message).encode(), mac.encode(errors="replace")):
            raise SignatureError("this was not made with the invitation's secret")


def _slip(data: bytes) -> int:
    """19 bits of a hash: 52 signs hold 256 bits and 4 more, three signs the other 15."""
    return int.from_bytes(hashlib.sha256(b"cohortium/1 code\0" + data).digest()) >> (256 - 19)


def _no_code(got: str) -> ArgumentError:
    advice = "Compare it with what the coordinator sent, or ask for a new one."
    expected = "55 letters and digits in groups of five"
    return ArgumentError(Problem("<invitation>", "code", got, expected, advice))


def _base32(value: int, *, digits: int) -> str:
    return "".join(_CROCKFORD[value >> 5 * i & 31] for i in reversed(range(digits)))


def _grouped(text: str, *, size: int) -> str:
    return "-".join(text[i : i + size] for i in range(0, len(text), size))
