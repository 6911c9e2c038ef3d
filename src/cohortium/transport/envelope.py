"""Frames: what one party sends to others, sealed end to end and signed by the sender's host.

A payload is encrypted once, under a content key that is wrapped for every receiving host (HPKE,
RFC 9180): a broadcast is one ciphertext that all download. Payloads are cut into chunks, each
under AES-256-GCM with the nonce of STREAM (Hoang, Reyhanitabar, Rogaway, Vizár 2015): a counter,
and a flag on the last chunk, so that none can be dropped, repeated or moved.

Whoever holds the content key could make another ciphertext under it; what tells it apart is the
ciphertext's SHA-256, which the sender signs.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import fields, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pydantic import AfterValidator, BeforeValidator, Field
from pydantic.dataclasses import dataclass

from cohortium.errors import RefusedError
from cohortium.identity import (
    STRICT,
    Certificate,
    HostName,
    Identity,
    Signature,
    SignatureError,
    canonical,
    read,
    verify,
    wrap,
)

CHUNK = 1 << 20
"""Bytes of plaintext that are encrypted at a time."""

TAG = 16
"""Bytes by which a sealed chunk is longer."""

INLINE = 32 << 10
"""The largest ciphertext, in bytes, that travels in the frame and is no blob of its own."""

NAMES = 100_000
"""The most characters that the names of a frame's readers have together."""

Data = bytes | bytearray | memoryview
PartyName = Annotated[str, Field(pattern=r"^@?[A-Za-z0-9][A-Za-z0-9 ._/-]{0,199}$")]
StepName = Annotated[str, Field(pattern=r"^[ -~]{0,400}$")]
Count = Annotated[int, Field(ge=0, lt=1 << 53)]


def _from_base64(value: object) -> object:
    return base64.b64decode(value, validate=True) if isinstance(value, str) else value


def _distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(names)) < len(names) or sum(map(len, names)) > NAMES:
        raise ValueError(f"different names, of at most {NAMES} characters together")
    return names


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Head:
    """What is sent, by whom, to whom.

    Attributes:
        run: 32 hex digits.
        sender: the party that sends.
        to: the parties that read it, each once.
        number: of the sender's releases in this run, from 1; 0 for what is no release.
        kind: a gate's release, a log entry, or a model.
        round: of the step.
        attempt: of the round.
        step: whose value it is; empty where there is none.
    """

    run: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    sender: PartyName
    to: Annotated[
        tuple[PartyName, ...],
        Field(min_length=1, strict=False),  # JSON has lists
        AfterValidator(_distinct),
    ]
    number: Count
    kind: Literal["release", "log", "model"]
    round: Count
    attempt: Count
    step: StepName

    @cached_property
    def id(self) -> str:
        """Its `frame_id`."""
        return frame_id(
            self.run,
            self.sender,
            self.to,
            kind=self.kind,
            round_=self.round,
            attempt=self.attempt,
            step=self.step,
        )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Frame(Head):
    """A sealed payload's head, keys and signature; the ciphertext is a blob unless it is short.

    Attributes:
        host: who carries the sender and signs.
        serial: of the host's certificate.
        size: bytes of plaintext.
        blob: SHA-256 of the ciphertext, or empty if it is `inline`.
        inline: the ciphertext, if it is no longer than `INLINE` bytes.
        keys: receiving host to its wrapped content key, as hex.
        stamp: of the host, over run, sender and number alone; a receipt quotes it.
        signature: of the host, over all other fields.
    """

    host: HostName
    serial: Annotated[int, Field(ge=1, lt=1 << 53)]
    size: Count
    blob: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")]
    inline: Annotated[bytes, BeforeValidator(_from_base64), Field(max_length=INLINE)]
    keys: Annotated[
        dict[HostName, Annotated[str, Field(pattern=r"^[0-9a-f]{160}$")]], Field(min_length=1)
    ]
    stamp: Signature
    signature: Signature

    def __post_init__(self) -> None:
        if len(self.inline) != (0 if self.blob else sealed_size(self.size)):
            raise RefusedError("a frame's size, blob and inline payload do not belong together")
        if len(self.keys) > len(self.to):
            raise RefusedError("a frame has more keys than readers")

    def check(self, certificate: Certificate) -> None:
        """Check that the host of a certificate signed this. The certificate is trusted.

        Whether that host speaks for the sender is the run's roster to say.

        Raises:
            SignatureError: it is another host's or serial's certificate, or a field was changed.
        """
        if (self.host, self.serial) != (certificate.name, certificate.serial):
            raise SignatureError(
                f"a frame by {self.host} under certificate {self.serial} cannot be checked with "
                f"certificate {certificate.serial} of {certificate.name}"
            )
        verify(certificate.signing, "frame", self._signed, bytes.fromhex(self.signature))
        check_stamp(self.stamp, certificate, run=self.run, sender=self.sender, number=self.number)

    @property
    def _signed(self) -> bytes:
        return canonical({k: v for k, v in self.to_json().items() if k != "signature"})

    @property
    def payload_size(self) -> int:
        """Bytes of ciphertext."""
        return sealed_size(self.size)

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a JSON object, `inline` in base 64."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        inline = base64.b64encode(self.inline).decode("ascii")
        return {**values, "to": list(self.to), "inline": inline}

    @classmethod
    def from_json(cls, value: object) -> Frame:
        """Read `to_json`. Checks the form, not the signature. Raises RefusedError."""
        return read(cls, value)


