"""A node attacks its own isolation, and shows what happened: `cohortium node doctor`."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from cohortium.worker import probes, wire
from cohortium.worker.isolation import Isolation, environment_for, home
from cohortium.worker.limits import MIB, Limits
from cohortium.worker.process import Process

SECONDS = 60.0

_LIMITS = Limits(memory_bytes=512 * MIB, seconds=SECONDS, tmp_bytes=MIB)

_VICTIM = "import signal; signal.signal(signal.SIGUSR1, signal.SIG_IGN); print(flush=True); input()"
"""Another process of the same user, which lives until its input ends."""


@dataclass(frozen=True)
class Finding:
    """One thing that was attempted from inside.

    Attributes:
        attempt: what study code would want to do.
        blocked: whether it was prevented.
        detail: what was seen.
    """

    attempt: str
    blocked: bool
    detail: str


def attack(isolation: Isolation, *, keys: Path | None = None) -> list[Finding]:
    """Try from inside an isolated process what study code must not be able to do.

    Args:
        isolation: what is attacked.
        keys: the node's key file; it is opened, if that is possible, and its content goes nowhere.

    Raises:
        WorkerError: no process can be started, or it failed.
    """
    with ExitStack() as stack:
        secret = stack.enter_context(_variable())
        targets: dict[str, str | int] = {
            "port": stack.enter_context(_listener()),
            "abstract": stack.enter_context(_abstract_listener()),
            "file": str(stack.enter_context(_file())),
            "keys": "" if keys is None else str(keys.absolute()),
            "secret": secret,
            "victim": stack.enter_context(_victim(secret)),
            "memory": 2 * (_LIMITS.memory_bytes or 0),
            "tasks": _LIMITS.tasks + 64,
            "tmp": _LIMITS.tmp_bytes,
        }
        process = Process(isolation.command(_LIMITS), environment_for(_LIMITS), seconds=SECONDS)
        try:
            probed = process.ask(wire.Probe(targets), wire.Probed, seconds=SECONDS)
        finally:
            process.close()
    return [Finding(*one) for one in probed.found if keys or one[0] != probes.READ_KEYS]


@contextmanager
def _variable() -> Iterator[str]:
    """Put a secret into this process's environment; the worker must not be given it."""
    name, secret = "COHORTIUM_PROBE", secrets.token_hex(16)
    os.environ[name] = secret
    try:
        yield secret
    finally:
        del os.environ[name]


@contextmanager
def _listener() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@contextmanager
def _abstract_listener() -> Iterator[str]:
    name = f"cohortium-{secrets.token_hex(8)}"
    if sys.platform != "linux":
        yield name
        return
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"\0{name}")
        server.listen()
        yield name


@contextmanager
def _file() -> Iterator[Path]:
    """Make a file in the home folder or, where that cannot be written to, beside others' files."""
    folder = home() if os.access(home(), os.W_OK) else Path(tempfile.gettempdir())
    with tempfile.TemporaryDirectory(prefix=".cohortium-", dir=folder) as made:
        file = Path(made) / "secret"
        file.write_bytes(b"?" * 32)
        yield file


@contextmanager
def _victim(secret: str) -> Iterator[int]:
    """Start a process that holds a secret; yield its id."""
    pipe = subprocess.PIPE
    environment = {**os.environ, "COHORTIUM_VICTIM": secret}
    with subprocess.Popen(
        [sys.executable, "-c", _VICTIM], stdin=pipe, stdout=pipe, env=environment
    ) as process:
        assert process.stdout
        process.stdout.readline()
        try:
            yield process.pid
        finally:
            process.kill()
