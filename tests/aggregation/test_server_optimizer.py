"""Server optimizers against a plain transcription of the paper, and by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cohortium.aggregation.server_optimizer import (
    FedAdagrad,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedYogi,
    ServerOptimizer,
    State,
)
from cohortium.errors import DivergedError, RefusedError
from cohortium.types import Params

Vector = NDArray[np.float64]
Second = Callable[[Vector, Vector], Vector]


def run(optimizer: ServerOptimizer, models: list[Params], current: Params) -> list[Params]:
    state, path = optimizer.init(current), []
    for mean in models:
        current, state = optimizer.step(state, current, mean)
        path.append(current)
    return path


def vector(params: Params) -> Vector:
    return np.asarray(params["w"], np.float64)


def plain_adaptive(
    means: list[Vector], x: Vector, second: Second, *, lr: float, beta1: float, tau: float
) -> list[Vector]:
    """Reddi et al. 2021, Algorithm 2, line by line, with m = v = 0 before the first round."""
    m, v, path = np.zeros_like(x), np.zeros_like(x), []
    for mean in means:
        delta = mean - x
        m = beta1 * m + (1 - beta1) * delta
        v = second(v, delta)
        x = x + lr * m / (np.sqrt(v) + tau)
        path.append(x)
    return path


SECONDS: dict[str, Callable[[float], Second]] = {
    "adam": lambda beta2: lambda v, d: beta2 * v + (1 - beta2) * d**2,
    "yogi": lambda beta2: lambda v, d: v - (1 - beta2) * d**2 * np.sign(v - d**2),
    "adagrad": lambda _: lambda v, d: v + d**2,
}


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["adam", "yogi", "adagrad"]),
    st.sampled_from(["float32", "float64"]),
    st.integers(0, 2**32),
    st.floats(0.001, 1),
    st.floats(0, 0.99),
    st.floats(0, 0.9999),
    st.sampled_from([1e-8, 1e-3]),
)
def test_adaptive_optimizers_equal_the_paper(
    name: str, dtype: str, seed: int, lr: float, beta1: float, beta2: float, tau: float
) -> None:
    rng = np.random.default_rng(seed)
    x, *means = rng.standard_normal((6, 9)).astype(dtype)
    optimizer: ServerOptimizer
    if name == "adam":
        optimizer = FedAdam(lr=lr, beta1=beta1, beta2=beta2, tau=tau)
    elif name == "yogi":
        optimizer = FedYogi(lr=lr, beta1=beta1, beta2=beta2, tau=tau)
    else:
        optimizer = FedAdagrad(lr=lr, beta1=beta1, tau=tau)
    path = run(optimizer, [Params.of({"w": mean}) for mean in means], Params.of({"w": x}))
    wide = [mean.astype(np.float64) for mean in means]
    expected = plain_adaptive(
        wide, x.astype(np.float64), SECONDS[name](beta2), lr=lr, beta1=beta1, tau=tau
    )
    for got, want in zip(path, expected, strict=True):
        assert got["w"].dtype == np.dtype(dtype)
        tolerance = 1e-3 if dtype == "float32" else 1e-9
        np.testing.assert_allclose(vector(got), want, rtol=tolerance, atol=tolerance)


def test_fedadam_by_hand() -> None:
    """lr 0.1, beta1 0.9, beta2 0.99, tau 0.001 over two rounds.

    Round 1: x = 1, mean = 3, delta = 2: m = 0.2, v = 0.04, root 0.2, x = 1 + 0.02 / 0.201.
    Round 2: mean = 1.0995025 - 1, delta = -1: m = 0.18 - 0.1 = 0.08,
    v = 0.0396 + 0.01 = 0.0496, root 0.2227106, x = 1.0995025 + 0.008 / 0.2237106.
    """
    optimizer = FedAdam(lr=0.1, beta1=0.9, beta2=0.99, tau=0.001)
    x = Params.of({"w": np.array([1.0])})
    first, state = optimizer.step(optimizer.init(x), x, Params.of({"w": np.array([3.0])}))
    assert first["w"][0] == pytest.approx(1.0995024875621891, rel=1e-14)
    assert state["m"]["w"][0] == pytest.approx(0.2, rel=1e-14)
    assert state["v"]["w"][0] == pytest.approx(0.04, rel=1e-14)
    second, state = optimizer.step(state, first, Params.of({"w": vector(first) - 1.0}))
    assert state["m"]["w"][0] == pytest.approx(0.08, rel=1e-14)
    assert state["v"]["w"][0] == pytest.approx(0.0496, rel=1e-14)
    assert second["w"][0] == pytest.approx(1.0995024875621891 + 0.008 / 0.2237105, rel=1e-6)


def test_defaults_of_the_paper_move_by_a_known_step_at_first() -> None:
    """0.1 / sqrt(0.001) = 3.1623 learning rates for Adam and Yogi, a tenth of one for Adagrad."""
    x, mean = Params.of({"w": np.zeros(1)}), Params.of({"w": np.array([-7.0])})
    for optimizer, steps in (
        (FedAdam(), math.sqrt(10)),
        (FedYogi(), math.sqrt(10)),
        (FedAdagrad(), 0.1),
    ):
        assert run(optimizer, [mean], x)[0]["w"][0] == pytest.approx(-0.01 * steps, rel=1e-6)


@given(st.floats(0.01, 2), st.floats(0, 0.99))
def test_server_momentum(lr: float, momentum: float) -> None:
    x, first, second = np.random.default_rng(0).standard_normal((3, 4))
    path = run(
        FedAvgM(lr=lr, momentum=momentum),
        [Params.of({"w": first}), Params.of({"w": second})],
        Params.of({"w": x}),
    )
    v = first - x
    after_one = x + lr * v
    v = momentum * v + (second - after_one)
    np.testing.assert_allclose(vector(path[0]), after_one, rtol=1e-12)
    np.testing.assert_allclose(vector(path[1]), after_one + lr * v, rtol=1e-12)


def test_fedavg_is_the_mean_itself_or_part_of_the_way() -> None:
    x, mean = (
        Params.of({"w": np.array([1, 2], np.float32)}),
        Params.of({"w": np.array([2, 0], np.float32)}),
    )
    assert FedAvg().step({}, x, mean)[0] is mean
    assert FedAvg(lr=0.25).step({}, x, mean)[0]["w"].tolist() == [1.25, 1.5]


ALL: list[ServerOptimizer] = [FedAvg(lr=0.5), FedAvgM(), FedAdam(), FedYogi(), FedAdagrad()]


@pytest.mark.parametrize("optimizer", ALL)
def test_integers_and_bool_take_the_means_value(optimizer: ServerOptimizer) -> None:
    x = Params.of({"n": np.array([1, 2]), "w": np.zeros(2), "m": np.array([True])})
    mean = Params.of({"n": np.array([7, 9]), "w": np.ones(2), "m": np.array([False])})
    state = optimizer.init(x)
    after, state = optimizer.step(state, x, mean)
    assert after["n"].tolist() == [7, 9]
    assert after["m"].tolist() == [False]
    assert 0 < after["w"][0] < 2
    assert all(old.layout.sizes == {"float64": 2} for old in state.values())


@pytest.mark.parametrize("optimizer", ALL)
def test_nothing_is_changed_in_place(optimizer: ServerOptimizer) -> None:
    x, mean = Params.of({"w": np.zeros(40_000)}), Params.of({"w": np.arange(40_000.0)})
    state = optimizer.init(x)
    before = [x.digest, mean.digest, *(old.digest for old in state.values())]
    after, new = optimizer.step(state, x, mean)
    del x.__dict__["digest"], mean.__dict__["digest"]
    for old in state.values():
        del old.__dict__["digest"]
    assert before == [x.digest, mean.digest, *(old.digest for old in state.values())]
    assert after.layout == x.layout
    assert new.keys() == state.keys()


@pytest.mark.parametrize("optimizer", ALL)
def test_the_state_has_no_order(optimizer: ServerOptimizer) -> None:
    x, mean = Params.of({"w": np.zeros(3)}), Params.of({"w": np.arange(3.0)})
    state = optimizer.step(optimizer.init(x), x, mean)[1]
    turned: State = dict(reversed(state.items()))
    assert optimizer.step(turned, x, mean)[0].digest == optimizer.step(state, x, mean)[0].digest


@pytest.mark.parametrize("optimizer", [FedAvg(), *ALL])
def test_other_arrays_are_refused(optimizer: ServerOptimizer) -> None:
    x = Params.of({"w": np.zeros(2)})
    with pytest.raises(RefusedError, match="other arrays than the current model"):
        optimizer.step(optimizer.init(x), x, Params.of({"w": np.zeros(3)}))


@pytest.mark.parametrize("optimizer", [FedAvg(), *ALL])
def test_a_foreign_state_is_refused(optimizer: ServerOptimizer) -> None:
    x = Params.of({"w": np.zeros(2)})
    with pytest.raises(RefusedError, match="the state holds"):
        optimizer.step({**optimizer.init(x), "other": x}, x, x)


def test_a_state_of_another_model_is_refused() -> None:
    x, other = Params.of({"w": np.zeros(2)}), Params.of({"w": np.zeros(3)})
    with pytest.raises(RefusedError, match="Start from what `init` returns"):
        FedAdam().step(FedAdam().init(other), x, x)


@pytest.mark.parametrize("optimizer", [FedAdam(), FedYogi(), FedAdagrad()])
def test_a_step_beyond_the_range_is_loud(optimizer: ServerOptimizer) -> None:
    x = Params.of({"w": np.zeros(2, np.float32)})
    far = Params.of({"w": np.array([0, 1e30], np.float32)})
    with pytest.raises(DivergedError, match="lower the sites' learning rate"):
        optimizer.step(optimizer.init(x), x, far)


def test_a_half_precision_model_is_refused() -> None:
    x = Params.of({"w": np.zeros(2, np.float16)})
    with pytest.raises(RefusedError, match="float16"):
        FedAdam().init(x)


def test_tiles_cover_every_element() -> None:
    rng = np.random.default_rng(0)
    x, mean = rng.standard_normal((2, 50_000))
    after: dict[str, Any] = {}
    for name, part in (("whole", slice(None)), ("tail", slice(40_000, None))):
        moved = run(FedYogi(), [Params.of({"w": mean[part]})], Params.of({"w": x[part]}))
        after[name] = moved[0]["w"]
    np.testing.assert_array_equal(after["whole"][40_000:], after["tail"])
