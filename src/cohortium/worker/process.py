"""A worker process as its parent sees it: started, asked, watched, killed.

All waiting is for the process's answer, its output or the clock, whichever comes first. Whatever it
does, the parent only ever gets a reply of the expected kind, or a `WorkerError`.
"""

from __future__ import annotations

import os
import queue
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import cache
from typing import Any, TypeVar

from cohortium.errors import ModelError, Problem, RunFailedError
from cohortium.types import Array
from cohortium.worker.wire import (
    OUT_OF_MEMORY,
    Failed,
    Ready,
    Refused,
    Request,
    WireError,
    fill,
    receive,
    send,
)

T = TypeVar("T")

OUTPUT_BYTES = 8192
"""How much of the end of a process's output is kept."""

MOST_PIECES = 64
"""Pieces of output that are read of a process that has ended: what it left behind may go on."""

FAREWELL = 2.0
"""Seconds that a process which closed its connection has to end by itself."""


class WorkerError(RunFailedError):
    """A worker process did not do what it was asked for: its code raised, ended or lied."""


class OutOfMemoryError(WorkerError):
    """A worker process asked for more memory than it may have."""


class WorkerStoppedError(WorkerError):
    """A worker was stopped by who started it: what it did has neither succeeded nor failed."""

    def __init__(self) -> None:
        super().__init__("the worker was stopped")


class Process:
    """One worker process.

    Not for several threads at once, but for `kill`.

    Args:
        command: its command line.
        environment: its environment variables.
        seconds: until it must be ready; None is no limit.

    Raises:
        WorkerError: it cannot be started, or ended before it was ready.
    """

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], *, seconds: float | None
    ) -> None:
        self._guard = threading.Lock()
        self._killed = self._closed = False
        self._output = bytearray()
        try:
            self._popen = _started(command, environment)
        except OSError as error:
            raise WorkerError(f"the worker could not be started: {error}") from error
        assert self._popen.stdin
        assert self._popen.stdout
        assert self._popen.stderr
        self._to, self._from = self._popen.stdin.fileno(), self._popen.stdout.fileno()
        self._err = self._popen.stderr.fileno()
        os.set_blocking(self._to, False)  # or a process that does not read would hold us up
        os.set_blocking(self._err, False)
        self._poll = select.poll()
        self._poll.register(self._err, select.POLLIN)
        self._listen(seconds)

    @property
    def pid(self) -> int:
        """The process's id, which is also that of its group and session."""
        return self._popen.pid

    @property
    def alive(self) -> bool:
        return self._ended() is None

    @property
    def output(self) -> str:
        """The end of what the process printed: for the site's own eyes, it may show records."""
        return self._output.decode("utf-8", errors="replace")

    def ask(
        self,
        request: Request,
        reply: type[T],
        *,
        arrays: Iterable[Array | bytes] = (),
        seconds: float | None,
    ) -> T:
        """Send a request and return its reply; read the reply's arrays with `fill`.

        Args:
            request: what is wanted.
            reply: the kind that is expected.
            arrays: what follows the request.
            seconds: until the reply and its arrays must be here; None waits for ever.

        Raises:
            ModelError: the process says that the study's model is wrong.
            WorkerStoppedError: the process was killed by `kill`.
            WorkerError: study code raised, or the process ended, was too slow or sent what is no
                such reply.
        """
        self._set_deadline(seconds)
        found: T | Refused | Failed = self._watched(lambda: self._exchange(request, reply, arrays))
        if isinstance(found, Refused):
            raise ModelError(*(Problem(*parts) for parts in found.problems))
        if isinstance(found, Failed):
            raise (OutOfMemoryError if found.memory else WorkerError)(found.reason)
        return found

    def fill(self, array: Array) -> None:
        """Read the next array of the last reply. Raises WorkerError as `ask` does."""
        self._watched(lambda: fill(self._from, array, wait=self._wait))

    def kill(self) -> None:
        """End the process and its group at once, whatever they do; from any thread."""
        with self._guard:
            self._killed = True
            if self._popen.returncode is None:
                _kill_group(self._popen.pid)

    def close(self) -> None:
        """End the process if it still runs, and take leave of it; a second time changes nothing."""
        self.kill()
        with self._guard:
            self._popen.wait()
        if self._closed:
            return
        self._closed = True
        for _ in range(MOST_PIECES):
            if not self._drain():
                break
        for pipe in (self._popen.stdin, self._popen.stdout, self._popen.stderr):
            assert pipe is not None
            pipe.close()

    # -- what happens while it is waited for -------------------------------------------------------

    def _listen(self, seconds: float | None) -> None:
        self._set_deadline(seconds)
        try:
            self._watched(lambda: receive(self._from, Ready, wait=self._wait))
        except WorkerError as error:
            said = self._output.decode("utf-8", errors="replace").strip().splitlines()
            last = f" ({said[-1]})" if said else ""  # no study code ran yet
            raise WorkerError(f"the worker could not be started: {error.cause}{last}") from error

    def _exchange(self, request: Request, reply: type, arrays: Iterable[Array | bytes]) -> Any:
        send(self._to, request, arrays, wait=self._wait)
        return receive(self._from, reply | Refused | Failed, wait=self._wait)

    def _watched(self, exchange: Callable[[], T]) -> T:
        """Return what an exchange gives; end the process if it fails, and say why it failed."""
        try:
            return exchange()
        except (EOFError, BrokenPipeError):
            found = self._ending()
        except WireError as error:
            found = WorkerError(f"the worker sent {error}")
        except TimeoutError:
            found = WorkerError(f"no result within {self._seconds:g} s")
        except MemoryError:
            found = WorkerError("this machine has no memory for what the worker sent")
        self.close()
        raise found

    def _ending(self) -> WorkerError:
        """Return how a process ended that closed its connection."""
        if self._ended(within=FAREWELL) is None:
            return WorkerError("the worker closed its connection")
        if self._killed:
            return WorkerStoppedError()
        if self._popen.returncode == OUT_OF_MEMORY:
            return OutOfMemoryError("out of memory")
        return WorkerError(_told(self._popen.returncode))

    def _ended(self, *, within: float = 0.0) -> int | None:
        """Return the exit status of a process that has ended; what it left behind is killed."""
        with self._guard:
            if self._popen.returncode is None:
                try:
                    self._popen.wait(within)
                except subprocess.TimeoutExpired:
                    return None
                _kill_group(self._popen.pid)
            return self._popen.returncode

    def _set_deadline(self, seconds: float | None) -> None:
        self._seconds = seconds
        self._deadline = None if seconds is None else time.monotonic() + seconds

    def _wait(self, fd: int, to_write: bool) -> None:
        """Return when the pipe is ready; read on what the process prints meanwhile."""
        self._poll.register(fd, select.POLLOUT if to_write else select.POLLIN)
        try:
            while True:
                left = self._milliseconds()
                ready = [fd for fd, _ in self._poll.poll(left)]
                if fd in ready:
                    return
                if self._err in ready:
                    self._drain()
                if left == 0.0:
                    raise TimeoutError
        finally:
            self._poll.unregister(fd)

    def _milliseconds(self) -> float | None:
        if self._deadline is None:
            return None
        return max(0.0, 1000 * (self._deadline - time.monotonic()))

    def _drain(self) -> bool:
        """Read what was printed, as far as it is there; False when nothing more will come."""
        try:
            piece = os.read(self._err, 1 << 16)
        except BlockingIOError:
            return False
        if not piece:
            with suppress(KeyError):
                self._poll.unregister(self._err)
            return False
        self._output = (self._output + piece)[-OUTPUT_BYTES:]
        return True


