"""Frames: who can open them, and that nothing about them can be changed."""

from __future__ import annotations

import hashlib
import json
import tracemalloc
from collections.abc import Sequence
from dataclasses import fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cohortium.errors import RefusedError
from cohortium.identity import (
    Certificate,
    Identity,
    OpeningKey,
    SignatureError,
    SigningKey,
    canonical,
)
from cohortium.transport.envelope import (
    CHUNK,
    INLINE,
    NAMES,
    TAG,
    Data,
    Frame,
    Head,
    frame_id,
    open_frame,
    seal,
    sealed_size,
)

VECTORS = Path(__file__).parents[1] / "vectors"
SIZES = [
    0,
    1,
    INLINE - TAG,
    INLINE - TAG + 1,
    CHUNK - 1,
    CHUNK,
    CHUNK + 1,
    3 * CHUNK,
    3 * CHUNK + 7,
]


def vectors(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((VECTORS / name).read_text())["vectors"]
    return found


def member(name: str, seed: int) -> Identity:
    """Return a member whose keys are the same in every test."""
    root, signing = SigningKey(bytes([seed]) * 32), SigningKey(bytes([seed + 1]) * 32)
    opening = OpeningKey(bytes([seed + 2]) * 32)
    certificate = Certificate.issue(
        root,
        name=name,
        role="site",
        signing=signing.public,
        opening=opening.public,
        serial=1,
        now=1e9,
    )
    return Identity(root, signing, opening, certificate)


HUB, ULM, BONN, KIEL = (member(n, 10 * i) for i, n in enumerate(["@hub", "Ulm", "Bonn", "Kiel"], 1))
HEAD = Head(
    run="0123456789abcdef" * 2,
    sender="Ulm",
    to=("@aggregator", "Bonn"),
    number=3,
    kind="release",
    round=2,
    attempt=0,
    step="train/Ulm",
)
RECEIVERS = {"@hub": HUB.certificate, "Bonn": BONN.certificate}


def payload(size: int) -> bytes:
    return hashlib.shake_128(b"plaintext").digest(size)


def sealed(parts: Sequence[Data], head: Head = HEAD) -> tuple[Frame, bytearray]:
    return seal(head, parts, signer=ULM, receivers=RECEIVERS)


def opened(frame: Frame, ciphertext: Data | Path, *, by: Identity = BONN, **more: Any) -> bytes:
    return bytes(open_frame(frame, ciphertext, identity=by, sender=ULM.certificate, **more))


def resigned(frame: Frame, signer: Identity = ULM) -> Frame:
    """Return the frame as its own host, or another, could sign it."""
    stamp = signer.signing.sign("stamp", canonical([frame.run, frame.sender, frame.number])).hex()
    frame = replace(frame, stamp=stamp)
    said = {k: v for k, v in frame.to_json().items() if k != "signature"}
    return replace(frame, signature=signer.signing.sign("frame", canonical(said)).hex())


SHORT, _ = sealed([payload(300)])
LONG, BLOB = sealed([payload(2 * CHUNK + 300)])


# --- the format ---


def stream(key: bytes, context: bytes, plaintext: bytes) -> bytes:
    """STREAM (Hoang et al. 2015, figure 7) once more, as simply as it can be written."""
    pieces = [plaintext[at : at + CHUNK] for at in range(0, len(plaintext), CHUNK)] or [b""]
    nonces = [i.to_bytes(11) + bytes([i == len(pieces) - 1]) for i in range(len(pieces))]
    return b"".join(
        AESGCM(key).encrypt(*each, context) for each in zip(nonces, pieces, strict=True)
    )


@pytest.mark.parametrize("vector", vectors("stream.json"), ids=lambda v: str(v["size"]))
def test_stream_chunks(vector: dict[str, Any]) -> None:
    key, context = bytes.fromhex(vector["key"]), bytes.fromhex(vector["context"])
    ciphertext = stream(key, context, payload(vector["size"]))
    assert hashlib.sha256(ciphertext).hexdigest() == vector["sha256"]
    assert vector.get("ciphertext", ciphertext.hex()) == ciphertext.hex()


@pytest.mark.parametrize("size", SIZES)
def test_a_ciphertext_is_a_stream_under_the_wrapped_key(size: int) -> None:
    frame, blob = sealed([payload(size)])
    info = canonical(["frame key", HEAD.run, HEAD.id, "Ulm", "Ulm", "Bonn"])
    key = BONN.opening.open(bytes.fromhex(frame.keys["Bonn"]), info)
    head = {each.name: getattr(HEAD, each.name) for each in fields(Head)}
    context = hashlib.sha256(canonical({**head, "host": "Ulm", "size": size})).digest()
    assert (frame.inline or blob) == stream(key, context, payload(size))
    assert frame.size == size
    assert len(frame.inline or blob) == sealed_size(size) == frame.payload_size


@pytest.mark.parametrize("vector", vectors("frames.json"))
def test_frames_of_earlier_versions_open(vector: dict[str, Any]) -> None:
    receiver = Identity.from_json(vector["receiver"])
    frame, sender = Frame.from_json(vector["frame"]), Certificate.from_json(vector["sender"])
    assert bytes(open_frame(frame, identity=receiver, sender=sender)).decode() == vector["payload"]


@pytest.mark.parametrize("vector", vectors("frame_ids.json"), ids=lambda v: str(v["id"])[:8])
def test_frame_ids(vector: dict[str, Any]) -> None:
    named = dict(vector)
    wanted, round_ = named.pop("id"), named.pop("round")
    assert frame_id(**named, round_=round_) == wanted
    assert frame_id(**{**named, "to": named["to"][::-1]}, round_=round_) == wanted


def test_a_message_sent_again_has_the_same_id_and_any_other_another() -> None:
    again, _ = sealed([b"other noise"], replace(HEAD, number=9))
    assert again.id == SHORT.id == LONG.id == HEAD.id
    changes: dict[str, Any] = {
        "run": "f" * 32,
        "sender": "Bonn",
        "to": ("Bonn",),
        "kind": "model",
        "round": 3,
        "attempt": 1,
        "step": "train/Bonn",
    }
    ids = {replace(HEAD, **{name: value}).id for name, value in changes.items()}
    assert len(ids | {HEAD.id}) == len(changes) + 1


def test_a_short_ciphertext_travels_in_the_frame_and_a_long_one_is_a_blob() -> None:
    short, none = sealed([payload(INLINE - TAG)])
    assert (len(short.inline), short.blob, bytes(none)) == (INLINE, "", b"")
    long, blob = sealed([payload(INLINE - TAG + 1)])
    assert [long.inline, long.blob] == [b"", hashlib.sha256(blob).hexdigest()]


@pytest.mark.parametrize("frame", [SHORT, LONG], ids=["inline", "blob"])
def test_a_frame_travels_as_json(frame: Frame) -> None:
    assert Frame.from_json(json.loads(json.dumps(frame.to_json()))) == frame


# --- who can open it ---


@pytest.mark.parametrize("size", SIZES)
def test_a_broadcast_is_one_ciphertext_that_every_receiver_opens(size: int, tmp_path: Path) -> None:
    frame, blob = sealed([payload(size)])
    assert set(frame.keys) == {"@hub", "Bonn"}
    (tmp_path / "blob").write_bytes(blob)
    assert opened(frame, blob, by=HUB) == payload(size)
    assert opened(frame, tmp_path / "blob") == payload(size)


@given(st.lists(st.integers(0, 2 * CHUNK + 300), max_size=6))
@settings(max_examples=25)
def test_how_a_payload_is_cut_into_parts_does_not_matter(cuts: list[int]) -> None:
    whole = memoryview(payload(2 * CHUNK + 300))
    ends = [0, *sorted(cuts), len(whole)]
    frame, blob = sealed([whole[a:b] for a, b in pairwise(ends)])
    assert opened(frame, blob) == whole


def test_arrays_are_parts_as_they_are() -> None:
    arrays: list[NDArray[Any]] = [
        np.arange(6, dtype=np.float32).reshape(2, 3),
        np.zeros((0, 3)),
        np.array(7),
    ]
    frame, blob = sealed([array.data for array in arrays])
    assert opened(frame, blob) == b"".join(array.tobytes() for array in arrays)


@pytest.mark.parametrize("frame", [SHORT, LONG], ids=["inline", "blob"])
def test_nobody_else_opens_it(frame: Frame) -> None:
    for stranger in (KIEL, member("Bonn", 90)):
        with pytest.raises(RefusedError):
            opened(frame, BLOB, by=stranger)
    with pytest.raises(RefusedError):
        opened(frame, BLOB, by=replace(KIEL, certificate=BONN.certificate))


def test_a_receiver_that_rotates_its_keys_opens_what_was_under_way() -> None:
    assert opened(SHORT, b"", by=BONN.rotated(2e9)) == payload(300)


def test_only_the_senders_certificate_of_that_serial_will_do() -> None:
    rotated = ULM.rotated(2e9)
    frame, _ = seal(HEAD, [b"new"], signer=rotated, receivers=RECEIVERS)
    assert bytes(open_frame(frame, identity=BONN, sender=rotated.certificate)) == b"new"
    for other in (ULM.certificate, BONN.certificate, member("Ulm", 90).certificate):
        with pytest.raises(SignatureError):
            frame.check(other)
    with pytest.raises(SignatureError, match="certificate 1 "):
        SHORT.check(rotated.certificate)


def test_a_certificate_stands_for_its_own_host_only() -> None:
    with pytest.raises(RefusedError, match="Kiel stands for Bonn"):
        seal(HEAD, [b""], signer=ULM, receivers={"Bonn": KIEL.certificate})
    with pytest.raises(RefusedError, match="keys"):
        seal(HEAD, [b""], signer=ULM, receivers={})


# --- what is changed is refused ---

CHANGES: dict[str, Any] = {
    "run": "f" * 32,
    "sender": "Bonn",
    "to": ("@aggregator", "Kiel"),
    "number": 4,
    "kind": "model",
    "round": 3,
    "attempt": 1,
    "step": "train/Bonn",
    "host": "Bonn",
    "serial": 2,
    "size": LONG.size - 1,
    "blob": "0" * 64,
    "inline": payload(316),
    "keys": dict(zip(LONG.keys, reversed(LONG.keys.values()), strict=True)),
    "stamp": "0" * 128,
    "signature": "0" * 128,
}


@pytest.mark.parametrize("field", [each.name for each in fields(Frame)])
def test_no_field_can_be_changed(field: str) -> None:
    frame = SHORT if field == "inline" else LONG
    with pytest.raises(SignatureError):
        opened(replace(frame, **{field: CHANGES[field]}), BLOB)


@pytest.mark.parametrize(
    "field", ["run", "sender", "to", "number", "kind", "round", "step", "keys"]
)
def test_even_the_sender_cannot_give_a_ciphertext_another_meaning(field: str) -> None:
    with pytest.raises(RefusedError) as caught:
        opened(resigned(replace(LONG, **{field: CHANGES[field]})), BLOB)
    assert not isinstance(caught.value, SignatureError)


def test_a_receiver_cannot_pass_a_frame_on_as_its_own() -> None:
    stolen = resigned(replace(LONG, sender="Bonn", host="Bonn"), signer=BONN)
    with pytest.raises(RefusedError, match="does not open"):
        open_frame(stolen, BLOB, identity=HUB, sender=BONN.certificate)


def test_a_receiver_cannot_put_another_ciphertext_under_the_key_that_it_knows() -> None:
    info = canonical(["frame key", LONG.run, LONG.id, "Ulm", "Ulm", "Bonn"])
    key = BONN.opening.open(bytes.fromhex(LONG.keys["Bonn"]), info)
    head = {each.name: getattr(HEAD, each.name) for each in fields(Head)}
    context = hashlib.sha256(canonical({**head, "host": "Ulm", "size": LONG.size})).digest()
    assert stream(key, context, payload(LONG.size)) == BLOB
    with pytest.raises(RefusedError, match="signed"):
        opened(LONG, stream(key, context, bytes(LONG.size)), by=HUB)


@given(st.integers(0, 8 * (300 + TAG) - 1))
def test_a_flipped_bit_in_a_frame_is_refused(bit: int) -> None:
    changed = bytearray(SHORT.inline)
    changed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(SignatureError):
        opened(replace(SHORT, inline=bytes(changed)), b"")
    with pytest.raises(RefusedError, match="chunk 0"):
        opened(resigned(replace(SHORT, inline=bytes(changed))), b"")


@given(st.integers(0, 8 * len(BLOB) - 1))
@settings(max_examples=30)
def test_a_flipped_bit_in_a_blob_is_refused_and_leaves_nothing_behind(bit: int) -> None:
    into = bytearray(LONG.size)
    BLOB[bit // 8] ^= 1 << bit % 8
    try:
        with pytest.raises(RefusedError, match=f"chunk {bit // 8 // (CHUNK + TAG)} "):
            opened(LONG, BLOB, into=into)
    finally:
        BLOB[bit // 8] ^= 1 << bit % 8
    assert not any(into)


def chunks_of(blob: Data) -> list[bytes]:
    return [bytes(blob[at : at + CHUNK + TAG]) for at in range(0, len(blob), CHUNK + TAG)]


@pytest.mark.parametrize(
    "order", ["102", "002", "112", "021", "01", "02", "12", "0", "2", "", "0122"]
)
def test_chunks_that_are_swapped_repeated_or_left_out_are_refused(order: str) -> None:
    frame, blob = sealed([payload(3 * CHUNK)])
    chunks = chunks_of(blob)
    changed = b"".join(chunks[int(i)] for i in order)
    with pytest.raises(RefusedError):
        opened(frame, changed)
    told = resigned(
        replace(frame, blob=hashlib.sha256(changed).hexdigest(), size=CHUNK * len(order))
    )
    with pytest.raises(RefusedError, match=r"chunk \d of" if order else "bytes, not"):
        opened(told, changed)


@given(st.integers(0, len(BLOB) - 1), st.binary(min_size=1, max_size=20))
@settings(max_examples=20)
def test_a_ciphertext_of_another_length_is_refused(length: int, more: bytes) -> None:
    for changed in (BLOB[:length], BLOB + more):
        with pytest.raises(RefusedError, match="bytes, not"):
            opened(LONG, changed)


def test_a_file_that_is_cut_short_or_missing_is_told_apart(tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(BLOB[:-1])
    with pytest.raises(RefusedError, match="bytes, not"):
        opened(LONG, tmp_path / "blob")
    with pytest.raises(FileNotFoundError):
        opened(LONG, tmp_path / "none")


# --- buffers and sizes ---


def test_a_payload_is_decrypted_into_the_callers_buffer() -> None:
    buffer = np.full(LONG.size + 8, 255, np.uint8)
    view = open_frame(
        LONG, BLOB, identity=BONN, sender=ULM.certificate, into=memoryview(buffer.data)
    )
    assert np.shares_memory(np.asarray(view), buffer)
    assert buffer[: LONG.size].tobytes() == payload(LONG.size)
    assert (buffer[LONG.size :] == 255).all()


def test_a_frame_that_declares_too_much_is_refused_before_anything_is_allocated() -> None:
    huge = resigned(replace(LONG, size=1 << 50))
    with pytest.raises(RefusedError, match="larger than expected"):
        opened(huge, BLOB, limit=1 << 49)
    with pytest.raises(RefusedError, match="bytes, not"):
        opened(huge, BLOB)
    with pytest.raises(RefusedError, match="larger than expected"):
        opened(LONG, BLOB, into=bytearray(LONG.size - 1))
    assert opened(LONG, BLOB, limit=LONG.size) == payload(LONG.size)


def test_sealing_and_opening_hold_no_further_copy(tmp_path: Path) -> None:
    plaintext, into = payload(16 * CHUNK), bytearray(16 * CHUNK)
    assert peak(lambda: sealed([plaintext])) < 17 * CHUNK
    frame, blob = sealed([plaintext])
    (tmp_path / "blob").write_bytes(blob)
    assert peak(lambda: opened_into(frame, tmp_path / "blob", into)) < 3 * CHUNK
    assert into == plaintext


def opened_into(frame: Frame, file: Path, into: bytearray) -> None:
    open_frame(frame, file, identity=BONN, sender=ULM.certificate, into=into)


def peak(work: Any) -> int:
    """Return the most bytes that `work` held at once."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


# --- what comes from elsewhere ---

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


@given(data=st.data())
def test_a_strange_frame_is_refused_and_nothing_else(data: st.DataObject) -> None:
    good = data.draw(st.sampled_from([SHORT, LONG])).to_json()
    name = data.draw(st.sampled_from([*good, "another"]))
    value = data.draw(JSON | st.text("0123456789abcdef", max_size=64))
    try:
        opened(Frame.from_json({**good, name: value}), b"")
    except RefusedError:
        pass
    else:
        assert value == SHORT.to_json()[name]
    for broken in ({k: v for k, v in good.items() if k != name}, value):
        if broken != good:
            with pytest.raises(RefusedError):
                Frame.from_json(broken)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("run", "A" * 32),
        ("run", "../" + "0" * 29),
        ("sender", ""),
        ("sender", "../x"),
        ("to", []),
        ("to", "Bonn"),
        ("to", [b"Bonn"]),
        ("number", -1),
        ("number", 1.0),
        ("round", True),
        ("attempt", 1 << 53),
        ("kind", "other"),
        ("step", "a\nb"),
        ("host", "@hub/x"),
        ("serial", 0),
        ("size", -1),
        ("blob", "0" * 63),
        ("inline", "%%%%"),
        ("inline", "é"),
        ("keys", {}),
        ("keys", {"Bonn": "00"}),
        ("keys", {"": "0" * 160}),
        ("signature", "0" * 127),
        ("another", 1),
    ],
)
def test_a_frame_is_strictly_typed(field: str, value: object) -> None:
    with pytest.raises(RefusedError, match=f"^frame: {field}"):
        Frame.from_json({**LONG.to_json(), field: value})


@pytest.mark.parametrize(
    "said",
    [{"blob": ""}, {"blob": "", "size": 301}, {"inline": SHORT.to_json()["inline"]}],
    ids=["neither", "another size", "both"],
)
def test_a_payload_is_in_the_frame_or_a_blob(said: dict[str, Any]) -> None:
    with pytest.raises(RefusedError, match="belong together"):
        Frame.from_json({**LONG.to_json(), **said})


@pytest.mark.parametrize(
    "to", [["Bonn", "Ulm", "Bonn"], [f"site-{i:05}" for i in range(NAMES // 10 + 1)]]
)
def test_readers_are_named_once_and_are_not_without_number(to: list[str]) -> None:
    frame, _ = sealed([b"x"])

    with pytest.raises(RefusedError, match="different names, of at most 100000 characters"):
        Frame.from_json({**frame.to_json(), "to": to})


def test_a_frame_has_no_more_keys_than_readers() -> None:
    frame, _ = sealed([b"x"])

    with pytest.raises(RefusedError, match="more keys than readers"):
        Frame.from_json({**frame.to_json(), "to": ["Bonn"]})
