"""The optimizers' arithmetic is that of torch.optim."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from cohortium.learning.optimizers import OPTIMIZERS, Adam, Optimizer, Sgd

Reference = Callable[[Iterable[Tensor]], torch.optim.Optimizer]


def run(optimizer: Optimizer, first: Tensor, gradients: list[Tensor]) -> Tensor:
    parameters = first.clone()
    descent = optimizer.begin(parameters)
    for gradient in gradients:
        descent.step(parameters, gradient.clone())
    return parameters


def run_torch(make: Reference, first: Tensor, gradients: list[Tensor]) -> Tensor:
    parameters = torch.nn.Parameter(first.clone())
    reference = make([parameters])
    for gradient in gradients:
        parameters.grad = gradient.clone()
        reference.step()
    return parameters.detach()


def draw(seed: int, shape: tuple[int, ...], steps: int) -> tuple[Tensor, list[Tensor]]:
    rng = torch.Generator().manual_seed(seed)
    values = [torch.randn(shape, generator=rng) for _ in range(steps + 1)]
    return values[0], values[1:]


@given(st.integers(0, 1000), st.integers(0, 6), st.floats(1e-4, 1), st.floats(0, 0.1))
@settings(max_examples=30)
def test_plain_sgd_is_torchs_to_the_bit(seed: int, steps: int, lr: float, decay: float) -> None:
    first, gradients = draw(seed, (7,), steps)
    ours = run(Sgd(lr=lr, weight_decay=decay), first, gradients)
    theirs = run_torch(
        lambda p: torch.optim.SGD(p, lr=lr, weight_decay=decay, foreach=False), first, gradients
    )
    assert torch.equal(ours, theirs)


@given(st.integers(0, 1000), st.integers(1, 6), st.floats(0.01, 0.99), st.floats(0, 0.1))
@settings(max_examples=30)
def test_momentum_is_torchs(seed: int, steps: int, momentum: float, decay: float) -> None:
    first, gradients = draw(seed, (2, 3), steps)
    ours = run(Sgd(lr=0.1, momentum=momentum, weight_decay=decay), first, gradients)
    theirs = run_torch(
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=momentum, weight_decay=decay),
        first,
        gradients,
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)


@given(st.integers(0, 1000), st.integers(1, 8), st.floats(0, 0.99), st.floats(0, 0.1))
@settings(max_examples=30)
def test_adam_is_torchs(seed: int, steps: int, beta1: float, decay: float) -> None:
    first, gradients = draw(seed, (5,), steps)
    ours = run(Adam(lr=0.01, beta1=beta1, beta2=0.95, weight_decay=decay), first, gradients)
    theirs = run_torch(
        lambda p: torch.optim.Adam(p, lr=0.01, betas=(beta1, 0.95), weight_decay=decay),
        first,
        gradients,
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("optimizer", [Sgd(lr=0.1), Sgd(lr=0.1, momentum=0.9), Adam(lr=0.1)])
def test_a_block_trains_each_site_as_alone_while_its_steps_last(optimizer: Optimizer) -> None:
    first, gradients = draw(3, (4, 6), 5)
    at_work = [4, 4, 3, 2, 2]
    block = first.clone()
    descent = optimizer.begin(block)
    for k, gradient in zip(at_work, gradients, strict=True):
        descent.step(block[:k], gradient[:k].clone())
    for site in range(4):
        own = [g[site] for k, g in zip(at_work, gradients, strict=True) if site < k]
        torch.testing.assert_close(block[site], run(optimizer, first[site], own))


@pytest.mark.parametrize("kind", list(OPTIMIZERS))
def test_every_kind_starts_afresh_for_each_job(kind: str) -> None:
    optimizer: Optimizer = TypeAdapter(OPTIMIZERS[kind]).validate_json('{"lr": 0.1}')
    first, gradients = draw(1, (3,), 3)
    assert torch.equal(run(optimizer, first, gradients), run(optimizer, first, gradients))
    assert not torch.equal(run(optimizer, first, gradients), first)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("sgd", {}),
        ("sgd", {"lr": 0}),
        ("sgd", {"lr": 0.1, "momentum": 1.0}),
        ("sgd", {"lr": 0.1, "weight_decay": -1.0}),
        ("sgd", {"lr": 0.1, "nesterov": True}),
        ("sgd", {"lr": "fast"}),
        ("adam", {"beta2": 1.0}),
        ("adam", {"eps": 0.0}),
    ],
)
def test_settings_out_of_range_are_refused(kind: str, settings: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(OPTIMIZERS[kind]).validate_json(json.dumps(settings))
