"""A worker runs a study's code as the engine in this process does, and outlives what that does.

Real processes. The study's network does, at a site, what its parameter `mode` tells it to.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from numpy.typing import NDArray

from cohortium.errors import ModelError
from cohortium.learning.model_file import save
from cohortium.learning.pytorch import fitting_threads
from cohortium.learning.task import Cursor
from cohortium.plan.step import Step
from cohortium.runtime.agreeing import agree, work_of
from cohortium.runtime.bench import Bench
from cohortium.runtime.building import initial_model
from cohortium.runtime.engine import Federation, Finished
from cohortium.runtime.events import Done, Run
from cohortium.runtime.in_process import Sequential
from cohortium.runtime.simulation import simulate
from cohortium.runtime.training import Training
from cohortium.study.bundle import Bundle
from cohortium.study.study import Study
from cohortium.types import Params, PartyId, SiteId
from cohortium.worker.isolation import ISOLATIONS, Isolation, choose, hindrance
from cohortium.worker.limits import MIB, Limits
from cohortium.worker.process import WorkerError, WorkerStoppedError
from cohortium.worker.worker import Assignment, Worker

QUICK = Limits(nice=0)

MODES = ("well", "raise", "sys.exit", "os._exit", "crash", "memory", "loop", "spawn", "look", "say")

CODE = """
import ctypes, os, subprocess, sys
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 1))
        self.register_buffer("mode", torch.zeros(1))

    def forward(self, x):
        mode = MODES[int(self.mode.item())]
        if mode == "raise":
            raise ZeroDivisionError("on purpose")
        if mode == "sys.exit":
            sys.exit(3)
        if mode == "os._exit":
            print("a patient of", 41, "years")
            os._exit(3)
        if mode == "crash":
            ctypes.string_at(0)
        if mode == "memory":
            hoard = []
            while True:
                hoard.append(torch.ones(1 << 22))
        if mode == "loop":
            while True:
                pass
        if mode == "spawn":
            subprocess.run(["/usr/bin/env"], check=True)
        if mode == "look":
            with open(SECRET) as file:
                file.read()
        if mode == "say":
            os.write(1, b"x" * (1 << 20))
        return self.layers(x)
"""

TABLES: dict[str, Any] = {
    "study": {"name": "tiny", "purpose": "To be run in a worker.", "seed": 5},
    "task": {
        "kind": "binary-classification",
        "model": {"kind": "code", "file": "net.py", "build": "Net"},
        "optimizer": {"kind": "sgd", "lr": 0.1},
        "batch_size": 8,
    },
    "data": {"split": {"test": 0.2, "validation": 0.2}},
    "plan": {"rounds": 3, "local": {"epochs": 2}, "topology": "star"},
}


def bench_of(tables: dict[str, Any] | None = None, *, code: str = CODE, secret: str = "") -> Bench:
    content = f"MODES = {MODES!r}\nSECRET = {secret!r}\n{code}".encode()
    study = Study.from_dict(tables or TABLES)
    files = {"net.py": content} if "file" in vars(study.task.model) else {}
    return Bench.of(Bundle(study, files), sites=hospitals())


def hospitals() -> dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]:
    rng = np.random.default_rng(0)
    found = {}
    for site, rows in (("a", 40), ("b", 33)):
        x = rng.normal(size=(rows, 3)).astype(np.float32)
        found[site] = x, (x[:, 0] + rng.normal(size=rows) > 0).astype(np.float32)
    return found


def assignment(bench: Bench, site: str = "a") -> Assignment:
    records = bench.data[SiteId(site)]
    return Assignment(bench.bundle, site, records, records.train.x.shape[1:])


def trained_here(bench: Bench) -> Training:
    study = bench.study
    return Training(bench.task(study), bench.data, work_of(study), study.study.seed)


def performed(here: Training, run: Run) -> Done:
    with fitting_threads(here.task.layout.nbytes):
        return here.perform(run, at=17.0)


def a_run(
    params: Params, op: Literal["train", "evaluate"] = "train", *, mode: str = "well", **more: Any
) -> Run:
    arrays = dict(params)
    if "mode" in arrays:
        arrays["mode"] = np.full(1, MODES.index(mode), np.float32)
    run = Run(PartyId("a"), 1, 0, Step("step/a", PartyId("a"), op), Params.of(arrays), None, False)
    return replace(run, **more)


def clock() -> float:
    return 17.0


def assert_same(one: Done, other: Done) -> None:
    assert one.reason == other.reason == ""
    assert one.update is not None
    assert other.update is not None
    assert one.slot == other.slot
    assert one.update.weight == other.update.weight
    assert one.update.statistics.keys() == other.update.statistics.keys()
    for name, values in one.update.statistics.items():
        np.testing.assert_array_equal(values, other.update.statistics[name])
    digests = [d.update and d.update.params and d.update.params.digest for d in (one, other)]
    assert digests[0] == digests[1]


@pytest.fixture(scope="module")
def bench() -> Bench:
    return bench_of()


@pytest.fixture(scope="module")
def params(bench: Bench) -> Params:
    return bench.initial(bench.study, bench.task(bench.study))


@pytest.fixture(scope="module")
def warm(bench: Bench) -> Iterator[Worker]:
    """A worker that tests share: none of them may leave it unable to go on."""
    with Worker(
        assignment(bench), limits=replace(QUICK, memory_bytes=1024 * MIB, seconds=20)
    ) as worker:
        yield worker


@dataclass(frozen=True)
class InWorkers(Training):
    """A site's work, done by a worker for each site."""

    workers: Mapping[SiteId, Worker] = field(default_factory=dict)

    def perform(self, run: Run, *, at: float) -> Done:
        return self.workers[SiteId(run.party)].run(run, at=lambda: at)


