"""The sections of a study, apart from `[data]`, which is `cohortium.data.schema.Schema`.

A section refuses what contradicts itself; `rules.py` refuses what contradicts another section.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from cohortium.aggregation.rule import AGGREGATORS
from cohortium.aggregation.server_optimizer import SERVER_OPTIMIZERS
from cohortium.data.names import SITE_NAME, SITE_NAME_RULE
from cohortium.learning.algorithm import LOCAL_ALGORITHMS
from cohortium.learning.losses import LOSSES
from cohortium.learning.metrics import METRICS
from cohortium.learning.models import MODELS
from cohortium.learning.optimizers import OPTIMIZERS
from cohortium.learning.task import TaskKind
from cohortium.part import PartOf, Refusal, refuse
from cohortium.plan.topology import TOPOLOGIES
from cohortium.registry import Registry

Model = Annotated[Any, PartOf(MODELS)]
Optimizer = Annotated[Any, PartOf(OPTIMIZERS)]
Loss = Annotated[Any, PartOf(LOSSES)]
Metric = Annotated[Any, PartOf(METRICS)]
Topology = Annotated[Any, PartOf(TOPOLOGIES)]
Algorithm = Annotated[Any, PartOf(LOCAL_ALGORITHMS)]
Aggregation = Annotated[Any, PartOf(AGGREGATORS)]
ServerOptimizer = Annotated[Any, PartOf(SERVER_OPTIMIZERS)]

PARTS = tuple(
    PartOf(registry)
    for registry in (
        MODELS,
        OPTIMIZERS,
        LOSSES,
        METRICS,
        TOPOLOGIES,
        LOCAL_ALGORITHMS,
        AGGREGATORS,
        SERVER_OPTIMIZERS,
    )
)
"""Everything that a study may name by kind."""

SiteName = Annotated[str, StringConstraints(pattern=f"^{SITE_NAME.pattern}$")]
Epochs = Annotated[int, Field(ge=1, le=100_000)]
Steps = Annotated[int, Field(ge=1, le=100_000_000)]
Seconds = Annotated[float, Field(gt=0, le=2_592_000)]

LOSS: dict[TaskKind, str] = {
    "binary-classification": "bce-with-logits",
    "multiclass-classification": "cross-entropy",
    "regression": "mse",
}
METRIC: dict[TaskKind, tuple[str, ...]] = {
    "binary-classification": ("auroc", "accuracy"),
    "multiclass-classification": ("accuracy",),
    "regression": ("mae",),
}


class Section(BaseModel):
    """A table of the study file: strict, unchangeable, without unknown keys."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Section:
        if conflicts := tuple(self.conflicts()):
            raise refuse(*conflicts)
        return self

    def conflicts(self) -> Iterator[Refusal]:
        """Yield what contradicts itself in this section."""
        yield from ()


class StudySection(Section):
    """What the study is, and why."""

    name: Annotated[
        str,
        Field(
            pattern=r"^[a-z0-9][a-z0-9-]{0,63}$",
            description="A short name: lower-case letters, digits and dashes, at most 64 of them.",
        ),
    ]
    purpose: Annotated[
        str,
        Field(
            pattern=r"\S",
            max_length=2000,
            description="What the model is for, in words that every site's board can agree to.",
        ),
    ]
    seed: Annotated[
        int, Field(ge=0, lt=2**32, description="All randomness of the study derives from it.")
    ] = 0
    trust: Annotated[
        Literal["trusted", "non-trusted"],
        Field(
            description="`trusted`: an enforceable agreement binds the sites. `non-trusted` is "
            "refused until secure sums and signed submissions are there."
        ),
    ] = "trusted"

    def conflicts(self) -> Iterator[Refusal]:
        """Refuse a promise that nothing keeps yet."""
        if self.trust == "non-trusted":
            yield Refusal(
                ("trust",),
                expected='"trusted"',
                advice="A non-trusted federation needs secure sums, differential privacy and "
                "signed submissions, which are not there yet",
            )


