"""Cohortium as a consortium runs it: hub, nodes and a researcher, through the installed command.

Every process is one that a hospital would start, and nothing is left out that it would have: TLS,
signed requests, sealed payloads, journals forced to disk, workers locked in.

Legend: N rows of a site, F features.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

import cohortium
from benchmarks.measure import Outcome, Size
from benchmarks.workloads import SEED, Arrays
from cohortium.testing.consortium import CONSOLE, RESEARCHER, Consortium

STUDY = """
schema_version = 1

[study]
name = "w4"
purpose = "Measure what a federation costs."
seed = 7

[task]
kind = "regression"
model = {{kind = "linear", framework = "numpy"}}
optimizer = {{kind = "sgd", lr = {lr}}}
batch_size = {rows}
evaluate = false

[data]
dataset = "records"
normalize = "none"
split = {{test = 0.0}}

[plan]
rounds = {rounds}
sites = {sites}
local = {{steps = 1}}
"""
SETTINGS = {
    "api": "cohortium hub up, node up, study submit, approve, start, watch",
    "isolation": "a worker process per site and study",
    "tls": True,
    "signed requests": True,
    "end-to-end encryption": True,
    "evaluation": "off",
}


@dataclass(frozen=True)
class Regression:
    """Linear regression whose training is a pass over a few rows.

    Args:
        features: F; the model has F + 1 parameters.
        rows: N.
    """

    features: int
    rows: int

    def write(self, folder: Path, size: Size) -> dict[str, Path]:
        """Write every site's arrays; return where."""
        folder.mkdir(parents=True)
        places = {f"site-{i:03d}": folder / f"site-{i:03d}.npz" for i in range(size.sites)}
        for number, place in enumerate(places.values()):
            rng = np.random.default_rng([SEED, number])
            x = rng.standard_normal((self.rows, self.features), np.float32)
            np.savez(place, x=x, y=rng.standard_normal(self.rows))
        return places

    def study(self, folder: Path, size: Size) -> Path:
        """Write the study; a step small enough to converge."""
        path = folder / "study.toml"
        sites = json.dumps([f"site-{i:03d}" for i in range(size.sites)])
        lr = 0.1 / self.features
        text = STUDY.format(lr=lr, rows=self.rows, rounds=size.rounds, sites=sites)
        path.write_text(text, "utf-8")
        return path

    def run(self, size: Size) -> Outcome:
        """Run the federation from nothing to the end of the last round."""
        with tempfile.TemporaryDirectory(prefix="w4-") as name:
            folder = Path(name)
            made = Consortium(folder, self.write(folder / "data", size), dataset="records")
            try:
                made.set_up()
                return outcome(made, self.study(folder, size))
            finally:
                made.close()

    def verify(self, size: Size, final: Mapping[str, Any]) -> dict[str, float]:
        """Return the largest difference from the simulation of the same study, which is 0.

        Raises:
            SystemExit: it is not.
        """
        with tempfile.TemporaryDirectory(prefix="w4-") as name:
            folder = Path(name)
            self.write(folder / "data", size)
            expected = cohortium.simulate(self.study(folder, size), data=folder / "data").model
        for array, values in expected.items():
            if not np.array_equal(values, final[array]):
                raise SystemExit(f"W4: {array} is not the simulation's")
        return {"difference": 0.0}


def outcome(made: Consortium, study: Path) -> Outcome:
    """Run a study in a consortium that is up, and return what the measuring process asks for."""
    digest = made.submit(study)
    made.approve(digest)
    began = time.monotonic()
    made.do("study", "start", digest, "--home", str(made.home(RESEARCHER)))
    marks = watched(made, digest)
    result = made.result(digest)
    programs = {name: process.pid for name, process in made.processes.items()}
    return Outcome(
        cohortium.__version__,
        [began, *marks],
        model(made.out(digest)),
        SETTINGS,
        programs={"hub": [programs.pop("hub")], "site": list(programs.values())},
        figures={"round_s": [row["duration"] for row in result["arms"]["federated"]["rounds"]]},
    )


def watched(made: Consortium, digest: str) -> list[float]:
    """Watch a run as its researcher does; return when each round was seen to close."""
    command = [str(CONSOLE), "study", "watch", digest, "--json", "--home"]
    with subprocess.Popen(
        [*command, str(made.home(RESEARCHER))], stdout=subprocess.PIPE, env=made.env
    ) as watching:
        assert watching.stdout is not None
        marks = [time.monotonic() for line in watching.stdout if "round" in json.loads(line)]
    if watching.returncode:
        raise AssertionError(f"the study did not finish\n{made.logs()}")
    return marks


def model(folder: Path) -> Arrays:
    """Return the model of a result by name."""
    return load_file(folder / "model.safetensors")
