"""Tasks from the settings of a study, and what needs PyTorch for it."""

from __future__ import annotations

import subprocess
import sys
from typing import Any, get_args

import numpy as np
import pytest

from cohortium.errors import ModelError, StudyError
from cohortium.learning.build import build_task, model_outputs
from cohortium.learning.losses import LOSSES, BceWithLogits, CrossEntropy, Mse
from cohortium.learning.metrics import METRICS, Accuracy, Auroc, Mae, MeanLoss
from cohortium.learning.models import Linear, Mlp, join_members
from cohortium.learning.optimizers import Sgd
from cohortium.learning.plain import Plain
from cohortium.learning.task import Cursor, LocalTask, TaskKind, TrainJob, Work
from cohortium.records import Part

BINARY: dict[str, Any] = {
    "kind": "binary-classification",
    "inputs": (3,),
    "model": Linear(),
    "loss": BceWithLogits(),
    "optimizer": Sgd(lr=0.1),
    "algorithm": Plain(),
    "metrics": [Auroc(resolution=64), Accuracy()],
    "batch_size": 4,
}


def make_part(rows: int, *, classes: int = 2) -> Part:
    rng = np.random.default_rng(0)
    y = rng.integers(0, classes, rows)
    x = rng.normal(size=(rows, 3)).astype(np.float32)
    return Part(x, y if classes > 2 else y.astype(np.float32))


def test_a_binary_task_trains_and_measures() -> None:
    task: LocalTask = build_task(**BINARY)
    assert task.metrics == ("loss", "auroc", "accuracy")
    assert task.statistics["auroc.positives"] == (64,)
    data, start = make_part(20), task.initial(0)
    job = TrainJob("a", 1, 0, start, data, Work(epochs=20), Cursor())
    params = task.train([job])[0].update.params
    assert params is not None
    before, after = task.evaluate(start, data), task.evaluate(params, data)
    loss = [task.value("loss", statistics) for statistics in (before, after)]
    assert loss[0] is not None
    assert loss[1] is not None
    assert loss[1] < loss[0]


def test_a_multiclass_and_a_regression_task() -> None:
    many = build_task(
        **{**BINARY, "kind": "multiclass-classification", "loss": CrossEntropy(), "metrics": []},
        classes=3,
    )
    assert many.layout.slices["weight"][2] == (3, 3)
    many.check(many.initial(0), make_part(9, classes=3))
    value = build_task(**{**BINARY, "kind": "regression", "loss": Mse(), "metrics": [Mae()]})
    value.check(value.initial(0), make_part(9))
    assert value.metrics == ("loss", "mae")


def test_an_ensemble_is_evaluated_on_its_members_parameters() -> None:
    single, data = build_task(**BINARY), make_part(20)
    both = build_task(**BINARY, members=2)
    params = single.initial(0)
    joined = join_members([params, params])
    assert joined.layout == both.layout
    alone, together = single.evaluate(params, data), both.evaluate(joined, data)
    for metric in single.metrics:
        assert both.value(metric, together) == pytest.approx(single.value(metric, alone), rel=1e-5)


def test_the_loss_may_be_named_among_the_metrics() -> None:
    task = build_task(**{**BINARY, "metrics": [MeanLoss(), Accuracy()]})
    assert task.metrics == ("loss", "accuracy")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loss": Mse()}, "task.loss: got 'mse' for binary.*one of bce, bce-with-logits"),
        ({"metrics": [Mae()]}, "task.metrics: got 'mae' for binary.*accuracy"),
        ({"metrics": [Auroc(), Auroc(resolution=9)]}, "'auroc' twice"),
        ({"classes": 2}, "task.classes: got 2 classes for binary"),
        ({"kind": "multiclass-classification"}, "no number of classes"),
        ({"kind": "multiclass-classification", "classes": 1}, "1 classes"),
    ],
)
def test_parts_that_do_not_fit_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(StudyError, match=message):
        build_task(**{**BINARY, **change}, where="study.toml")


def test_all_that_is_wrong_is_told_at_once() -> None:
    with pytest.raises(StudyError) as refusal:
        build_task(**{**BINARY, "loss": Mse(), "metrics": [Mae()]}, where="study.toml")
    assert len(refusal.value.problems) == 2
    assert {problem.where for problem in refusal.value.problems} == {"study.toml"}


def test_images_want_a_model_of_their_own() -> None:
    with pytest.raises(ModelError, match='kind = "code"'):
        build_task(**{**BINARY, "inputs": (28, 28), "model": Mlp(hidden=(4,))})


def test_every_loss_and_metric_fits_some_task() -> None:
    for kind in get_args(TaskKind):
        assert model_outputs(kind, 3 if kind.startswith("multi") else None) in (1, 3)
        assert [name for name in LOSSES if kind in LOSSES[name].tasks]  # type: ignore[attr-defined]
        assert [name for name in METRICS if kind in METRICS[name].tasks]  # type: ignore[attr-defined]


IMPORTS = """
import sys
import cohortium.learning.build
from cohortium.learning.algorithm import LOCAL_ALGORITHMS
from cohortium.learning.losses import LOSSES
from cohortium.learning.metrics import METRICS
from cohortium.learning.models import MODELS
from cohortium.learning.optimizers import OPTIMIZERS
for table in (LOCAL_ALGORITHMS, LOSSES, METRICS, MODELS, OPTIMIZERS):
    for kind in table:
        table[kind]
assert not {"torch", "sklearn", "safetensors"} & set(sys.modules)
"""


def test_reading_settings_imports_no_pytorch() -> None:
    subprocess.run([sys.executable, "-c", IMPORTS], check=True)
