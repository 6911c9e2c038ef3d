"""How a site turns gradients into new parameters, and the table of such optimizers.

Each works in place on whole tensors: the flat parameters of one site, shape (P,), or those of a
block of sites, shape (K, ...), of which the first k may take part in a step. The arithmetic is that
of `torch.optim`, in its order. State lives during one training job: every round starts afresh.

To add one: a part with `begin`, and a line in `OPTIMIZERS`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Protocol

from pydantic import Field

from cohortium.part import part
from cohortium.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor

LearningRate = Annotated[float, Field(gt=0, description="Learning rate.")]
WeightDecay = Annotated[
    float, Field(ge=0, description="L2 penalty: this times the parameters joins the gradient.")
]


class Descent(Protocol):
    """An optimizer at work on one tensor, with its state."""

    def step(self, parameters: Tensor, gradient: Tensor) -> None:
        """Do one update of `parameters` in place; `gradient` is used up.

        Args:
            parameters: the first k rows of the tensor that `begin` was given, k never growing.
            gradient: of the loss, same shape.
        """


class Optimizer(Protocol):
    """Settings of an optimizer."""

    def begin(self, parameters: Tensor) -> Descent:
        """Start a training job on a tensor of parameters, shape (P,) or (K, ...)."""


@part
class Sgd:
    """Stochastic gradient descent, with momentum (Sutskever et al. 2013, as `torch.optim.SGD`)."""

    lr: LearningRate
    momentum: Annotated[
        float, Field(ge=0, lt=1, description="Share of the previous step that is kept.")
    ] = 0.0
    weight_decay: WeightDecay = 0.0

    def begin(self, parameters: Tensor) -> Descent:
        """Start a training job; the momentum buffer starts at zero."""
        return _SgdDescent(self, parameters) if self.momentum else _PlainDescent(self)


@part
class Adam:
    """Adam with bias correction (Kingma and Ba 2015, algorithm 1, as `torch.optim.Adam`)."""

    lr: LearningRate = 0.001
    beta1: Annotated[
        float, Field(ge=0, lt=1, description="Decay of the mean of the gradients.")
    ] = 0.9
    beta2: Annotated[
        float, Field(ge=0, lt=1, description="Decay of the mean of the squared gradients.")
    ] = 0.999
    eps: Annotated[float, Field(gt=0, description="Added to the root, against division by 0.")] = (
        1e-8
    )
    weight_decay: WeightDecay = 0.0

    def begin(self, parameters: Tensor) -> Descent:
        """Start a training job; both moments start at zero."""
        return _AdamDescent(self, parameters)


class _PlainDescent:
    def __init__(self, settings: Sgd) -> None:
        self._lr, self._decay = settings.lr, settings.weight_decay

    def step(self, parameters: Tensor, gradient: Tensor) -> None:
        if self._decay:
            gradient.add_(parameters, alpha=self._decay)
        parameters.add_(gradient, alpha=-self._lr)


class _SgdDescent:
    def __init__(self, settings: Sgd, parameters: Tensor) -> None:
        self._settings = settings
        self._velocity = parameters.new_zeros(parameters.shape)

    def step(self, parameters: Tensor, gradient: Tensor) -> None:
        settings, velocity = self._settings, self._velocity[: len(parameters)]
        if settings.weight_decay:
            gradient.add_(parameters, alpha=settings.weight_decay)
        velocity.mul_(settings.momentum).add_(gradient)
        parameters.add_(velocity, alpha=-settings.lr)


class _AdamDescent:
    def __init__(self, settings: Adam, parameters: Tensor) -> None:
        self._settings, self._steps = settings, 0
        self._mean = parameters.new_zeros(parameters.shape)
        self._square = parameters.new_zeros(parameters.shape)

    def step(self, parameters: Tensor, gradient: Tensor) -> None:
        settings, k = self._settings, len(parameters)
        mean, square = self._mean[:k], self._square[:k]
        self._steps += 1
        if settings.weight_decay:
            gradient.add_(parameters, alpha=settings.weight_decay)
        mean.lerp_(gradient, 1 - settings.beta1)
        square.mul_(settings.beta2).addcmul_(gradient, gradient, value=1 - settings.beta2)
        root = (1 - settings.beta2**self._steps) ** 0.5
        denominator = square.sqrt().div_(root).add_(settings.eps)
        rate = settings.lr / (1 - settings.beta1**self._steps)
        parameters.addcdiv_(mean, denominator, value=-rate)


OPTIMIZERS = Registry(
    "optimizer",
    group="cohortium.optimizers",
    builtin={
        "sgd": "cohortium.learning.optimizers:Sgd",
        "adam": "cohortium.learning.optimizers:Adam",
    },
)
