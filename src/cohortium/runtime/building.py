"""From a study's bundle to what trains and evaluates, and to the model that it starts from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from cohortium.errors import ArgumentError, ModelError, Problem
from cohortium.learning.build import build_task
from cohortium.learning.model_file import from_bytes
from cohortium.learning.optimizers import Sgd
from cohortium.learning.task import LocalTask
from cohortium.records import Part
from cohortium.study.bundle import Bundle
from cohortium.study.study import PYTHON
from cohortium.types import Params

if TYPE_CHECKING:
    from cohortium.learning.models import Model
    from cohortium.learning.numpy_task import NumpyTask
    from cohortium.learning.torch_task import TorchTask


def build(
    bundle: Bundle,
    inputs: tuple[int, ...],
    *,
    tried: Mapping[str, Part],
    model: Model | None = None,
    members: int | None = None,
) -> TorchTask | NumpyTask:
    """Return the task of a study, once its model has trained on a batch of some sites.

    Args:
        bundle: the study and its files.
        inputs: shape of one row.
        tried: rows of the sites on whose batches the model is tried; nothing is changed.
        model: instead of the study's.
        members: how many copies of the model an ensemble averages; None for no ensemble.

    Raises:
        ArgumentError: there is no model.
        ModelError: the model cannot be built or does not fit the records.
    """
    chosen = model or bundle.study.task.model
    if chosen is None:
        got, expected = "no model", "task.model in the study, or a model object"
        raise ArgumentError(Problem(PYTHON, "model", got, expected))
    try:
        task = _built(bundle, inputs, model=chosen, members=members)
        _try(task, bundle.study.study.seed, tried)
    except ModelError as error:
        placed = [_placed(p, bundle) if model is None else p for p in error.problems]
        raise ModelError(*placed) from error
    except SystemExit as error:  # of the model's code
        got, expected = f"code that ends the program (exit {error.code})", "code that returns"
        advice = "Remove the call of sys.exit from it"
        raise ModelError(Problem(bundle.where, "task.model", got, expected, advice)) from error
    return task


def initial_model(bundle: Bundle, task: LocalTask) -> Params:
    """Return the model that round 1 starts from.

    Raises:
        ModelError: the file of `task.initial_model` does not hold this task's model.
    """
    file = bundle.study.task.initial_model
    if file is None:
        return task.initial(bundle.study.study.seed)
    return from_bytes(bundle.files[file], task.layout, where=file)


def _built(
    bundle: Bundle, inputs: tuple[int, ...], *, model: Model, members: int | None
) -> TorchTask | NumpyTask:
    study = bundle.study
    return build_task(
        kind=study.task.kind,
        classes=study.task.classes,
        inputs=inputs,
        model=model,
        loss=study.task.loss,
        optimizer=study.task.optimizer or Sgd(lr=1.0),  # a study that only evaluates has none
        algorithm=study.plan.algorithm,
        metrics=study.task.metrics,
        members=members,
        batch_size=study.task.batch_size,
        files=bundle.files,
    )


def _try(task: TorchTask | NumpyTask, seed: int, tried: Mapping[str, Part]) -> None:
    """Raise if the model fails on a whole or a last batch of a site."""
    params = task.initial(seed)
    for site, rows in tried.items():
        try:
            task.check(params, rows)
        except ModelError as error:
            problems = [replace(p, where=f"{p.where} at {site}") for p in error.problems]
            raise ModelError(*problems) from error


def _placed(problem: Problem, bundle: Bundle) -> Problem:
    """Say in which file the model stands that a problem is about, where it is in one."""
    if not problem.where.startswith("<model>"):
        return problem
    site = problem.where.removeprefix("<model>")
    return replace(problem, where=bundle.where, key=f"task.model{site}")
