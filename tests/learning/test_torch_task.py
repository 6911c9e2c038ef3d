"""Sequential training and evaluation of modules, against plain PyTorch."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import partial
from itertools import count
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from cohortium.errors import ModelError
from cohortium.learning.algorithm import LocalAlgorithm
from cohortium.learning.fedprox import FedProx
from cohortium.learning.losses import Bce, BceWithLogits, CrossEntropy, Loss
from cohortium.learning.metrics import Accuracy, Auroc, Metric
from cohortium.learning.models import ModuleSource, from_python
from cohortium.learning.optimizers import Adam, Optimizer, Sgd
from cohortium.learning.plain import Plain
from cohortium.learning.task import Cursor, Trained, TrainJob, Work
from cohortium.learning.torch_task import TorchTask
from cohortium.records import Part
from cohortium.types import Params, derive_rng, derive_seed, sum_statistics


def make_task(
    source: ModuleSource,
    *,
    outputs: int = 2,
    loss: Loss | None = None,
    optimizer: Optimizer | None = None,
    algorithm: LocalAlgorithm | None = None,
    metrics: Mapping[str, Metric] | None = None,
    batch_size: int = 4,
) -> TorchTask:
    return TorchTask(
        source=source,
        outputs=outputs,
        loss=loss or CrossEntropy(),
        optimizer=optimizer or Sgd(lr=0.1),
        algorithm=algorithm or Plain(),
        metrics={} if metrics is None else metrics,
        batch_size=batch_size,
    )


def make_part(rows: int, shape: tuple[int, ...] = (5,), *, seed: int = 0) -> Part:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, *shape)).astype(np.float32)
    y = rng.integers(0, 2, rows)
    x.flags.writeable = y.flags.writeable = False
    return Part(x, y)


def make_job(
    params: Params,
    data: Part,
    *,
    work: Work | None = None,
    cursor: Cursor | None = None,
    turn: int = 1,
) -> TrainJob:
    work = work or Work(epochs=2)
    return TrainJob("site-a", turn, 11, params, data, work, cursor or Cursor())


def params_of(trained: Trained) -> Params:
    assert trained.update.params is not None
    return trained.update.params


def floats(array: Any) -> NDArray[np.float64]:
    return np.asarray(array, np.float64)


def train_one(task: TorchTask, job: TrainJob) -> Params:
    return params_of(task.train([job])[0])


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 2))


class Net(nn.Module):
    """Everything that makes a site's turn differ from a pure function of flat parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3)
        self.norm = nn.BatchNorm2d(3)
        self.frozen = nn.Linear(3, 3)
        self.frozen.requires_grad_(False)
        self.drop = nn.Dropout(0.4)
        self.head = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Any:
        x = self.norm(self.conv(x)).relu().mean((2, 3))
        return self.head(self.drop(self.frozen(x)))


def plain_loop(module: nn.Module, job: TrainJob, optimizer: Any, *, size: int = 4) -> Params:
    """Train as a script without Cohortium would: index batches, torch.optim."""
    torch.manual_seed(derive_seed(job.seed, "module", job.site, job.round))
    x, y = torch.tensor(job.data.x), torch.tensor(job.data.y)
    module.train()
    for epoch in range(job.work.epochs or 0):
        order = derive_rng(job.seed, "batches", job.site, epoch).permutation(len(y))
        for batch in torch.from_numpy(order).tensor_split(list(range(size, len(y), size))):
            optimizer.zero_grad()
            torch.autograd.backward(functional.cross_entropy(module(x[batch]), y[batch]))
            optimizer.step()
    return Params.of({name: t.numpy() for name, t in module.state_dict().items()})


@pytest.mark.parametrize(
    ("build", "shape"),
    [(mlp, (5,)), (Net, (1, 6, 6)), (lambda: nn.Linear(9000, 2), (9000,))],
)
def test_plain_sgd_equals_a_plain_script_to_the_bit(build: Any, shape: tuple[int, ...]) -> None:
    task = make_task(build)
    job = make_job(task.initial(3), make_part(11, shape))
    with torch.random.fork_rng():
        torch.manual_seed(3)
        module = build()
        expected = plain_loop(module, job, torch.optim.SGD(module.parameters(), lr=0.1))
    (trained,) = task.train([job])
    assert params_of(trained).layout == expected.layout
    assert params_of(trained).digest == expected.digest
    assert trained.update.weight == 11
    assert trained.cursor == Cursor(2, 0)


