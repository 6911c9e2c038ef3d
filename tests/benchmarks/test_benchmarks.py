"""Every workload at a size too small to measure anything: what it trains is verified."""

from __future__ import annotations

import functools
import sys
from dataclasses import replace

import numpy as np
import pytest

from benchmarks import measure, plain, w1, w2, w2_sequential, w7, w8, workloads

TINY = replace(workloads.W3, elements=100)
W2_SIZE = measure.Size(3, 2, rows=64, ragged=True)

verify = functools.partial(plain.verify, orders=w2.orders)


def test_adding_one_is_verified_and_weighed() -> None:
    outcome = w1.run(TINY, measure.Size(3, 2))
    assert TINY.verify(2, outcome.final)
    assert outcome.figures.keys() == {"aggregator_models", "process_models"}
    assert len(outcome.marks) == len(outcome.cpu_marks or ()) == 3
    with pytest.raises(SystemExit, match="initial value plus 3"):
        TINY.verify(3, outcome.final)


@pytest.mark.parametrize("engine", ["sequential", "vectorised"])
def test_small_sites_train_what_the_plain_loop_trains(engine: str) -> None:
    size = replace(W2_SIZE, engine=engine)
    outcome = w2.run(size)
    assert outcome.settings["engine"] == engine
    assert verify(size, outcome.final)["difference"] < 1e-5


def test_another_model_than_the_plain_loop_s_is_noticed() -> None:
    final = w2.run(W2_SIZE).final
    with pytest.raises(SystemExit, match="away from the plain loop's"):
        plain.verify(W2_SIZE, final, orders=workloads.SmallSites.in_turn)
    final["0.bias"] = final["0.bias"] + np.float32(0.1)
    with pytest.raises(SystemExit, match="away from the plain loop's"):
        verify(W2_SIZE, final)


def test_the_reference_engine_has_the_plain_loop_beside_it() -> None:
    line = w2_sequential.beside(w2_sequential.cnn(2), rounds=2, turns=1)
    assert line["final"]["difference"] < 1e-5
    assert line["target"] == 0.95


def test_the_hello_world_is_the_documentation_s() -> None:
    commands = w7.commands()
    assert w7.hello() in commands["hello"][0]
    assert w7.measured([sys.executable, "-c", ""], repeats=1).keys() == {"wall_s", "cpu_s"}
    with pytest.raises(SystemExit, match="failed"):
        w7.measured([sys.executable, "-c", "1 / 0"], repeats=1)


def test_rules_are_verified_and_weighed() -> None:
    line = w8.case(3, 1000, repeats=1)
    assert line["mean"]["memory_models"] > 0
    assert line["median"]["ns_per_coordinate"].keys() == {"ours", "np.median"}
