"""Linear models without PyTorch, on the contract of `task.LocalTask`: plain numpy, float32.

Linear, logistic and softmax regression. The arrays are those of PyTorch's linear layer, the batches
and the arithmetic those of `torch_task.py`: from the same parameters both end within 1e-5.

Legend: N rows, B rows of a batch, F inputs, O outputs (1, or the number of classes).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cohortium.errors import ModelError, Problem
from cohortium.learning.algorithm import LocalAlgorithm
from cohortium.learning.batches import Feed, Shuffler, Walk
from cohortium.learning.fedprox import FedProx
from cohortium.learning.losses import BceWithLogits, CrossEntropy, Loss, Mse
from cohortium.learning.metrics import Measures, Metric, Predictions
from cohortium.learning.optimizers import Optimizer, Sgd
from cohortium.learning.plain import Plain
from cohortium.learning.task import Trained, TrainJob
from cohortium.records import Part
from cohortium.types import ArraySpec, Layout, Params, Statistics, Update, derive_rng

CHUNK = 1 << 16
"""Rows whose numbers are made, and rows that are evaluated, at a time."""

Floats = NDArray[Any]
"""float32 in training, float64 in evaluation."""


class NumpyLoss(Protocol):
    """A loss, over outputs of shape (N, O)."""

    def slope(self, output: Floats, target: Floats) -> Floats:
        """Return the derivative of each row's loss by its outputs, shape (N, O)."""

    def rows(self, output: Floats, target: Floats) -> Floats:
        """Return each row's loss, shape (N,)."""

    def scores(self, output: Floats) -> Floats:
        """Return what metrics are computed from: probabilities, or predicted values."""


class _Logits:
    """Binary cross-entropy of logits."""

    def slope(self, output: Floats, target: Floats) -> Floats:
        return _sigmoid(output) - target[:, None]

    def rows(self, output: Floats, target: Floats) -> Floats:
        logits = output[:, 0]
        losses: Floats = np.logaddexp(0, logits) - logits * target
        return losses

    def scores(self, output: Floats) -> Floats:
        return _sigmoid(output[:, 0])


class _Classes:
    """Cross-entropy of one logit per class."""

    def slope(self, output: Floats, target: Floats) -> Floats:
        return self.scores(output) - np.equal.outer(target, np.arange(output.shape[1]))

    def rows(self, output: Floats, target: Floats) -> Floats:
        return -_log_softmax(output)[np.arange(len(output)), target]

    def scores(self, output: Floats) -> Floats:
        return np.exp(_log_softmax(output))


class _Squares:
    """Squared error."""

    def slope(self, output: Floats, target: Floats) -> Floats:
        return 2 * (output - target[:, None])

    def rows(self, output: Floats, target: Floats) -> Floats:
        losses: Floats = np.square(output[:, 0] - target)
        return losses

    def scores(self, output: Floats) -> Floats:
        return output[:, 0]


_LOSSES: Mapping[type, NumpyLoss] = {
    BceWithLogits: _Logits(),
    CrossEntropy: _Classes(),
    Mse: _Squares(),
}

HERE: frozenset[type] = frozenset({*_LOSSES, Sgd, Plain, FedProx})
"""The losses, optimizers and algorithms that this task can do."""


