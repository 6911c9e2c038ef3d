"""The losses' functions on tensors.

Legend: N rows, C classes, M models. An output is what the model returned: shape (N,) or (N, 1),
with classes (N, C). A target has shape (N,): float for one output, int64 class indices for many.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional


class TorchLoss(Protocol):
    """A loss, and how the outputs that it is made for are read."""

    def accepts(self, shape: tuple[int, ...], *, rows: int, outputs: int) -> bool:
        """Tell whether a model's output for `rows` rows may have this shape."""

    def mean(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the mean over the batch, a scalar to differentiate."""

    def rows(self, output: Tensor, target: Tensor) -> Tensor:
        """Return each row's loss, shape (N,)."""

    def scores(self, output: Tensor) -> Tensor:
        """Return what metrics are computed from: probabilities, or predicted values."""

    def average(self, outputs_M: Tensor) -> Tensor:
        """Return the output whose scores are the mean of those of M models' outputs."""


def _accepts_one(shape: tuple[int, ...], rows: int) -> bool:
    return shape in ((rows,), (rows, 1))


def _flat(output: Tensor, target: Tensor) -> Tensor:
    return output if output.shape == target.shape else output.reshape(target.shape)


class ProbabilityLoss:
    """Binary cross-entropy of probabilities."""

    def accepts(self, shape: tuple[int, ...], *, rows: int, outputs: int) -> bool:
        return outputs == 1 and _accepts_one(shape, rows)

    def mean(self, output: Tensor, target: Tensor) -> Tensor:
        return functional.binary_cross_entropy(_flat(output, target), target)

    def rows(self, output: Tensor, target: Tensor) -> Tensor:
        return functional.binary_cross_entropy(_flat(output, target), target, reduction="none")

    def scores(self, output: Tensor) -> Tensor:
        return output.reshape(-1)

    def average(self, outputs_M: Tensor) -> Tensor:
        return outputs_M.mean(0)


class LogitLoss:
    """Binary cross-entropy of logits."""

    def accepts(self, shape: tuple[int, ...], *, rows: int, outputs: int) -> bool:
        return outputs == 1 and _accepts_one(shape, rows)

    def mean(self, output: Tensor, target: Tensor) -> Tensor:
        return functional.binary_cross_entropy_with_logits(_flat(output, target), target)

    def rows(self, output: Tensor, target: Tensor) -> Tensor:
        output = _flat(output, target)
        return functional.binary_cross_entropy_with_logits(output, target, reduction="none")

    def scores(self, output: Tensor) -> Tensor:
        return output.reshape(-1).sigmoid()

    def average(self, outputs_M: Tensor) -> Tensor:
        positive = functional.logsigmoid(outputs_M).logsumexp(0)
        return positive - functional.logsigmoid(-outputs_M).logsumexp(0)


class ClassLoss:
    """Cross-entropy of one logit per class."""

    def accepts(self, shape: tuple[int, ...], *, rows: int, outputs: int) -> bool:
        return shape == (rows, outputs)

    def mean(self, output: Tensor, target: Tensor) -> Tensor:
        return functional.cross_entropy(output, target)

    def rows(self, output: Tensor, target: Tensor) -> Tensor:
        return functional.cross_entropy(output, target, reduction="none")

    def scores(self, output: Tensor) -> Tensor:
        return output.softmax(1)

    def average(self, outputs_M: Tensor) -> Tensor:
        return outputs_M.log_softmax(-1).logsumexp(0) - math.log(len(outputs_M))


class SquaredLoss:
    """Squared error."""

    def accepts(self, shape: tuple[int, ...], *, rows: int, outputs: int) -> bool:
        return outputs == 1 and _accepts_one(shape, rows)

    def mean(self, output: Tensor, target: Tensor) -> Tensor:
        return functional.mse_loss(_flat(output, target), target)

    def rows(self, output: Tensor, target: Tensor) -> Tensor:
        return torch.square(_flat(output, target) - target)

    def scores(self, output: Tensor) -> Tensor:
        return output.reshape(-1)

    def average(self, outputs_M: Tensor) -> Tensor:
        return outputs_M.mean(0)
