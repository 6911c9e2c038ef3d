"""The hub's folder: everything that a hub is.

hub.toml           what the operator may set
identity.json      the hub's keys (0600)
coordinator.json   the first coordinator's keys: the commands on this machine use them (0600)
tls/               the hub's own certificate authority and server certificate
hub.sqlite         registry, studies, mail; or another database, by URL
blobs/             what is too large for a database, encrypted by who sent it
parties/           journals' models of the parties that the hub carries
nonces             signed requests that came in the last minutes
lock               held by the running hub
"""

from __future__ import annotations

import json
import os
import tomllib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, BinaryIO
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cohortium.errors import ArgumentError, Problem, RunFailedError
from cohortium.governance.roster import HUB
from cohortium.identity import Identity
from cohortium.store.files import take_lock, write_private
from cohortium.study.problems import explain

SETTINGS = "hub.toml"
COORDINATOR = "coordinator"
"""What the first coordinator is called."""

DEFAULT_PORT = 8443
MIB = 1 << 20


class Limits(BaseModel):
    """The most that the hub takes, in bytes where nothing else is said."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    request: Annotated[int, Field(ge=64 * 1024, le=1 << 30, description="A request's body.")] = (
        8 * MIB
    )
    frame: Annotated[int, Field(ge=1, description="What one frame carries.")] = 16 << 30
    blob: Annotated[int, Field(ge=1, description="A blob.")] = 17 << 30
    pending: Annotated[
        int, Field(ge=1, description="A member's blobs that are here, but for ended studies'.")
    ] = 64 << 30
    frames: Annotated[
        int, Field(ge=1, description="A member's frames in a run that somebody has to fetch yet.")
    ] = 20_000


class Settings(BaseModel):
    """`hub.toml`."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    name: Annotated[
        str, Field(pattern=r"^\S.{0,63}$", description="What people call the federation.")
    ]
    url: Annotated[
        str, Field(pattern=r"^https://[^\s/]+/?$", description="Where members reach the hub.")
    ]
    listen: Annotated[
        str,
        Field(pattern=r"^\S+:\d{1,5}$", description="Address and port to listen on."),
    ] = f"0.0.0.0:{DEFAULT_PORT}"
    database: Annotated[
        str, Field(min_length=1, description="A file in the folder, or postgresql://…")
    ] = "hub.sqlite"
    blobs: Annotated[str, Field(min_length=1, description="A folder, or s3://bucket/prefix.")] = (
        "blobs"
    )
    tls_certificate: Annotated[
        str, Field(description="PEM of another authority's certificate; empty: our own.")
    ] = ""
    tls_key: Annotated[str, Field(description="PEM of its key.")] = ""
    broker: Annotated[
        bool, Field(description="Honest broker mode: sites appear under pseudonyms only.")
    ] = False
    lease: Annotated[
        float,
        Field(ge=1, le=3600, description="Seconds after its last sign that a node may be alive."),
    ] = 20.0
    retention: Annotated[
        float, Field(ge=0, description="Days that an ended run's mail is kept.")
    ] = 30.0
    metrics_token: Annotated[
        str, Field(description="Who has it may read /metrics from anywhere.")
    ] = ""
    limits: Limits = Limits()

    def to_toml(self) -> str:
        """Return the file: every key with what it means, in the order of this class."""
        lines = [
            f"# {field.description}\n{name} = {_literal(getattr(self, name))}\n"
            for name, field in type(self).model_fields.items()
            if name != "limits"
        ]
        limits = "".join(f"{k} = {v}\n" for k, v in self.limits.model_dump().items())
        return "\n".join(lines) + "\n[limits]\n" + limits


@dataclass(frozen=True)
class HubFolder:
    """A hub's folder, and what it holds.

    Attributes:
        folder: where it is.
    """

    folder: Path

    @classmethod
    def at(cls, folder: Path | str) -> HubFolder:
        """Return the folder of a hub.

        Raises:
            ArgumentError: it is none.
        """
        found = cls(Path(folder).expanduser().absolute())
        if not (found.folder / SETTINGS).is_file():
            advice = "Make one with: cohortium hub init"
            problem = Problem(str(folder), "", "no hub's folder", f"one with a {SETTINGS}", advice)
            raise ArgumentError(problem)
        return found

    @cached_property
    def settings(self) -> Settings:
        """What `hub.toml` says.

        Raises:
            ArgumentError: with every problem found in it.
        """
        return parse_settings((self.folder / SETTINGS).read_bytes())

    @property
    def identity(self) -> Identity:
        """The hub's keys."""
        return self._keys("identity.json")

    @property
    def coordinator(self) -> Identity:
        """The first coordinator's keys."""
        return self._keys("coordinator.json")

    @property
    def database(self) -> str:
        """The database: a file's path, or a URL."""
        return self._place(self.settings.database)

    @property
    def blobs(self) -> str:
        """Where blobs are: a folder's path, or a URL."""
        return self._place(self.settings.blobs)

    @property
    def tls(self) -> Path:
        """The folder of the hub's own certificates."""
        return self.folder / "tls"

    @property
    def parties(self) -> Path:
        """The folder of the parties that the hub carries."""
        return self.folder / "parties"

    @property
    def nonces(self) -> Path:
        """Signed requests that came in the last minutes."""
        return self.folder / "nonces"

    def save_identity(self, identity: Identity) -> None:
        """Keep the keys of the hub, or of its first coordinator."""
        name = "identity.json" if identity.name == HUB else "coordinator.json"
        write_private(self.folder / name, json.dumps(identity.to_json(), indent=1).encode())

    def save_settings(self, settings: Settings) -> None:
        """Write `hub.toml`."""
        write_private(self.folder / SETTINGS, settings.to_toml().encode())

    def lock(self, *, serves: bool = False) -> BinaryIO:
        """Hold the folder until what is returned is closed, or the process ends.

        Args:
            serves: this process is the hub that runs; it waits for a command that holds the folder
                for a moment.

        Raises:
            RunFailedError: a hub runs in it.
        """
        path = self.folder / "lock"
        found = take_lock(path)
        if found is None and serves and not path.read_bytes():
            found = take_lock(path, wait=True)
        if found is None:
            raise RunFailedError("a hub is running in this folder already", "Stop it first")
        found.truncate(0)
        if serves:  # who it is tells it from a command
            found.write(str(os.getpid()).encode())
            found.flush()
        return found

    @property
    def is_running(self) -> bool:
        """Whether a hub runs in this folder."""
        lock = take_lock(self.folder / "lock")
        if lock is None:
            return True
        lock.close()
        return False

    def _keys(self, name: str) -> Identity:
        try:
            return Identity.from_json(json.loads((self.folder / name).read_bytes()))
        except (OSError, ValueError) as error:
            got, advice = f"a file that cannot be read ({error})", "Restore it from a backup"
            raise ArgumentError(Problem(name, "", got, "a member's keys", advice)) from error

    def _place(self, place: str) -> str:
        return place if "://" in place else str(self.folder / place)


def parse_settings(text: bytes) -> Settings:
    """Return what `hub.toml` says.

    Raises:
        ArgumentError: with every problem found in it.
    """
    try:
        tables = tomllib.loads(text.decode("utf-8-sig"))
        return Settings.model_validate(tables)
    except ValidationError as error:
        raise ArgumentError(*explain(error, data=tables, root=Settings, where=SETTINGS)) from None
    except ValueError as error:
        raise ArgumentError(Problem(SETTINGS, "", f"no TOML ({error})", "TOML")) from error


def host_of(url: str) -> str:
    """Return the name in a hub's URL."""
    return urlsplit(url).hostname or "localhost"


def _literal(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
