"""What the sandbox's own attack tries from inside. Standard library only; see `attack.py`."""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

Targets = Mapping[str, str | int]
Attempt = Callable[[Targets], str]
"""Returns what it achieved; raises, or returns "", where it was prevented."""


def attempt_all(targets: Targets) -> list[tuple[str, bool, str]]:
    """Return what was attempted, whether it was prevented, and what was seen.

    Args:
        targets: "port" and "abstract" to connect to; "file" to read and change; "keys" to read;
            "secret", a value in the environment of this process's parent and of the process
            "victim"; more "memory" and "tasks" than may be used, and the most of "tmp".
    """
    found = []
    for name, attempt in ATTEMPTS.items():
        try:
            seen = attempt(targets)
        except (OSError, MemoryError, RuntimeError, subprocess.SubprocessError) as error:
            found.append((name, True, f"{type(error).__name__}: {error}"[:200]))
        else:
            found.append((name, not seen, seen[:200]))
    return found


def _connect(targets: Targets) -> str:
    with socket.create_connection(("127.0.0.1", int(targets["port"])), timeout=2):
        return "connected to a port of this machine"


def _datagram(targets: Targets) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"?", ("127.0.0.1", int(targets["port"])))
    return "sent a datagram"


def _abstract(targets: Targets) -> str:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(f"\0{targets['abstract']}")
    return "connected to a service of this machine"


def _read(targets: Targets) -> str:
    return f"read {len(Path(str(targets['file'])).read_bytes())} bytes of a file in the home folder"


def _read_keys(targets: Targets) -> str:
    return f"read {len(Path(str(targets['keys'])).read_bytes())} bytes of {targets['keys']}"


def _environment(targets: Targets) -> str:
    held = [name for name, value in os.environ.items() if value == targets["secret"]]
    return f"was given the variable {held[0]}" if held else ""


def _write(targets: Targets) -> str:
    beside = Path(f"{targets['file']}.made")
    beside.write_bytes(b"")
    beside.unlink()
    return "made a file in the home folder"


def _change(targets: Targets) -> str:
    os.chmod(str(targets["file"]), 0o644)  # noqa: PTH101
    return "made a file in the home folder readable for everybody"


def _signal(targets: Targets) -> str:
    os.kill(int(targets["victim"]), signal.SIGUSR1)
    return "sent a signal to another process"


def _look(targets: Targets) -> str:
    content = Path(f"/proc/{targets['victim']}/environ").read_bytes()
    return "read another process's secrets" if str(targets["secret"]).encode() in content else ""


def _trace(targets: Targets) -> str:
    attach, detach = 16, 17
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.ptrace(attach, int(targets["victim"]), None, None):
        raise OSError(ctypes.get_errno(), "ptrace")
    os.waitpid(int(targets["victim"]), 0)
    libc.ptrace(detach, int(targets["victim"]), None, None)
    return "took another process over"


def _execute(targets: Targets) -> str:
    del targets
    subprocess.run([sys.executable, "-c", ""], check=True, timeout=10)
    return "started another program"


def _fork(targets: Targets) -> str:
    most, children = int(targets["tasks"]), list[int]()
    try:
        for _ in range(most + 1):
            child = os.fork()
            if not child:
                signal.pause()
            children.append(child)
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    return f"started {len(children)} processes"


def _threads(targets: Targets) -> str:
    most, released = int(targets["tasks"]), threading.Event()
    threads = [threading.Thread(target=released.wait) for _ in range(most + 1)]
    before = threading.stack_size(1 << 16)
    try:
        for thread in threads:
            thread.start()
    finally:
        released.set()
        threading.stack_size(before)
    advice = "" if os.getuid() else "; nothing bounds root's: let another user run this"
    return f"started {len(threads)} threads{advice}"


def _memory(targets: Targets) -> str:
    return f"had {len(bytearray(int(targets['memory'])))} bytes of memory"


def _shared_memory(targets: Targets) -> str:
    with mmap.mmap(-1, int(targets["memory"])) as shared:
        return f"had {len(shared)} bytes of shared memory"


def _fill(targets: Targets) -> str:
    most, written = int(targets["tmp"]), list[str]()
    try:
        for _ in range(3):
            fd, path = tempfile.mkstemp()
            written.append(path)
            os.write(fd, bytes(most // 2 + 1))
            os.close(fd)
        total = sum(os.stat(path).st_size for path in written)  # noqa: PTH116
    finally:
        for path in written:
            with suppress(OSError):
                os.unlink(path)  # noqa: PTH108
    return f"wrote {total} bytes of temporary files" if total > most else ""


READ_KEYS = "read the node's keys"

ATTEMPTS: Mapping[str, Attempt] = {
    "open a network connection": _connect,
    "send over the network": _datagram,
    "reach a service of this machine": _abstract,
    "read a file in the home folder": _read,
    READ_KEYS: _read_keys,
    "read secrets in environment variables": _environment,
    "write outside its own folder": _write,
    "change a file's permissions": _change,
    "signal another process": _signal,
    "read another process's secrets": _look,
    "take another process over": _trace,
    "start another program": _execute,
    "start processes without end": _fork,
    "start threads without end": _threads,
    "use memory beyond its limit": _memory,
    "use shared memory beyond its limit": _shared_memory,
    "fill the disk beyond its limit": _fill,
}
