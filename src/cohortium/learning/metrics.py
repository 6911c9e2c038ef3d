"""How good predictions are, from statistics that may be summed, and the table of such metrics.

Every metric is computed from additive statistics: those of all sites together are the sum of those
of each, so a global value is the same in every engine and never needs a record.

To add one: a part with `tasks`, `better`, `shapes`, `statistics` and `value`, and a line in
`METRICS`.

Legend: N rows, C classes, R bins.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from cohortium.errors import Problem, StudyError
from cohortium.learning.task import TaskKind
from cohortium.part import part
from cohortium.registry import Registry
from cohortium.types import Array, Statistics

Floats = NDArray[np.float64]
Better = Literal["higher", "lower"]

BINARY: frozenset[TaskKind] = frozenset({"binary-classification"})
CLASSIFICATION: frozenset[TaskKind] = BINARY | {"multiclass-classification"}
REGRESSION: frozenset[TaskKind] = frozenset({"regression"})
ANY: frozenset[TaskKind] = CLASSIFICATION | REGRESSION


@dataclass(frozen=True)
class Predictions:
    """What a model said about rows.

    Attributes:
        scores: probabilities of the positive class or predicted values, shape (N,); of each of
            many classes, shape (N, C).
        targets: shape (N,); 0 or 1, class numbers, or values.
        losses: each row's loss, shape (N,).
    """

    scores: Floats
    targets: Floats
    losses: Floats

    def correct(self) -> NDArray[np.bool_]:
        """Tell for each row whether its likeliest class is the target; ties at 0.5 are negative."""
        if self.scores.ndim == 2:
            return np.asarray(self.scores.argmax(1) == self.targets)
        return np.asarray((self.scores > 0.5) == (self.targets > 0.5))

    def errors(self) -> Floats:
        """Return prediction minus target, shape (N,)."""
        return self.scores - self.targets


class Metric(Protocol):
    """A metric's settings.

    Attributes:
        tasks: the kinds of task that it fits.
        better: whether a higher or a lower value is better.
    """

    tasks: ClassVar[frozenset[TaskKind]]
    better: ClassVar[Better]

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Name and shape of each statistic."""

    def statistics(self, predictions: Predictions) -> dict[str, Floats]:
        """Return the additive statistics of rows."""

    def value(self, summed: Statistics) -> float | None:
        """Return the metric from summed statistics; None where it is undefined."""


class _Mean(ABC):
    """A mean over rows; None without rows."""

    shapes: ClassVar[Mapping[str, tuple[int, ...]]] = {"sum": (), "rows": ()}

    @abstractmethod
    def _of(self, predictions: Predictions) -> Array:
        """Return one value per row that counts."""

    def statistics(self, predictions: Predictions) -> dict[str, Floats]:
        values = self._of(predictions)
        total = np.asarray(values.sum(dtype=np.float64))
        return {"sum": total, "rows": np.asarray(float(len(values)))}

    def value(self, summed: Statistics) -> float | None:
        rows = float(summed["rows"])
        return float(summed["sum"]) / rows if rows > 0 else None


@part
class MeanLoss(_Mean):
    """The loss that training makes small, as mean over rows."""

    tasks: ClassVar[frozenset[TaskKind]] = ANY
    better: ClassVar[Better] = "lower"

    def _of(self, predictions: Predictions) -> Array:
        return predictions.losses


@part
class Accuracy(_Mean):
    """Share of rows whose class is predicted: probability above 0.5, or the likeliest class."""

    tasks: ClassVar[frozenset[TaskKind]] = CLASSIFICATION
    better: ClassVar[Better] = "higher"

    def _of(self, predictions: Predictions) -> Array:
        return predictions.correct()


LOG_ODDS = 12.0
"""Scores beyond these log-odds (a probability of 6e-6 from 0 or 1) share the outermost bins."""


