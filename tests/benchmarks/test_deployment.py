"""W4 at a size too small to measure anything: real processes, and the simulation's own bits."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import deployment, measure

TINY = deployment.Regression(features=5, rows=3)
SIZE = measure.Size(2, 2)


def test_a_federation_of_processes_is_verified() -> None:
    outcome = TINY.run(SIZE)
    assert len(outcome.marks) == SIZE.rounds + 1
    assert len(outcome.figures["round_s"]) == SIZE.rounds
    assert {role: len(programs) for role, programs in outcome.programs.items()} == {
        "hub": 1,
        "site": SIZE.sites,
    }
    assert TINY.verify(SIZE, outcome.final) == {"difference": 0.0}
    final = dict(outcome.final)
    final["bias"] = final["bias"] + np.float32(1e-6)
    with pytest.raises(SystemExit, match="bias is not the simulation's"):
        TINY.verify(SIZE, final)
