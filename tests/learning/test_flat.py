"""Modules as views of flat buffers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cohortium.errors import ModelError
from cohortium.learning.flat import (
    ALIGNMENT,
    AddedGradients,
    FlatModule,
    TakenGradients,
    gradients_of,
)
from cohortium.types import Params


def conv() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)
    )


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Linear(4, 4)
        self.decode = nn.Linear(4, 4)
        self.decode.weight = self.encode.weight

    def forward(self, x: Tensor) -> Any:
        return self.decode(self.encode(x))


class Cached(nn.Module):
    """Replaces a buffer instead of writing into it, and keeps one that its state leaves out."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)
        self.mean: Tensor
        self.calls: Tensor
        self.register_buffer("mean", torch.zeros(2))
        self.register_buffer("calls", torch.zeros(()), persistent=False)

    def forward(self, x: Tensor) -> Any:
        self.mean = self.mean + x.mean(0)
        self.calls += 1
        return self.layer(x) + self.calls


def draw(module: FlatModule, seed: int) -> Params:
    rng = np.random.default_rng(seed)
    return Params.of(
        {
            spec.name: rng.integers(0, 9, spec.shape).astype(spec.dtype)
            for spec in module.layout.specs
        }
    )


@pytest.mark.parametrize("build", [conv, Tied, Cached, lambda: nn.Linear(3, 2, bias=False)])
def test_values_survive_a_round_trip_to_the_bit(build: Any) -> None:
    flat = FlatModule(build())
    params = draw(flat, 1)
    flat.load(params)
    assert flat.read().digest == params.digest
    for name, tensor in flat.module.state_dict().items():
        if name in params:
            assert np.array_equal(tensor.numpy(), params[name])


def test_a_module_keeps_its_first_values_names_and_dtypes() -> None:
    module = conv()
    before = {name: tensor.numpy().copy() for name, tensor in module.state_dict().items()}
    params = FlatModule(module).read()
    assert params.layout == Params.of(before).layout
    assert params["1.num_batches_tracked"].dtype == np.int64
    assert params.digest == Params.of(before).digest


def test_trained_parameters_lie_together_without_buffers() -> None:
    flat = FlatModule(conv())
    flat.module[1].bias.requires_grad_(False)  # type: ignore[index]
    flat = FlatModule(flat.module)
    trained = [p for p in flat.module.parameters() if p.requires_grad]
    assert [id(place.tensor) for place in flat.parameters] == [id(p) for p in trained]
    flat.trained["float32"].fill_(7)
    assert all(bool((p == 7).all()) for p in trained)
    assert not np.any(flat.read()["1.running_mean"] == 7)
    assert not np.any(flat.read()["1.bias"] == 7)


def test_what_was_read_is_not_touched_by_what_follows() -> None:
    flat = FlatModule(conv())
    params = flat.read()
    digest = params.digest
    flat.load(draw(flat, 2))
    assert Params(params.layout, params.buffers).digest == digest


def test_tied_parameters_are_shared_once() -> None:
    flat = FlatModule(Tied())
    assert list(flat.layout.slices) == ["encode.weight", "encode.bias", "decode.bias"]
    flat.load(draw(flat, 3))
    module = flat.module
    assert isinstance(module, Tied)
    assert torch.equal(module.encode.weight, module.decode.weight)


def test_replaced_buffers_are_read_and_hidden_ones_start_afresh() -> None:
    flat = FlatModule(Cached())
    start = flat.read()
    outputs = []
    for _ in range(2):
        flat.load(start)
        outputs.append(flat.module(torch.ones(1, 2)).item())
        assert flat.read()["mean"].tolist() == [1.0, 1.0]
    assert outputs[0] == outputs[1]


def test_parameters_of_several_dtypes() -> None:
    flat = FlatModule(nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2).double()]))
    assert {d: t.dtype for d, t in flat.trained.items()} == {
        "float32": torch.float32,
        "float64": torch.float64,
    }
    assert flat.read().layout.sizes == {"float32": 6, "float64": 6}


class Hiding(nn.Linear):
    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        state = super().state_dict(*args, **kwargs)
        del state["bias"]
        return state


class Extra(nn.Linear):
    def get_extra_state(self) -> Any:
        return {"steps": 3}


class Counting(nn.Linear):
    def get_extra_state(self) -> Any:
        return torch.zeros(3)


def overlapping() -> nn.Module:
    whole, part = nn.Linear(4, 4), nn.Linear(4, 2)
    part.weight = nn.Parameter(whole.weight.data[:2])
    return nn.ModuleList([whole, part])


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: nn.LazyLinear(3), "lazy tensor"),
        (lambda: nn.Linear(2, 2).to(torch.bfloat16), r"dtype torch\.bfloat16"),
        (lambda: nn.Linear(2, 2, device="meta"), "a tensor on meta"),
        (lambda: nn.ReLU(), "a module without parameters"),
        (lambda: Hiding(2, 2), "the state dict leaves out"),
        (lambda: Extra(2, 2), "_extra_state: got a dict"),
        (lambda: Counting(2, 2), "neither a parameter nor a buffer"),
        (overlapping, "views of one another"),
    ],
)
def test_state_that_cannot_be_shared_is_refused(build: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message) as refusal:
        FlatModule(build())
    assert "\n" not in str(refusal.value)


def backward(flat: FlatModule, gradients: Any, x: Tensor) -> list[Tensor]:
    gradients.clear()
    torch.autograd.backward(flat.module(x).square().mean())
    return [place.tensor.grad.clone() for place in flat.parameters if place.tensor.grad is not None]


def test_both_ways_to_hold_gradients_agree() -> None:
    flat, x = FlatModule(conv()), torch.randn(4, 1, 8, 8)
    start = flat.read()
    taken = backward(flat, TakenGradients(flat), x)
    flat.load(start)
    added_gradients = AddedGradients(flat)
    for _ in range(2):  # a second pass starts from zero
        flat.load(start)
        added = backward(flat, added_gradients, x)
    assert len(added) == len(taken) == len(flat.parameters)
    assert all(torch.equal(a, b) for a, b in zip(added, taken, strict=True))
    (flat_gradient,) = added_gradients.read()
    assert flat_gradient is not None
    where = flat.parameters[-1].where
    assert torch.equal(flat_gradient[where], taken[-1].view(-1))


def test_every_parameter_and_gradient_is_aligned_as_pytorch_does_it() -> None:
    flat = FlatModule(nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Linear(5, 1).double()))
    gradients = AddedGradients(flat)
    assert len(gradients.pieces) == 2
    for tensor in flat.module.state_dict().values():
        assert tensor.data_ptr() % ALIGNMENT == 0
    for place in flat.parameters:
        assert place.tensor.grad is not None
        assert place.tensor.grad.data_ptr() % ALIGNMENT == 0


def test_a_parameter_without_part_has_no_gradient_of_its_own() -> None:
    flat = FlatModule(nn.ModuleDict({"used": nn.Linear(2, 1), "idle": nn.Linear(2, 1)}))
    gradients = TakenGradients(flat)
    gradients.clear()
    torch.autograd.backward(flat.module["used"](torch.ones(1, 2)).sum())  # type: ignore[index]
    assert [g is None for g in gradients.read()] == [False, False, True, True]


def test_large_parameters_have_their_gradients_taken_over() -> None:
    assert isinstance(gradients_of(FlatModule(nn.Linear(20, 64))), AddedGradients)
    assert isinstance(gradients_of(FlatModule(nn.Linear(1000, 64))), TakenGradients)
