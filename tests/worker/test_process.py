"""What a worker process sends is believed only as far as it can be checked: here, it lies."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from cohortium.learning.task import Cursor
from cohortium.plan.step import Step
from cohortium.records import Part, SiteData
from cohortium.runtime.events import Done, Run
from cohortium.study.bundle import Bundle
from cohortium.study.study import Study
from cohortium.types import Params, PartyId
from cohortium.worker import wire
from cohortium.worker.isolation import environment_for
from cohortium.worker.limits import Limits
from cohortium.worker.process import Process, WorkerError
from cohortium.worker.worker import Assignment, Worker

LIAR = """
import os, signal, sys, time
from cohortium.worker import wire
from cohortium.worker.wire import *
def still(fd, to_write): pass
def say(message, *arrays): wire.send(1, message, arrays, wait=still)
def hear(): return wire.receive(0, Request, wait=still)
def hear_records():
    for shape, dtype in hear().arrays:
        wire.fill(0, np.empty(shape, dtype), wait=still)
def built(arrays=(("w", (2,), "float32"),), statistics={"loss.sum": (2,)}, initial="0" * 64):
    return Built(list(arrays), statistics, ("loss",), initial, {})
"""

BUILT = "say(Ready()); hear_records(); say(built()); "
"""A worker that is honest until it has built its model."""


def process(code: str) -> Process:
    command = [sys.executable, "-P", "-c", LIAR + code]
    return Process(command, environment_for(Limits()), seconds=60)


@dataclass(frozen=True)
class Lies:
    """An isolation with a liar in it."""

    name: ClassVar[str] = "lies"
    is_strong: ClassVar[bool] = False
    code: str

    def command(self, limits: Limits) -> list[str]:
        return [sys.executable, "-P", "-c", LIAR + self.code]


@contextmanager
def worker(code: str, *, limits: Limits | None = None) -> Iterator[Worker]:
    task = {
        "kind": "regression",
        "model": {"kind": "linear", "framework": "numpy"},
        "optimizer": {"kind": "sgd", "lr": 0.1},
    }
    tables = {
        "study": {"name": "n", "purpose": "p"},
        "task": task,
        "plan": {"rounds": 1, "local": {"epochs": 1}},
    }
    rows = Part(np.zeros((7, 2), np.float32), np.zeros(7, np.float32))
    records = SiteData(rows, rows.none(), Part(rows.x[:3], rows.y[:3]))
    assignment = Assignment(Bundle(Study.from_dict(tables)), "a", records, (2,))
    with Worker(assignment, isolation=Lies(code), limits=limits) as made:
        yield made


def run(made: Worker, op: str = "train") -> Done:
    params = Params.of({"w": np.zeros(2, np.float32)})
    step = Step("step/a", PartyId("a"), op)  # type: ignore[arg-type]
    return made.run(Run(PartyId("a"), 1, 0, step, params, Cursor(), False), at=lambda: 0.0)


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        ("os.write(1, b'nonsense' * 99)", "sent a message of 1852796531 bytes"),
        ("os.write(1, bytes(4) + b'?')", r"sent no message \(Input data was truncated"),
        ("say(Model())", "sent no message .*Invalid value 'Model'"),
        ("sys.exit('a library is missing')", r"exit status 1 \(a library is missing\)"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "killed by SIGKILL, as where a machine"),
        ("os.close(1); time.sleep(60)", "closed its connection"),
    ],
)
def test_a_process_that_does_not_begin_is_no_worker(code: str, cause: str) -> None:
    with pytest.raises(WorkerError, match=f"could not be started: the worker .*{cause}"):
        process(code)


def test_a_program_that_is_not_there() -> None:
    with pytest.raises(WorkerError, match=r"could not be started: .*No such file.*no-such-program"):
        Process(["/no-such-program"], {}, seconds=60)


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        ("Model()", "sent no message"),
        ("Ready()", "sent no message"),
        ("built(arrays=[])", "spoke of 0 arrays"),
        ("built([('w', (2,), 'float32')] * 2)", "named one twice"),
        ("built([('w', (1 << 40,), 'float32')])", "spoke of a model of 4096.0 GiB"),
        ("built([('w', (1 << 52, 1 << 52, 0), 'float32')])", "spoke of a model of"),
        ("built([('w', (-1,), 'float32')])", "sent no message"),
        ("built([('w', (1,) * 33, 'float32')])", "sent no message"),
        ("built([('w', (2,), 'object')])", "spoke of arrays of 'object'"),
        ("built(statistics={'loss.sum': (1 << 30,)})", "spoke of statistics of 8.0 GiB"),
        ("built(initial='x')", "sent no message"),
        ("Refused([])", "sent no message"),
        ("Failed('x' * 5000)", "sent no message"),
        ("Failed('RuntimeError: no')", "^RuntimeError: no$"),
        ("Failed('?', memory=True)", r"^out of memory \(the machine's\)$"),
    ],
)
def test_what_it_says_of_its_model_is_checked(said: str, cause: str) -> None:
    with worker(f"say(Ready()); hear_records(); say({said}); hear()") as made:
        with pytest.raises(WorkerError, match=cause):
            made.describe()
        assert not made.alive
        assert made.pid is not None


@pytest.mark.parametrize(
    ("op", "answer", "reason"),
    [
        ("train", "Performed(7.0, {}, (1, 0)), b'12345678'", ""),
        ("evaluate", "Performed(3.0, {'validation/loss.sum': bytes(16)}, None)", ""),
        ("train", "Performed(8.0, {}, (1, 0)), b'12345678'", "a weight of 8, of 7 rows"),
        ("train", "Performed(float('nan'), {}, (1, 0)), b'12345678'", "a weight of nan"),
        ("evaluate", "Performed(-1.0, {}, None)", "a weight of -1, of 3 rows"),
        ("train", "Performed(7.0, {}, None), b'12345678'", "no place in its batches"),
        ("evaluate", "Performed(3.0, {}, (1, 0))", "a superfluous one"),
        ("train", "Performed(7.0, {}, (-1, 0))", "sent no message"),
        ("evaluate", "Performed(3.0, {'loss.sum': bytes(8)}, None)", "'loss.sum' that is not"),
        ("evaluate", "Performed(3.0, {'age': bytes(8)}, None)", "'age' that is not declared"),
        ("train", "Performed(7.0, {}, (1, 0)), b'1234'", "ended with exit status 0"),
    ],
)
def test_what_it_says_of_a_step_is_checked(op: str, answer: str, reason: str) -> None:
    with worker(f"{BUILT} hear(); wire.fill_bytes(0, 8, wait=still); say({answer})") as made:
        done = run(made, op)
    assert (done.update is None) == bool(reason)
    assert reason in done.reason
    if op == "train" and done.update and done.update.params:
        assert done.update.params["w"].tobytes() == b"12345678"


def test_values_that_are_not_finite_are_the_gates_business() -> None:
    """It names them as it does in a simulation, so that a run ends with the same words."""
    with worker(f"{BUILT} hear(); say(Performed(7.0, {{}}, (0, 0)), bytes(4) + b'\\xff' * 4)") as w:
        done = run(w)
    assert done.update
    assert done.update.params
    assert not done.update.params.is_finite()


def test_another_model_after_a_restart_is_found_out() -> None:
    code = """