def finished(bench: Bench, training: Training) -> Finished:
    plan, task = bench.plan(), training.task
    agreement = agree(
        bench.study,
        plan,
        layout=task.layout,
        shapes=task.statistics,
        metrics=task.metrics,
        value=task.value,
    )
    initial = bench.initial(bench.study, task)
    federation = Federation(agreement, training, lambda: initial)
    with fitting_threads(task.layout.nbytes):  # as a simulation does
        return Sequential().run(federation)


def test_a_federation_of_workers_ends_in_the_same_bits(bench: Bench) -> None:
    here = trained_here(bench)
    workers = {site: Worker(assignment(bench, site), limits=QUICK) for site in bench.sites}
    try:
        there = InWorkers(here.task, {}, here.work, here.seed, workers)
        found, expected = finished(bench, there), finished(bench, here)
        pids = [worker.pid for worker in workers.values()]
    finally:
        for worker in workers.values():
            worker.stop()
    assert [log.state for log in found.logs] == [log.state for log in expected.logs]
    assert found.logs[-1].state.round == 3
    assert {p: m.digest for p, m in found.models.items()} == {
        p: m.digest for p, m in expected.models.items()
    }
    simulated = simulate(bench.bundle, hospitals(), engine="sequential")
    assert simulated.model.digest in {model.digest for model in found.models.values()}
    assert len(set(pids)) == 2
    assert [worker.restarts for worker in workers.values()] == [0, 0]


@pytest.mark.parametrize("isolation", ISOLATIONS, ids=lambda isolation: isolation.name)
def test_every_isolation_computes_the_same(
    bench: Bench, params: Params, isolation: Isolation
) -> None:
    if hindrance(isolation):
        pytest.skip(hindrance(isolation))
    here = trained_here(bench)
    cursor = Cursor(1, 5)
    runs = [a_run(params, measure=True, slot=cursor), a_run(params, "evaluate")]
    with Worker(assignment(bench), limits=QUICK, isolation=isolation) as worker:
        assert worker.initial().digest == params.digest == worker.describe().initial
        assert worker.describe().layout == here.task.layout
        assert worker.describe().statistics == here.task.statistics
        assert worker.describe().metrics == here.task.metrics
        assert worker.describe().environment["numpy"] == np.__version__
        for run in runs:
            assert_same(worker.run(run, at=clock), performed(here, run))


def test_large_models_compute_as_many_threads_as_here() -> None:
    """Above the size from which a model is trained on all threads, and larger than any pipe."""
    wide = {**TABLES["task"], "model": {"kind": "mlp", "hidden": [600, 600]}}
    bench = bench_of({**TABLES, "task": wide})
    here = trained_here(bench)
    with Worker(assignment(bench), limits=QUICK) as worker:
        run = a_run(worker.initial())
        assert run.params.nbytes > 1 << 20
        assert_same(worker.run(run, at=clock), performed(here, run))


