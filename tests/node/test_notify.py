"""Notifications arrive, hold what they should and nothing else, and never stop the node."""

from __future__ import annotations

import json
import smtplib
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from threading import Event
from typing import Any

import httpx
import pytest
import structlog
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from tests.node.servers import mail_server, web_server

from cohortium.node.notify import PASSWORD, Message, Notifier, deliver, stopped, waits_for_approval
from cohortium.node.settings import Mail, Notify

MESSAGE = waits_for_approval("heart", purpose="Predict\nthe  disease.", digest="ab" * 32)


def mail(port: int, **more: object) -> Notify:
    settings = {"to": ("steward@a.example", "it@a.example"), "sender": "node@a.example"}
    plain = {"host": "127.0.0.1", "port": port, "starttls": False}
    return Notify(mail=Mail.model_validate({**settings, **plain, **more}))


def test_mail_says_what_waits_and_what_to_type() -> None:
    with mail_server() as box:
        deliver(mail(box.port), MESSAGE)
    ((to, letter),) = box.letters
    assert to == ["steward@a.example", "it@a.example"]
    assert "Subject: Cohortium: A study waits for your approval: heart" in letter
    assert "Purpose: Predict the disease." in letter
    assert "ab" * 32 in letter
    assert "cohortium node study show abababababab" in letter


def test_mail_is_encrypted_and_logged_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate = self_signed(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    monkeypatch.setenv(PASSWORD, "secret")
    with mail_server(tls=certificate) as box:
        deliver(mail(box.port, starttls=True, user="node"), MESSAGE)
    assert box.logins == [("node", "secret")]
    assert len(box.letters) == 1


def test_mail_goes_to_no_server_that_nobody_vouches_for(tmp_path: Path) -> None:
    with mail_server(tls=self_signed(tmp_path)) as box, pytest.raises(OSError, match="CERTIFICATE"):
        deliver(mail(box.port, starttls=True), MESSAGE)
    assert not box.letters


def test_webhook_gets_the_same_and_nothing_else() -> None:
    with web_server() as posts:
        deliver(Notify(webhook=posts.url), MESSAGE)
    (body,) = map(json.loads, posts.bodies)
    assert set(body) == {"event", "study", "purpose", "digest", "command", "text"}
    assert body["command"] == "cohortium node study show abababababab"


@pytest.mark.parametrize("name", ["evil\nBcc: all@a.example", "evil\r", "evil\x85", "evil\ud800"])
def test_a_name_that_is_no_name_is_one_line_of_the_message(name: str) -> None:
    """A hub may call a study what it likes; the next message goes out, too."""
    delivered: list[Message] = []
    with mail_server() as box:
        notifier = Notifier(mail(box.port), structlog.get_logger(), delivered=delivered.append)
        for made in (waits_for_approval, stopped):
            notifier.send(made(name, purpose="p\ud800", digest="cd" * 32))
        notifier.close()
    assert [message.event for message in delivered] == ["waits-for-approval", "stopped"]
    assert not any("\nBcc:" in letter for _, letter in box.letters)


def test_an_answer_that_is_no_success_is_a_failure() -> None:
    with web_server() as posts:
        posts.status = 500
        with pytest.raises(httpx.HTTPStatusError):
            deliver(Notify(webhook=posts.url), MESSAGE)


def test_what_fails_is_logged_and_the_next_one_goes_out() -> None:
    delivered: list[Message] = []
    second = stopped("heart", purpose="Predict.", digest="cd" * 32)
    lines: list[Any] = []
    logged = Event()

    def keep(logger: object, level: str, line: Any) -> Any:
        lines.append(line)
        logged.set()
        raise structlog.DropEvent

    with mail_server() as box:
        log = structlog.wrap_logger(None, processors=[keep])
        notifier = Notifier(mail(box.port), log, delivered=delivered.append)
        box.refuse = True
        notifier.send(MESSAGE)
        assert logged.wait(20)
        box.refuse = False
        notifier.send(second)
        notifier.close()
    assert delivered == [second]
    assert lines[0]["event"] == "notification failed"
    assert smtplib.SMTPDataError.__name__ in lines[0]["reason"]


def self_signed(folder: Path) -> Path:
    """Write a certificate for 127.0.0.1 with its key; return the file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "mail")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / "mail.pem"
    secret = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM) + secret)
    return path