class NumpyTask:
    """Training and evaluation of one linear layer.

    Args:
        inputs: F.
        outputs: O.
        loss: what training makes small.
        optimizer: how a site updates its parameters.
        algorithm: how a site changes its gradient.
        metrics: name to metric; "loss" is added.
        batch_size: rows per batch; the last one of an epoch may be shorter.

    Raises:
        ModelError: a loss, an optimizer or an algorithm that is not `HERE`.
    """

    def __init__(
        self,
        *,
        inputs: int,
        outputs: int,
        loss: Loss,
        optimizer: Optimizer,
        algorithm: LocalAlgorithm,
        metrics: Mapping[str, Metric],
        batch_size: int,
    ) -> None:
        if not isinstance(optimizer, Sgd) or not {type(loss), type(algorithm)} <= HERE:
            names = ", ".join(type(part).__name__ for part in (loss, optimizer, algorithm))
            expected = ", ".join(sorted(kind.__name__ for kind in HERE))
            raise _refusal("model.framework", f"'numpy' with {names}", f"parts among {expected}")
        self._loss, self._sgd = _LOSSES[type(loss)], optimizer
        self._pull = algorithm.mu if isinstance(algorithm, FedProx) else 0.0
        self._measures, self._batch_size = Measures(metrics), batch_size
        self._shuffler = Shuffler()
        weight = ArraySpec("weight", (outputs, inputs), "float32")
        self.layout = Layout((weight, ArraySpec("bias", (outputs,), "float32")))

    @property
    def metrics(self) -> tuple[str, ...]:
        return self._measures.names

    @property
    def statistics(self) -> Mapping[str, tuple[int, ...]]:
        return self._measures.shapes

    def initial(self, seed: int) -> Params:
        """Return parameters drawn evenly within 1 / sqrt(F), the bounds of PyTorch's layers."""
        _, inputs = self.layout.specs[0].shape
        bound, size = 1 / math.sqrt(inputs), self.layout.sizes["float32"]
        drawn = derive_rng(seed, "init").uniform(-bound, bound, size)
        return Params(self.layout, {"float32": drawn.astype(np.float32)})

    def train(self, jobs: Sequence[TrainJob]) -> list[Trained]:
        """Train sites one after another, each from its own `params`."""
        with np.errstate(over="ignore", invalid="ignore"):  # the gate refuses what diverged
            return [self._train(job) for job in jobs]

    def block_size(self, job: TrainJob) -> int:
        """There is no kernel for blocks of sites."""
        del job
        return 1

    def evaluate(self, params: Params, data: Part) -> Statistics:
        """Return the additive statistics of every metric; zeros where there are no rows."""
        with np.errstate(over="ignore", invalid="ignore"):
            return self._measures.statistics(self._predictions(params, data))

    def value(self, metric: str, statistics: Statistics) -> float | None:
        return self._measures.value(metric, statistics)

    def check(self, params: Params, data: Part) -> None:
        """Try a batch of a site; change nothing.

        Raises:
            ModelError: its rows are not those of the model, or the loss is not a number at once.
        """
        _, inputs = self.layout.specs[0].shape
        if data.x.shape[1:] != (inputs,):
            raise _refusal("forward", f"rows of shape {data.x.shape[1:]}", f"shape ({inputs},)")
        weight, bias = self._views(params.buffers["float32"])
        x, y = data.x[: self._batch_size], data.y[: self._batch_size]
        with np.errstate(over="ignore", invalid="ignore"):
            losses = self._loss.rows(x @ weight.T + bias, y)
        if not np.isfinite(losses).all():
            got, advice = "a loss that is not finite on the first batch", "Scale the features."
            raise _refusal("forward", got, "a finite loss", advice)

    def _train(self, job: TrainJob) -> Trained:
        walk = Walk(job, batch_size=self._batch_size, shuffler=self._shuffler)
        flat: Floats = job.params.buffers["float32"].copy()
        weight, bias = self._views(flat)
        gradient, velocity = np.empty_like(flat), np.zeros_like(flat)
        by_weight, by_bias = self._views(gradient)
        anchor, sgd = flat.copy(), self._sgd
        for rows_B in walk.batches(_rows):
            x, y = job.data.x[rows_B], job.data.y[rows_B]
            slope = self._loss.slope(x @ weight.T + bias, y) / np.float32(len(rows_B))
            np.matmul(slope.T, x, out=by_weight)
            slope.sum(0, out=by_bias)
            if self._pull:
                gradient += np.float32(self._pull) * (flat - anchor)
            if sgd.weight_decay:
                gradient += np.float32(sgd.weight_decay) * flat
            velocity *= np.float32(sgd.momentum)
            velocity += gradient
            flat -= np.float32(sgd.lr) * velocity
        params = Params(self.layout, {"float32": flat})
        return Trained(Update(params, float(len(job.data))), walk.cursor)

    def _views(self, flat: Floats) -> tuple[Floats, Floats]:
        """Return the weight, shape (O, F), and the bias, shape (O,), in a flat buffer."""
        (_, here, shape), (_, there, _) = self.layout.slices.values()
        return flat[here].reshape(shape), flat[there]

    def _predictions(self, params: Params, data: Part) -> Iterator[Predictions]:
        weight, bias = self._views(params.buffers["float32"])
        for begin in range(0, len(data), CHUNK):
            x, y = data.x[begin : begin + CHUNK], data.y[begin : begin + CHUNK]
            output = (x @ weight.T + bias).astype(np.float64)
            losses = self._loss.rows(output, y)
            yield Predictions(self._loss.scores(output), y.astype(np.float64), losses)


def _rows(feed: Feed) -> Iterator[NDArray[np.int64]]:
    """Yield the row numbers of each batch."""
    for rows_TB in feed.windows(max(1, CHUNK // max(1, feed.width))):
        yield from (rows_B[rows_B >= 0] for rows_B in rows_TB)


def _sigmoid(output: Floats) -> Floats:
    return np.exp(-np.logaddexp(0, -output))


def _log_softmax(output: Floats) -> Floats:
    above = output - output.max(1, keepdims=True)
    scores: Floats = above - np.log(np.exp(above).sum(1, keepdims=True))
    return scores


def _refusal(key: str, got: str, expected: str, advice: str = "") -> ModelError:
    return ModelError(Problem("<model>", key, got, expected, advice))
