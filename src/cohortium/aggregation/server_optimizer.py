"""How the aggregate of a round becomes the next model, and the table of such optimizers.

A server optimizer treats the distance from the current model to the aggregate as a gradient
(Reddi et al. 2021, "Adaptive Federated Optimization", Algorithm 2). Only float arrays are
optimized; integer and bool arrays take the aggregate's values. State goes in and comes out: nothing
is changed in place.

To add one: a class, here or in a file of its own, and a line in `SERVER_OPTIMIZERS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Annotated, Any, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from cohortium.aggregation.precision import check_dtypes, is_float
from cohortium.aggregation.tiles import tiles
from cohortium.errors import DivergedError, RefusedError
from cohortium.part import part
from cohortium.registry import Registry
from cohortium.types import Array, Layout, Params

State = dict[str, Params]
"""What an optimizer remembers between rounds, by name."""

LearningRate = Annotated[float, Field(gt=0, description="Learning rate of the server.")]
Beta1 = Annotated[
    float, Field(ge=0, lt=1, description="Decay of the mean of the updates, once per round.")
]
Beta2 = Annotated[
    float,
    Field(ge=0, lt=1, description="Decay of the mean of the squared updates, once per round."),
]
Tau = Annotated[
    float, Field(gt=0, description="Adaptivity: added to the root of the mean squared update.")
]

_TILE = 1 << 14


class ServerOptimizer(Protocol):
    """A rule for the step from the current model towards the aggregate. Pure."""

    def init(self, params: Params) -> State:
        """Return the state before the first round, for models with the arrays of `params`."""

    def step(self, state: State, current: Params, mean: Params) -> tuple[Params, State]:
        """Return the next model and the next state.

        Args:
            state: what `init` or the last `step` returned.
            current: the model that the round began with.
            mean: the aggregate of the round's updates.

        Raises:
            RefusedError: `mean`, or the state, has other arrays than `current`.
            DivergedError: the step left the range of its dtype.
        """


SERVER_OPTIMIZERS = Registry(
    "server optimizer",
    group="cohortium.server_optimizers",
    builtin={
        "fedavg": "cohortium.aggregation.server_optimizer:FedAvg",
        "fedavgm": "cohortium.aggregation.server_optimizer:FedAvgM",
        "fedadam": "cohortium.aggregation.server_optimizer:FedAdam",
        "fedyogi": "cohortium.aggregation.server_optimizer:FedYogi",
        "fedadagrad": "cohortium.aggregation.server_optimizer:FedAdagrad",
    },
)


@part
class FedAvg:
    """The aggregate itself (McMahan et al. 2017), or a part of the way to it: x += lr * delta.

    With lr = 1 the next model is the aggregate, to the bit.

    >>> x, mean = Params.of({"w": np.array([1.0])}), Params.of({"w": np.array([3.0])})
    >>> FedAvg(lr=0.5).step({}, x, mean)[0]["w"]
    array([2.])
    """

    lr: LearningRate = 1.0

    def init(self, params: Params) -> State:
        return _zeros(params)

    def step(self, state: State, current: Params, mean: Params) -> tuple[Params, State]:
        if self.lr == 1.0:
            _check(state, current, mean)
            return mean, state

        def rule(delta: NDArray[Any]) -> tuple[NDArray[Any], ...]:
            return (self.lr * delta,)

        return _step(rule, state, current, mean)


@part
class FedAvgM:
    """Server momentum (Hsu et al. 2019, "Measuring the Effects of Non-Identical Data", §4.2).

    v = momentum * v + delta; x += lr * v.

    >>> x, mean = Params.of({"w": np.array([1.0])}), Params.of({"w": np.array([3.0])})
    >>> optimizer = FedAvgM(momentum=0.5)
    >>> _, state = optimizer.step(optimizer.init(x), x, mean)
    >>> optimizer.step(state, x, mean)[0]["w"]
    array([4.])
    """

    lr: LearningRate = 1.0
    momentum: Annotated[
        float, Field(ge=0, lt=1, description="Share of the last step that is taken again.")
    ] = 0.9

    def init(self, params: Params) -> State:
        return _zeros(params, "velocity")

    def step(self, state: State, current: Params, mean: Params) -> tuple[Params, State]:
        def rule(delta: NDArray[Any], velocity: NDArray[Any]) -> tuple[NDArray[Any], ...]:
            velocity = self.momentum * velocity + delta
            return self.lr * velocity, velocity

        return _step(rule, state, current, mean, "velocity")


@part
class FedAdam:
    """Adam on the server (Reddi et al. 2021, Algorithm 2), without bias correction.

    m = beta1 m + (1 - beta1) delta; v = beta2 v + (1 - beta2) delta^2; x += lr m / (sqrt(v) + tau).

    >>> x, mean = Params.of({"w": np.array([1.0])}), Params.of({"w": np.array([3.0])})
    >>> optimizer = FedAdam()
    >>> optimizer.step(optimizer.init(x), x, mean)[0]["w"].round(6)
    array([1.031623])
    """

    lr: LearningRate = 0.01
    beta1: Beta1 = 0.9
    beta2: Beta2 = 0.999
    tau: Tau = 1e-8

    def init(self, params: Params) -> State:
        return _zeros(params, "m", "v")

    def step(self, state: State, current: Params, mean: Params) -> tuple[Params, State]:
        def second(v: NDArray[Any], square: NDArray[Any]) -> NDArray[Any]:
            return np.asarray(self.beta2 * v + (1.0 - self.beta2) * square)

        rule = _adaptive(second, lr=self.lr, beta1=self.beta1, tau=self.tau)
        return _step(rule, state, current, mean, "m", "v")


@part
class FedYogi:
    """Yogi on the server (Reddi et al. 2021, Algorithm 2): v follows the squares additively.

    As FedAdam, with v -= (1 - beta2) delta^2 sign(v - delta^2).

    >>> x, mean = Params.of({"w": np.array([1.0])}), Params.of({"w": np.array([3.0])})
    >>> optimizer = FedYogi()
    >>> optimizer.step(optimizer.init(x), x, mean)[0]["w"].round(6)
    array([1.031623])
    """

    lr: LearningRate = 0.01
    beta1: Beta1 = 0.9
    beta2: Beta2 = 0.999
    tau: Tau = 1e-8

    def init(self, params: Params) -> State:
        return _zeros(params, "m", "v")

    def step(self, state: State, current: Params, mean: Params) -> tuple[Params, State]:
        def second(v: NDArray[Any], square: NDArray[Any]) -> NDArray[Any]:
            return np.asarray(v - (1.0 - self.beta2) * square * np.sign(v - square))

        rule = _adaptive(second, lr=self.lr, beta1=self.beta1, tau=self.tau)
        return _step(rule, state, current, mean, "m", "v")


@part
class FedAdagrad:
    """Adagrad on the server (Reddi et al. 2021, Algorithm 2): v sums all squares.

    As FedAdam, with v += delta^2.

    >>> x, mean = Params.of({"w": np.array([1.0])}), Params.of({"w": np.array([3.0])})
    >>> optimizer = FedAdagrad()
    >>> optimizer.step(optimizer.init(x), x, mean)[0]["w"].round(6)
    array([1.001])
    """

    lr: LearningRate = 0.01
    beta1: Beta1 = 0.9
    tau: Tau = 1e-8

    def init(self, params: Params) -> State:
        return _zeros(params, "m", "v")

    def step(self, state: State, current: Params, mean: Params) -> tuple[Params, State]:
        def second(v: NDArray[Any], square: NDArray[Any]) -> NDArray[Any]:
            return np.asarray(v + square)

        rule = _adaptive(second, lr=self.lr, beta1=self.beta1, tau=self.tau)
        return _step(rule, state, current, mean, "m", "v")


Rule = Callable[..., tuple[NDArray[Any], ...]]
"""(delta, the state's arrays in order) to (change of the model, the state's new arrays)."""


def _adaptive(
    second: Callable[[NDArray[Any], NDArray[Any]], NDArray[Any]],
    *,
    lr: float,
    beta1: float,
    tau: float,
) -> Rule:
    def rule(
        delta: NDArray[Any], m: NDArray[Any], v: NDArray[Any]
    ) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        m = beta1 * m + (1.0 - beta1) * delta
        v = second(v, delta * delta)
        return lr * m / (np.sqrt(v) + tau), m, v

    return rule


def _step(
    rule: Rule, state: State, current: Params, mean: Params, *names: str
) -> tuple[Params, State]:
    """Apply a rule to every float buffer in its own precision; `names` orders the state for it."""
    _check(state, current, mean, *names)
    model = {k: np.empty_like(v) if is_float(k) else v for k, v in mean.buffers.items()}
    fresh = {name: _empty_like(state[name]) for name in names}
    try:
        with np.errstate(over="raise"):
            for dtype, where in _float_tiles(current.layout):
                x: NDArray[Any] = current.buffers[dtype][where]
                target: NDArray[Any] = mean.buffers[dtype][where]
                old = (state[name].buffers[dtype][where] for name in names)
                change, *new = rule(target - x, *old)
                model[dtype][where] = x + change
                for name, values in zip(names, new, strict=True):
                    fresh[name][dtype][where] = values
    except FloatingPointError as error:
        raise DivergedError(
            "the server optimizer's step left the range of the model's dtype",
            "The updates are too far from the model: lower the sites' learning rate",
        ) from error
    layout = _float_layout(current.layout)
    return Params(current.layout, model), {k: Params(layout, v) for k, v in fresh.items()}


def _empty_like(params: Params) -> dict[str, Array]:
    return {dtype: np.empty_like(buffer) for dtype, buffer in params.buffers.items()}


def _float_tiles(layout: Layout) -> Iterator[tuple[str, slice]]:
    for dtype, size in layout.sizes.items():
        if is_float(dtype):
            for where in tiles(size, _TILE):
                yield dtype, where


def _zeros(params: Params, *names: str) -> State:
    check_dtypes(params.layout)
    layout = _float_layout(params.layout)

    def zeros() -> dict[str, Array]:
        return {dtype: np.zeros(size, dtype) for dtype, size in layout.sizes.items()}

    return {name: Params(layout, zeros()) for name in names}


def _float_layout(layout: Layout) -> Layout:
    return Layout(tuple(spec for spec in layout.specs if is_float(spec.dtype)))


def _check(state: State, current: Params, mean: Params, *names: str) -> None:
    if mean.layout != current.layout:
        raise RefusedError(
            "the aggregate has other arrays than the current model; expected the same names, "
            "shapes and dtypes. Aggregate updates that started from this model"
        )
    expected = _float_layout(current.layout)
    if state.keys() != set(names) or any(old.layout != expected for old in state.values()):
        raise RefusedError(
            f"the state holds {sorted(state)}; expected {sorted(names)} on the float arrays of the "
            "model. Start from what `init` returns for this model and this optimizer"
        )
