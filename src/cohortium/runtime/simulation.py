"""Simulations: a study on this machine, every site a party of its own, by the same plan and actors.

`simulate` runs the study; `compare` runs other ways of training on the same hospitals beside it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from cohortium.errors import (
    ArgumentError,
    Problem,
    StudyError,
)
from cohortium.learning.models import join_members
from cohortium.learning.pytorch import fitting_threads
from cohortium.learning.task import LocalTask
from cohortium.plan.plan import Member, Plan
from cohortium.records import SiteData
from cohortium.registry import UnknownKindError
from cohortium.runtime.agreeing import agree, better, work_of
from cohortium.runtime.arms import Trained
from cohortium.runtime.bench import Bench, Sites, StudyLike
from cohortium.runtime.checkpoints import JOURNAL, FolderCheckpoints
from cohortium.runtime.engine import ENGINES, Engine, Federation, Observer
from cohortium.runtime.environment import environment
from cohortium.runtime.outcome import check_finished, outcome
from cohortium.runtime.result import Result
from cohortium.runtime.training import Training
from cohortium.study.arms import ARMS, POOLED, Variant
from cohortium.study.compile import compile_plan
from cohortium.types import Params, SiteId


def simulate(
    study: StudyLike,
    sites: Sites | None = None,
    *,
    model: object = None,
    model_args: Mapping[str, Any] | None = None,
    task: LocalTask | None = None,
    data: str | Path | None = None,
    engine: str = "auto",
    seed: int | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    observer: Observer | None = None,
) -> Result:
    """Run a study on this machine and return what it gave.

    Args:
        study: a study, its tables, or the path of a study file.
        sites: own arrays by site, such as `{"a": (x, y)}`; by default the study's dataset is read.
        model: a torch module, a class of modules or a function that builds one, instead of
            `task.model`.
        model_args: arguments of that class or function.
        task: training and evaluation of your own, instead of a torch model.
        data: folder of the dataset's files.
        engine: "sequential", "vectorised", or "auto": vectorised where the model has a kernel.
        seed: instead of the study's.
        out: folder for checkpoints, so that `resume` can go on after a kill.
        resume: go on from the checkpoints in `out`, to the same bits.
        observer: is told of progress.

    Returns:
        The result; its only arm is "federated".

    Raises:
        InvalidInputError: the study, the data, the model or an argument is wrong.
        RunFailedError: the run started and did not reach a consensus model.
    """
    return compare(
        study,
        sites,
        arms=("federated",),
        model=model,
        model_args=model_args,
        task=task,
        data=data,
        engine=engine,
        seed=seed,
        out=out,
        resume=resume,
        observer=observer,
    )


def compare(
    study: StudyLike,
    sites: Sites | None = None,
    *,
    arms: Sequence[str] = ("pooled", "federated", "single"),
    model: object = None,
    model_args: Mapping[str, Any] | None = None,
    task: LocalTask | None = None,
    data: str | Path | None = None,
    engine: str = "auto",
    seed: int | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    observer: Observer | None = None,
) -> Result:
    """Run several ways of training on the same hospitals.

    `arms` are of `study.arms.ARMS`; the model of the result is that of the federated arm, or else
    of the first. Only a federated model is judged by the criteria that its sites agreed on. See
    `simulate` for the other arguments.

    Raises:
        InvalidInputError: the study, the data, the model or an argument is wrong.
        RunFailedError: an arm did not reach a model.
    """
    check_arguments(arms, engine, out=out, resume=resume)
    bench = Bench.of(
        study, sites, model=model, model_args=model_args, task=task, data=data, seed=seed
    )
    if not bench.study.plan.rounds and tuple(arms) != ("federated",):
        got, expected = "plan.rounds = 0", "a study that trains, or the arm federated alone"
        raise ArgumentError(Problem("study", "plan.rounds", got, expected))
    folder = None if out is None else Path(out) / JOURNAL
    runner = _Runner(bench, engine, folder, resume, observer)
    if tuple(arms) != ("federated",):  # which would be refused before its first step anyway
        runner.check(arms)
    return runner.result(arms)


@dataclass
class _Runner:
    """Runs the arms of one comparison."""

    bench: Bench
    engine: str
    folder: Path | None
    resume: bool
    observer: Observer | None
    singles: list[Trained] = field(default_factory=list)

    @cached_property
    def records(self) -> dict[SiteId, str]:
        """A fingerprint of each site's records; a run is resumed with these only."""
        return {site: prepared.raw.digest for site, prepared in self.bench.sites.items()}

    def check(self, arms: Sequence[str]) -> None:
        """Refuse, before anything runs, what an arm could not run.

        Raises:
            InvalidInputError: the sites, the model or the task do not fit an arm.
        """
        for arm in arms:
            try:
                self._check_arm(arm)
            except StudyError as error:
                arms_own = arm != "federated"
                told = [_of_arm(p, arm) if arms_own else p for p in error.problems]
                raise StudyError(*told) from error

    def _check_arm(self, arm: str) -> None:
        if arm == "ensemble" and self.bench.own_task is not None:
            got, expected = "a task of your own", "a torch model: only those can be averaged"
            raise _argument_error("arms", got, expected, "Leave out ensemble")
        variants = ARMS[arm].variants(self.bench.study, self.bench.trains)
        for variant in variants:
            self._plan(variant, self._data(variant))
        if variants:  # they differ in who trains, not in the model
            self.bench.initial(variants[0].study, self.bench.task(variants[0].study))
        if arm == "ensemble":
            self.bench.task(variants[0].study, members=len(variants))

    def result(self, arms: Sequence[str]) -> Result:
        """Run the arms in order and put together what they gave."""
        begun = time.perf_counter()
        bench, trains = self.bench, frozenset(self.bench.trains)
        ran = {name: self._arm(name) for name in arms}
        return outcome(
            bench.bundle,
            ran,
            sites={str(site): len(prepared.raw.train) for site, prepared in bench.sites.items()},
            evaluation_only=tuple(site for site in bench.sites if site not in trains),
            warnings=[w for p in bench.sites.values() for w in p.summary.warnings],
            seconds=time.perf_counter() - begun,
            environment=environment(),
        )

    def _arm(self, name: str) -> list[Trained]:
        if name == "ensemble":
            return [self._ensemble()]
        variants = ARMS[name].variants(self.bench.study, self.bench.trains)
        trained = [self._train(name, variant) for variant in variants]
        if name == "single":
            self.singles = trained
        return trained

    def _train(self, arm: str, variant: Variant) -> Trained:
        data = self._data(variant)
        task = self.bench.task(variant.study)
        plan = self._plan(variant, data)
        initial = partial(self.bench.initial, variant.study, task)
        return self._run(arm, variant, plan=plan, data=data, task=task, initial=initial)

    def _data(self, variant: Variant) -> Mapping[SiteId, SiteData]:
        return self.bench.pooled if variant.trains == (POOLED,) else self.bench.data

    def _ensemble(self) -> Trained:
        """Average the scores of the single-site models: evaluate only."""
        singles = self.singles or self._arm("single")
        study = singles[0].variant.study
        task = self.bench.task(study, members=len(singles))
        variant = Variant("", study, self.bench.trains)
        plan = replace(self._plan(variant, self.bench.data), rounds=0)
        initial = partial(join_members, [t.model for t in singles])
        return self._run(
            "ensemble", variant, plan=plan, data=self.bench.data, task=task, initial=initial
        )

    def _plan(self, variant: Variant, data: Mapping[SiteId, SiteData]) -> Plan:
        trains = frozenset(variant.trains)
        members = [
            Member(site, len(records.train), trains=site in trains)
            for site, records in data.items()
        ]
        bundle = replace(self.bench.bundle, study=variant.study)
        return compile_plan(bundle, members)

    def _run(
        self,
        arm: str,
        variant: Variant,
        *,
        plan: Plan,
        data: Mapping[SiteId, SiteData],
        task: LocalTask,
        initial: Callable[[], Params],
    ) -> Trained:
        study = variant.study
        federation = Federation(
            agreement=agree(
                study,
                plan,
                layout=task.layout,
                shapes=task.statistics,
                metrics=task.metrics,
                value=task.value,
            ),
            training=Training(task, data, work_of(study), study.study.seed),
            initial=initial,
        )
        engine = self._choose(federation)
        checkpoints, resumed = self._checkpoints(arm, variant, plan, engine)
        if self.observer is not None:
            title = ARMS[arm].title + (f": {variant.name}" if variant.name else "")
            self.observer.run_started(title, plan.rounds)
        begun = time.perf_counter()
        with fitting_threads(task.layout.nbytes):
            finished = engine.run(
                federation, observer=self.observer, checkpoints=checkpoints, resume=resumed
            )
        seconds = time.perf_counter() - begun
        check_finished(finished, plan)
        return Trained(variant, finished, plan, task.value, better(study, task.metrics), seconds)

    def _choose(self, federation: Federation) -> Engine:
        kind = self.engine
        if kind == "auto":
            blocks = len(federation.agreement.plan.trainers) > 1 and federation.has_kernel
            kind = "vectorised" if blocks else "sequential"
        engine: Engine = ENGINES[kind]()
        return engine

    def _checkpoints(
        self, arm: str, variant: Variant, plan: Plan, engine: Engine
    ) -> tuple[FolderCheckpoints | None, Any]:
        if self.folder is None:
            return None, None
        run = {
            "digest": plan.study,
            "seed": plan.seed,
            "arm": arm,
            "model": variant.name,
            "engine": engine.name,
            "records": self.records,
            "environment": environment(),
        }
        name = f"{arm}-{variant.name}" if variant.name else arm
        checkpoints = FolderCheckpoints(self.folder / name, run)
        if self.resume:
            return checkpoints, checkpoints.load()
        checkpoints.clear()
        return checkpoints, None