class TaskSection(Section):
    """What the model predicts, and how a site trains and measures it."""

    kind: Annotated[TaskKind, Field(description="How the target is read.")]
    classes: Annotated[
        int | None,
        Field(ge=2, le=10_000, description="Number of classes, for multiclass tasks only."),
    ] = None
    model: Annotated[
        Model | None,
        Field(description="The model. Only a study to which Python hands a model object has none."),
    ] = None
    optimizer: Annotated[
        Optimizer | None,
        Field(description="How a site trains; not needed where `plan.rounds` is 0."),
    ] = None
    loss: Annotated[
        Loss,
        Field(
            validate_default=True,
            description="What training minimises. By default `bce-with-logits`, `cross-entropy` "
            "or `mse`, by the task's kind.",
        ),
    ] = Field(default_factory=lambda task: LOSS[task["kind"]])
    batch_size: Annotated[
        int, Field(ge=1, le=1_000_000, description="Rows in one training step at a site.")
    ] = 32
    evaluate: Annotated[
        bool, Field(description="Whether models are measured at all, the loss included.")
    ] = True
    metrics: Annotated[
        tuple[Metric, ...],
        Field(
            strict=False,
            validate_default=True,
            description="What is measured beside the loss, at every site and over all. By default "
            "`auroc` and `accuracy`, `accuracy`, or `mae`, by the task's kind.",
        ),
    ] = Field(default_factory=lambda task: METRIC[task["kind"]] if task["evaluate"] else ())
    initial_model: Annotated[
        str | None,
        Field(
            min_length=1,
            max_length=255,
            description="A safetensors file beside the study to start from. With `plan.rounds` 0 "
            "the study only evaluates it.",
        ),
    ] = None

    @property
    def metric_names(self) -> tuple[str, ...]:
        """The names under which metrics are reported; "loss" is always one of them."""
        return ("loss", *(METRICS.kind_of(metric) for metric in self.metrics))

    def conflicts(self) -> Iterator[Refusal]:
        """Refuse a loss, metrics or classes that do not fit the kind of task."""
        yield from self._class_conflicts()
        yield from self._fit_conflicts()
        yield from self._metric_conflicts()

    def _class_conflicts(self) -> Iterator[Refusal]:
        multiclass = self.kind == "multiclass-classification"
        if multiclass and self.classes is None:
            yield Refusal(("classes",), expected="the number of classes of a multiclass task")
        if not multiclass and self.classes is not None:
            yield Refusal(
                ("classes",),
                expected=f"no classes in a {self.kind} task",
                advice='Remove it, or write kind = "multiclass-classification"',
            )

    def _fit_conflicts(self) -> Iterator[Refusal]:
        if self.kind not in self.loss.tasks:
            yield _misfit(("loss",), self.kind, LOSSES, self.loss)
        for i, metric in enumerate(self.metrics):
            if self.kind not in metric.tasks:
                yield _misfit(("metrics", i), self.kind, METRICS, metric)

    def _metric_conflicts(self) -> Iterator[Refusal]:
        if not self.evaluate and self.metrics:
            yield Refusal(
                ("metrics",),
                expected="no metrics where evaluate = false",
                advice="Remove one of the two",
            )
        names = self.metric_names[1:]
        for i, name in enumerate(names):
            if name == "loss":
                expected = "other metrics than the loss, which is always measured"
                yield Refusal(("metrics", i), got="'loss'", expected=expected, advice="Remove it")
            elif name in names[:i]:
                yield Refusal(("metrics", i), got=f"{name!r} again", expected="each metric once")


def _misfit(at: tuple[str | int, ...], task: TaskKind, table: Registry, part: object) -> Refusal:
    parts: Mapping[str, Any] = table
    fitting = [kind for kind in parts if task in parts[kind].tasks and kind != "loss"]
    got, expected = repr(table.kind_of(part)), f"one that fits {task}: {', '.join(fitting)}"
    return Refusal(at, got=got, expected=expected)


class LocalWork(Section):
    """How much a site trains in a round: exactly one of the three."""

    epochs: Annotated[
        Epochs | None, Field(description="Whole passes over the site's training rows.")
    ] = None
    steps: Annotated[
        Steps | None,
        Field(description="Optimiser updates; the batches go on where the last round stopped."),
    ] = None
    seconds: Annotated[
        Seconds | None,
        Field(
            description="Time that a site trains, whatever its speed, so that nobody waits for the "
            "slowest: at least one update, and the one that has begun is finished. How far a site "
            "gets depends on its machine: such a run cannot be repeated to the bit. Must be less "
            "than `plan.participation.deadline`."
        ),
    ] = None

    @property
    def given(self) -> dict[str, float]:
        """What is set, by name."""
        work = {name: getattr(self, name) for name in ("epochs", "steps", "seconds")}
        return {name: amount for name, amount in work.items() if amount is not None}

    def conflicts(self) -> Iterator[Refusal]:
        """Refuse several and none."""
        if len(self.given) != 1:
            yield Refusal(
                (),
                got=" and ".join(self.given) or "none of epochs, steps and seconds",
                expected="exactly one of epochs, steps and seconds",
                advice="Write epochs = 1, or steps = 100, or seconds = 20.0",
            )


