"""A whole consortium on this machine for tests: real processes of the installed console script."""

from __future__ import annotations

import io
import itertools
import json
import os
import select
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
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


class Consortium(consortium.Consortium):
    """A consortium of small models, whose processes die, wait or go wrong where a test wants it.

    Args:
        folder: of everything.
        rows: training rows by site; each gets a file.
        relayed: whether each site has a relay of its own before the hub.
        hub: further options of `hub up`.
        init: further options of `hub init`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        rows: Mapping[str, int] = ROWS,
        relayed: bool = False,
        hub: Iterable[str] = (),
        init: Iterable[str] = (),
    ) -> None:
        self.rows, self.records, self.faults = dict(rows), folder / "records", folder / "faults"
        write_records(self.records, rows)
        self.faults.mkdir()
        self.inside = False
        self._numbers, self._fault = itertools.count(1), Path()
        self._pipes: list[int] = []
        super().__init__(
            folder,
            {site: self.records / f"{site}.csv" for site in rows},
            dataset="readings",
            env={"PYTHONPATH": str(POINTS), "COHORTIUM_TEST_FAULTS": str(self.faults)},
            hub=hub,
            init=init,
        )
        self.relays = {site: Relay(self.port) for site in rows} if relayed else {}

    def close(self) -> None:
        """End every process, and the relays."""
        super().close()
        for relay in self.relays.values():
            relay.close()
        for pipe in self._pipes:
            os.close(pipe)

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

    @contextmanager
    def holding(self, **fault: Any) -> Iterator[Callable[[], None]]:
        """Let the first process that comes to a point wait there until the block ends.

        Yields what returns when it has come.
        """
        path = self.arm(do="wait", **fault)
        come, go = (os.open(f"{path}.{end}", os.O_RDWR) for end in ("come", "go"))
        self._pipes += [come, go]

        def arrived() -> None:
            if not select.select([come], [], [], PATIENCE)[0]:
                raise AssertionError(f"nobody came to {fault}\n{self.logs()}")

        try:
            yield arrived
        finally:
            path.unlink(missing_ok=True)
            os.write(go, b"x")

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
