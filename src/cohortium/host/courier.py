"""How a host's frames leave, and others' come: through a hub, or, in the hub itself, directly."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from cohortium.identity import Certificate, Document
from cohortium.transport.envelope import Data, Frame


class Courier(Protocol):
    """Takes frames to a durable mailbox. Thread-safe; waits, for ever, while the hub is away."""

    def post(self, frame: Frame, ciphertext: Data) -> None:
        """Hand a frame over; it is durable when this returns. The same one may come again.

        Raises:
            RefusedError: the hub will never take it.
            Closed: the courier was told to stop.
        """

    def has(self, frame_id: str) -> bool:
        """Tell whether the mailbox was given a frame before."""

    def fetch(self, digest: str, size: int) -> Data | Path:
        """Return a blob whose SHA-256 was checked: in memory, or as a file.

        Raises:
            RefusedError: there is none.
        """

    def certificate(self, host: str, *, serial: int | None = None, run: str = "") -> Certificate:
        """Return a host's newest certificate, or that of a serial. Not checked.

        `run`: in which the host has that name; names are pseudonyms behind an honest broker.

        Raises:
            RefusedError: there is none.
        """

    def receipts(self, run: str, party: str) -> list[Document]:
        """Return the newest receipt of each host that has had frames of a party."""


class Closed(Exception):  # noqa: N818 - no error: the service ends
    """The service is told to stop; what is under way is done when it starts again."""
