"""Linear models in numpy, against the same models in PyTorch."""

from __future__ import annotations

import subprocess
import sys
from itertools import count
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import cohortium as co
from cohortium.errors import ModelError
from cohortium.learning.build import build_task
from cohortium.learning.fedprox import FedProx
from cohortium.learning.losses import Bce, BceWithLogits, CrossEntropy, Mse
from cohortium.learning.metrics import R2, Accuracy, Auroc, Brier, Mae
from cohortium.learning.models import Linear
from cohortium.learning.numpy_task import NumpyTask
from cohortium.learning.optimizers import Adam, Sgd
from cohortium.learning.plain import Plain
from cohortium.learning.task import Cursor, LocalTask, Trained, TrainJob, Work
from cohortium.records import Part
from cohortium.types import Params, sum_statistics

KINDS: dict[str, dict[str, Any]] = {
    "binary-classification": {
        "loss": BceWithLogits(),
        "metrics": [Auroc(resolution=16), Accuracy(), Brier()],
    },
    "multiclass-classification": {
        "loss": CrossEntropy(),
        "metrics": [Accuracy(), Brier()],
        "classes": 3,
    },
    "regression": {"loss": Mse(), "metrics": [Mae(), R2()]},
}


def make_task(
    kind: str, framework: str = "numpy", inputs: tuple[int, ...] = (4,), **more: Any
) -> Any:
    given_: dict[str, Any] = {
        "kind": kind,
        "inputs": inputs,
        "model": Linear(framework=framework),  # type: ignore[arg-type]
        "optimizer": Sgd(lr=0.05),
        "algorithm": Plain(),
        "batch_size": 4,
        **KINDS[kind],
    }
    return build_task(**{**given_, **more})


def make_part(kind: str, rows: int, *, seed: int = 0) -> Part:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 4)).astype(np.float32)
    if kind == "regression":
        return Part(x, rng.normal(size=rows).astype(np.float32))
    if kind == "multiclass-classification":
        return Part(x, rng.integers(0, 3, rows))
    return Part(x, rng.integers(0, 2, rows).astype(np.float32))


def make_job(params: Params, data: Part, work: Work, cursor: Cursor | None = None) -> TrainJob:
    return TrainJob("a", 1, 7, params, data, work, cursor or Cursor())


def params_of(trained: Trained) -> Params:
    assert trained.update.params is not None
    return trained.update.params


def floats(array: Any) -> NDArray[np.float64]:
    return np.asarray(array, np.float64)


@given(
    kind=st.sampled_from(sorted(KINDS)),
    rows=st.integers(1, 21),
    epochs=st.integers(1, 3),
    momentum=st.sampled_from([0.0, 0.9]),
    decay=st.sampled_from([0.0, 0.1]),
    mu=st.sampled_from([None, 0.0, 0.3]),
)
@settings(max_examples=40, deadline=None)
def test_both_frameworks_end_with_the_same_model_and_measure_it_alike(
    kind: str, rows: int, epochs: int, momentum: float, decay: float, mu: float | None
) -> None:
    more: dict[str, Any] = {
        "optimizer": Sgd(lr=0.05, momentum=momentum, weight_decay=decay),
        "algorithm": Plain() if mu is None else FedProx(mu=mu),
    }
    ours, theirs = make_task(kind, **more), make_task(kind, "torch", **more)
    assert isinstance(ours, NumpyTask)
    assert not isinstance(theirs, NumpyTask)
    assert (ours.layout, ours.metrics, ours.statistics) == (
        theirs.layout,
        theirs.metrics,
        theirs.statistics,
    )
    data = make_part(kind, rows)
    job = make_job(theirs.initial(3), data, Work(epochs=epochs))
    [mine], [other] = ours.train([job]), theirs.train([job])
    assert (mine.cursor, mine.update.weight) == (other.cursor, other.update.weight)
    for name in ours.layout.slices:
        assert params_of(mine)[name].dtype == np.float32
        array, expected_array = (floats(params_of(trained)[name]) for trained in (mine, other))
        np.testing.assert_allclose(array, expected_array, rtol=1e-5, atol=1e-6)
    same = params_of(other)
    measured, expected = ours.evaluate(same, data), theirs.evaluate(same, data)
    for metric in ours.metrics:
        value = theirs.value(metric, expected)
        assert ours.value(metric, measured) == (
            None if value is None else pytest.approx(value, rel=1e-5, abs=1e-6)
        )


def test_extreme_outputs_are_measured_as_pytorch_measures_them() -> None:
    x = np.array([[100.0], [-100.0], [1e30], [-1e30]], np.float32)
    params = Params.of({"weight": np.ones((1, 1), np.float32), "bias": np.zeros(1, np.float32)})
    for kind, y in (("binary-classification", [0, 1, 1, 0]), ("regression", [0, 0, 0, 0])):
        data = Part(x, np.array(y, np.float32))
        ours, theirs = (make_task(kind, f, inputs=(1,)) for f in ("numpy", "torch"))
        assert ours.value("loss", ours.evaluate(params, data)) == pytest.approx(
            theirs.value("loss", theirs.evaluate(params, data))
        )


