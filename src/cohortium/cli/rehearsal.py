"""What `try` does: a whole federation on this machine, by the commands that a consortium types.

The hub and each site's node are processes of their own, started through the installed command; what
they say to each other is what they would say across hospitals. Imported when it runs.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread

import typer
from rich.text import Text

from cohortium.cli.boundary import InterruptedRunError
from cohortium.cli.output import console
from cohortium.cli.results import check_folder
from cohortium.data.local import write_local
from cohortium.data.sources import open_dataset
from cohortium.errors import ArgumentError, Problem, RunFailedError
from cohortium.study.bundle import Bundle
from cohortium.study.compile import roster
from cohortium.study.read import read

HUB, RESEARCHER = "@hub", "@researcher"
"""Two machines; no site can be called so."""

DATASET = "records"
"""What every site calls its dataset here."""

SHOWN = 4
"""Sites whose commands are printed; the others type the same."""

TAIL = 15
"""Lines of the log of a process that failed."""

PATIENCE = 15.0
"""Seconds that processes have to end when they are told to."""


def rehearse(path: Path, *, data: Path | None, out: Path | None, keep: bool, as_json: bool) -> None:
    """Run a study as a federation of processes on this machine."""
    bundle = read(path)
    folder = (out or Path("out") / bundle.study.study.name).absolute()
    check_folder(folder)
    home = Path(tempfile.mkdtemp(prefix="cohortium-try-"))
    try:
        files = _write_records(bundle, home / "data", data)
        with _stage(home, quiet=as_json) as stage:
            code = _perform(stage, path.absolute(), files, name=bundle.study.study.name, out=folder)
    except KeyboardInterrupt as stop:
        raise InterruptedRunError("the hub and the nodes have ended, too") from stop
    finally:
        if not keep:
            shutil.rmtree(home, ignore_errors=True)
    if as_json and (folder / "result.json").exists():
        typer.echo((folder / "result.json").read_text("utf-8"), nl=False)
    elif keep:
        console.print(f"\nThe folders of the hub, the nodes and the researcher are in {home}")
    if code:
        raise typer.Exit(code)


def _write_records(bundle: Bundle, folder: Path, data: Path | None) -> dict[str, Path]:
    """Write each site's records into a file of its own, as a hospital has them."""
    study, dataset = bundle.study, bundle.study.data.dataset
    if dataset is None:
        advice = "Name one in data.dataset, and its folder with --data DIR if need be"
        raise ArgumentError(Problem(bundle.where, "data.dataset", "nothing", "a dataset", advice))
    records = open_dataset(dataset, data, where=bundle.where)
    folder.mkdir(parents=True)
    return {
        site: write_local(records[site], folder / site, name=DATASET).path
        for site, _ in roster(study, tuple(records), where=bundle.where)
    }


def _perform(stage: Stage, study: Path, files: dict[str, Path], *, name: str, out: Path) -> int:
    """Type what a consortium types, from the hub's first command to the result."""
    url = f"https://localhost:{_free_port()}"
    listen = url.removeprefix("https://")
    stage.type(HUB, "hub", "init", "--name", "rehearsal", "--url", url)
    stage.keep_running(HUB, "hub", "up", "--listen", listen)
    sites = list(files)
    for site in sites:  # one after the other: who joins first stands first in the roster
        code = stage.type(HUB, "hub", "invite", site).strip()
        stage.type(site, "node", "join", url, code)
    own = "researcher" if "researcher" not in files else "another researcher"
    code = stage.type(HUB, "hub", "invite", own, "--role", "researcher").strip()
    stage.type(RESEARCHER, "study", "join", url, code)
    stage.all(sites, lambda s: stage.type(s, "node", "data", "add", DATASET, str(files[s])))
    for site in sites:
        stage.keep_running(site, "node", "up")
    stage.type(RESEARCHER, "study", "submit", str(study))
    stage.all(sites, lambda s: stage.type(s, "node", "study", "approve", name, "--yes"))
    stage.type(RESEARCHER, "study", "start", name)
    watched = stage.show(RESEARCHER, "study", "watch", name)
    return watched or stage.show(RESEARCHER, "study", "result", name, "--out", str(out))


