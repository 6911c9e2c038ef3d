"""Keys, certificates, signed documents, invitation codes: what they prove, and what is refused."""

from __future__ import annotations

import hashlib
import hmac
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import example, given
from hypothesis import strategies as st

from cohortium.errors import ArgumentError, RefusedError
from cohortium.identity import (
    Certificate,
    Document,
    Identity,
    Invitation,
    OpeningKey,
    SignatureError,
    SigningKey,
    canonical,
    fingerprint,
    key_id,
    verify,
    wrap,
)

VECTORS = Path(__file__).parent / "vectors"
KEY, OTHER = SigningKey(bytes([1]) * 32), SigningKey(bytes([2]) * 32)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def vectors(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((VECTORS / name).read_text())["vectors"]
    return found


def flipped(data: bytes, bit: int) -> bytes:
    """Return `data` with one bit changed; `bit` may be any number."""
    at = bit % (8 * len(data))
    return data[: at // 8] + bytes([data[at // 8] ^ 1 << at % 8]) + data[at // 8 + 1 :]


# --- signatures ---


@pytest.mark.parametrize("vector", vectors("ed25519.json"), ids=lambda v: str(v["name"]))
def test_signing_keys_are_those_of_rfc_8032(vector: dict[str, str]) -> None:
    key = SigningKey.from_bytes(bytes.fromhex(vector["secret"]))
    assert key.public == vector["public"]
    assert key.private.sign(bytes.fromhex(vector["message"])).hex() == vector["signature"]


def test_a_signature_covers_what_it_is_for() -> None:
    signature = KEY.sign("receipt", b"three")
    assert KEY.private.sign(b"cohortium/1 receipt\0three") == signature
    verify(KEY.public, "receipt", b"three", signature)
    with pytest.raises(SignatureError):
        verify(KEY.public, "grant", b"three", signature)


@given(st.binary(min_size=1), st.integers(min_value=0))
def test_a_flipped_bit_of_key_message_or_signature_is_refused(message: bytes, bit: int) -> None:
    signature = KEY.sign("note", message)
    public = bytes.fromhex(KEY.public)
    for changed in (
        (KEY.public, flipped(message, bit), signature),
        (KEY.public, message, flipped(signature, bit)),
        (flipped(public, bit).hex(), message, signature),
        (OTHER.public, message, signature),
    ):
        with pytest.raises(SignatureError):
            verify(changed[0], "note", changed[1], changed[2])


def test_a_signature_has_one_form_only() -> None:
    """RFC 8032 §5.1.7: S is below the group's order; S plus the order would verify, too."""
    order = 2**252 + 27742317777372353535851937790883648493
    signature = KEY.sign("note", b"")
    raised = int.from_bytes(signature[32:], "little") + order
    with pytest.raises(SignatureError):
        verify(KEY.public, "note", b"", signature[:32] + raised.to_bytes(32, "little"))


@pytest.mark.parametrize("public", ["", "00", "zz" * 32, "é" * 64, "00" * 33])
def test_what_is_no_public_key_verifies_and_closes_nothing(public: str) -> None:
    with pytest.raises(SignatureError):
        verify(public, "note", b"", bytes(64))
    with pytest.raises(RefusedError):
        wrap(public, b"", b"")


@pytest.mark.parametrize("raw", [b"", bytes(31), bytes(33), "0" * 32])
@pytest.mark.parametrize("kind", [SigningKey, OpeningKey])
def test_a_secret_key_is_32_bytes(kind: type[SigningKey], raw: Any) -> None:
    with pytest.raises(RefusedError, match="32 bytes"):
        kind.from_bytes(raw)


# --- wrapping: RFC 9180, beside a second implementation from its text ---


def labeled_extract(suite: bytes, salt: bytes, label: bytes, ikm: bytes) -> bytes:
    """RFC 9180 §4."""
    return hmac.digest(salt or bytes(32), b"HPKE-v1" + suite + label + ikm, "sha256")


def labeled_expand(suite: bytes, prk: bytes, label: bytes, *, info: bytes, length: int) -> bytes:
    """RFC 9180 §4; one block of HKDF-Expand is enough here."""
    labeled = length.to_bytes(2) + b"HPKE-v1" + suite + label + info
    return hmac.digest(prk, labeled + b"\x01", "sha256")[:length]


def hpke(ephemeral: X25519PrivateKey, receiver: str, info: bytes) -> dict[str, bytes]:
    """RFC 9180 §4.1 (Encap) and §5.1 (KeySchedule, mode_base)."""
    kem, suite = b"KEM\0\x20", b"HPKE\0\x20\0\x01\0\x02"
    public = bytes.fromhex(receiver)
    enc = ephemeral.public_key().public_bytes_raw()
    eae = labeled_extract(
        kem, b"", b"eae_prk", ephemeral.exchange(X25519PublicKey.from_public_bytes(public))
    )
    shared = labeled_expand(kem, eae, b"shared_secret", info=enc + public, length=32)
    context = (
        b"\0"
        + labeled_extract(suite, b"", b"psk_id_hash", b"")
        + labeled_extract(suite, b"", b"info_hash", info)
    )
    secret = labeled_extract(suite, shared, b"secret", b"")
    return {
        "enc": enc,
        "shared_secret": shared,
        "key_schedule_context": context,
        "secret": secret,
        "key": labeled_expand(suite, secret, b"key", info=context, length=32),
        "base_nonce": labeled_expand(suite, secret, b"base_nonce", info=context, length=12),
    }


@pytest.mark.parametrize("vector", vectors("hpke.json"))
def test_the_second_implementation_is_that_of_the_published_vectors(vector: dict[str, Any]) -> None:
    ephemeral = X25519PrivateKey.from_private_bytes(bytes.fromhex(vector["skEm"]))
    made = hpke(ephemeral, vector["pkRm"], bytes.fromhex(vector["info"]))
    assert {name: value.hex() for name, value in made.items()} == {k: vector[k] for k in made}
    for number, each in enumerate(vector["encryptions"]):
        nonce = int.from_bytes(made["base_nonce"]) ^ number
        plain, aad = bytes.fromhex(each["pt"]), bytes.fromhex(each["aad"])
        sealed = AESGCM(made["key"]).encrypt(nonce.to_bytes(12), plain, aad)
        assert sealed.hex() == each["ct"]


@pytest.mark.parametrize("vector", vectors("hpke.json"))
def test_an_opening_key_opens_what_rfc_9180_closes(vector: dict[str, Any]) -> None:
    """The library has no associated data, which all published ciphertexts have."""
    key = OpeningKey.from_bytes(bytes.fromhex(vector["skRm"]))
    assert key.public == vector["pkRm"]
    info = bytes.fromhex(vector["info"])
    ephemeral = X25519PrivateKey.from_private_bytes(bytes.fromhex(vector["skEm"]))
    made = hpke(ephemeral, key.public, info)
    sealed = made["enc"] + AESGCM(made["key"]).encrypt(made["base_nonce"], b"content key", None)
    assert key.open(sealed, info) == b"content key"


def test_what_is_wrapped_is_longer_by_a_key_and_a_tag_and_never_twice_the_same() -> None:
    key = OpeningKey.generate()
    wrapped = [wrap(key.public, bytes(32), b"info") for _ in range(2)]
    assert [len(each) for each in wrapped] == [80, 80]
    assert wrapped[0] != wrapped[1]


@given(st.integers(min_value=0), st.binary(max_size=40))
@example(0, b"")
def test_nobody_opens_what_is_changed_or_anothers(bit: int, info: bytes) -> None:
    key = OpeningKey(bytes([7]) * 32)
    wrapped = wrap(key.public, b"content key", info)
    for opener, data, context in (
        (key, flipped(wrapped, bit), info),
        (key, wrapped[: bit % len(wrapped)], info),
        (key, wrapped, info + b"x"),
        (OpeningKey(bytes([8]) * 32), wrapped, info),
    ):
        with pytest.raises(RefusedError):
            opener.open(data, context)


def test_a_public_key_that_gives_no_secret_is_refused() -> None:
    """RFC 7748 §6.1: a key of small order makes the shared secret zero."""
    with pytest.raises(RefusedError):
        wrap("00" * 32, b"content key", b"")


# --- canonical JSON ---


@pytest.mark.parametrize("vector", vectors("canonical.json"), ids=lambda v: str(v["text"])[:20])
def test_canonical_json(vector: dict[str, Any]) -> None:
    assert canonical(vector["value"]).decode("ascii") == vector["text"]


@given(JSON)
def test_canonical_json_is_what_its_own_text_gives(value: object) -> None:
    try:
        text = canonical(value)
    except RefusedError:
        assert any(math.isinf(each) for each in leaves(value))
        return
    assert canonical(json.loads(text)) == text


def leaves(value: object) -> list[float]:
    """Return the floats in a JSON value."""
    if isinstance(value, dict):
        return [leaf for item in value.values() for leaf in leaves(item)]
    if isinstance(value, list):
        return [leaf for item in value for leaf in leaves(item)]
    return [value] if isinstance(value, float) else []


def nested(depth: int) -> object:
    value: object = 0
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    [math.nan, math.inf, {1: 2}, {"a": {None: 1}}, {"a"}, b"a", object(), 10**5000, nested(100000)],
    ids=["nan", "inf", "int key", "null key", "set", "bytes", "object", "huge", "deep"],
)
def test_what_is_no_json_cannot_be_signed(value: object) -> None:
    with pytest.raises(RefusedError):
        canonical(value)


# --- documents ---

BODY = {"study": "ab" * 32, "rounds": 20, "until": 1763667252.5, "inputs": ["age", "sex"]}
GRANT = Document.of("grant", BODY, KEY)


def test_a_document_says_what_its_signer_said() -> None:
    assert Document.from_json(json.loads(json.dumps(GRANT.to_json()))) == GRANT
    assert GRANT.check("grant", KEY.public) == BODY


def test_a_document_keeps_a_copy_of_what_was_said() -> None:
    body: dict[str, object] = {"inputs": ("age",)}
    document = Document.of("grant", body, KEY)
    body["inputs"] = ("age", "name")
    assert document.check("grant", KEY.public) == {"inputs": ["age"]}
    assert Document.from_json(document.to_json()) == document


def test_a_document_is_no_other_kinds_or_signers() -> None:
    for document, kind, key in (
        (GRANT, "roster", KEY),
        (GRANT, "grant", OTHER),
        (replace(GRANT, kind="roster"), "roster", KEY),
        (replace(GRANT, kind="roster"), "grant", KEY),
        (replace(GRANT, key=OTHER.public), "grant", OTHER),
        (replace(GRANT, key=OTHER.public), "grant", KEY),
        (replace(GRANT, body={**BODY, "rounds": 21}), "grant", KEY),
        (replace(GRANT, body={**BODY, "rounds": 20.0}), "grant", KEY),
        (replace(GRANT, signature="0" * 128), "grant", KEY),
    ):
        with pytest.raises(SignatureError):
            document.check(kind, key.public)


def test_the_digest_is_of_what_is_said_and_by_whom() -> None:
    assert GRANT.digest == Document.of("grant", dict(reversed(BODY.items())), KEY).digest
    assert GRANT.digest == replace(GRANT, signature="0" * 128).digest
    others = [
        Document.of("roster", BODY, KEY),
        Document.of("grant", BODY, OTHER),
        Document.of("grant", {**BODY, "rounds": 21}, KEY),
    ]
    assert len({GRANT.digest, *(other.digest for other in others)}) == 4


# --- certificates and identities ---

NOW = 1763667252.25
SITE = Identity.create("Heidelberg", role="site", now=NOW)


def test_a_certificate_is_the_roots_word_for_the_working_keys() -> None:
    certificate = Certificate.from_json(json.loads(json.dumps(SITE.certificate.to_json())))
    assert certificate == SITE.certificate
    certificate.check(SITE.root.public)
    assert (certificate.signing, certificate.opening) == (SITE.signing.public, SITE.opening.public)
    assert (certificate.name, certificate.role, certificate.serial) == ("Heidelberg", "site", 1)


CHANGES: dict[str, Any] = {
    "name": "Mannheim",
    "role": "coordinator",
    "root": OTHER.public,
    "signing": OTHER.public,
    "opening": OTHER.public,
    "serial": 2,
    "issued": NOW + 1,
    "signature": "0" * 128,
}


@pytest.mark.parametrize("opening", ["00" * 32, "01" + "00" * 31, "ec" + "ff" * 30 + "7f"])
def test_a_certificate_of_a_key_that_nothing_can_be_closed_for_is_refused(opening: str) -> None:
    certificate = Certificate.issue(
        SITE.root,
        name=SITE.name,
        role=SITE.role,
        signing=SITE.signing.public,
        opening=opening,
        serial=2,
        now=NOW,
    )

    with pytest.raises(RefusedError, match="no X25519 key"):
        certificate.check(SITE.root.public)


@pytest.mark.parametrize("field", SITE.certificate.to_json())
def test_no_field_of_a_certificate_can_be_changed(field: str) -> None:
    forged = replace(SITE.certificate, **{field: CHANGES[field]})
    for root in (SITE.root.public, OTHER.public):
        with pytest.raises(SignatureError):
            forged.check(root)


def test_an_identity_is_kept_whole() -> None:
    kept = json.loads(json.dumps(SITE.rotated(NOW + 1).to_json()))
    identity = Identity.from_json(kept)
    assert identity.to_json() == kept
    assert (identity.name, identity.role) == ("Heidelberg", "site")
    assert identity.root == SITE.root


def test_rotation_keeps_the_root_and_makes_the_rest_anew() -> None:
    rotated = SITE.rotated(NOW + 9)
    rotated.certificate.check(SITE.root.public)
    assert (rotated.certificate.serial, rotated.certificate.issued) == (2, NOW + 9)
    assert rotated.signing != SITE.signing
    assert rotated.opening != SITE.opening


def test_what_was_under_way_at_a_rotation_is_still_opened_and_what_is_older_is_not() -> None:
    wrapped = wrap(SITE.opening.public, b"content key", b"info")
    once, twice = SITE.rotated(NOW), SITE.rotated(NOW).rotated(NOW)
    assert SITE.open(wrapped, b"info") == once.open(wrapped, b"info") == b"content key"
    assert once.open(wrap(once.opening.public, b"new", b""), b"") == b"new"
    with pytest.raises(RefusedError):
        twice.open(wrapped, b"info")


@pytest.mark.parametrize("key", ["root", "signing", "opening"])
def test_an_identity_whose_keys_do_not_belong_together_is_refused(key: str) -> None:
    with pytest.raises(RefusedError):
        Identity.from_json({**SITE.to_json(), key: "07" * 32})


def test_no_secret_is_printed() -> None:
    invitation = Invitation.create(KEY.public)
    secrets = [SITE.root.secret, SITE.signing.secret, SITE.opening.secret, invitation.secret]
    shown = repr((SITE, SITE.rotated(NOW), invitation))
    assert not any(secret.hex() in shown or repr(secret) in shown for secret in secrets)
    with pytest.raises(RefusedError) as caught:
        Identity.from_json({**SITE.to_json(), "root": SITE.root.secret.hex() + "\n"})
    assert SITE.root.secret.hex() not in str(caught.value)


READERS: dict[str, tuple[Callable[[object], object], dict[str, Any]]] = {
    "document": (Document.from_json, GRANT.to_json()),
    "certificate": (Certificate.from_json, SITE.certificate.to_json()),
    "identity": (Identity.from_json, SITE.rotated(NOW).to_json()),
}


@pytest.mark.parametrize("reader", READERS)
@given(data=st.data())
def test_a_strange_object_is_refused_and_nothing_else(reader: str, data: st.DataObject) -> None:
    read, good = READERS[reader]
    name = data.draw(st.sampled_from([*good, "another"]))
    value = data.draw(JSON | st.text("0123456789abcdef", min_size=64, max_size=64))
    try:
        made: Any = read({**good, name: value})
        if isinstance(made, Document):
            made.check("grant", KEY.public)
    except RefusedError:
        pass
    strange: dict[Any, Any] = {**good, 1: 2}
    for broken in ({k: v for k, v in good.items() if k != name}, value, strange):
        if broken != good:
            with pytest.raises(RefusedError):
                read(broken)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", ""),
        ("name", "../../etc"),
        ("name", "a\n"),
        ("name", "a" * 65),
        ("name", "\ud800"),
        ("role", "Site"),
        ("root", KEY.public.upper()),
        ("root", KEY.public[:-1]),
        ("serial", 0),
        ("serial", 1.0),
        ("serial", True),
        ("serial", "1"),
        ("serial", 10**30),
        ("issued", math.nan),
        ("issued", "now"),
        ("signature", bytes(64)),
    ],
)
def test_a_certificate_is_strictly_typed(field: str, value: object) -> None:
    with pytest.raises(RefusedError, match=f"certificate: {field}"):
        Certificate.from_json({**SITE.certificate.to_json(), field: value})


