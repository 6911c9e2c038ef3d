"""Telling people that a study waits for them, or that a run stopped: by webhook and by mail.

A message holds the study's name, purpose and digest, and the command to type; nothing else. It
goes out from a thread of its own, so that a slow mail server delays nobody.
"""

from __future__ import annotations

import os
import smtplib
import ssl
from collections.abc import Callable
from dataclasses import asdict, dataclass
from email.message import EmailMessage
from queue import SimpleQueue
from threading import Thread
from typing import Literal

import httpx
from structlog.typing import FilteringBoundLogger

from cohortium.node.settings import Mail, Notify

PASSWORD = "COHORTIUM_MAIL_PASSWORD"  # noqa: S105 - the variable's name
TIMEOUT = 30.0
"""Seconds that a mail or web server has for an answer."""

Event = Literal["waits-for-approval", "stopped"]
TITLES: dict[Event, str] = {
    "waits-for-approval": "A study waits for your approval",
    "stopped": "A run stopped",
}


@dataclass(frozen=True)
class Message:
    """What people are told.

    Attributes:
        event: why.
        study: its name.
        purpose: in the study's own words.
        digest: of the study.
        command: what to type next.
    """

    event: Event
    study: str
    purpose: str
    digest: str
    command: str

    @property
    def title(self) -> str:
        """One line."""
        return f"Cohortium: {TITLES[self.event]}: {self.study}"

    @property
    def text(self) -> str:
        """The whole message, for people."""
        return (
            f"{TITLES[self.event]}.\n\nStudy:   {self.study}\nPurpose: {self.purpose}\n"
            f"Digest:  {self.digest}\n\nOn the node's machine:\n    {self.command}\n"
        )


def waits_for_approval(study: str, *, purpose: str, digest: str) -> Message:
    """Return the message about a study that nobody here has decided on."""
    command = f"cohortium node study show {digest[:12]}"
    return Message("waits-for-approval", _line(study), _line(purpose), digest, command)


def stopped(study: str, *, purpose: str, digest: str) -> Message:
    """Return the message about a run that ended before its last round."""
    return Message("stopped", _line(study), _line(purpose), digest, "cohortium node status")


def _line(text: str) -> str:
    """Return text as one line: it cannot pretend to be the rest of the message, or a header."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


class Notifier:
    """Delivers messages, one after the other.

    Args:
        settings: where they go.
        log: where a message that could not be delivered is written down.
        delivered: is told of each message that reached everybody it is meant for.
    """

    def __init__(
        self,
        settings: Notify,
        log: FilteringBoundLogger,
        *,
        delivered: Callable[[Message], None] = lambda _: None,
    ) -> None:
        self.settings, self.log, self._delivered = settings, log, delivered
        self._queue = SimpleQueue[Message | None]()
        self._thread = Thread(target=self._deliver, name="notify", daemon=True)
        self._thread.start()

    def send(self, message: Message) -> None:
        """Deliver a message, soon; nothing happens where nobody is to be told."""
        if self.settings.webhook or self.settings.mail:
            self._queue.put(message)

    def close(self) -> None:
        """Deliver what waits, and end."""
        self._queue.put(None)
        self._thread.join()

    def _deliver(self) -> None:
        for message in iter(self._queue.get, None):
            try:
                deliver(self.settings, message)
            except (OSError, smtplib.SMTPException, httpx.HTTPError) as error:
                self.log.warning("notification failed", reason=f"{type(error).__name__}: {error}")
            else:
                self._delivered(message)


def deliver(settings: Notify, message: Message) -> None:
    """Send a message to all that are set.

    Raises:
        httpx.HTTPError: the webhook cannot be reached or does not answer with 2xx.
        smtplib.SMTPException: the mail server refuses it.
        OSError: the mail server cannot be reached.
    """
    if settings.webhook:
        body = {**asdict(message), "text": message.text}
        httpx.post(settings.webhook, json=body, timeout=TIMEOUT).raise_for_status()
    if settings.mail:
        _mail(settings.mail, message)


def _mail(mail: Mail, message: Message) -> None:
    letter = EmailMessage()
    letter["Subject"], letter["From"], letter["To"] = message.title, mail.sender, ", ".join(mail.to)
    letter.set_content(message.text)
    with smtplib.SMTP(mail.host, mail.port, timeout=TIMEOUT) as server:
        if mail.starttls:
            server.starttls(context=ssl.create_default_context())
        if mail.user:
            server.login(mail.user, os.environ.get(PASSWORD, ""))
        server.send_message(letter)
