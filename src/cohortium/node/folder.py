"""The node's folder: settings, keys, the hub that it trusts, its database, its lock.

node.toml         what people may set
identity.json     the site's keys (0600)
hub.json          the hub that this node joined, and how it is recognised
fingerprint.key   makes fingerprints of datasets that nobody else can guess (0600)
node.sqlite       datasets, studies, grants, runs
journal/          the journals of the parties that run here
studies/          the files of approved studies, to read
lock              held by the running node, with its process id
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import platformdirs

from cohortium.errors import ArgumentError, Problem, RefusedError
from cohortium.identity import Identity
from cohortium.node.settings import FILE, Settings, read_settings
from cohortium.store.files import take_lock, write_private

HOME = "COHORTIUM_HOME"
_NEXT = "identity.next.json"
_DATABASE = "node.sqlite"
KEY_BYTES = 32


@dataclass(frozen=True)
class Home:
    """A node's folder.

    Attributes:
        folder: where it is; made when something is written.
    """

    folder: Path

    @classmethod
    def at(cls, folder: Path | str | None = None) -> Home:
        """Return the folder that is given, else COHORTIUM_HOME, else the user's own."""
        chosen = folder or os.environ.get(HOME)
        if chosen:
            return cls(Path(chosen).expanduser().absolute())
        return cls(platformdirs.user_data_path("cohortium") / "node")

    @cached_property
    def settings(self) -> Settings:
        """What `node.toml` says.

        Raises:
            ArgumentError: with every problem found in it.
        """
        return read_settings(self.folder / FILE)

    @property
    def journal(self) -> Path:
        """Where the journals of parties are."""
        return self._made("journal")

    @property
    def inbox(self) -> Path:
        """Where large payloads wait until they were read."""
        return self.folder / "inbox"

    @property
    def studies(self) -> Path:
        """Where the files of approved studies are."""
        return self._made("studies")

    @property
    def has_database(self) -> bool:
        """Whether there is one."""
        return (self.folder / _DATABASE).exists()

    @property
    def database(self) -> Path:
        """The database's file."""
        return self._made("") / _DATABASE

    def identity(self) -> Identity:
        """Return the site's keys.

        Raises:
            ArgumentError: this node has not joined a hub, or its keys are gone.
        """
        if self.has_joined and not self.has_keys:
            got, expected = "a node whose keys are gone", "identity.json, from a backup"
            advice = (
                "Without a backup, ask the coordinator to revoke this site and to give it a new "
                "code under the same name; move this folder away, and join anew"
            )
            raise ArgumentError(Problem(str(self.folder), "", got, expected, advice))
        return Identity.from_json(self._read("identity.json"))

    def save_identity(self, identity: Identity) -> None:
        """Keep the site's keys."""
        self._write("identity.json", _text(identity.to_json()))

    @property
    def has_keys(self) -> bool:
        """Whether keys were made, such as by a joining that broke off."""
        return (self.folder / "identity.json").exists()

    def next_identity(self) -> Identity | None:
        """Return keys that were made to follow, and that the hub may have or not; None for none."""
        if not (self.folder / _NEXT).exists():
            return None
        return Identity.from_json(self._read(_NEXT))

    def save_next_identity(self, identity: Identity) -> None:
        """Keep keys that are to follow."""
        self._write(_NEXT, _text(identity.to_json()))

    def adopt_next_identity(self) -> None:
        """Let the keys that were to follow be the site's."""
        (self.folder / _NEXT).replace(self.folder / "identity.json")

    def hub(self) -> dict[str, Any]:
        """Return what joining found out about the hub.

        Raises:
            ArgumentError: this node has not joined a hub.
        """
        return self._read("hub.json")

    def save_hub(self, hub: Mapping[str, Any]) -> None:
        """Keep what joining found out about the hub."""
        self._write("hub.json", _text(hub))

    @property
    def ca(self) -> Path | None:
        """The certificates that `node.toml` names."""
        named = self.settings.hub.ca
        return None if named is None else self.folder / Path(named).expanduser()

    @property
    def has_joined(self) -> bool:
        """Whether this node belongs to a hub."""
        return (self.folder / "hub.json").exists()

    def fingerprint_key(self) -> bytes:
        """Return the key of this site's fingerprints; made when first asked for.

        Raises:
            ArgumentError: the file is damaged. Without it, approved datasets cannot be recognised.
        """
        path = self.folder / "fingerprint.key"
        if not path.exists():
            self._write(path.name, secrets.token_bytes(KEY_BYTES))
        key = path.read_bytes()
        if len(key) != KEY_BYTES:
            advice = "Restore it from a backup; or remove it and add the datasets again"
            raise ArgumentError(
                Problem(path.name, "", f"{len(key)} bytes", f"{KEY_BYTES} bytes", advice)
            )
        return key

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder's lock, with this process's id in it. The system releases it on a kill.

        Raises:
            RefusedError: a node is running in this folder.
        """
        file = take_lock(self._made("") / "lock")
        if file is None:
            raise RefusedError(
                f"a node is running in {self.folder} already, as process {self.running()}; "
                "stop it with: cohortium node stop"
            )
        with file:
            _rewrite(file, str(os.getpid()))
            try:
                yield
            finally:
                _rewrite(file, "")

    def running(self) -> int | None:
        """Return the process id of the node that runs in this folder, or None."""
        path = self.folder / "lock"
        pid = path.read_text() if path.exists() else ""
        if not pid:
            return None
        file = take_lock(path)
        if file is None:
            return int(pid)
        file.close()
        return None

    def _read(self, name: str) -> dict[str, Any]:
        try:
            table: dict[str, Any] = json.loads((self.folder / name).read_text("utf-8"))
        except FileNotFoundError:
            got, expected = "a node that has not joined a hub", "one that has"
            advice = "Ask the coordinator for a code, then: cohortium node join URL CODE"
            raise ArgumentError(Problem(str(self.folder), "", got, expected, advice)) from None
        except ValueError as error:
            got, advice = f"no JSON ({error})", "Restore it from a backup"
            raise ArgumentError(Problem(name, "", got, "what joining wrote", advice)) from error
        return table

    def _write(self, name: str, content: bytes) -> None:
        write_private(self._made("") / name, content)

    def _made(self, name: str) -> Path:
        folder = self.folder / name
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return folder


def _rewrite(file: BinaryIO, text: str) -> None:
    file.seek(0)
    file.truncate()
    file.write(text.encode())
    file.flush()


def _text(table: Mapping[str, Any]) -> bytes:
    return json.dumps(table, indent=1).encode()
