"""What the verbs of a coordinator do. Imported when one runs."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import platformdirs
import typer
from rich.table import Table
from rich.text import Text

from cohortium.cli.boundary import printable, tell
from cohortium.cli.output import console, print_json
from cohortium.hub import admin
from cohortium.hub.logs import configure_logs

SHORT = 12
"""Digits of a digest that people type."""


def init(home: Path | None, *, name: str, url: str, broker: bool) -> None:
    """Make a hub."""
    hub = admin.init(_folder(home), name=name, url=url, broker=broker)
    console.print(
        f"Made the hub of {name!r} in {hub.folder}.\n"
        f"Its settings are in {hub.folder / 'hub.toml'}; its keys are there, too: keep the folder "
        "to yourself.\n\nNext:\n  cohortium hub up\n  cohortium hub invite SITE"
    )


def up(
    home: Path | None,
    *,
    listen: str | None,
    database: str | None,
    blobs: str | None,
    tls_cert: Path | None,
    tls_key: Path | None,
) -> None:
    """Run the hub."""
    configure_logs()
    admin.up(
        _folder(home),
        listen=listen,
        database=database,
        blobs=blobs,
        tls_certificate=tls_cert,
        tls_key=tls_key,
    )


def invite(home: Path | None, name: str, *, role: str, hours: float, as_json: bool) -> None:
    """Print a code: alone on standard output, so that it can be handed on."""
    found = admin.invite(_folder(home), name, role=role, hours=hours)
    if as_json:
        print_json(vars(found))
        return
    verb = "node" if found.role == "site" else "study"
    tell(f"for {found.name}, a {found.role}, once, until {_time(found.expires)}:")
    typer.echo(found.code)
    tell(f"they type: cohortium {verb} join {found.url} CODE")


def sites(home: Path | None, *, as_json: bool) -> None:
    """List the members and the open invitations."""
    found = admin.sites(_folder(home))
    if as_json:
        print_json(found)
        return
    table = Table("name", "role", "state", "since", "fingerprint", box=None)
    for site in printable(found):
        if site["expires"] is not None:
            state, since = Text("invited", "yellow"), f"until {_time(site['expires'])}"
        elif site["revoked"]:
            state, since = Text(f"revoked {site['reason']}".rstrip(), "red"), _time(site["joined"])
        else:
            state = Text("online", "green") if site["online"] else Text("offline")
            since = _time(site["joined"])
        table.add_row(site["name"], site["role"], state, since, site["fingerprint"])
    console.print(table)


def revoke(home: Path | None, name: str, *, reason: str) -> None:
    """End a membership."""
    admin.revoke(_folder(home), name, reason=reason)
    console.print(f"{name} is revoked. Invite it again, if it may come back: it then has new keys")


def studies(home: Path | None, *, as_json: bool) -> None:
    """List all studies."""
    found = admin.studies(_folder(home))
    if as_json:
        print_json(found)
        return
    table = Table("study", "digest", "by", "status", "approved by", "declined by", box=None)
    for study in printable(found):
        declined = ", ".join(str(entry["site"]) for entry in study["declines"])
        granted = ", ".join(study["granted"])
        by, status = study["submitted_by"], f"{study['status']} {study['reason']}".rstrip()
        table.add_row(study["name"], study["digest"][:SHORT], by, status, granted, declined)
    console.print(table)


def control(
    home: Path | None, study: str, op: str, *, site: str, seconds: float, reason: str
) -> None:
    """Extend deadlines, exclude a site or readmit it."""
    admin.control(_folder(home), study, op, site=site, seconds=seconds, reason=reason)
    console.print(f"told all members of {study}")


def backup(home: Path | None, file: Path) -> None:
    """Write a backup."""
    admin.backup(_folder(home), file)
    console.print(f"wrote {file}; it holds the hub's secret keys")


def restore(home: Path | None, file: Path, *, database: str | None, blobs: str | None) -> None:
    """Make a hub's folder from a backup."""
    hub = admin.restore(file, _folder(home), database=database, blobs=blobs)
    console.print(f"restored the hub in {hub.folder}\n\nNext:\n  cohortium hub up")


def rotate_keys(home: Path | None) -> None:
    """Make new working keys."""
    serial = admin.rotate_keys(_folder(home))
    console.print(f"the hub's working keys are number {serial} now; members learn them themselves")


def _folder(home: Path | None) -> Path:
    """Return the folder that is given, else COHORTIUM_HOME, else the user's own."""
    chosen = home or os.environ.get("COHORTIUM_HOME")
    return Path(chosen).expanduser() if chosen else platformdirs.user_data_path("cohortium") / "hub"


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")