@dataclass
class Stage:
    """The machines of a rehearsal: folders here, and processes.

    Attributes:
        home: holds a folder and a log for each.
        quiet: print no commands.
        told: sites whose commands are printed.
    """

    home: Path
    quiet: bool
    told: list[str] = field(default_factory=list)
    _kept: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    _typed: set[subprocess.Popen[bytes]] = field(default_factory=set)
    _ended: str = ""
    _interrupted: bool = False
    _closing: bool = False

    def type(self, who: str, *words: str) -> str:
        """Run a command on somebody's machine to its end; return what it printed.

        Raises:
            RunFailedError: it failed, or a process that was to keep running has ended.
        """
        self._tell(who, words)
        with self._process(who, words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            out, err = process.communicate()
        self._check()
        if process.returncode:
            told = err.decode(errors="replace").strip() or f"exit code {process.returncode}"
            raise RunFailedError(f"{who.removeprefix('@')}: cohortium {shlex.join(words)}: {told}")
        return out.decode()

    def show(self, who: str, *words: str) -> int:
        """Run a command to its end, its output shown; return its exit code."""
        self._tell(who, words)
        output = subprocess.DEVNULL if self.quiet else None
        with self._process(who, words, stdout=output, stderr=None) as process:
            process.wait()
        self._check()
        return process.returncode

    def keep_running(self, who: str, *words: str) -> None:
        """Start a process that runs until the end of the rehearsal."""
        self._tell(who, (*words, "&"))
        with (self.home / f"{who}.log").open("ab") as log:
            process = self._start(who, words, stdout=log, stderr=subprocess.STDOUT)
        self._kept[who] = process
        Thread(target=self._await, args=(who, process), daemon=True).start()

    def all(self, sites: Sequence[str], do: Callable[[str], object]) -> None:
        """Do something at every site, as many at a time as this machine has processors."""
        pool = ThreadPoolExecutor(os.cpu_count())
        try:
            for done in [pool.submit(do, site) for site in sites]:
                done.result()
        finally:
            pool.shutdown(cancel_futures=True)

    def interrupt(self, *_: object) -> None:
        """Let what goes on end: a signal's handler, so that no process is lost sight of."""
        self._interrupted = True
        self._end_typed()

    def close(self) -> None:
        """End every process: the nodes first, which take leave of the hub."""
        self._closing = True
        nodes = [process for who, process in self._kept.items() if who != HUB]
        _end((*self._typed, *nodes))
        _end(self._kept.values())

    def _await(self, who: str, process: subprocess.Popen[bytes]) -> None:
        process.wait()
        if not self._closing and not self._ended:
            self._ended = who
            self._end_typed()

    def _end_typed(self) -> None:
        for process in tuple(self._typed):
            process.terminate()

    def _check(self) -> None:
        """Raise if somebody has interrupted, or if a process has ended that was to keep running."""
        if self._interrupted:
            raise KeyboardInterrupt
        if self._ended:
            log = (self.home / f"{self._ended}.log").read_text("utf-8", errors="replace")
            lines = "\n".join(f"  {line}" for line in log.splitlines()[-TAIL:])
            code = self._kept[self._ended].returncode
            told = f"the process of {self._ended.lstrip('@')} ended with {code}; its last lines:"
            raise RunFailedError(f"{told}\n{lines}")

    @contextmanager
    def _process(
        self, who: str, words: Sequence[str], *, stdout: int | None, stderr: int | None
    ) -> Iterator[subprocess.Popen[bytes]]:
        process = self._start(who, words, stdout=stdout, stderr=stderr)
        self._typed.add(process)
        try:
            self._check()
            yield process
        finally:
            _end([process])
            self._typed.discard(process)

    def _start(self, who: str, words: Sequence[str], **streams: object) -> subprocess.Popen[bytes]:
        here = {**os.environ, "COHORTIUM_HOME": str(self.home / who)}
        return subprocess.Popen(  # type: ignore[call-overload,no-any-return]
            [*_command(), *words],
            env=here,
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for this process, which then ends the others
            **streams,
        )

    def _tell(self, who: str, words: Sequence[str]) -> None:
        if self.quiet:
            return
        if who not in (HUB, RESEARCHER, *self.told):
            if len(self.told) >= SHOWN:
                return
            self.told.append(who)
        line = " ".join(word if word == "&" else shlex.quote(word) for word in words)
        console.print(
            Text.assemble((f"{who.removeprefix('@')} $ ", "dim"), ("cohortium ", "bold"), line)
        )


@contextmanager
def _stage(home: Path, *, quiet: bool) -> Iterator[Stage]:
    """Open a stage; whatever happens, its processes end with it."""
    stage, kinds = Stage(home, quiet), (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(kind, stage.interrupt) for kind in kinds]
    try:
        yield stage
    finally:
        stage.close()
        for kind, handler in zip(kinds, before, strict=True):
            signal.signal(kind, handler)


def _command() -> list[str]:
    """Return the installed command, or else this interpreter with the package."""
    installed = Path(sysconfig.get_path("scripts")) / "cohortium"
    return [str(installed)] if installed.exists() else [sys.executable, "-m", "cohortium"]


def _end(processes: Iterable[subprocess.Popen[bytes]]) -> None:
    """End processes, and those that do not by themselves with force."""
    going = [process for process in processes if process.poll() is None]
    for process in going:
        process.terminate()
    for process in going:
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
