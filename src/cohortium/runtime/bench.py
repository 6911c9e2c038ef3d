"""A study with the records of its simulated sites: read and checked before the first step runs."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from heapq import nsmallest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cohortium.data.arrays import from_arrays
from cohortium.data.local import prepare_sites
from cohortium.data.prepare import Prepared, join, share_scale
from cohortium.data.sources import open_dataset
from cohortium.errors import ArgumentError, DataError, Problem
from cohortium.learning.task import LocalTask
from cohortium.plan.plan import Member, Plan
from cohortium.records import Part, SiteData
from cohortium.runtime.building import build, initial_model
from cohortium.study.arms import POOLED
from cohortium.study.bundle import Bundle
from cohortium.study.compile import compile_plan, roster
from cohortium.study.read import read
from cohortium.study.study import PYTHON, Study
from cohortium.types import Params, SiteId

if TYPE_CHECKING:
    from cohortium.learning.models import Model

TRIED = 20
"""How many sites' batches a model is tried on before the first step runs."""

StudyLike = Study | Bundle | str | Path | Mapping[str, Any]
"""A study, its bundle, its tables, or the path of a study file."""

Sites = Mapping[str, Any]
"""Site name to arrays, in any form that `data.arrays.from_arrays` takes."""


@dataclass(frozen=True)
class Bench:
    """A study, the sites' records, and what trains on them.

    Attributes:
        bundle: the study and its files.
        sites: each site's records, in roster order.
        trains: the sites that train.
        model: a model that Python handed over, instead of the study's.
        own_task: training and evaluation that Python handed over, instead of a torch model.
    """

    bundle: Bundle
    sites: Mapping[SiteId, Prepared]
    trains: tuple[SiteId, ...]
    model: Model | None = None
    own_task: LocalTask | None = None

    @classmethod
    def of(
        cls,
        study: StudyLike,
        sites: Sites | None = None,
        *,
        model: object = None,
        model_args: Mapping[str, Any] | None = None,
        task: LocalTask | None = None,
        data: str | Path | None = None,
        seed: int | None = None,
    ) -> Bench:
        """Read and check a study and its records; the arguments are those of `simulate`.

        Raises:
            InvalidInputError: with everything that is wrong.
        """
        _check_arguments(model, model_args, task)
        bundle = _bundle(study)
        if seed is not None:
            changed = bundle.study.override({"study.seed": seed}, where="arguments")
            bundle = replace(bundle, study=changed)
        built = None
        if model is not None:
            _check_one_model(bundle.study)
            from cohortium.learning.models import from_python  # needs torch

            built = from_python(model, model_args)
        if model is not None or task is not None:
            fingerprint = _fingerprint(model if task is None else task, model_args)
            bundle = replace(bundle, model_fingerprint=fingerprint)
        records = _records(bundle.study, sites, data, where=bundle.where)
        chosen = roster(bundle.study, tuple(records), where=bundle.where)
        found = {site: records[site] for site, _ in chosen}
        trains = tuple(site for site, does_train in chosen if does_train)
        if bundle.study.plan.rounds:
            _check_classes([found[site] for site in trains], where=bundle.where)
        bench = cls(bundle, found, trains, built, task)
        bench.plan()
        return bench

    @property
    def study(self) -> Study:
        """The study."""
        return self.bundle.study

    def plan(self) -> Plan:
        """Return the compiled plan of the study itself.

        Raises:
            StudyError: the sites do not fit it.
        """
        trains = frozenset(self.trains)
        members = [
            Member(site, len(prepared.raw.train), trains=site in trains)
            for site, prepared in self.sites.items()
        ]
        return compile_plan(self.bundle, members)

    def task(self, study: Study, *, members: int | None = None) -> LocalTask:
        """Return what trains and evaluates, as `study` (the bench's, or an arm's) wants it.

        Args:
            study: its task, and its local algorithm.
            members: how many copies of the model an ensemble averages; None for no ensemble.

        Raises:
            ModelError: the model cannot be built or does not fit the records.
        """
        if self.own_task is not None:
            return self.own_task
        first = self.sites[(self.trains or tuple(self.sites))[0]]
        return build(
            replace(self.bundle, study=study),
            first.raw.train.x.shape[1:],
            tried=self._tried(study),
            model=self.model,
            members=members,
        )

    def initial(self, study: Study, task: LocalTask) -> Params:
        """Return the model that round 1 of `study` (the bench's, or an arm's) starts from.

        Raises:
            ModelError: the file of `task.initial_model` does not hold this task's model.
        """
        return initial_model(replace(self.bundle, study=study), task)

    def _tried(self, study: Study) -> dict[str, Part]:
        """Return the rows of the sites on which a model is tried."""
        sites = self.trains or tuple(self.sites)
        rows = {site: len(self.sites[site].raw.train) for site in sites}
        trained = telling(rows, study.task.batch_size) if study.plan.rounds else []
        return {site: self.sites[site].data.train for site in trained or sites[:1]}

    @property
    def data(self) -> dict[SiteId, SiteData]:
        """Every site's records on its own scale."""
        return {site: prepared.data for site, prepared in self.sites.items()}

    @cached_property
    def pooled(self) -> dict[SiteId, SiteData]:
        """All training records together, and every site's, on the scale of all of them.

        Only a comparison can do this; no federation ever sees records of two sites.
        """
        training = join(share_scale([self.sites[site] for site in self.trains])).train
        together = {SiteId(POOLED): SiteData(training, training.none(), training.none())}
        everyone = share_scale(list(self.sites.values()))
        return together | dict(zip(self.sites, everyone, strict=True))


