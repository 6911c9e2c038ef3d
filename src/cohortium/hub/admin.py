"""What a coordinator does on the hub's machine: `cohortium hub`, without the words.

While the hub runs, its folder is its own: then these go through its API, with the coordinator's
keys that lie there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote, urlsplit

from cohortium.errors import ArgumentError, Problem, RunFailedError
from cohortium.governance.roster import HUB
from cohortium.hub import backup as backups
from cohortium.hub.folder import COORDINATOR, SETTINGS, HubFolder, Settings, parse_settings
from cohortium.hub.registry import HOURS
from cohortium.hub.server import HubServer, tls_of
from cohortium.hub.service import HubService
from cohortium.identity import Identity, fingerprint, key_id
from cohortium.transport.client import HubClient
from cohortium.transport.trust import HubTrust


def init(folder: Path, *, name: str, url: str, broker: bool = False) -> HubFolder:
    """Make a hub: its folder with settings, its keys and those of its first coordinator.

    Args:
        folder: where to; it must not be a hub's already.
        name: what people call the federation.
        url: where members will reach it: https://NAME[:PORT].
        broker: whether sites appear under pseudonyms only.

    Raises:
        ArgumentError: a hub is there, or a setting cannot be used.
    """
    if (folder / "identity.json").exists():
        got, advice = "a hub's folder", "Choose another one: --home DIR"
        raise ArgumentError(Problem(str(folder), "", got, "a folder without a hub", advice))
    settings = Settings(name=name, url="https://localhost", broker=broker)
    settings = _changed(settings, url=url, listen=f"0.0.0.0:{urlsplit(url).port or 443}")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    hub, now = HubFolder(folder), time.time()
    hub.save_identity(Identity.create(COORDINATOR, role="coordinator", now=now))
    hub.save_identity(Identity.create(HUB, role="hub", now=now))
    hub.save_settings(settings)
    return HubFolder.at(folder)


def identifier(folder: Path) -> str:
    """Return what members know the hub by: 32 hex digits."""
    return key_id(HubFolder.at(folder).identity.root.public)


def up(
    folder: Path,
    *,
    listen: str | None = None,
    database: str | None = None,
    blobs: str | None = None,
    tls_certificate: Path | None = None,
    tls_key: Path | None = None,
    ready: Callable[[int], None] = lambda _: None,
) -> None:
    """Run the hub until SIGINT or SIGTERM. What is given is kept in `hub.toml`.

    Args:
        folder: the hub's.
        listen: address and port.
        database: a file, or postgresql://…
        blobs: a folder, or s3://bucket/prefix.
        tls_certificate: PEM of a certificate that another authority has signed.
        tls_key: PEM of its key.
        ready: is told the port when requests are answered.

    Raises:
        ArgumentError: a setting cannot be used, or would leave behind what the hub has.
        RunFailedError: a hub runs in this folder, or the port is taken.
        DatabaseError: the database does not open.
    """
    hub = HubFolder.at(folder)
    paths = {"tls_certificate": tls_certificate, "tls_key": tls_key}
    given = {key: str(path.absolute()) for key, path in paths.items() if path is not None}
    given |= {
        key: value
        for key, value in (("listen", listen), ("database", database), ("blobs", blobs))
        if value is not None
    }
    settings = _changed(hub.settings, **given)
    if settings != hub.settings:
        _check_move(hub, settings)
        hub.lock(serves=True).close()
        hub.save_settings(settings)
        hub = HubFolder.at(folder)
    HubServer(hub, ready=ready).run()


@dataclass(frozen=True)
class Invited:
    """A code to give to a new member, by a safe way.

    Attributes:
        name, role: for whom.
        url: where to join.
        code: to join with, once.
        expires: seconds since 1970.
    """

    name: str
    role: str
    url: str
    code: str
    expires: float


def invite(folder: Path, name: str, *, role: str = "site", hours: float = HOURS) -> Invited:
    """Return a code with which one new member joins, once.

    Raises:
        ArgumentError: no name, role or time that can be given.
        ConflictError: an active member has the name.
    """
    hub = HubFolder.at(folder)
    with _open(hub) as desk:
        said = desk.invite(name, role, hours)
    return Invited(name, role, hub.settings.url, said["code"], said["expires"])


def sites(folder: Path) -> list[dict[str, Any]]:
    """Return everybody who joined or is invited.

    Each with name, role, certificate, address, online, revoked, joined, reason, expires (of an
    invitation), fingerprint (to compare by voice; empty for who has not joined) and address.
    """
    hub = HubFolder.at(folder)
    root = hub.identity.root.public
    with _open(hub) as desk:
        return [_with_fingerprint(site, root) for site in desk.sites()]


def revoke(folder: Path, name: str, *, reason: str = "") -> None:
    """End a membership at once.

    Raises:
        UnknownError: there is no such member.
    """
    with _open(HubFolder.at(folder)) as desk:
        desk.revoke(name, reason)


def studies(folder: Path) -> list[dict[str, Any]]:
    """Return all studies, as the API shows them to a coordinator."""
    with _open(HubFolder.at(folder)) as desk:
        return desk.studies()


def control(
    folder: Path, study: str, op: str, *, site: str = "", seconds: float = 0.0, reason: str = ""
) -> None:
    """Extend a running study's deadlines, exclude a site, or readmit it.

    Args:
        folder: the hub's.
        study: its name, or the beginning of its digest.
        op: "extend", "exclude" or "readmit".
        site: whom; by its name in the study.
        seconds: how much longer.
        reason: for people.

    Raises:
        ArgumentError: no such study, or more than one; or it does not run.
        RequestError: the hub refuses.
    """
    with _open(HubFolder.at(folder)) as desk:
        found = _find(desk.studies(), study)
        if not found["run"]:
            got, expected = f"a study that is {found['status']}", "one that runs"
            raise ArgumentError(Problem("arguments", "STUDY", got, expected))
        desk.control(found["run"], op, site, seconds, reason)


def backup(folder: Path, file: Path) -> None:
    """Write the hub's folder and database into one file, while the hub runs or not."""
    backups.backup(HubFolder.at(folder), file)