def test_a_model_without_pytorch_needs_none_in_the_worker() -> None:
    linear = {**TABLES["task"], "model": {"kind": "linear", "framework": "numpy"}}
    bench = bench_of({**TABLES, "task": linear})
    here = trained_here(bench)
    with Worker(assignment(bench), limits=replace(QUICK, memory_bytes=192 * MIB)) as worker:
        run = a_run(worker.initial())
        assert_same(worker.run(run, at=clock), performed(here, run))


def test_the_worker_stays_warm_and_study_code_that_raises_fails_its_step_only(
    bench: Bench, params: Params, warm: Worker
) -> None:
    here = trained_here(bench)
    well = a_run(params)
    assert_same(warm.run(well, at=clock), performed(here, well))
    pid, restarts = warm.pid, warm.restarts
    for mode, reason in (("raise", "ZeroDivisionError: on purpose"), ("sys.exit", "SystemExit: 3")):
        done = warm.run(a_run(params, mode=mode), at=clock)
        assert done == Done(1, 0, "step/a", None, None, reason, 17.0)
    assert warm.run(a_run(params, mode="say"), at=clock).reason == ""  # more than a pipe holds
    assert_same(warm.run(well, at=clock), performed(here, well))
    assert (warm.pid, warm.restarts) == (pid, restarts)


@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        ("os._exit", "the worker ended with exit status 3"),
        ("crash", "the worker was killed by SIGSEGV"),
        ("memory", "out of memory (limit 1.0 GiB)"),
    ],
)
def test_a_lost_process_fails_its_step_and_the_next_step_has_a_new_one(
    bench: Bench, params: Params, warm: Worker, mode: str, reason: str
) -> None:
    warm.describe()
    pid, restarts = warm.pid, warm.restarts
    done = warm.run(a_run(params, mode=mode), at=clock)
    assert (done.update, done.reason) == (None, reason)
    if mode == "os._exit":
        assert warm.output.endswith("a patient of 41 years\n")  # for the site's own eyes only
    well = a_run(params, "evaluate")
    assert_same(warm.run(well, at=clock), performed(trained_here(bench), well))
    assert warm.pid != pid
    assert warm.restarts == restarts + 1