@part
class Auroc:
    """Area under the receiver operating characteristic, from binned scores.

    Scores are counted in `resolution` bins of equal width in log-odds over [-12, 12]. Pairs of a
    positive and a negative row are ordered by their bins; a pair within one bin counts one half
    (Hanley and McNeil 1982). The error against unbinned scores is therefore at most half the share
    of pairs that fall within one bin: `error_bound` states it for the data at hand.

    >>> scores = np.array([0.1, 0.4, 0.35, 0.8])
    >>> rows = Predictions(scores, np.array([0.0, 0.0, 1.0, 1.0]), np.zeros(4))
    >>> Auroc().value(Auroc().statistics(rows))
    0.75
    """

    tasks: ClassVar[frozenset[TaskKind]] = BINARY
    better: ClassVar[Better] = "higher"
    resolution: Annotated[
        int, Field(ge=2, le=65536, description="Number of bins, equally wide in log-odds.")
    ] = 1024

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {"positives": (self.resolution,), "negatives": (self.resolution,)}

    def statistics(self, predictions: Predictions) -> dict[str, Floats]:
        """Return the positive and the negative rows in each bin, shape (R,) each.

        Scores that are not a number count as the lowest.
        """
        bins = self._bins(predictions.scores)
        positive = predictions.targets > 0.5
        return {
            "positives": self._count(bins[positive]),
            "negatives": self._count(bins[~positive]),
        }

    def value(self, summed: Statistics) -> float | None:
        """Return the area; None where a class is absent."""
        positives, negatives = summed["positives"], summed["negatives"]
        pairs = positives.sum() * negatives.sum()
        below = negatives.cumsum() - negatives / 2
        return float(positives @ below / pairs) if pairs > 0 else None

    def error_bound(self, summed: Statistics) -> float | None:
        """Return how far the area may be from that of unbinned scores; None as in `value`."""
        positives, negatives = summed["positives"], summed["negatives"]
        pairs = positives.sum() * negatives.sum()
        return float(positives @ negatives / pairs / 2) if pairs > 0 else None

    def _bins(self, scores: Floats) -> NDArray[np.int64]:
        with np.errstate(divide="ignore", invalid="ignore"):
            log_odds = np.log(scores) - np.log1p(-scores)
        log_odds = np.nan_to_num(log_odds, nan=-np.inf).clip(-LOG_ODDS, LOG_ODDS)
        bins = (log_odds + LOG_ODDS) * (self.resolution / (2 * LOG_ODDS))
        return np.asarray(bins.astype(np.int64).clip(0, self.resolution - 1))

    def _count(self, bins: NDArray[np.int64]) -> Floats:
        return np.bincount(bins, minlength=self.resolution).astype(np.float64)


@part
class Brier(_Mean):
    """Mean squared distance of the predicted probabilities from the truth (Brier 1950).

    With two classes the distance of the positive class's probability; with more, summed over them.
    """

    tasks: ClassVar[frozenset[TaskKind]] = CLASSIFICATION
    better: ClassVar[Better] = "lower"

    def _of(self, predictions: Predictions) -> Array:
        scores, targets = predictions.scores, predictions.targets
        if scores.ndim == 1:
            return np.square(predictions.errors())
        truth = np.arange(scores.shape[1]) == targets[:, None]
        return np.asarray(np.square(scores - truth).sum(1))


@part
class Sensitivity(_Mean):
    """Share of the positive rows that are found: probability above 0.5. None without positives."""

    tasks: ClassVar[frozenset[TaskKind]] = BINARY
    better: ClassVar[Better] = "higher"

    def _of(self, predictions: Predictions) -> Array:
        return predictions.correct()[predictions.targets > 0.5]


@part
class Specificity(_Mean):
    """Share of the negative rows that are cleared: probability at most 0.5. None without them."""

    tasks: ClassVar[frozenset[TaskKind]] = BINARY
    better: ClassVar[Better] = "higher"

    def _of(self, predictions: Predictions) -> Array:
        return predictions.correct()[predictions.targets <= 0.5]


@part
class Mae(_Mean):
    """Mean absolute error, in the target's unit."""

    tasks: ClassVar[frozenset[TaskKind]] = REGRESSION
    better: ClassVar[Better] = "lower"

    def _of(self, predictions: Predictions) -> Array:
        return np.abs(predictions.errors())


@part
class Mse(_Mean):
    """Mean squared error, in the target's unit squared."""

    tasks: ClassVar[frozenset[TaskKind]] = REGRESSION
    better: ClassVar[Better] = "lower"

    def _of(self, predictions: Predictions) -> Array:
        return np.square(predictions.errors())


