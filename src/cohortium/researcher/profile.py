"""A researcher's folder: keys, the hub that they joined, copies of studies and runs.

identity.json   the researcher's keys (0600)
hub.json        the hub's address, and how it is recognised
inbox.json      up to where the mailbox was read
studies/        the text and the files of each study
runs/           what came of each run
"""

from __future__ import annotations

import json
import os
import secrets
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import platformdirs

from cohortium.errors import ArgumentError, Problem
from cohortium.identity import Identity
from cohortium.transport.client import HubClient, Waiting
from cohortium.transport.joining import Joined, join
from cohortium.transport.trust import HubTrust

HOME = "COHORTIUM_HOME"
ROLES = ("researcher", "coordinator")


@dataclass(frozen=True)
class Place:
    """Up to where the mailbox was read.

    Attributes:
        instance: what this folder calls itself to the hub.
        generation: the mailbox's; another one counts its messages anew.
        after: the number of the last message that is kept here.
    """

    instance: str
    generation: str = ""
    after: int = 0


@dataclass(frozen=True)
class Profile:
    """A researcher's folder.

    Attributes:
        folder: where it is; made when something is written.
    """

    folder: Path

    @classmethod
    def at(cls, folder: Path | str | None = None) -> Profile:
        """Return the folder that is given, else COHORTIUM_HOME, else the user's own."""
        chosen = folder or os.environ.get(HOME)
        if chosen:
            return cls(Path(chosen).expanduser().absolute())
        return cls(platformdirs.user_data_path("cohortium") / "researcher")

    @property
    def has_joined(self) -> bool:
        """Whether this researcher belongs to a hub."""
        return (self.folder / "hub.json").exists()

    @property
    def identity(self) -> Identity:
        """The researcher's keys.

        Raises:
            ArgumentError: they have not joined a hub.
        """
        return Identity.from_json(self.read("identity.json"))

    @property
    def trust(self) -> HubTrust:
        """How the hub is recognised.

        Raises:
            ArgumentError: they have not joined a hub.
        """
        return HubTrust.from_json(self.read("hub.json")["trust"])

    def join(
        self, url: str, code: str, *, proxy: str | None = None, ca: Path | None = None
    ) -> Joined:
        """Join a hub with a coordinator's code; where an answer was lost, it may be tried again.

        Raises:
            ArgumentError: this folder belongs to a hub already, or an argument is unusable.
            RequestError: the hub refused the code.
            UnreachableError: the hub did not answer.
        """
        if self.has_joined:
            got, expected = "a folder that belongs to a hub already", "a new one"
            advice = "Name another: --home DIR"
            raise ArgumentError(Problem(str(self.folder), "--home", got, expected, advice))
        joined = join(url, code, roles=ROLES, keys=self._keys, proxy=proxy, ca=ca)
        place = ca and str(ca.absolute())
        self.save("inbox.json", asdict(Place(secrets.token_hex(16))))
        self.save(
            "hub.json", {"url": url, "proxy": proxy, "ca": place, "trust": joined.hub.to_json()}
        )
        return joined

    def client(self, *, patience: float | None = 30.0, waiting: Waiting | None = None) -> HubClient:
        """Return the way to the hub.

        Args:
            patience: seconds for which a call is tried again; None: for ever.
            waiting: told when the hub does not answer.

        Raises:
            ArgumentError: they have not joined a hub.
        """
        hub = self.read("hub.json")
        return HubClient(
            hub["url"],
            self.identity,
            self.trust,
            proxy=hub["proxy"],
            ca=Path(hub["ca"]) if hub["ca"] else None,
            patience=patience,
            waiting=waiting,
            renewed=self._renewed,
        )

    @property
    def place(self) -> Place:
        """Up to where the mailbox was read."""
        return Place(**self.read("inbox.json"))

    def save(self, name: str, table: Mapping[str, Any]) -> None:
        """Write a JSON file that only its owner may read."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_file(self.folder / name, json.dumps(table, indent=1).encode())

    def read(self, name: str) -> dict[str, Any]:
        """Return what `save` wrote.

        Raises:
            ArgumentError: it is not there, or damaged.
        """
        try:
            table: dict[str, Any] = json.loads((self.folder / name).read_text("utf-8"))
        except FileNotFoundError:
            got, expected = "somebody who has not joined a hub", "a researcher who has"
            advice = "Ask the coordinator for a code, then: cohortium study join URL CODE"
            raise ArgumentError(Problem(str(self.folder), "", got, expected, advice)) from None
        except ValueError as error:
            got, advice = f"no JSON ({error})", "Restore it from a backup"
            raise ArgumentError(Problem(name, "", got, "what joining wrote", advice)) from error
        return table

    def _keys(self, name: str, role: str) -> Identity:
        """Return the keys of this name that an earlier attempt made, or else new ones."""
        if (self.folder / "identity.json").exists():
            kept = self.identity
            if (kept.name, kept.role) == (name, role):
                return kept
        made = Identity.create(name, role=role, now=time.time())
        self.save("identity.json", made.to_json())
        return made

    def _renewed(self, trust: HubTrust) -> None:
        """Keep the hub's new working keys, which its root key certified."""
        self.save("hub.json", {**self.read("hub.json"), "trust": trust.to_json()})


def write_file(path: Path, content: bytes) -> None:
    """Write a file that only its owner may read, whole; several commands may write it at once."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".writing-")
    try:
        with os.fdopen(handle, "wb") as part:
            part.write(content)
            part.flush()
            os.fsync(part.fileno())
        Path(name).replace(path)
    finally:
        Path(name).unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)  # what is acknowledged next must outlive a power cut
    finally:
        os.close(folder)