class Participation(Section):
    """Who trains in a round, and what happens when too few answer."""

    fraction: Annotated[
        float, Field(gt=0, le=1, description="Share of the training sites drawn for each round.")
    ] = 1.0
    quorum: Annotated[
        int | None,
        Field(ge=1, description="How many sites a round needs; by default all that were drawn."),
    ] = None
    deadline: Annotated[Seconds, Field(description="Seconds that a site has for one step.")] = 600.0
    on_shortfall: Annotated[
        Literal["stop", "skip", "wait"],
        Field(
            description="Below the quorum: `stop` fails the run, `skip` keeps the model and goes "
            "on with the next round, `wait` tries the round again."
        ),
    ] = "stop"


class PlanSection(Section):
    """In which order, where and how often the model is trained, measured and joined."""

    rounds: Annotated[
        int, Field(ge=0, le=1_000_000, description="Rounds of training; 0 only evaluates.")
    ]
    evaluate_every: Annotated[
        int, Field(ge=1, description="Measure every so many rounds; the last round always is.")
    ] = 1
    sites: Annotated[
        tuple[SiteName, ...] | None,
        Field(
            strict=False,
            min_length=1,
            description="The federation, in roster order; by default all sites of the dataset. A "
            f"name is {SITE_NAME_RULE}.",
        ),
    ] = None
    evaluation_only: Annotated[
        tuple[SiteName, ...],
        Field(strict=False, description="Sites that measure the model and never train it."),
    ] = ()
    topology: Annotated[
        Topology, Field(validate_default=True, description="Who is connected to whom.")
    ] = "star"
    local: Annotated[
        LocalWork | None,
        Field(description="A site's work in one round; not needed where `rounds` is 0."),
    ] = None
    algorithm: Annotated[
        Algorithm,
        Field(validate_default=True, description="What a site does differently while it trains."),
    ] = "plain"
    aggregation: Annotated[
        Aggregation, Field(validate_default=True, description="How updates become one.")
    ] = "mean"
    server_optimizer: Annotated[
        ServerOptimizer,
        Field(validate_default=True, description="How the aggregate changes the model."),
    ] = "fedavg"
    participation: Annotated[Participation, Field(description="Who takes part in a round.")] = (
        Participation()
    )
    hosts: Annotated[
        dict[str, SiteName],
        Field(
            description="Which site carries a party that is no site itself: "
            '`{"@aggregator/north" = "oslo"}`. By default the hub carries them all, and its '
            "operator could read the updates that they join. A simulation carries everybody."
        ),
    ] = Field(default_factory=dict)

    @property
    def training_sites(self) -> tuple[str, ...] | None:
        """The sites that train, where the study names its sites."""
        if self.sites is None:
            return None
        only = frozenset(self.evaluation_only)
        return tuple(site for site in self.sites if site not in only)

    def conflicts(self) -> Iterator[Refusal]:
        """Refuse a roster or work that does not add up."""
        yield from _repeated("sites", self.sites or ())
        yield from _repeated("evaluation_only", self.evaluation_only)
        yield from self._roster_conflicts()
        yield from self._host_conflicts()
        yield from self._work_conflicts()

    def _work_conflicts(self) -> Iterator[Refusal]:
        if self.rounds > 0 and self.local is None:
            yield Refusal(
                ("local",),
                expected="the work that a site does in a round",
                advice="Write local = {epochs = 1}, or local = {steps = 100}",
            )
        seconds = self.local.seconds if self.local is not None else None
        if seconds is not None and seconds >= self.participation.deadline:
            yield Refusal(
                ("local", "seconds"),
                got=f"{seconds:g}",
                expected=f"less than the deadline, {self.participation.deadline:g} seconds",
                advice="Every site would be too late. Lower it, or raise "
                "plan.participation.deadline",
            )

    def _host_conflicts(self) -> Iterator[Refusal]:
        for party, site in self.hosts.items():
            if self.sites is not None and site not in self.sites:
                yield Refusal(
                    ("hosts", party),
                    expected="one of plan.sites",
                    advice="Name a site that takes part, or leave the party to the hub",
                )

    def _roster_conflicts(self) -> Iterator[Refusal]:
        if self.sites is None or self.training_sites is None:
            return
        roster = frozenset(self.sites)
        for i, site in enumerate(self.evaluation_only):
            if site not in roster:
                yield Refusal(
                    ("evaluation_only", i),
                    expected="one of plan.sites",
                    advice="Add it there, or remove it here",
                )
        if self.rounds > 0 and not self.training_sites:
            yield Refusal(
                ("evaluation_only",),
                got="every site",
                expected="at least one site that trains",
                advice="Remove a site from it, or write rounds = 0",
            )
        quorum, trained = self.participation.quorum, len(self.training_sites)
        if self.rounds > 0 and quorum is not None and quorum > trained > 0:
            yield Refusal(
                ("participation", "quorum"),
                expected=f"at most {trained}, the number of sites that train",
                advice="No round could ever reach it",
            )