def test_adam_equals_a_plain_script() -> None:
    task = make_task(mlp, optimizer=Adam(lr=0.01))
    job = make_job(task.initial(3), make_part(11))
    with torch.random.fork_rng():
        torch.manual_seed(3)
        module = mlp()
        expected = plain_loop(module, job, torch.optim.Adam(module.parameters(), lr=0.01))
    params = train_one(task, job)
    for name in expected:
        np.testing.assert_allclose(floats(params[name]), floats(expected[name]), 1e-5, 1e-6)


def test_fedprox_pulls_towards_the_rounds_first_model() -> None:
    """With one step from the anchor the pull is zero; after many it holds the site back."""
    free = make_task(mlp)
    near = make_task(mlp, algorithm=FedProx(mu=5.0))
    start, data = free.initial(0), make_part(8)
    first = [train_one(t, make_job(start, data, work=Work(steps=1))) for t in (free, near)]
    later = [train_one(t, make_job(start, data, work=Work(steps=9))) for t in (free, near)]
    assert first[0].digest == first[1].digest
    assert distance(later[1], start) < 0.7 * distance(later[0], start)


def distance(params: Params, start: Params) -> float:
    difference = floats(params.buffers["float32"]) - floats(start.buffers["float32"])
    return float(np.linalg.norm(difference))


def test_the_proximal_term_leaves_running_statistics_alone() -> None:
    data = make_part(8, (1, 6, 6))
    plain, prox = make_task(Net), make_task(Net, algorithm=FedProx(mu=1e-9))
    start = plain.initial(0)
    work = Work(steps=3)
    results = [train_one(t, make_job(start, data, work=work)) for t in (plain, prox)]
    for params in results:
        assert params["norm.num_batches_tracked"] == 3
        assert np.array_equal(params["frozen.weight"], start["frozen.weight"])
        assert not np.array_equal(params["norm.running_mean"], start["norm.running_mean"])
    means = [floats(params["norm.running_mean"]) for params in results]
    np.testing.assert_allclose(means[0], means[1], atol=1e-6)


@given(st.integers(1, 13), st.lists(st.integers(1, 4), min_size=1, max_size=3))
@settings(max_examples=15)
def test_rounds_of_steps_equal_one_long_round(rows: int, rounds: list[int]) -> None:
    task = make_task(mlp)
    data, params, cursor = make_part(rows), task.initial(0), Cursor()
    whole = task.train([make_job(params, data, work=Work(steps=sum(rounds)))])[0]
    for steps in rounds:
        work = Work(steps=steps)
        trained = task.train([make_job(params, data, work=work, cursor=cursor)])[0]
        params, cursor = params_of(trained), trained.cursor
    assert (params.digest, cursor) == (params_of(whole).digest, whole.cursor)


