"""Frames between a node's parties and the hub's mailbox."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote, urlencode

from cohortium.errors import RefusedError
from cohortium.host.courier import Closed
from cohortium.identity import Certificate, Document
from cohortium.node.links import Links
from cohortium.transport.blobs import FolderBlobs
from cohortium.transport.client import HubClient
from cohortium.transport.envelope import Data, Frame
from cohortium.transport.errors import (
    ConflictError,
    ProtocolError,
    RevokedError,
    UnauthorisedError,
    UnknownError,
    UnreachableError,
)

LARGE = 8 << 20
"""Bytes above which a blob is fetched into a file, where a cut costs only the piece under way."""

TURNED_AWAY = (UnauthorisedError, RevokedError, ProtocolError)
"""What the hub says to whoever asks, whatever is asked: the agent deals with it, not a party."""


class HubCourier:
    """Takes frames to the hub; its client waits while the hub is away.

    Args:
        client: the way to the hub, with patience for ever.
        folder: where large blobs wait until they were read.
        turned_away: told when the hub does not talk to this node any more.
        links: the ways to peers that listen; None: none.
        direct: blobs that peers brought; None: none can.
    """

    def __init__(
        self,
        client: HubClient,
        folder: Path,
        *,
        turned_away: Callable[[RefusedError], None],
        links: Links | None = None,
        direct: FolderBlobs | None = None,
    ) -> None:
        self._client, self._folder, self._turned_away = client, folder, turned_away
        self._links, self._direct = links, direct

    def post(self, frame: Frame, ciphertext: Data) -> None:
        """Hand a frame over; it is durable when this returns. The same one may come again.

        Raises:
            RefusedError: the hub will never take it.
            Closed: the node stops, or the hub turned it away.
        """
        with self._line():
            if self._links is not None and self._links.post(frame, ciphertext):
                return
            try:
                self._post(frame, ciphertext)
            except ConflictError:  # the hub has dropped a blob that nothing referred to yet
                self._post(frame, ciphertext)

    def has(self, frame_id: str) -> bool:
        """Tell whether the mailbox was given a frame before."""
        with self._line():
            try:
                self._client.call("GET", f"/v1/frames/{frame_id}")
            except UnknownError:
                return False
            return True

    def fetch(self, digest: str, size: int) -> Data | Path:
        """Return a blob: in memory, or as a file that `forget` drops.

        Raises:
            RefusedError: there is none, or it is not what its digest says.
            Closed: the node stops.
        """
        with self._line():
            brought = self._direct and self._direct.path(digest)
            if brought:
                return brought
            if size <= LARGE:
                content = bytearray(size)
                self._client.download(digest, size, content)
                return content
            path = self._folder / digest
            if not path.exists():
                self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._client.download(digest, size, path)
            return path

    def forget(self, digest: str) -> None:
        """Drop a blob that was read by all parties here."""
        if not digest:
            return
        (self._folder / digest).unlink(missing_ok=True)
        if self._direct is not None:
            self._direct.delete(digest)

    def certificate(self, host: str, *, serial: int | None = None, run: str = "") -> Certificate:
        """Return a host's newest certificate, or that of a serial. Not checked.

        The hub's own is known from its last answer; after new keys it still opens with the old one.

        Raises:
            RefusedError: there is none.
            Closed: the node stops.
        """
        known = self._client.hub.certificate
        if host == known.name and serial in (None, known.serial):
            return known
        query = urlencode({"serial": serial or 0, "run": run})
        with self._line():
            found = self._client.call("GET", f"/v1/certificates/{quote(host, safe='')}?{query}")
            return Certificate.from_json(found["certificate"])

    def receipts(self, run: str, party: str) -> list[Document]:
        """Return the newest receipt of each host that has had frames of a party."""
        with self._line():
            query = urlencode({"party": party})
            found = self._client.call("GET", f"/v1/runs/{run}/receipts?{query}")
            return [Document.from_json(each) for each in found]

    def _post(self, frame: Frame, ciphertext: Data) -> None:
        if frame.blob:
            self._client.upload(frame.blob, ciphertext)
        self._client.call("POST", "/v1/frames", frame.to_json())

    @contextmanager
    def _line(self) -> Iterator[None]:
        try:
            yield
        except UnreachableError as error:  # with patience for ever, only when it was closed
            raise Closed from error
        except TURNED_AWAY as error:
            self._turned_away(error)
            raise Closed from error