def frame_id(
    run: str,
    sender: str,
    to: Iterable[str],
    *,
    kind: str,
    round_: int,
    attempt: int,
    step: str,
) -> str:
    """Return the name of a message, 32 hex digits: sent again after a crash it has the same.

    >>> frame_id("0" * 32, "a", ["b"], kind="log", round_=1, attempt=0, step="")
    '1e48c8667da41f706917dfe5df181e52'
    """
    said = [run, sender, sorted(to), kind, round_, attempt, step]
    return hashlib.sha256(b"cohortium/1 frame\0" + canonical(said)).hexdigest()[:32]


def sealed_size(size: int) -> int:
    """Return the bytes of ciphertext of so many bytes of plaintext.

    >>> sealed_size(0), sealed_size(CHUNK), sealed_size(CHUNK + 1) - CHUNK
    (16, 1048592, 33)
    """
    return size + TAG * _chunk_count(size)


def seal(
    head: Head,
    parts: Sequence[Data],
    *,
    signer: Identity,
    receivers: Mapping[str, Certificate],
) -> tuple[Frame, bytearray]:
    """Encrypt a payload for some hosts, and sign it.

    Args:
        head: what is sent, by whom, to whom.
        parts: the payload, cut anyhow; buffers of any item type, each contiguous. Not copied.
        signer: the host that carries the sender.
        receivers: host to its certificate, which the caller has checked.

    Returns:
        The frame, and the ciphertext, which is empty if the frame carries it.

    Raises:
        RefusedError: a certificate is not of the host it stands for, or its key is no key; nobody
            is to receive it.
    """
    views = [memoryview(part) for part in parts]
    size = sum(view.nbytes for view in views)
    key = AESGCM.generate_key(256)
    ciphertext = bytearray(sealed_size(size))
    _encrypt(key, views, _context(head, host=signer.name, size=size), into=memoryview(ciphertext))
    short = len(ciphertext) <= INLINE
    said = {
        **_fields(head),
        "host": signer.name,
        "serial": signer.certificate.serial,
        "size": size,
        "blob": "" if short else hashlib.sha256(ciphertext).hexdigest(),
        "inline": bytes(ciphertext) if short else b"",
        "keys": {
            host: wrap(_of(host, certificate).opening, key, _info(head, signer.name, host)).hex()
            for host, certificate in receivers.items()
        },
        "stamp": signer.signing.sign("stamp", _numbered(head.run, head.sender, head.number)).hex(),
        "signature": "0" * 128,
    }
    unsigned = read(Frame, said)
    signature = signer.signing.sign("frame", unsigned._signed).hex()
    return replace(unsigned, signature=signature), bytearray() if short else ciphertext


def check_stamp(
    stamp: str, certificate: Certificate, *, run: str, sender: str, number: int
) -> None:
    """Check that a host has numbered a release of a party that it carries.

    Raises:
        SignatureError: it has not.
    """
    verify(certificate.signing, "stamp", _numbered(run, sender, number), bytes.fromhex(stamp))


def open_frame(
    frame: Frame,
    ciphertext: Data | Path = b"",
    *,
    identity: Identity,
    sender: Certificate,
    into: bytearray | memoryview | None = None,
    limit: int | None = None,
) -> memoryview:
    """Check a frame and decrypt its payload.

    Args:
        frame: what came.
        ciphertext: the blob that the frame names, in memory or in a file; ignored if the frame
            carries it.
        identity: the host that opens.
        sender: the certificate of the host that signed, which the caller has checked.
        into: a writable buffer of at least the payload's size, to decrypt into. Left with zeros
            where the payload was if it is refused.
        limit: the most bytes of plaintext that are believable.

    Returns:
        The payload: a view of `into`, or of a new buffer.

    Raises:
        SignatureError: the frame is not signed by `sender`.
        RefusedError: it is not for this host, larger than expected, or not what was sealed.
    """
    frame.check(sender)
    room = frame.size if into is None else memoryview(into).nbytes
    if frame.size > (room if limit is None else min(room, limit)):
        raise RefusedError(f"a payload of {frame.size} bytes is larger than expected")
    source = ciphertext if frame.blob else frame.inline
    length = source.stat().st_size if isinstance(source, Path) else memoryview(source).nbytes
    if length != frame.payload_size:
        raise RefusedError(f"a ciphertext has {length} bytes, not {frame.payload_size}")
    key = _content_key(frame, identity)
    buffer = memoryview(bytearray(frame.size) if into is None else into).cast("B")[: frame.size]
    try:
        _decrypt(frame, key, source, into=buffer)
    except RefusedError:
        buffer[:] = bytes(frame.size)  # a part of it may be there already, unproven
        raise
    return buffer