def _bundle(study: StudyLike) -> Bundle:
    match study:
        case Bundle():
            return study
        case Study():
            return Bundle.of(study)
        case str() | Path():
            return read(study)
        case Mapping():
            return Bundle.of(Study.from_dict(study))
        case _:
            got = f"a {type(study).__name__}"
            expected = "a Study, its tables, or the path of a study file"
            raise ArgumentError(Problem(PYTHON, "study", got, expected))


def _records(
    study: Study, sites: Sites | None, data: str | Path | None, *, where: str
) -> dict[str, Prepared]:
    kind, classes, seed = study.task.kind, study.task.classes, study.study.seed
    schema = study.data
    if sites is not None:
        return from_arrays(sites, schema=schema, task_kind=kind, classes=classes, seed=seed)
    if schema.dataset is None:
        advice = "Name one in data.dataset, or pass sites={...} in Python"
        raise ArgumentError(Problem(where, "data.dataset", "nothing", "a dataset", advice))
    records = open_dataset(schema.dataset, None if data is None else Path(data), where=where)
    chosen, _ = zip(*roster(study, tuple(records), where=where), strict=True)
    return prepare_sites({site: records[site] for site in chosen}, study)


def _check_arguments(
    model: object, model_args: Mapping[str, Any] | None, task: LocalTask | None
) -> None:
    """Refuse arguments that would not be used."""
    if model is None and model_args is not None:
        got, expected = "arguments, and no model", "a model that takes them"
        advice = "Pass model=, or write the arguments in task.model.args of the study"
        raise ArgumentError(Problem(PYTHON, "model_args", got, expected, advice))
    if model is not None and task is not None:
        got, expected = "a task beside a model", "one of the two"
        advice = "A task brings its own model: remove model="
        raise ArgumentError(Problem(PYTHON, "task", got, expected, advice))


def _check_one_model(study: Study) -> None:
    if study.task.model is not None:
        got, expected = "a model object beside the study's task.model", "one of the two"
        advice = "Remove task.model from the study, or do not pass a model"
        raise ArgumentError(Problem(PYTHON, "model", got, expected, advice))


def telling(rows: Mapping[SiteId, int], batch_size: int) -> list[SiteId]:
    """Return at most `TRIED` sites on which a model may fail in unlike ways, in roster order.

    They have last batches of as many lengths as there are, the shortest first.

    Args:
        rows: training rows by site.
        batch_size: rows per batch.

    >>> whole = {SiteId(f"hospital-{i}"): 64 for i in range(100)}
    >>> telling({**whole, SiteId("odd"): 65}, 64)[-1]
    'odd'
    """
    last = {site: (n - 1) % batch_size for site, n in rows.items()}
    first = {length: site for site, length in reversed(last.items())}
    chosen = set(nsmallest(TRIED, rows, key=lambda s: (first[last[s]] != s, last[s])))
    return [site for site in rows if site in chosen]


def _check_classes(sites: Sequence[Prepared], *, where: str) -> None:
    """Refuse one class over all training rows: one site may have one, all together may not."""
    counts = [prepared.summary.class_counts for prepared in sites]
    totals = [sum(column) for column in zip(*counts, strict=True)]
    present = [index for index, total in enumerate(totals) if total]
    if len(present) == 1:
        got = f"class {present[0]} in all {totals[present[0]]} training rows of all sites"
        advice = "Check data.target, data.positive and data.cohort"
        raise DataError(Problem(where, "data.target", got, "at least two classes", advice))


def _fingerprint(model: object, args: Mapping[str, Any] | None) -> str:
    """Identify a Python object as well as its source and its arguments can; hex SHA-256.

    A model that must be known by its bytes belongs into a file beside the study.
    """
    cls = model if inspect.isclass(model) or inspect.isroutine(model) else type(model)
    try:
        source = inspect.getsource(cls)
    except (OSError, TypeError):
        source = ""
    text = json.dumps([cls.__module__, cls.__qualname__, source, repr(args), str(model)])
    return hashlib.sha256(text.encode()).hexdigest()
