"""Backup and restore of a node: its folder in one file, taken while it runs.

The database is copied while nobody else can write in it, and the other files are linked in the same
moment: what a journal names is there. Records are not in it: they were never copied.

A restored node has forgotten what came after the backup. If another process of this site has been
at the hub since then, the hub turns it away until it makes new keys; a run that went on without it
is stopped here, because peers have signed for more than its journal knows.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import tarfile
import tempfile
from contextlib import closing, suppress
from pathlib import Path

from cohortium.errors import ArgumentError, Problem
from cohortium.node.folder import Home
from cohortium.node.site import opened
from cohortium.store.database import writing

KEPT = (
    "node.toml",
    "identity.json",
    "identity.next.json",
    "hub.json",
    "fingerprint.key",
    "journal",
    "studies",
)
DATABASE = "node.sqlite"


def backup(home: Home, file: Path) -> None:
    """Write a backup, whether the node runs or not. It holds the site's secret keys.

    Args:
        home: the node's folder.
        file: what to write; only its owner may read it.

    Raises:
        ArgumentError: there is no node's folder.
        OSError: there is no room, or no right to write.
    """
    if not home.has_database:
        got, advice = "no node's folder", "Name it: --home DIR"
        raise ArgumentError(Problem(str(home.folder), "", got, "one that has joined", advice))
    part = file.with_name(f".{file.name}.part")
    try:
        with tempfile.TemporaryDirectory(dir=home.folder, prefix=".backup-") as name:
            copy = Path(name)
            with opened(home) as site, writing(site.engine):
                _copy(home, copy)
            with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as to:
                with tarfile.open(fileobj=to, mode="w") as tar:
                    for path in sorted(copy.rglob("*")):
                        tar.add(path, path.relative_to(copy).as_posix(), recursive=False)
                to.flush()
                os.fsync(to.fileno())
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)


def restore(home: Home, file: Path) -> None:
    """Make a node's folder from a backup.

    Args:
        home: where to; it must not be there, or be empty.
        file: what `backup` wrote.

    Raises:
        ArgumentError: the file is no backup, or the folder is not empty.
    """
    folder = home.folder
    if folder.exists() and any(folder.iterdir()):
        got, advice = "a folder with something in it", "Name one that is not there: --home DIR"
        raise ArgumentError(Problem(str(folder), "", got, "an empty folder", advice))
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        with tarfile.open(file) as tar:
            tar.extractall(folder, filter="data")
        if not (folder / DATABASE).is_file():
            raise ValueError(f"no {DATABASE} in it")
    except (OSError, ValueError, tarfile.TarError) as error:
        for path in folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        got = f"a file that cannot be read ({error})"
        advice = "Name a file that this command wrote: cohortium node backup FILE"
        raise ArgumentError(Problem(str(file), "", got, "a node's backup", advice)) from error
    with opened(home):  # brings the tables of an older version up to date
        pass


def _copy(home: Home, copy: Path) -> None:
    source, target = sqlite3.connect(home.database), sqlite3.connect(copy / DATABASE)
    with closing(source), closing(target):
        source.backup(target)
    (copy / DATABASE).chmod(0o600)
    for name in KEPT:
        _link(home.folder / name, copy / name)


def _link(path: Path, to: Path) -> None:
    """Link a file or the files of a folder; what vanishes meanwhile is not needed any more."""
    if path.is_dir():
        for inner in path.iterdir():
            _link(inner, to / inner.name)
    elif path.exists():
        to.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            to.hardlink_to(path)
