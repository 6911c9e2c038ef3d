"""What training makes small, and the table of such losses.

A loss is chosen in a study by its kind alone. Its settings here need no PyTorch; `build` gives the
functions that do (`torch_losses.py`). To add one: a part with `tasks` and `build`, and a line in
`LOSSES`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Protocol

from cohortium.learning.pytorch import require_torch
from cohortium.learning.task import TaskKind
from cohortium.part import part
from cohortium.registry import Registry

if TYPE_CHECKING:
    from cohortium.learning.torch_losses import TorchLoss


class Loss(Protocol):
    """Settings of a loss. `tasks` are the kinds of task that it fits."""

    tasks: ClassVar[frozenset[TaskKind]]

    def build(self) -> TorchLoss:
        """Return its functions. Raises ModelError where PyTorch is not installed."""


@part
class Bce:
    """Binary cross-entropy of probabilities, for models that end in a sigmoid; batch mean."""

    tasks: ClassVar[frozenset[TaskKind]] = frozenset({"binary-classification"})

    def build(self) -> TorchLoss:
        require_torch()
        from cohortium.learning.torch_losses import ProbabilityLoss

        return ProbabilityLoss()


@part
class BceWithLogits:
    """Binary cross-entropy of logits, stable at any size; batch mean."""

    tasks: ClassVar[frozenset[TaskKind]] = frozenset({"binary-classification"})

    def build(self) -> TorchLoss:
        require_torch()
        from cohortium.learning.torch_losses import LogitLoss

        return LogitLoss()


@part
class CrossEntropy:
    """Cross-entropy of one logit per class; batch mean."""

    tasks: ClassVar[frozenset[TaskKind]] = frozenset({"multiclass-classification"})

    def build(self) -> TorchLoss:
        require_torch()
        from cohortium.learning.torch_losses import ClassLoss

        return ClassLoss()


@part
class Mse:
    """Squared error; batch mean."""

    tasks: ClassVar[frozenset[TaskKind]] = frozenset({"regression"})

    def build(self) -> TorchLoss:
        require_torch()
        from cohortium.learning.torch_losses import SquaredLoss

        return SquaredLoss()


LOSSES = Registry(
    "loss",
    group="cohortium.losses",
    builtin={
        "bce": "cohortium.learning.losses:Bce",
        "bce-with-logits": "cohortium.learning.losses:BceWithLogits",
        "cross-entropy": "cohortium.learning.losses:CrossEntropy",
        "mse": "cohortium.learning.losses:Mse",
    },
)
