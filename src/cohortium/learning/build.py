"""From the settings of a study's task to the task itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cohortium.errors import ModelError, Problem, StudyError
from cohortium.learning.algorithm import LocalAlgorithm
from cohortium.learning.losses import LOSSES, Loss
from cohortium.learning.metrics import METRICS, Metric, by_name
from cohortium.learning.models import NO_FILES, Ensemble, Files, Linear, Model, row_width
from cohortium.learning.numpy_task import NumpyTask
from cohortium.learning.optimizers import Optimizer
from cohortium.learning.pytorch import require_torch
from cohortium.learning.task import TaskKind

if TYPE_CHECKING:
    from cohortium.learning.torch_task import TorchTask


def build_task(
    *,
    kind: TaskKind,
    inputs: tuple[int, ...],
    model: Model,
    loss: Loss,
    optimizer: Optimizer,
    algorithm: LocalAlgorithm,
    metrics: Sequence[Metric],
    batch_size: int,
    classes: int | None = None,
    files: Files = NO_FILES,
    members: int | None = None,
    where: str = "<python>",
) -> TorchTask | NumpyTask:
    """Return the task that a study's settings describe.

    Args:
        kind: what is predicted.
        inputs: shape of one row, without the batch, such as (13,).
        model: a part of `MODELS`, or what `from_python` returns.
        loss: a part of `LOSSES`.
        optimizer: a part of `OPTIMIZERS`.
        algorithm: a part of `LOCAL_ALGORITHMS`.
        metrics: parts of `METRICS`, each kind once; the loss is always measured.
        batch_size: rows per batch.
        classes: number of classes, for multiclass classification only.
        files: those of the study's bundle, path to content.
        members: how many copies of the model an ensemble averages; None for no ensemble.
        where: the study's file, for messages.

    Raises:
        StudyError: the parts do not fit each other, or the bundle lacks a code file.
        ModelError: the model cannot be built, or PyTorch, which it needs, is not installed.
    """
    outputs = model_outputs(kind, classes, where=where)
    named = by_name(metrics, where=where)
    _check_fit(kind, loss=loss, metrics=named, where=where)
    if isinstance(model, Linear) and model.framework == "numpy":
        if members is not None:
            raise _no_ensemble()
        return NumpyTask(
            inputs=row_width(inputs, "linear"),
            outputs=outputs,
            loss=loss,
            optimizer=optimizer,
            algorithm=algorithm,
            metrics=named,
            batch_size=batch_size,
        )
    if members is not None:
        model = Ensemble(model, members, loss)
    source = model.source(inputs=inputs, outputs=outputs, files=files)
    require_torch()
    from cohortium.learning.torch_task import TorchTask

    return TorchTask(
        source=source,
        outputs=outputs,
        loss=loss,
        optimizer=optimizer,
        algorithm=algorithm,
        metrics=named,
        batch_size=batch_size,
    )


def _no_ensemble() -> ModelError:
    got, expected = "framework = 'numpy' in an ensemble", "'torch': only such models are averaged"
    advice = 'Write framework = "torch", or leave the ensemble out.'
    return ModelError(Problem("<model>", "framework", got, expected, advice))


def model_outputs(kind: TaskKind, classes: int | None, *, where: str = "<python>") -> int:
    """Return how many values a model gives per row: the number of classes, else 1.

    >>> model_outputs("multiclass-classification", 3), model_outputs("regression", None)
    (3, 1)
    """
    is_multiclass = kind == "multiclass-classification"
    if is_multiclass == (classes is not None) and (classes is None or classes >= 2):
        return classes or 1
    got = "no number of classes" if classes is None else f"{classes} classes for {kind}"
    expected = "2 classes or more for multiclass-classification, and none for other kinds"
    raise StudyError(Problem(where, "task.classes", got, expected))


def _check_fit(kind: TaskKind, *, loss: Loss, metrics: dict[str, Metric], where: str) -> None:
    problems = []
    if kind not in loss.tasks:
        fitting = [name for name in LOSSES if kind in LOSSES[name].tasks]  # type: ignore[attr-defined]
        got = f"{LOSSES.kind_of(loss)!r} for {kind}"
        problems.append(Problem(where, "task.loss", got, f"one of {', '.join(fitting)}"))
    for name, metric in metrics.items():
        if kind not in metric.tasks:
            fitting = [name for name in METRICS if kind in METRICS[name].tasks]  # type: ignore[attr-defined]
            got = f"{name!r} for {kind}"
            problems.append(Problem(where, "task.metrics", got, f"one of {', '.join(fitting)}"))
    if problems:
        raise StudyError(*problems)
