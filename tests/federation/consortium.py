"""A whole consortium on this machine for tests: real processes of the installed console script."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np

from cohortium.cli.boundary import guarded
from cohortium.cli.main import app
from cohortium.testing import consortium

POINTS = Path(__file__).parent / "points"
ROWS = {"north": 40, "east": 31, "south": 53}

STUDY = """
schema_version = 1

[study]
name = "kills-{seed}"
purpose = "To see a federation survive."
seed = {seed}

[task]
kind = "regression"
model = {{kind = "linear", framework = "numpy"}}
optimizer = {{kind = "sgd", lr = 0.05}}
batch_size = 4

[data]
dataset = "readings"
target = "y"
normalize = "none"
split = {{test = 0.2}}
features = [
  {{name = "a", range = [-9, 9]}},
  {{name = "b", range = [-9, 9]}},
]

[plan]
rounds = {rounds}
sites = {sites}
local = {{steps = 5}}
{plan}
"""


def write_records(folder: Path, rows: Mapping[str, int] = ROWS) -> None:
    """Write one `<site>.csv` per site: a linear rule with a little noise."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, (site, count) in enumerate(rows.items()):
        rng = np.random.default_rng(number)
        x = rng.normal(size=(count, 2)).round(4)
        y = (x @ [1.5, -0.5] + rng.normal(scale=0.1, size=count)).round(4)
        lines = ["a,b,y", *(f"{a},{b},{t}" for (a, b), t in zip(x, y, strict=True))]
        (folder / f"{site}.csv").write_text("\n".join(lines) + "\n", "utf-8")


_ALONE = threading.Lock()
"""Standard output is one for all threads."""


class Consortium(consortium.Consortium):
    """A consortium of linear regression, any process of which can be made to die at a point.

    Args:
        folder: of everything.
        rows: training rows by site; each gets a file.
        hub: further options of `hub up`.
        init: further options of `hub init`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        rows: Mapping[str, int] = ROWS,
        hub: Iterable[str] = (),
        init: Iterable[str] = (),
    ) -> None:
        self.rows, self.records, self.fault = dict(rows), folder / "records", folder / "fault.json"
        write_records(self.records, rows)
        self.inside = False
        super().__init__(
            folder,
            {site: self.records / f"{site}.csv" for site in rows},
            dataset="readings",
            env={"PYTHONPATH": str(POINTS), "COHORTIUM_TEST_FAULT": str(self.fault)},
            hub=hub,
            init=init,
        )

    def do(self, *arguments: str, check: bool = True) -> str:
        """Run a verb to its end: by the console script, or, where `inside` is set, in this process.

        Starting Python costs more than a verb does; what is long-lived is always a process.
        """
        if not self.inside:
            return super().do(*arguments, check=check)
        with _ALONE, redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
            code: object
            try:
                code = guarded(lambda: app(list(arguments), prog_name="cohortium"))
            except SystemExit as end:
                code = end.code
        if check and code:
            said = f"{out.getvalue()}{err.getvalue()}"
            raise AssertionError(f"{' '.join(arguments)}: exit {code}\n{said}\n{self.logs()}")
        return out.getvalue()

    def write_study(self, seed: int, *, plan: str = "", rounds: int = 3) -> Path:
        path = self.folder / f"study-{seed}.toml"
        sites = json.dumps(list(self.rows))
        path.write_text(STUDY.format(seed=seed, rounds=rounds, sites=sites, plan=plan), "utf-8")
        return path

    def arm(self, **fault: Any) -> None:
        """Let the first process that comes to a point die there."""
        self.fault.with_suffix(".json.struck").unlink(missing_ok=True)
        self.fault.write_text(json.dumps(fault), "utf-8")

    @property
    def struck(self) -> bool:
        return Path(str(self.fault) + ".struck").exists()