say(Ready()); hear_records()
say(built([(str(os.getpid()), (2,), "float32")]))
hear()
"""
    with worker(code) as made:
        name = made.describe().layout.specs[0].name
        assert name == str(made.pid)
        params = Params.of({name: np.zeros(2, np.float32)})
        step = Step("step/a", PartyId("a"), "train")
        lost = Run(PartyId("a"), 1, 0, step, params, None, False)
        assert "exit status 0" in made.run(lost, at=lambda: 0.0).reason
        assert "another model than before" in made.run(lost, at=lambda: 0.0).reason
        assert made.restarts == 1


@pytest.mark.parametrize(
    "code",
    [
        "time.sleep(60)",  # neither reads nor answers
        "hear(); os.write(1, b'?'); time.sleep(60)",  # stops in the midst
        "os.close(0)\nwhile True: os.write(2, b'x' * 99999)",  # and never stops talking
        "hear()\nwhile True: os.write(2, b'x' * 99999)",
    ],
)
def test_no_process_holds_up_its_parent(code: str) -> None:
    made = process(f"say(Ready())\n{code}")
    much = [bytes(1 << 22)]
    with pytest.raises(WorkerError, match=r"no result within 0.2 s|closed its connection"):
        made.ask(wire.Probe({}), wire.Probed, arrays=much, seconds=0.2)
    assert not made.alive
    made.close()
    assert len(made.output) <= 8192


def test_large_messages_go_both_ways_at_the_speed_of_the_slower() -> None:
    made = process(
        "say(Ready()); hear(); say(Model(), bytes(wire.fill_bytes(0, 1 << 24, wait=still)))"
    )
    sent = np.arange(1 << 24, dtype=np.uint8)
    made.ask(wire.Probe({}), wire.Model, arrays=[sent], seconds=60)
    received = np.empty_like(sent)
    made.fill(received)
    made.close()
    np.testing.assert_array_equal(received, sent)


def test_requests_outlive_a_message_of_the_largest_size() -> None:
    with pytest.raises(wire.WireError, match="a message of"):
        wire.send(-1, wire.Probe({"x": "x" * wire.HEADER_BYTES}), wait=lambda fd, to_write: None)