def _of_arm(problem: Problem, arm: str) -> Problem:
    advice = f"{problem.advice}. Or leave out the arm" if problem.advice else "Leave out the arm"
    return replace(problem, got=f"{problem.got} in the arm {arm!r}", advice=advice)


def check_arguments(
    arms: Sequence[str], engine: str, *, out: str | Path | None = None, resume: bool = False
) -> None:
    """Refuse arms and engines that are not there, and resuming from nowhere.

    Raises:
        ArgumentError: with what is there.
    """
    some = f"some of {', '.join(ARMS)}, separated by commas"
    if not arms:
        raise _argument_error("arms", "none", some, "Name at least one")
    for arm in arms:
        if arm not in ARMS:
            raise _argument_error("arms", repr(arm), some, _nearest(arm, ARMS))
    if len(set(arms)) != len(arms):
        raise _argument_error("arms", "an arm twice", "each arm once", "Leave out one of the two")
    if engine != "auto":
        try:
            ENGINES[engine]
        except UnknownKindError as error:
            known = ", ".join(("auto", *ENGINES))
            advice = error.advice or "Leave it out: auto chooses what fits"
            raise _argument_error("engine", repr(engine), f"one of {known}", advice) from error
    if resume and out is None:
        expected = "the folder of the run that is to go on"
        raise _argument_error("resume", "no folder", expected, "Give --out DIR")


def _nearest(word: str, known: Iterable[str]) -> str:
    near = get_close_matches(word, list(known), n=1)
    return f"Did you mean {near[0]!r}?" if near else "See: cohortium compare --help"


def _argument_error(key: str, got: str, expected: str, advice: str) -> ArgumentError:
    return ArgumentError(Problem("arguments", key, got, expected, advice))
