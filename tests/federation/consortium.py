"""A whole consortium on this machine for tests: real processes of the installed console script."""

from __future__ import annotations

import io
import itertools
import json
import os
import select
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np

from cohortium.cli.boundary import guarded
from cohortium.cli.main import app
from cohortium.runtime.result import Result
from cohortium.runtime.simulation import simulate
from cohortium.testing import consortium
from cohortium.testing.consortium import RESEARCHER
from cohortium.testing.relay import Relay

EVERYTHING = os.environ.get("COHORTIUM_CHAOS") == "all"
"""Whether the tests that take long run, too."""

PATIENCE = 120.0
"""Seconds for whatever has to happen; only what does not happen takes them."""

POINTS = Path(__file__).parent / "points"
ROWS = {"north": 40, "east": 31, "south": 53}

STUDY = """
schema_version = 1

[study]
name = "study-{seed}"
purpose = "To see a federation survive."
seed = {seed}

[task]
model = {{kind = "linear", framework = "numpy"}}
optimizer = {{kind = "sgd", lr = 0.05}}
batch_size = 4
{task}

[data]
dataset = "readings"
normalize = "none"
split = {{validation = 0.1, test = 0.2}}
{data}

[plan]
rounds = {rounds}
sites = {sites}
local = {{steps = 5}}
{plan}
"""
SMALL = {
    "task": 'kind = "regression"',
    "data": """
target = "y"
features = [
  {name = "a", range = [-9, 9]},
  {name = "b", range = [-9, 9]},
]
""",
}
LEVELS, CLASSES = 300, 4000
LARGE = {
    "task": f'kind = "multiclass-classification"\nclasses = {CLASSES}\nmetrics = []',
    "data": f"""
target = "code"
features = [
  {{name = "a", range = [-9, 9]}},
  {{name = "level", type = "category", categories = {list(range(LEVELS))}}},
]
""",
}
"""A model of 4.8 MB: more than a piece of an upload or a download."""