def test_a_process_that_was_killed_between_two_steps_fails_none(
    bench: Bench, params: Params, warm: Worker
) -> None:
    warm.describe()
    restarts, pid = warm.restarts, warm.pid
    assert pid is not None
    os.killpg(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert not warm.alive
    assert warm.run(a_run(params, "evaluate"), at=clock).reason == ""
    assert (warm.alive, warm.restarts) == (True, restarts + 1)


def test_an_endless_loop_ends_with_its_time(bench: Bench, params: Params) -> None:
    with Worker(assignment(bench), limits=replace(QUICK, seconds=1)) as worker:
        worker.describe()
        assert worker.run(a_run(params, mode="loop"), at=clock).reason == "no result within 1 s"
        assert not worker.alive


def test_stopping_now_does_not_wait_for_a_step(bench: Bench, params: Params) -> None:
    worker = Worker(assignment(bench), limits=QUICK)
    worker.describe()
    found: list[BaseException] = []

    def loop() -> None:
        try:
            worker.run(a_run(params, mode="loop"), at=clock)
        except WorkerStoppedError as error:
            found.append(error)

    stuck = threading.Thread(target=loop)
    stuck.start()
    members = watched(worker.pid or 0)
    worker.stop(now=True)
    stuck.join(timeout=60)
    assert_ended(members)
    assert len(found) == 1  # and no event: the step has not failed
    assert not worker.alive
    with pytest.raises(WorkerStoppedError):
        worker.run(a_run(params), at=clock)
    assert worker.restarts == 0


def test_study_code_reaches_nothing_but_its_records(params: Params, tmp_path: Path) -> None:
    isolation = choose()
    if not isolation.is_strong:
        pytest.skip("no strong isolation works here")
    secret = tmp_path / "key"
    secret.write_text("a key")
    with Worker(assignment(bench_of(secret=str(secret))), isolation=isolation) as worker:
        worker.describe()
        looked = worker.run(a_run(params, mode="look"), at=clock).reason
        assert looked.startswith(("FileNotFoundError", "PermissionError"))
        spawned = worker.run(a_run(params, mode="spawn"), at=clock).reason
        assert spawned.startswith("PermissionError")
        assert worker.restarts == 0


@pytest.mark.parametrize(
    ("code", "got"),
    [
        ("def Net(): import sys; sys.exit(2)", "code that ends the program (exit 2)"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("def Net(): import torch; return torch.nn.Linear(3, 2)", "a tensor of shape (8, 2)"),
    ],
)
def test_a_wrong_model_is_refused_as_it_is_here(bench: Bench, code: str, got: str) -> None:
    bundle = replace(bench.bundle, files={"net.py": code.encode()})
    with Worker(replace(assignment(bench), bundle=bundle), limits=QUICK) as worker:
        with pytest.raises(ModelError) as caught:
            worker.describe()
        assert not worker.alive
    assert [type(caught.value), caught.value.problems[0].got[: len(got)]] == [ModelError, got]


def test_code_that_builds_another_model_each_time_is_found_out(bench: Bench) -> None:
    code = """
import os, torch
def Net():
    torch.manual_seed(int.from_bytes(os.urandom(4), "big"))
    return torch.nn.Linear(3, 1)
"""
    bundle = replace(bench.bundle, files={"net.py": code.encode()})
    with (
        Worker(replace(assignment(bench), bundle=bundle), limits=QUICK) as worker,
        pytest.raises(WorkerError, match="differs each time"),
    ):
        worker.initial()


def test_a_step_of_another_party_or_model_is_not_run(params: Params, warm: Worker) -> None:
    stranger = a_run(params, party=PartyId("b"))
    assert "a step of 'b' at 'a'" in warm.run(stranger, at=clock).reason
    other = a_run(Params.of({"w": np.zeros(1, np.float32)}))
    assert "other arrays" in warm.run(other, at=clock).reason


def test_a_study_starts_from_its_own_file(tmp_path: Path, bench: Bench, params: Params) -> None:
    own = Params.of({name: array + 1 for name, array in params.items()})
    save(own, tmp_path / "model.safetensors", metadata={})
    content = (tmp_path / "model.safetensors").read_bytes()
    task = {**TABLES["task"], "initial_model": "model.safetensors"}
    study = Study.from_dict({**TABLES, "task": task})
    bundle = Bundle(study, {**bench.bundle.files, "model.safetensors": content})
    with Worker(replace(assignment(bench), bundle=bundle), limits=QUICK) as worker:
        assert worker.describe().initial == own.digest == worker.initial().digest
    assert initial_model(bundle, bench.task(bench.study)).digest == own.digest


PARENT = """
import os, select, sys, threading
from cohortium.worker.isolation import ISOLATIONS, environment_for
from cohortium.worker.limits import Limits
from cohortium.worker.process import Process

def start():
    global process
    isolation = next(one for one in ISOLATIONS if one.name == sys.argv[1])
    process = Process(isolation.command(Limits()), environment_for(Limits()), seconds=60)

starter = threading.Thread(target=start)
starter.start()
starter.join()
while os.path.exists(f"/proc/self/task/{starter.native_id}"):
    pass
end = select.poll()
end.register(os.pidfd_open(process.pid), select.POLLIN)
print(process.pid, bool(end.poll(300)), flush=True)
sys.stdin.read()
"""
"""Starts a worker from a thread that ends, which must not end the worker."""


@pytest.mark.parametrize("isolation", ISOLATIONS, ids=lambda isolation: isolation.name)
def test_a_killed_parent_leaves_no_process(isolation: Isolation) -> None:
    if hindrance(isolation):
        pytest.skip(hindrance(isolation))
    command = [sys.executable, "-c", PARENT, isolation.name]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as parent:
        assert parent.stdout
        pid, ended_early = parent.stdout.readline().split()
        assert ended_early == "False"
        members = watched(int(pid))
        os.killpg(int(pid), signal.SIGSTOP)  # as study code that never looks up
        parent.kill()
    assert_ended(members)


def watched(leader: int) -> list[int]:
    """Return descriptors of the processes of a group."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(FileNotFoundError, ProcessLookupError):  # it ended meanwhile
            if int((entry / "stat").read_text().rpartition(")")[2].split()[2]) == leader:
                found.append(os.pidfd_open(int(entry.name)))
    assert found
    return found


def assert_ended(processes: list[int]) -> None:
    poll = select.poll()
    for process in processes:
        poll.register(process, select.POLLIN)
        assert poll.poll(60_000)
        poll.unregister(process)
        os.close(process)


def test_the_parent_loads_no_framework() -> None:
    code = """
import sys
import cohortium.worker.worker, cohortium.worker.attack
print([name for name in ("torch", "sklearn", "scipy") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