def restore(
    file: Path, folder: Path, *, database: str | None = None, blobs: str | None = None
) -> HubFolder:
    """Make a hub's folder from a backup; see `cohortium.hub.backup.restore`."""
    return backups.restore(file, folder, database=database, blobs=blobs)


def rotate_keys(folder: Path) -> int:
    """Give the hub new working keys; return their serial. Members learn them by themselves.

    Raises:
        RunFailedError: the hub is running.
    """
    hub = HubFolder.at(folder)
    with closing(hub.lock()):
        identity = hub.identity.rotated(time.time())
        hub.save_identity(identity)
        return identity.certificate.serial


# --- with and without a running hub ---


class Desk(Protocol):
    """What a coordinator asks of a hub."""

    def invite(self, name: str, role: str, hours: float) -> Mapping[str, Any]: ...

    def sites(self) -> list[dict[str, Any]]: ...

    def revoke(self, name: str, reason: str) -> None: ...

    def studies(self) -> list[dict[str, Any]]: ...

    def control(self, run: str, op: str, site: str, seconds: float, reason: str) -> None: ...


@dataclass(frozen=True)
class _Inside:
    """Asks a hub whose folder nobody else has open."""

    service: HubService

    def invite(self, name: str, role: str, hours: float) -> Mapping[str, Any]:
        invitation, expires = self.service.registry.invite(name, role, hours=hours)
        return {"code": invitation.code, "expires": expires}

    def sites(self) -> list[dict[str, Any]]:
        return self.service.sites(self._member)

    def revoke(self, name: str, reason: str) -> None:
        self.service.revoke(self._member, name, reason)

    def studies(self) -> list[dict[str, Any]]:
        return self.service.studies.shown(self._member)

    def control(self, run: str, op: str, site: str, seconds: float, reason: str) -> None:
        self.service.studies.control(run, op, site=site, seconds=seconds, reason=reason)

    @property
    def _member(self) -> Any:
        return self.service.registry.get(COORDINATOR)


