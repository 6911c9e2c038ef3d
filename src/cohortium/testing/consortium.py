"""A whole consortium on this machine: real processes of the installed console script."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

CONSOLE = Path(sys.executable).parent / "cohortium"
RESEARCHER = "ada"
PATIENCE = 60.0
"""Seconds that a process may take to come up, or to end."""


def free_port() -> int:
    """Return a port of this machine on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Process:
    """One long-lived program, its log in a file; ended by its own id.

    Args:
        name: for people.
        arguments: of the console script.
        log: what it writes is added there.
        env: its environment.
    """

    def __init__(self, name: str, arguments: list[str], log: Path, env: Mapping[str, str]) -> None:
        self.name, self.arguments, self.log, self.env = name, arguments, log, dict(env)
        self.running: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, for the first time or again."""
        with self.log.open("ab") as log:
            self.running = subprocess.Popen(
                [str(CONSOLE), *self.arguments],
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=self.env,
            )

    @property
    def pid(self) -> int:
        """Return its process id."""
        assert self.running is not None
        return self.running.pid

    @property
    def is_alive(self) -> bool:
        """Whether it runs."""
        return self.running is not None and self.running.poll() is None

    def kill(self) -> None:
        """End it as by kill -9."""
        if self.running is not None:
            self.running.kill()
            self.running.wait()

    def ask(self) -> None:
        """Ask it to end."""
        if self.running is not None and self.is_alive:
            self.running.send_signal(signal.SIGTERM)

    def end(self) -> None:
        """Wait until it has ended as it was asked to; be less patient with it after a minute."""
        if self.running is not None:
            try:
                self.running.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.kill()

    def stop(self) -> None:
        """Ask it to end, and wait."""
        self.ask()
        self.end()

    def died(self, *, within: float = PATIENCE) -> int:
        """Wait until it has ended; return its status."""
        assert self.running is not None
        return self.running.wait(within)

    def tail(self, lines: int = 30) -> str:
        """Return the last lines of its log."""
        text = self.log.read_text("utf-8", "replace") if self.log.exists() else ""
        return f"--- {self.name}\n" + "\n".join(text.splitlines()[-lines:])


class Consortium:
    """A hub, its sites and a researcher, each with a home folder and processes of its own.

    Args:
        folder: of everything.
        datasets: site to where its records lie.
        dataset: what every site calls them.
        env: environment variables of all processes, beside those of this one.
        hub: further options of `hub up`.
        init: further options of `hub init`.
    """

    def __init__(
        self,
        folder: Path,
        datasets: Mapping[str, Path],
        *,
        dataset: str,
        env: Mapping[str, str] | None = None,
        hub: Iterable[str] = (),
        init: Iterable[str] = (),
    ) -> None:
        self.folder, self.datasets, self.dataset = folder, dict(datasets), dataset
        self.port = free_port()
        self.url = f"https://127.0.0.1:{self.port}"
        self.env = {**os.environ, "OMP_NUM_THREADS": "1", **(env or {})}
        self.env.pop("COHORTIUM_HOME", None)
        folder.mkdir(parents=True, exist_ok=True)
        self._hub_options, self._init_options = list(hub), list(init)
        self.processes: dict[str, Process] = {}

    # -- setting up --------------------------------------------------------------------------------

    def home(self, name: str) -> Path:
        """Return a member's home folder."""
        return self.folder / "homes" / name

    def do(self, *arguments: str, check: bool = True) -> str:
        """Run a verb to its end and return what it printed."""
        done = subprocess.run(
            [str(CONSOLE), *arguments],
            capture_output=True,
            text=True,
            env=self.env,
            timeout=300,
            check=False,
        )
        if check and done.returncode:
            raise AssertionError(
                f"cohortium {' '.join(arguments)}: exit {done.returncode}\n{done.stdout}"
                f"{done.stderr}\n" + self.logs()
            )
        return done.stdout

    def tell(self, *arguments: str) -> Any:
        """Run a verb that prints JSON."""
        return json.loads(self.do(*arguments, "--json"))

    def everywhere(self, do: Callable[[str], object], *sites: str) -> None:
        """Do something at some sites, or all, as many at a time as there are processors."""
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for done in [pool.submit(do, site) for site in sites or tuple(self.datasets)]:
                done.result()

    def set_up(self) -> None:
        """From nothing to a hub and nodes that run."""
        hub = str(self.home("hub"))
        self.do("hub", "init", "--home", hub, "--url", self.url, *self._init_options)
        listen = ["--listen", f"127.0.0.1:{self.port}"]
        self.launch("hub", ["hub", "up", "--home", hub, *listen, *self._hub_options])
        self.join(RESEARCHER, role="researcher")
        self.everywhere(self.add_site)

    def add_site(self, site: str) -> None:
        """Let a site join, register its dataset and start its node."""
        home = ["--home", str(self.home(site))]
        self.join(site)
        self.do("node", "data", "add", self.dataset, str(self.datasets[site]), *home)
        self.launch(site, ["node", "up", *home])

    def join(self, name: str, *, role: str = "site") -> None:
        """Let somebody join with an invitation."""
        code = self.invite(name, role=role)
        verb = ("node", "join") if role == "site" else ("study", "join")
        self.do(*verb, self.way(name), code, "--home", str(self.home(name)))

    def way(self, name: str) -> str:  # noqa: ARG002 - others may know another one for each
        """Return the address at which a member reaches the hub."""
        return self.url

    def invite(self, name: str, *, role: str = "site") -> str:
        """Return the code of an invitation."""
        hub = str(self.home("hub"))
        return str(self.tell("hub", "invite", name, "--role", role, "--home", hub)["code"])

    def launch(self, name: str, arguments: list[str]) -> None:
        """Start somebody's process."""
        log = self.folder / f"{name}.log"
        self.processes[name] = Process(name, arguments, log, self.env_of(name))
        self.processes[name].start()
        if name == "hub":
            self.wait_for_hub()

    def env_of(self, name: str) -> Mapping[str, str]:  # noqa: ARG002 - as `way`
        """Return the environment of a member's process."""
        return self.env

    def wait_for_hub(self) -> None:
        """Return when the hub takes connections."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                if time.monotonic() > deadline or self.processes["hub"].running is None:
                    raise AssertionError("the hub does not come up\n" + self.logs()) from None
                time.sleep(0.05)
            else:
                return

    # -- studies -----------------------------------------------------------------------------------

    def submit(self, study: Path) -> str:
        """Submit a study; return its digest."""
        found = self.tell("study", "submit", str(study), "--home", str(self.home(RESEARCHER)))
        return str(found["digest"])

    def approve(self, digest: str, *sites: str) -> None:
        """Let some sites, or all, approve a study."""
        self.everywhere(
            lambda site: self.do(
                "node", "study", "approve", digest, "--yes", "--home", str(self.home(site))
            ),
            *sites,
        )

    def begin(self, study: Path) -> str:
        """Submit, approve everywhere and start; return the digest."""
        digest = self.submit(study)
        self.approve(digest)
        self.do("study", "start", digest, "--home", str(self.home(RESEARCHER)))
        return digest

    def result(self, digest: str, *, check: bool = True) -> dict[str, Any]:
        """Wait for the end of a run; return its `result.json`."""
        home = ["--home", str(self.home(RESEARCHER))]
        out = self.out(digest)
        self.do("study", "watch", digest, "--json", *home, check=check)
        self.do("study", "result", digest, "--out", str(out), *home, check=check)
        found: dict[str, Any] = json.loads((out / "result.json").read_text("utf-8"))
        return found

    def out(self, digest: str) -> Path:
        """Return the folder of a result."""
        return self.folder / "results" / digest[:12]

    def logs(self) -> str:
        """Return the last lines of every process."""
        return "\n".join(process.tail() for process in self.processes.values())

    def close(self) -> None:
        """End every process: the nodes first, the hub last."""
        nodes = [process for name, process in self.processes.items() if name != "hub"]
        for process in nodes:
            process.ask()
        for process in nodes:
            process.end()
        if "hub" in self.processes:
            self.processes["hub"].stop()