def test_initial_parameters_follow_the_seed_within_pytorchs_bounds() -> None:
    task = make_task("multiclass-classification", inputs=(400,))
    params = task.initial(5)
    assert params.digest == task.initial(5).digest != task.initial(6).digest
    values = np.asarray(params.buffers["float32"], np.float64)
    assert np.abs(values).max() <= 1 / 20
    assert values.std() == pytest.approx(1 / 20 / 3**0.5, rel=0.05)


@pytest.mark.parametrize("kind", KINDS)
def test_rounds_of_steps_equal_one_long_round(kind: str) -> None:
    task, data = make_task(kind), make_part(kind, 10)
    start = params = task.initial(0)
    cursor = Cursor()
    for steps in (1, 4, 3):
        (trained,) = task.train([make_job(params, data, Work(steps=steps), cursor)])
        params, cursor = params_of(trained), trained.cursor
    (whole,) = task.train([make_job(start, data, Work(steps=8))])
    assert (params.digest, cursor) == (params_of(whole).digest, whole.cursor)


def test_a_site_may_train_for_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    task, data = make_task("regression"), make_part("regression", 10)
    start, looks = task.initial(0), count()
    monkeypatch.setattr("cohortium.learning.batches.monotonic", lambda: float(next(looks)))
    (timed,) = task.train([make_job(start, data, Work(seconds=8))])
    (counted,) = task.train([make_job(start, data, Work(steps=8))])
    assert params_of(timed).digest == params_of(counted).digest
    assert timed.cursor == counted.cursor


def test_evaluation_comes_in_pieces_that_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = "binary-classification"
    task, data = make_task(kind), make_part(kind, 11)
    params = task.initial(0)
    whole = task.evaluate(params, data)
    monkeypatch.setattr("cohortium.learning.numpy_task.CHUNK", 4)
    for name, values in task.evaluate(params, data).items():
        np.testing.assert_allclose(values, whole[name])
    none = task.evaluate(params, data.none())
    assert sum_statistics([whole, none]).keys() == task.statistics.keys()
    assert [task.value(metric, none) for metric in task.metrics] == [None] * 4


def test_a_training_that_diverges_says_so_without_a_warning() -> None:
    task = make_task("regression", optimizer=Sgd(lr=1e30))
    job = make_job(task.initial(0), make_part("regression", 10), Work(epochs=3))
    with np.errstate(all="raise"):  # as an outer caller may have it
        (trained,) = task.train([job])
    assert not params_of(trained).is_finite()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loss": Bce()}, "'numpy' with Bce, Sgd, Plain; expected parts among BceWithLogits"),
        ({"optimizer": Adam()}, "'numpy' with BceWithLogits, Adam, Plain"),
        ({"inputs": (2, 2)}, "'linear' for rows of shape"),
        ({"members": 2}, "in an ensemble"),
    ],
)
def test_what_numpy_cannot_do_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        make_task("binary-classification", **change)


def test_rows_that_do_not_fit_are_found_before_anything_runs() -> None:
    task = make_task("regression")
    params = task.initial(0)
    task.check(params, make_part("regression", 3))
    task.check(params, make_part("regression", 3).none())
    with pytest.raises(ModelError, match=r"rows of shape \(3,\); expected shape \(4,\)"):
        task.check(params, Part(np.zeros((2, 3), np.float32), np.zeros(2, np.float32)))
    far = Part(np.full((2, 4), 3e38, np.float32), np.zeros(2, np.float32))
    with pytest.raises(ModelError, match="a loss that is not finite on the first batch"):
        task.check(params, far)


WITHOUT_TORCH = """
import sys
import numpy as np
import cohortium as co
rng = np.random.default_rng(0)
sites = {site: (rng.normal(size=(20, 3)), rng.integers(0, 2, 20)) for site in "ab"}
study = {
    "study": {"name": "light", "purpose": "Train without PyTorch."},
    "task": {
        "kind": "binary-classification",
        "model": {"kind": "linear", "framework": "numpy"},
        "optimizer": {"kind": "sgd", "lr": 0.1},
    },
    "data": {"split": {"test": 0.0}},
    "plan": {"rounds": 2, "local": {"epochs": 1}},
}
result = co.simulate(study, sites)
assert result.model["weight"].shape == (1, 3)
assert not {"torch", "sklearn"} & set(sys.modules)
"""


def test_a_study_runs_without_pytorch() -> None:
    subprocess.run([sys.executable, "-c", WITHOUT_TORCH], check=True)


def test_an_arm_that_numpy_cannot_do_is_refused_before_anything_runs() -> None:
    rng = np.random.default_rng(0)
    sites = {site: (rng.normal(size=(20, 3)), rng.integers(0, 2, 20)) for site in "ab"}
    study = {
        "study": {"name": "light", "purpose": "Train without PyTorch."},
        "task": {
            "kind": "binary-classification",
            "model": {"kind": "linear", "framework": "numpy"},
            "optimizer": {"kind": "sgd", "lr": 0.1},
        },
        "plan": {"rounds": 2, "local": {"epochs": 1}},
    }
    with pytest.raises(ModelError, match="leave the ensemble out"):
        co.compare(study, sites, arms=("single", "ensemble"))
    assert co.compare(study, sites, arms=("pooled", "single")).arms.keys() == {"pooled", "single"}


def test_it_is_a_local_task() -> None:
    task: LocalTask = make_task("regression")
    data = make_part("regression", 4)
    assert task.block_size(make_job(task.initial(0), data, Work(steps=1))) == 1