@dataclass(frozen=True)
class _Outside:
    """Asks a hub that runs, as any coordinator anywhere would."""

    client: HubClient

    def invite(self, name: str, role: str, hours: float) -> Mapping[str, Any]:
        body = {"name": name, "role": role, "hours": hours}
        said: Mapping[str, Any] = self.client.call("POST", "/v1/invitations", body)
        return said

    def sites(self) -> list[dict[str, Any]]:
        said: list[dict[str, Any]] = self.client.call("GET", "/v1/sites")
        return said

    def revoke(self, name: str, reason: str) -> None:
        path = f"/v1/sites/{quote(name, safe='')}/revoke"
        self.client.call("POST", path, {"reason": reason})

    def studies(self) -> list[dict[str, Any]]:
        said: list[dict[str, Any]] = self.client.call("GET", "/v1/studies")
        return said

    def control(self, run: str, op: str, site: str, seconds: float, reason: str) -> None:
        body = {"op": op, "site": site, "seconds": seconds, "reason": reason}
        self.client.call("POST", f"/v1/runs/{run}/controls", body)


@contextmanager
def _open(hub: HubFolder) -> Iterator[Desk]:
    try:
        lock = hub.lock()
    except RunFailedError:
        with closing(_client(hub)) as client:
            yield _Outside(client)
        return
    with closing(lock), HubService(hub) as service:
        yield _Inside(service)


def _client(hub: HubFolder) -> HubClient:
    """Return the way to the hub that runs on this machine."""
    settings, tls = hub.settings, tls_of(hub)
    port = settings.listen.rpartition(":")[2]
    url = f"https://localhost:{port}" if tls.authority else settings.url
    trust = HubTrust(hub.identity.certificate, tls.authority)
    return HubClient(url, hub.coordinator, trust)


def _changed(settings: Settings, **values: str) -> Settings:
    """Return settings with some changed, validated anew."""
    return parse_settings(settings.model_copy(update=values).to_toml().encode())


def _check_move(hub: HubFolder, settings: Settings) -> None:
    """Refuse to let a hub begin anew elsewhere: its members and their mail would be gone."""
    is_used = "://" in hub.database or Path(hub.database).exists()
    for key in ("database", "blobs"):
        before, after = getattr(hub.settings, key), getattr(settings, key)
        if is_used and before != after:
            got, expected = f"{after!r}, for a hub that is in use", f"{before!r}"
            advice = (
                "To move it: cohortium hub backup FILE; then, into another folder, cohortium hub "
                f"restore FILE --{key} {after}"
            )
            raise ArgumentError(Problem(SETTINGS, key, got, expected, advice))


def _with_fingerprint(site: Mapping[str, Any], root: str) -> dict[str, Any]:
    certificate = site["certificate"]
    mark = "" if certificate is None else fingerprint(root, certificate["root"])
    return {**site, "fingerprint": mark}


def _find(known: list[dict[str, Any]], wanted: str) -> dict[str, Any]:
    found = [s for s in known if wanted in (s["digest"], s["name"])]
    found = found or [s for s in known if s["digest"].startswith(wanted.lower())]
    if len(found) == 1:
        return found[0]
    names = ", ".join(dict.fromkeys(s["name"] for s in known)) or "none yet"
    got = f"{wanted!r}, which {len(found) or 'no'} studies fit"
    expected = "the name of one study, or the beginning of its digest"
    raise ArgumentError(Problem("arguments", "STUDY", got, expected, f"There are: {names}"))