def _numbered(run: str, sender: str, number: int) -> bytes:
    return canonical([run, sender, number])


def _content_key(frame: Frame, identity: Identity) -> bytes:
    if identity.name not in frame.keys:
        raise RefusedError(f"a frame for {', '.join(frame.keys)} is not for {identity.name}")
    wrapped = bytes.fromhex(frame.keys[identity.name])
    return identity.open(wrapped, _info(frame, frame.host, identity.name))


def _encrypt(key: bytes, views: list[memoryview], context: bytes, *, into: memoryview) -> None:
    cipher, at, last = AESGCM(key), 0, False
    for number, chunk in enumerate(_chunks(views)):
        end = at + len(chunk) + TAG
        last = end == len(into)
        cipher.encrypt_into(_nonce(number, last=last), chunk, context, into[at:end])
        at = end
    if not last:
        cipher.encrypt_into(_nonce(0, last=True), b"", context, into)  # an empty payload


def _decrypt(frame: Frame, key: bytes, source: Data | Path, *, into: memoryview) -> None:
    context = _context(frame, host=frame.host, size=frame.size)
    cipher, sha, at = AESGCM(key), hashlib.sha256(), 0
    count = _chunk_count(frame.size)
    with closing(_pieces(source)) as pieces:
        for number, piece in enumerate(pieces):
            sha.update(piece)
            end = at + len(piece) - TAG
            nonce = _nonce(number, last=number == count - 1)
            try:
                cipher.decrypt_into(nonce, piece, context, into[at:end])
            except (InvalidTag, ValueError):  # the latter if a file grew meanwhile
                raise RefusedError(f"chunk {number} of a payload is not what was sealed") from None
            at = end
    if frame.blob and sha.hexdigest() != frame.blob:
        raise RefusedError("a ciphertext is not the one that the sender signed")


def _chunks(views: list[memoryview]) -> Iterator[Data]:
    """Yield the plaintext in chunks; copies only those that lie in more than one part."""
    held = bytearray()
    for view in views:
        rest = view.cast("B") if view.nbytes else view[:0]  # a cast refuses shapes with a zero
        while rest:
            if not held and len(rest) >= CHUNK:
                yield rest[:CHUNK]
                rest = rest[CHUNK:]
                continue
            taken = CHUNK - len(held)
            held += rest[:taken]
            rest = rest[taken:]
            if len(held) == CHUNK:
                yield held
                held = bytearray()
    if held:
        yield held


def _pieces(source: Data | Path) -> Generator[memoryview, None, None]:
    """Yield sealed chunks; from a file, into one buffer that is used again."""
    if not isinstance(source, Path):
        view = memoryview(source).cast("B")
        for at in range(0, len(view), CHUNK + TAG):
            yield view[at : at + CHUNK + TAG]
        return
    buffer = memoryview(bytearray(CHUNK + TAG))
    with source.open("rb") as file:
        while got := file.readinto(buffer):
            yield buffer[:got]


def _chunk_count(size: int) -> int:
    return max(1, -(-size // CHUNK))


def _nonce(number: int, *, last: bool) -> bytes:
    """STREAM's nonce. Its random part is empty: every content key seals one payload."""
    return number.to_bytes(11) + bytes([last])


def _context(head: Head, *, host: str, size: int) -> bytes:
    """What every chunk is bound to: all that is known of the frame before its ciphertext."""
    return hashlib.sha256(canonical({**_fields(head), "host": host, "size": size})).digest()


def _fields(head: Head) -> dict[str, Any]:
    return {each.name: getattr(head, each.name) for each in fields(Head)}


def _info(head: Head, host: str, receiver: str) -> bytes:
    return canonical(["frame key", head.run, head.id, head.sender, host, receiver])


def _of(host: str, certificate: Certificate) -> Certificate:
    if certificate.name != host:
        raise RefusedError(f"a certificate of {certificate.name} stands for {host}")
    return certificate
