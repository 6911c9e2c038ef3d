"""What one section of a study must not say because of what another one says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from cohortium.aggregation.rule import AGGREGATORS
from cohortium.aggregation.server_optimizer import SERVER_OPTIMIZERS, FedAvg
from cohortium.learning.algorithm import LOCAL_ALGORITHMS
from cohortium.learning.losses import LOSSES
from cohortium.learning.numpy_task import HERE
from cohortium.learning.optimizers import OPTIMIZERS
from cohortium.part import Refusal
from cohortium.plan.topology import TOPOLOGIES
from cohortium.registry import Registry

if TYPE_CHECKING:
    from cohortium.study.study import Study


def conflicts(study: Study) -> Iterator[Refusal]:
    """Yield every contradiction between sections."""
    yield from _training(study)
    yield from _evaluation(study)
    yield from _aggregation(study)
    yield from _server_optimizer(study)
    yield from _sampling(study)
    yield from _validation_rows(study)
    yield from _acceptance(study)
    yield from _target(study)
    yield from _framework(study)


def _training(study: Study) -> Iterator[Refusal]:
    if study.plan.rounds > 0 and study.task.optimizer is None:
        yield Refusal(
            ("task", "optimizer"),
            expected="how a site trains",
            advice='Write optimizer = {kind = "sgd", lr = 0.1}, or rounds = 0 to evaluate only',
        )
    if study.plan.rounds == 0 and study.task.initial_model is None:
        yield Refusal(
            ("task", "initial_model"),
            expected="the model that a study with rounds = 0 evaluates",
            advice='Write initial_model = "model.safetensors", or rounds = 1 or more',
        )


def _evaluation(study: Study) -> Iterator[Refusal]:
    if study.task.evaluate:
        return
    if study.plan.rounds == 0:
        yield Refusal(
            ("task", "evaluate"),
            expected="true where rounds = 0",
            advice="A study that neither trains nor evaluates does nothing",
        )
    if study.acceptance.criteria:
        yield Refusal(
            ("task", "evaluate"),
            expected="true where there are acceptance criteria",
            advice="Remove one of the two",
        )


def _aggregation(study: Study) -> Iterator[Refusal]:
    topology = TOPOLOGIES.kind_of(study.plan.topology)
    rule = AGGREGATORS.kind_of(study.plan.aggregation)
    if topology == "cyclic" and rule != "mean":
        yield Refusal(
            ("plan", "aggregation"),
            got=f"{rule!r}",
            expected="'mean' with the topology 'cyclic'",
            advice="A model that travels from site to site is never aggregated. Remove the key, "
            "or use a star",
        )
    elif topology != "star" and not study.plan.aggregation.additive:
        yield Refusal(
            ("plan", "aggregation"),
            got=f"{rule!r}",
            expected=f"an additive rule, such as 'mean', with the topology {topology!r}",
            advice=f"{rule!r} must see every site's own update, and only a star brings them all to "
            'one party. Write topology = "star", or aggregation = "mean"',
        )


def _server_optimizer(study: Study) -> Iterator[Refusal]:
    outermost: Any = getattr(study.plan.topology, "outer", study.plan.topology)
    topology, optimizer = TOPOLOGIES.kind_of(outermost), study.plan.server_optimizer
    kind = SERVER_OPTIMIZERS.kind_of(optimizer)
    if topology == "cyclic" and optimizer != FedAvg():
        yield Refusal(
            ("plan", "server_optimizer"),
            got=f"{kind!r}" if kind != "fedavg" else f"'fedavg' with lr = {optimizer.lr:g}",
            expected="'fedavg' with lr = 1 with the topology 'cyclic'",
            advice="A model that travels from site to site passes no server. Remove the key, or "
            "use a star",
        )
    elif not outermost.one_model and kind != "fedavg":
        yield Refusal(
            ("plan", "server_optimizer"),
            got=f"{kind!r}",
            expected=f"'fedavg' with the topology {topology!r}",
            advice=f"{kind!r} remembers moments of the one consensus model; among peers every site "
            "has a model of its own, and the moments would drift apart. Use a star or a tree",
        )


def _sampling(study: Study) -> Iterator[Refusal]:
    fraction = study.plan.participation.fraction
    if fraction == 1:
        return
    for topology in _nested(study.plan.topology):
        graph = getattr(topology, "graph", None)
        inside = topology is not study.plan.topology
        if graph == "edges" or (graph == "random-regular" and inside):
            yield Refusal(
                ("plan", "participation", "fraction"),
                got=f"{fraction:g}",
                expected=f'1 with graph = "{graph}"',
                advice="A round's sample would leave out neighbours on which the graph counts. "
                'Remove the fraction, or write graph = "ring" or "complete"',
            )
            return


def _validation_rows(study: Study) -> Iterator[Refusal]:
    if study.data.split.validation > 0:
        return
    topologies = _nested(study.plan.topology)
    needs = {
        "acceptance.early_stopping": study.acceptance.early_stopping is not None,
        'select = "best-local"': any(
            getattr(topology, "select", None) == "best-local" for topology in topologies
        ),
    }
    reasons = [reason for reason, needed in needs.items() if needed]
    if reasons:
        yield Refusal(
            ("data", "split", "validation"),
            got=f"{study.data.split.validation:g}",
            expected=f"a fraction above 0, because of {' and '.join(reasons)}",
            advice="Deciding on training or test rows would flatter the model. Write "
            "validation = 0.1",
        )


def _nested(topology: Any) -> Iterator[Any]:
    """Yield a topology and, of a hybrid, those inside it."""
    yield topology
    if hasattr(topology, "outer"):
        yield from _nested(topology.outer)
        for group in topology.groups:
            yield from _nested(group.topology)


def _acceptance(study: Study) -> Iterator[Refusal]:
    names = study.task.metric_names
    for i, criterion in enumerate(study.acceptance.criteria):
        if criterion.metric not in names:
            yield Refusal(
                ("acceptance", "criteria", i, "metric"),
                expected=f"a declared metric: {', '.join(names)}",
                advice="Add it to task.metrics, or name another",
            )


def _target(study: Study) -> Iterator[Refusal]:
    if study.data.positive is not None and study.task.kind != "binary-classification":
        yield Refusal(
            ("data", "positive"),
            expected=f"no such key in a {study.task.kind} task",
            advice="Remove it: only a binary task divides targets into positive and negative ones",
        )


def _framework(study: Study) -> Iterator[Refusal]:
    if getattr(study.task.model, "framework", "torch") != "numpy":
        return
    chosen: tuple[tuple[tuple[str, ...], Registry, Any], ...] = (
        (("task", "loss"), LOSSES, study.task.loss),
        (("task", "optimizer"), OPTIMIZERS, study.task.optimizer),
        (("plan", "algorithm"), LOCAL_ALGORITHMS, study.plan.algorithm),
        (("compare", "central", "optimizer"), OPTIMIZERS, study.compare.central.optimizer),
    )
    for at, table, part in chosen:
        if part is not None and type(part) not in HERE:
            fitting = ", ".join(repr(kind) for kind in table if table[kind] in HERE)
            yield Refusal(
                at,
                got=repr(table.kind_of(part)),
                expected=f'one that framework = "numpy" has: {fitting}',
                advice='Choose one of these, or write task.model.framework = "torch"',
            )