def write_records(folder: Path, rows: Mapping[str, int] = ROWS) -> None:
    """Write one `<site>.csv` per site: a linear rule with a little noise."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, (site, count) in enumerate(rows.items()):
        rng = np.random.default_rng(number)
        x = rng.normal(size=(count, 2)).round(4)
        y = (x @ [1.5, -0.5] + rng.normal(scale=0.1, size=count)).round(4)
        level, code = rng.integers(LEVELS, size=count), rng.integers(CLASSES, size=count)
        table = zip(*x.T, y, level, code, strict=True)
        lines = ["a,b,y,level,code", *(",".join(map(str, row)) for row in table)]
        (folder / f"{site}.csv").write_text("\n".join(lines) + "\n", "utf-8")


_ALONE = threading.Lock()
"""Standard output is one for all threads."""


def _paths(variable: str) -> list[str]:
    return os.environ[variable].split(os.pathsep) if os.environ.get(variable) else []


def told(found: Mapping[str, Any], site: str) -> list[tuple[str, str]]:
    """Return what a result says of a site, round by round: status and reason."""
    lines = [line for line in found["participation"] if line["site"] == site]
    return [(line["status"], line["reason"]) for line in lines]


class Log:
    """What a process says from now on.

    Args:
        path: of its log.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._start = path, path.stat().st_size if path.exists() else 0

    @property
    def lines(self) -> list[dict[str, Any]]:
        """Return the events that are in it by now."""
        with self._path.open("rb") as file:
            file.seek(self._start)
            complete = file.read().rpartition(b"\n")[0].splitlines()
        return [json.loads(line) for line in complete if line.startswith(b"{")]

    def wait(self, event: str) -> dict[str, Any]:
        """Return the first event of a kind; wait for it."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            for line in self.lines:
                if line["event"].startswith(event):
                    return line
            time.sleep(0.05)
        raise AssertionError(f"{self._path.stem} does not say {event!r}: {self.lines}")


class Held:
    """A process that waits at a point, or is to wait there.

    Args:
        path: of the fault.
        point: for people.
    """

    def __init__(self, path: Path, point: Mapping[str, Any]) -> None:
        self._path, self._point = path, point
        self._come, self._go = (os.open(f"{path}.{end}", os.O_RDWR) for end in ("come", "go"))

    def come(self) -> None:
        """Return when the process waits there."""
        if not select.select([self._come], [], [], PATIENCE)[0]:
            raise AssertionError(f"nobody came to {self._point}")

    def go(self) -> None:
        """Let it go on; or let nobody wait there."""
        self._path.unlink(missing_ok=True)
        os.write(self._go, b"x")

    def close(self) -> None:
        """Close the pipes; whoever still waits does so for ever."""
        os.close(self._come)
        os.close(self._go)


class Consortium(consortium.Consortium):
    """A consortium of small models, whose processes die, wait or go wrong where a test wants it.

    Args:
        folder: of everything.
        rows: training rows by site; each gets a file.
        relayed: whether each site has a relay of its own before the hub.
        env: more environment variables of all processes.
        hub: further options of `hub up`.
        init: further options of `hub init`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        rows: Mapping[str, int] = ROWS,
        relayed: bool = False,
        env: Mapping[str, str] | None = None,
        hub: Iterable[str] = (),
        init: Iterable[str] = (),
    ) -> None:
        self.rows, self.records, self.faults = dict(rows), folder / "records", folder / "faults"
        write_records(self.records, rows)
        self.faults.mkdir()
        self.inside = False
        self._numbers, self._fault = itertools.count(1), Path()
        self._held: list[Held] = []
        super().__init__(
            folder,
            {site: self.records / f"{site}.csv" for site in rows},
            dataset="readings",
            env={
                "PYTHONPATH": os.pathsep.join([str(POINTS), *_paths("PYTHONPATH")]),
                "COHORTIUM_TEST_FAULTS": str(self.faults),
                **(env or {}),
            },
            hub=hub,
            init=init,
        )
        self.relays = {site: Relay(self.port) for site in rows} if relayed else {}

    def close(self) -> None:
        """End every process, and the relays."""
        super().close()
        for relay in self.relays.values():
            relay.close()
        for held in self._held:
            held.close()

    def way(self, name: str) -> str:
        """Return the address at which a member reaches the hub: its relay, if it has one."""
        relay = self.relays.get(name)
        return super().way(name) if relay is None else f"https://127.0.0.1:{relay.port}"

    def env_of(self, name: str) -> Mapping[str, str]:
        """Let each process have a clock that can be put wrong."""
        return {**super().env_of(name), "COHORTIUM_TEST_CLOCK": str(self.clock(name))}

    # -- verbs -------------------------------------------------------------------------------------

    def do(self, *arguments: str, check: bool = True) -> str:
        """Run a verb to its end: by the console script, or, where `inside` is set, in this process.

        Starting Python costs more than a verb does; what is long-lived is always a process.
        """
        if not self.inside:
            return super().do(*arguments, check=check)
        code, out, err = self.tried(*arguments)
        if check and code:
            raise AssertionError(f"{' '.join(arguments)}: exit {code}\n{out}{err}\n{self.logs()}")
        return out

    def tried(self, *arguments: str) -> tuple[object, str, str]:
        """Run a verb in this process; return its exit code and what it wrote."""
        with _ALONE, redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
            code: object
            try:
                code = guarded(lambda: app(list(arguments), prog_name="cohortium"))
            except SystemExit as end:
                code = end.code
        return code, out.getvalue(), err.getvalue()

    def at(self, name: str, *arguments: str, check: bool = True) -> str:
        """Run a verb in a member's home."""
        return self.do(*arguments, "--home", str(self.home(name)), check=check)

    # -- studies -----------------------------------------------------------------------------------

    def write_study(
        self,
        seed: int,
        *,
        plan: str = "",
        rounds: int = 3,
        sites: Iterable[str] = (),
        parts: Mapping[str, str] = SMALL,
    ) -> Path:
        path, named = self.folder / f"study-{seed}.toml", json.dumps(list(sites or self.rows))
        text = STUDY.format(seed=seed, rounds=rounds, sites=named, plan=plan, **parts)
        path.write_text(text, "utf-8")
        return path

    def copy(self, digest: str) -> Path:
        """Return the researcher's own folder of a study's run."""
        rosters = (self.home(RESEARCHER) / "runs").glob("*/roster.json")
        [found] = [r for r in rosters if json.loads(r.read_text())["body"]["study"] == digest]
        return found.parent

    def simulated(self, study: Path) -> Result:
        """Return what the study gives where everybody is in one process."""
        return simulate(study, data=self.records, engine="sequential")

    def check_same(self, study: Path, digest: str) -> None:
        """Check that a run ends as the simulation does, with everybody in every round."""
        found, simulated = self.result(digest), self.simulated(study)
        assert {line["status"] for line in found["participation"]} == {"in"}
        assert found["model_digest"] == simulated.model.digest

    def log(self, name: str) -> Log:
        """Return what somebody's process says from now on."""
        return Log(self.folder / f"{name}.log")

    # -- faults ------------------------------------------------------------------------------------

    def arm(self, **fault: Any) -> Path:
        """Let the first process that comes to a point die there, or do something else.

        See `points/sitecustomize.py`.
        """
        fault = {"do": "kill", "nth": 1, **fault}
        self._fault = self.faults / f"{next(self._numbers)}.json"
        for end in ("come", "go") if fault["do"] == "wait" else ():
            os.mkfifo(f"{self._fault}.{end}")
        aside = self._fault.with_suffix(".part")
        aside.write_text(json.dumps(fault), "utf-8")
        return aside.rename(self._fault)

    @property
    def struck(self) -> bool:
        """Whether the last fault that was armed has struck."""
        return Path(f"{self._fault}.struck").exists()

    def hold(self, **fault: Any) -> Held:
        """Let the first process that comes to a point wait there."""
        held = Held(self.arm(do="wait", **fault), fault)
        self._held.append(held)
        return held

    def mend(self) -> None:
        """Take all faults back: whoever waits goes on, lines are as they were, clocks right."""
        for path in self.faults.glob("*.json"):
            path.unlink()
        for held in self._held:
            held.go()
        for relay in self.relays.values():
            relay.restore()
        for name in self.processes:
            self.clock(name).unlink(missing_ok=True)

    def check_alive(self) -> None:
        """Mend everything; check that everybody runs, and see to it for the next test."""
        self.mend()
        dead = [name for name, process in self.processes.items() if not process.is_alive]
        for name in dead:
            self.processes[name].start()
        assert dead == [], self.logs()

    def clock(self, name: str) -> Path:
        """Return the file of how many seconds a member's clock is wrong."""
        return self.folder / f"{name}.clock"


@contextmanager
def running(made: Consortium) -> Iterator[Consortium]:
    """Set a consortium up, and end all of its processes in the end."""
    made.inside = True
    try:
        made.set_up()
        yield made
    finally:
        made.close()
    for name in made.processes:
        assert "Traceback" not in (made.folder / f"{name}.log").read_text(), name