def test_a_site_that_trains_for_a_time_does_the_steps_that_fit_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Momentum goes on from epoch to epoch, as in one long round of steps."""
    task, data = make_task(mlp, optimizer=Sgd(lr=0.1, momentum=0.9)), make_part(9)
    start, looks = task.initial(0), count()
    (counted,) = task.train([make_job(start, data, work=Work(steps=7))])
    monkeypatch.setattr("cohortium.learning.batches.monotonic", lambda: float(next(looks)))
    timed = make_job(start, data, work=Work(seconds=7.0))
    assert task.block_size(timed) == 1
    (trained,) = task.train([timed])
    assert params_of(trained).digest == params_of(counted).digest
    assert trained.cursor == counted.cursor == Cursor(2, 4)


def test_a_turn_depends_on_its_job_alone() -> None:
    """Neither other sites, nor an evaluation, nor the global generator leave a trace."""
    task, data = make_task(Net), make_part(9, (1, 6, 6))
    start = task.initial(0)
    job = make_job(start, data)
    first = train_one(task, job)
    torch.manual_seed(99)
    other = make_job(task.initial(5), make_part(7, (1, 6, 6), seed=4), turn=2)
    task.train([other])
    task.evaluate(start, data)
    digests = [params_of(trained).digest for trained in task.train([other, job])]
    assert digests[1] == first.digest
    assert start.digest == task.initial(0).digest
    third = train_one(task, make_job(start, data, turn=2))
    assert third.digest != first.digest  # dropout is drawn anew in each round


def test_global_state_is_left_as_it_was() -> None:
    task, data = make_task(Net), make_part(9, (1, 6, 6))
    torch.manual_seed(4)
    state = torch.get_rng_state()
    params = task.initial(1)
    task.train([make_job(params, data)])
    task.evaluate(params, data)
    task.check(params, data)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.are_deterministic_algorithms_enabled()


def test_the_initial_model_is_that_of_a_plain_script() -> None:
    torch.manual_seed(42)
    expected = {name: tensor.numpy() for name, tensor in Net().state_dict().items()}
    assert make_task(Net).initial(42).digest == Params.of(expected).digest
    assert make_task(Net).initial(43).digest != Params.of(expected).digest


def test_an_instance_starts_from_its_own_weights() -> None:
    module = mlp()
    expected = Params.of({n: t.numpy().copy() for n, t in module.state_dict().items()})
    source = from_python(module).source(inputs=(5,), outputs=2)
    task = make_task(source)
    task.train([make_job(task.initial(0), make_part(9))])
    assert task.initial(7).digest == expected.digest


def test_a_model_that_changes_with_the_seed_is_refused() -> None:
    task = make_task(lambda: nn.Linear(5, int(torch.randint(2, 1000, ()))))
    with pytest.raises(ModelError, match="other parameters with another seed"):
        [task.initial(seed) for seed in range(5)]


def test_a_site_without_rows_returns_what_it_got() -> None:
    task = make_task(Net)
    start = task.initial(0)
    (trained,) = task.train([make_job(start, make_part(0, (1, 6, 6)), work=Work(steps=5))])
    assert params_of(trained).digest == start.digest
    assert trained.update.weight == 0
    assert task.train([]) == []


def test_an_update_that_diverged_is_returned_as_it_is() -> None:
    task = make_task(mlp, optimizer=Sgd(lr=1e30))
    assert not train_one(task, make_job(task.initial(0), make_part(9))).is_finite()


class Logistic(nn.Module):
    def __init__(self, *, ends_in_sigmoid: bool) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 1)
        self.ends_in_sigmoid = ends_in_sigmoid

    def forward(self, x: Tensor) -> Any:
        output = self.layer(x)
        return output.sigmoid() if self.ends_in_sigmoid else output.squeeze(1)


def as_binary(data: Part) -> Part:
    return Part(data.x, data.y.astype(np.float32))


def test_probabilities_and_logits_train_and_measure_alike() -> None:
    data, values = as_binary(make_part(30)), []
    for loss in (Bce(), BceWithLogits()):
        ends_in_sigmoid = isinstance(loss, Bce)
        task = make_task(
            partial(Logistic, ends_in_sigmoid=ends_in_sigmoid),
            outputs=1,
            loss=loss,
            metrics={"auroc": Auroc(), "accuracy": Accuracy()},
        )
        params = train_one(task, make_job(task.initial(0), data))
        statistics = task.evaluate(params, data)
        values.append([floats(task.value(name, statistics)) for name in task.metrics])
    np.testing.assert_allclose(values[0], values[1], rtol=1e-5)


def test_evaluation_in_chunks_is_that_of_all_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    data = make_part(23, (1, 6, 6))
    task = make_task(Net, metrics={"accuracy": Accuracy()})
    params = task.initial(0)
    whole = task.evaluate(params, data)
    assert {name: values.shape for name, values in whole.items()} == dict(task.statistics)
    assert task.metrics == ("loss", "accuracy")
    monkeypatch.setattr("cohortium.learning.torch_task.CHUNK_BYTES", 7 * 36 * 4)
    pieces = [Part(data.x[i : i + 5], data.y[i : i + 5]) for i in range(0, 23, 5)]
    for other in (
        task.evaluate(params, data),
        sum_statistics([task.evaluate(params, piece) for piece in pieces]),
    ):
        assert other.keys() == whole.keys()
        for name, values in whole.items():
            np.testing.assert_allclose(other[name], values, rtol=1e-6)


def test_evaluation_is_pytorchs_own_in_evaluation_mode() -> None:
    data = make_part(23, (1, 6, 6))
    task = make_task(Net, metrics={"accuracy": Accuracy()})
    torch.manual_seed(6)
    module = Net().eval()
    statistics = task.evaluate(task.initial(6), data)
    with torch.no_grad():
        output, y = module(torch.tensor(data.x)), torch.tensor(data.y)
    loss = functional.cross_entropy(output, y).item()
    assert task.value("loss", statistics) == pytest.approx(loss, rel=1e-5)
    accuracy = (output.argmax(1) == y).float().mean().item()
    assert task.value("accuracy", statistics) == pytest.approx(accuracy)


def test_evaluation_without_rows_has_zero_statistics() -> None:
    task = make_task(mlp, metrics={"accuracy": Accuracy()})
    statistics = task.evaluate(task.initial(0), make_part(0))
    assert all(not values.any() for values in statistics.values())
    assert [task.value(name, statistics) for name in task.metrics] == [None, None]


def test_rows_gathered_in_pieces_train_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    task = make_task(mlp)
    job = make_job(task.initial(0), make_part(30))
    whole = train_one(task, job)
    monkeypatch.setattr("cohortium.learning.torch_task.CHUNK_BYTES", 6 * 5 * 4)
    assert train_one(task, job).digest == whole.digest


def reshaped(shape: tuple[int, ...]) -> ModuleSource:
    class Wrong(nn.Linear):
        def forward(self, x: Tensor) -> Any:
            return super().forward(x).reshape(shape)

    return lambda: Wrong(5, 2)


class Pair(nn.Linear):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x), None


class Importing(nn.Linear):
    def forward(self, x: Tensor) -> Any:
        import not_installed  # type: ignore[import-not-found]

        return not_installed.attend(super().forward(x))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (reshaped((2, -1)), r"shape \(2, 4\) .* batch of 4 rows; expected .* shape \(4, 2\)"),
        (lambda: nn.Linear(5, 3), r"shape \(4, 3\)"),
        (lambda: Pair(5, 2), "a tuple for a batch"),
        (lambda: Importing(5, 2), "ModuleNotFoundError .* 'not_installed'"),
        (lambda: nn.Linear(6, 2), "RuntimeError for a tensor of shape"),
        (lambda: nn.Embedding(3, 2), "RuntimeError for a tensor of shape"),
    ],
)
def test_a_module_that_does_not_fit_is_refused(source: ModuleSource, message: str) -> None:
    task = make_task(source)
    with pytest.raises(ModelError, match=message) as refusal:
        task.check(task.initial(0), make_part(8))
    assert "\n" not in str(refusal.value)


def test_a_loss_that_is_nan_at_once_is_refused() -> None:
    task = make_task(mlp)
    data = make_part(8)
    with pytest.raises(ModelError, match="a loss of nan on the first batch"):
        task.check(task.initial(0), Part(np.full_like(data.x, np.nan), data.y))


def test_a_last_batch_that_the_module_cannot_take_is_refused_beforehand() -> None:
    module = nn.Sequential(nn.Linear(5, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    task = make_task(lambda: copy.deepcopy(module))
    task.check(task.initial(0), make_part(10))
    with pytest.raises(ModelError, match="BatchNorm: use GroupNorm, or another batch_size"):
        task.check(task.initial(0), make_part(9))


def test_a_model_that_fits_passes_the_check_unchanged() -> None:
    task, data = make_task(Net), make_part(9, (1, 6, 6))
    start = task.initial(0)
    before = train_one(task, make_job(start, data))
    task.check(start, data)
    task.check(start, make_part(0, (1, 6, 6)))
    assert train_one(task, make_job(start, data)).digest == before.digest
