"""Blocks of sites trained together equal those trained one by one."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from cohortium.errors import ModelError
from cohortium.learning.algorithm import LocalAlgorithm
from cohortium.learning.fedprox import FedProx
from cohortium.learning.flat import FlatModule
from cohortium.learning.linear_stack import layers_of
from cohortium.learning.losses import BceWithLogits, CrossEntropy, Loss, Mse
from cohortium.learning.optimizers import Adam, Optimizer, Sgd
from cohortium.learning.plain import Plain
from cohortium.learning.task import Cursor, Trained, TrainJob, Work
from cohortium.learning.torch_task import TorchTask
from cohortium.records import Part
from cohortium.types import Params

FEATURES = 4
OPTIMIZERS: list[Optimizer] = [
    Sgd(lr=0.1),
    Sgd(lr=0.05, momentum=0.8, weight_decay=0.01),
    Adam(lr=0.01, weight_decay=0.01),
]
ALGORITHMS: list[LocalAlgorithm] = [Plain(), FedProx(mu=0.3)]
LOSSES: list[Loss] = [BceWithLogits(), CrossEntropy(), Mse()]


def stack(hidden: Sequence[int], outputs: int, *, bias: bool = True) -> nn.Module:
    widths = [FEATURES, *hidden]
    layers: list[nn.Module] = []
    for i, width in enumerate(hidden):
        layers.append(nn.Linear(widths[i], width, bias=bias))
        if i != 1:  # two linear layers in a row are a stack as well
            layers.append(nn.ReLU())
    last = nn.Linear(widths[-1], outputs, bias=bias)
    return nn.Sequential(*layers, last) if layers else last


def make_task(
    module: nn.Module,
    *,
    loss: Loss | None = None,
    optimizer: Optimizer | None = None,
    algorithm: LocalAlgorithm | None = None,
    batch_size: int = 4,
) -> TorchTask:
    loss = loss or CrossEntropy()
    return TorchTask(
        source=lambda: copy.deepcopy(module),
        outputs=3 if isinstance(loss, CrossEntropy) else 1,
        loss=loss,
        optimizer=optimizer or Sgd(lr=0.1),
        algorithm=algorithm or Plain(),
        metrics={},
        batch_size=batch_size,
    )


def make_jobs(
    task: TorchTask, sizes: Sequence[int], *, work: Work, many: bool, seed: int
) -> list[TrainJob]:
    rng = np.random.default_rng(seed)
    jobs = []
    for site, rows in enumerate(sizes):
        x = rng.normal(size=(rows, FEATURES)).astype(np.float32)
        y = rng.integers(0, 3, rows) if many else rng.integers(0, 2, rows).astype(np.float32)
        x.flags.writeable = y.flags.writeable = False
        values = rng.normal(scale=0.5, size=task.layout.sizes["float32"]).astype(np.float32)
        params = Params(task.layout, {"float32": values})
        cursor = Cursor(site % 3, 4 * (site % 2) if rows > 4 else 0)
        jobs.append(TrainJob(f"site-{site}", 1, seed, params, Part(x, y), work, cursor))
    return jobs


def assert_equal(block: Sequence[Trained], alone: Sequence[Trained]) -> None:
    for one, other in zip(block, alone, strict=True):
        assert one.cursor == other.cursor
        assert one.update.weight == other.update.weight
        ours, theirs = values_of(one), values_of(other)
        assert np.abs(ours - theirs).max() <= 1e-5 * np.abs(theirs).max()


def values_of(trained: Trained) -> NDArray[np.float32]:
    assert trained.update.params is not None
    return trained.update.params.buffers["float32"].astype(np.float32)


@given(
    sizes=st.lists(st.integers(0, 19), min_size=2, max_size=7),
    hidden=st.lists(st.integers(1, 9), max_size=3),
    loss=st.sampled_from(LOSSES),
    optimizer=st.sampled_from(OPTIMIZERS),
    algorithm=st.sampled_from(ALGORITHMS),
    work=st.one_of(
        st.integers(0, 9).map(lambda n: Work(steps=n)),
        st.integers(1, 3).map(lambda n: Work(epochs=n)),
    ),
    batch_size=st.integers(1, 8).map(lambda n: 4 * n),
    bias=st.booleans(),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60)
def test_a_block_equals_its_sites_one_by_one(
    sizes: list[int],
    hidden: list[int],
    loss: Loss,
    optimizer: Optimizer,
    algorithm: LocalAlgorithm,
    work: Work,
    batch_size: int,
    bias: bool,
    seed: int,
) -> None:
    many = isinstance(loss, CrossEntropy)
    task = make_task(
        stack(hidden, 3 if many else 1, bias=bias),
        loss=loss,
        optimizer=optimizer,
        algorithm=algorithm,
        batch_size=batch_size,
    )
    jobs = make_jobs(task, sizes, work=work, many=many, seed=seed)
    assert task.block_size(jobs[0]) > 1
    before = [job.params.digest for job in jobs]
    assert_equal(task.train(jobs), [task.train([job])[0] for job in jobs])
    assert [Params(j.params.layout, j.params.buffers).digest for j in jobs] == before


def test_more_sites_than_a_block_holds_and_windows_of_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("cohortium.learning.linear_stack.MAX_SITES", 4)
    monkeypatch.setattr("cohortium.learning.linear_stack.WINDOW_ROWS", 40)
    task = make_task(stack([6], 3))
    sizes = [3, 17, 30, 1, 8, 12, 12, 25, 0]
    for work in (Work(epochs=3), Work(steps=23)):
        jobs = make_jobs(task, sizes, work=work, many=True, seed=5)
        assert_equal(task.train(jobs), [task.train([job])[0] for job in jobs])


@pytest.mark.parametrize("target", [-1, 3, -100])
def test_a_class_that_the_model_lacks_is_refused(target: int) -> None:
    task = make_task(stack([6], 3))
    jobs = make_jobs(task, [9, 9], work=Work(epochs=1), many=True, seed=1)
    wrong = np.append(jobs[1].data.y[1:], target)
    jobs[1] = replace(jobs[1], data=Part(jobs[1].data.x, wrong))
    with pytest.raises(ModelError, match="class numbers 0 to 2"):
        task.train(jobs)


def test_results_own_their_memory() -> None:
    task = make_task(stack([6], 3))
    jobs = make_jobs(task, [9, 9, 9], work=Work(epochs=1), many=True, seed=1)
    results = [t.update.params for t in task.train(jobs)]
    arrays = [p.buffers["float32"] for p in results if p is not None]
    assert all(array.base is None for array in arrays)
    assert not any(np.shares_memory(a, j.params.buffers["float32"]) for a in arrays for j in jobs)


def test_a_site_that_diverges_leaves_the_others_alone() -> None:
    task = make_task(stack([6], 3))
    jobs = make_jobs(task, [9, 9, 9], work=Work(epochs=2), many=True, seed=1)
    sick = np.full(task.layout.sizes["float32"], np.nan, np.float32)
    jobs[1] = replace(jobs[1], params=Params(task.layout, {"float32": sick}))
    block = task.train(jobs)
    assert_equal([block[0], block[2]], [task.train([jobs[i]])[0] for i in (0, 2)])
    assert block[1].update.params is not None
    assert not block[1].update.params.is_finite()


def test_rows_that_the_kernel_does_not_take_are_trained_on_the_module() -> None:
    task = make_task(stack([6], 3))
    jobs = make_jobs(task, [9, 9], work=Work(epochs=1), many=True, seed=1)
    tall = replace(jobs[0], data=Part(jobs[0].data.x[:, None], jobs[0].data.y[:, None]))
    assert task.block_size(tall) == 1
    with pytest.raises(RuntimeError):
        task.train([tall, jobs[1]])


def test_wide_layers_are_trained_one_by_one() -> None:
    task = make_task(nn.Sequential(nn.Linear(FEATURES, 200_000), nn.ReLU(), nn.Linear(200_000, 3)))
    (job,) = make_jobs(task, [9], work=Work(epochs=1), many=True, seed=1)
    assert task.block_size(job) == 1


def hooked() -> nn.Module:
    module = stack([6], 3)
    module.register_forward_hook(lambda module, inputs, output: output * 2)
    return module


def pre_hooked() -> nn.Module:
    module = nn.Sequential(nn.Linear(FEATURES, 6), nn.ReLU(), nn.Linear(6, 3))
    module[0].register_forward_pre_hook(lambda module, inputs: (inputs[0] * 2,))
    return module


def frozen() -> nn.Module:
    module = nn.Sequential(nn.Linear(FEATURES, 6), nn.ReLU(), nn.Linear(6, 3))
    module[0].requires_grad_(False)
    return module


def shared() -> nn.Module:
    layer = nn.Linear(FEATURES, FEATURES)
    return nn.Sequential(layer, nn.ReLU(), layer, nn.ReLU(), nn.Linear(FEATURES, 3))


def patched() -> nn.Module:
    module = nn.Linear(FEATURES, 3)
    vars(module)["forward"] = lambda x: nn.functional.linear(2 * x, module.weight, module.bias)
    return module


def normalised() -> nn.Module:
    return nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(FEATURES, 3)))


class Doubled(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        return 2 * super().forward(input)


@pytest.mark.parametrize(
    "build",
    [
        hooked,
        pre_hooked,
        frozen,
        shared,
        patched,
        normalised,
        lambda: Doubled(FEATURES, 3),
        lambda: nn.Sequential(nn.Linear(FEATURES, 3), nn.ReLU()),
        lambda: nn.Sequential(nn.ReLU(), nn.Linear(FEATURES, 3)),
        lambda: nn.Sequential(nn.Linear(FEATURES, 3), nn.Dropout(0.5), nn.Linear(3, 3)),
        lambda: nn.Sequential(nn.Sequential(nn.Linear(FEATURES, 3))),
        lambda: nn.Linear(FEATURES, 3).double(),
    ],
)
def test_what_is_not_a_plain_stack_has_no_kernel(build: object) -> None:
    module = build()  # type: ignore[operator]
    assert layers_of(module, FlatModule(module).layout) is None


def test_a_module_that_looks_alike_but_has_hooks_trains_by_its_hooks() -> None:
    module = hooked()
    task = make_task(module)
    jobs = make_jobs(task, [9, 9], work=Work(epochs=1), many=True, seed=1)
    assert task.block_size(jobs[0]) == 1
    assert_equal(task.train(jobs), [task.train([job])[0] for job in jobs])
    with torch.no_grad():
        plain = make_task(stack([6], 3))
    assert plain.block_size(jobs[0]) > 1


def test_the_same_block_gives_the_same_bits() -> None:
    task = make_task(stack([6], 3), algorithm=FedProx(mu=0.1))
    jobs = make_jobs(task, [9, 30, 12], work=Work(epochs=2), many=True, seed=1)
    first = [trained.update.params for trained in task.train(jobs)]
    keep = [np.empty(i * 7 + 1, np.float32) for i in range(50)]  # moves what numpy allocates next
    again = [
        trained.update.params
        for trained in make_task(stack([6], 3), algorithm=FedProx(mu=0.1)).train(jobs)
    ]
    assert len(keep) == 50
    assert [p.digest for p in first if p] == [p.digest for p in again if p]