def _kill_group(pid: int) -> None:
    with suppress(ProcessLookupError, PermissionError):  # macOS: EPERM for a group of zombies
        os.killpg(pid, signal.SIGKILL)


def _told(status: int) -> str:
    """Return how a process ended. bubblewrap adds 128 to a signal, as shells do."""
    number = -status if status < 0 else status - 128
    if number <= 0:
        return f"the worker ended with exit status {status}"
    try:
        name = signal.Signals(number).name
    except ValueError:
        return f"the worker ended with exit status {status}"
    memory = ", as where a machine has no memory left" if name == "SIGKILL" else ""
    return f"the worker was killed by {name}{memory}"


# -- starting --------------------------------------------------------------------------------------


def _started(command: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start a process from the one thread that lives as long as this program.

    A worker dies with the *thread* that started it (prctl(2), PR_SET_PDEATHSIG).
    """
    found: Future[subprocess.Popen[bytes]] = Future()
    _starter().put((command, environment, found))
    return found.result()


_Start = tuple[Sequence[str], Mapping[str, str], "Future[subprocess.Popen[bytes]]"]


@cache
def _starter() -> queue.SimpleQueue[_Start]:
    requests: queue.SimpleQueue[_Start] = queue.SimpleQueue()
    threading.Thread(target=_start, args=(requests,), name="worker-starter", daemon=True).start()
    return requests


def _start(requests: queue.SimpleQueue[_Start]) -> None:
    while True:
        command, environment, found = requests.get()
        try:
            found.set_result(
                subprocess.Popen(
                    command,
                    bufsize=0,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    cwd="/",
                    env=environment,
                    start_new_session=True,
                )
            )
        except OSError as error:
            found.set_exception(error)