@part
class R2:
    """Coefficient of determination: 1 minus squared errors over the targets' spread.

    The spread comes from sums of targets and of their squares, so it loses digits where the
    targets' mean is more than about a million times their spread. None with fewer than two rows or
    without any spread.
    """

    tasks: ClassVar[frozenset[TaskKind]] = REGRESSION
    better: ClassVar[Better] = "higher"
    shapes: ClassVar[Mapping[str, tuple[int, ...]]] = {
        "squared_errors": (),
        "targets": (),
        "squared_targets": (),
        "rows": (),
    }

    def statistics(self, predictions: Predictions) -> dict[str, Floats]:
        targets = predictions.targets
        return {
            "squared_errors": np.asarray(np.square(predictions.errors()).sum()),
            "targets": np.asarray(targets.sum()),
            "squared_targets": np.asarray(np.square(targets).sum()),
            "rows": np.asarray(float(len(targets))),
        }

    def value(self, summed: Statistics) -> float | None:
        rows, total = float(summed["rows"]), float(summed["targets"])
        squares = float(summed["squared_targets"])
        spread = squares - total * total / max(rows, 1.0)
        if rows < 2 or spread <= 1e-12 * squares:  # what is left is rounding
            return None
        return 1.0 - float(summed["squared_errors"]) / spread


METRICS = Registry(
    "metric",
    group="cohortium.metrics",
    builtin={
        "loss": "cohortium.learning.metrics:MeanLoss",
        "accuracy": "cohortium.learning.metrics:Accuracy",
        "auroc": "cohortium.learning.metrics:Auroc",
        "brier": "cohortium.learning.metrics:Brier",
        "sensitivity": "cohortium.learning.metrics:Sensitivity",
        "specificity": "cohortium.learning.metrics:Specificity",
        "mae": "cohortium.learning.metrics:Mae",
        "mse": "cohortium.learning.metrics:Mse",
        "r2": "cohortium.learning.metrics:R2",
    },
)


class Measures:
    """What a study measures: its metrics by name, the loss first, and the statistics behind them.

    It needs no framework, so that a party without records or models can tell a metric's value.

    Args:
        metrics: name to metric; "loss" is added where it is not among them.

    Attributes:
        names: the metrics' names.
        shapes: name and shape of every additive statistic, such as "auroc.positives".
    """

    def __init__(self, metrics: Mapping[str, Metric]) -> None:
        self._metrics = {"loss": MeanLoss(), **metrics}
        self.names = tuple(self._metrics)
        self.shapes = {
            f"{name}.{statistic}": shape
            for name, metric in self._metrics.items()
            for statistic, shape in metric.shapes.items()
        }

    @classmethod
    def of(cls, metrics: Sequence[Metric], *, where: str = "<python>") -> Measures:
        """Return what parts of `METRICS`, such as those of `task.metrics`, measure.

        Args:
            metrics: each kind once.
            where: the study's file, for messages.

        Raises:
            StudyError: a kind is there twice.

        >>> Measures.of([Accuracy()]).shapes
        {'loss.sum': (), 'loss.rows': (), 'accuracy.sum': (), 'accuracy.rows': ()}
        """
        return cls(by_name(metrics, where=where))

    def statistics(self, predictions: Iterable[Predictions]) -> Statistics:
        """Return every statistic summed over rows that come in pieces; zeros without rows."""
        totals = {name: np.zeros(shape) for name, shape in self.shapes.items()}
        for piece in predictions:
            for name, metric in self._metrics.items():
                for statistic, values in metric.statistics(piece).items():
                    totals[f"{name}.{statistic}"] += values
        return totals

    def value(self, metric: str, statistics: Statistics) -> float | None:
        """Return a metric's value from summed statistics; None where it is undefined."""
        own = {name: statistics[f"{metric}.{name}"] for name in self._metrics[metric].shapes}
        return self._metrics[metric].value(own)


def by_name(metrics: Sequence[Metric], *, where: str = "<python>") -> dict[str, Metric]:
    """Return parts of `METRICS` by their kinds.

    Raises:
        StudyError: a kind is there twice.
    """
    named: dict[str, Metric] = {}
    for metric in metrics:
        name = METRICS.kind_of(metric)
        if name in named:
            got, expected = f"{name!r} twice", "each metric once"
            raise StudyError(Problem(where, "task.metrics", got, expected, "Remove one of them."))
        named[name] = metric
    return named