def _repeated(key: str, names: tuple[str, ...]) -> Iterator[Refusal]:
    seen: set[str] = set()
    for i, name in enumerate(names):
        if name in seen:
            yield Refusal((key, i), got=f"{name!r} again", expected="each site once")
        seen.add(name)


class PrivacySection(Section):
    """What protects patients beyond the gate. Typed now; only the defaults are there yet."""

    unit: Annotated[
        Literal["record", "patient", "site"],
        Field(description="Whom differential privacy protects, once a mechanism is chosen."),
    ] = "patient"
    secure_sum: Annotated[
        Literal["none", "secagg", "bfv"],
        Field(description="How updates are added without being seen; `none` for now."),
    ] = "none"
    mechanism: Annotated[
        str,
        Field(
            max_length=64, description="Clipping and noise with their accounting; `none` for now."
        ),
    ] = "none"

    def conflicts(self) -> Iterator[Refusal]:
        """Refuse protection that nothing implements yet."""
        for key, field in type(self).model_fields.items():
            if getattr(self, key) != field.default:
                yield Refusal(
                    (key,),
                    expected=f'"{field.default}"',
                    advice="This protection is not there yet. Remove the key; a run without it "
                    "must not look protected",
                )


class Criterion(Section):
    """One thing that a consensus model must meet."""

    metric: Annotated[str, Field(description='A metric of `task.metrics`, or "loss".')]
    scope: Annotated[
        Literal["global", "every-site", "gap"],
        Field(
            description="`global`: over all sites' test rows. `every-site`: at each site, a floor "
            "or ceiling. `gap`: the best site minus the worst."
        ),
    ] = "global"
    at_least: Annotated[float | None, Field(description="Lowest value that is accepted.")] = None
    at_most: Annotated[float | None, Field(description="Highest value that is accepted.")] = None

    def conflicts(self) -> Iterator[Refusal]:
        """Refuse anything but one bound, and a gap that must be large."""
        given = [name for name in ("at_least", "at_most") if getattr(self, name) is not None]
        if len(given) != 1:
            yield Refusal(
                (),
                got=" and ".join(given) or "neither at_least nor at_most",
                expected="exactly one of at_least and at_most",
            )
        elif self.scope == "gap" and self.at_least is not None:
            yield Refusal(
                ("at_least",),
                expected="at_most, for a gap",
                advice="A gap between sites is accepted when it is small",
            )


class EarlyStopping(Section):
    """Stop before the last round, once the criteria hold on the validation rows."""

    patience: Annotated[
        int,
        Field(
            ge=1, le=1_000_000, description="Evaluated rounds in a row in which all criteria hold."
        ),
    ]


class AcceptanceSection(Section):
    """What the consensus model must meet, agreed before round 1."""

    criteria: Annotated[
        tuple[Criterion, ...],
        Field(strict=False, description="All must hold at the end, or the run fails."),
    ] = ()
    early_stopping: Annotated[
        EarlyStopping | None, Field(description="Stop early once all criteria hold.")
    ] = None

    def conflicts(self) -> Iterator[Refusal]:
        """Refuse to stop by criteria that are not there."""
        if self.early_stopping and not self.criteria:
            yield Refusal(
                ("criteria",),
                expected="the criteria by which early stopping decides",
                advice='Write [[acceptance.criteria]] with metric = "auroc" and at_least = 0.9',
            )


class CentralTraining(Section):
    """How the pooled and the single-site models train."""

    epochs: Annotated[Epochs | None, Field(description="Whole passes over the training rows.")] = (
        None
    )
    steps: Annotated[Steps | None, Field(description="Optimiser updates.")] = None
    optimizer: Annotated[Optimizer | None, Field(description="By default that of the task.")] = None

    def conflicts(self) -> Iterator[Refusal]:
        """Refuse two amounts of work; none means rounds times local work."""
        if self.epochs is not None and self.steps is not None:
            yield Refusal((), got="epochs and steps", expected="at most one of epochs and steps")


class CompareSection(Section):
    """How the arms of a comparison train that are not federated."""

    central: Annotated[
        CentralTraining,
        Field(
            description="The pooled and single-site arms; by default the task's optimiser for "
            "`plan.rounds` times `plan.local`.",
        ),
    ] = CentralTraining()