# --- invitations and fingerprints ---


@pytest.mark.parametrize("vector", vectors("invitations.json"), ids=lambda v: str(v["code"])[:5])
def test_invitation_codes(vector: dict[str, str]) -> None:
    invitation = Invitation(vector["hub"], bytes.fromhex(vector["secret"]))
    assert invitation.code == vector["code"]
    assert invitation.mac(b"hello") == vector["mac of 'hello'"]
    assert Invitation.parse(vector["code"]) == invitation


def test_a_code_may_be_typed_as_people_type() -> None:
    invitation = Invitation(bytes(range(16)).hex(), bytes(range(16, 32)))
    code = invitation.code
    easy = code.replace("0", "o").replace("1", "l").lower()
    for typed in (code.lower(), code.replace("-", ""), f"  {code.replace('-', ' ')}\n", easy):
        assert Invitation.parse(typed) == invitation


def test_one_wrong_sign_anywhere_is_noticed() -> None:
    code = Invitation(bytes(range(16)).hex(), bytes(range(16, 32))).code.replace("-", "")
    for at, sign in enumerate(code):
        for wrong in "0123456789ABCDEFGHJKMNPQRSTVWXYZU?é":
            if wrong != sign:
                with pytest.raises(ArgumentError, match="code"):
                    Invitation.parse(code[:at] + wrong + code[at + 1 :])


@given(st.text())
@example("0" * 54)
@example("0" * 56)
@example("\u0131" * 55)  # its upper case is an I
def test_what_is_no_code_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(ArgumentError, match="invitation"):
        Invitation.parse(text)


def test_an_invitation_proves_that_one_had_it() -> None:
    invitation = Invitation.create(KEY.public)
    digest = hashlib.sha256(bytes.fromhex(KEY.public)).hexdigest()
    assert invitation.hub == key_id(KEY.public) == digest[:32]
    invitation.check(b"join", invitation.mac(b"join"))
    for message, mac in (
        (b"join", Invitation.create(KEY.public).mac(b"join")),
        (b"joined", invitation.mac(b"join")),
        (b"join", ""),
        (b"join", "é\ud800"),
    ):
        with pytest.raises(SignatureError):
            invitation.check(message, mac)


@pytest.mark.parametrize("vector", vectors("fingerprints.json"))
def test_fingerprints(vector: dict[str, str]) -> None:
    a, b = vector["a"], vector["b"]
    assert fingerprint(a, b) == fingerprint(b, a) == vector["fingerprint"]
    assert key_id(a) == vector["id of a"]
    assert fingerprint(a, b) != fingerprint(a, a) != fingerprint(b, b)
