"""The built-in models as PyTorch modules, initialised as PyTorch does it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


def linear(*, inputs: int, outputs: int) -> nn.Module:
    """Return one linear layer: weights named "weight" and "bias"."""
    return nn.Linear(inputs, outputs)


def mlp(*, inputs: int, hidden: Sequence[int], outputs: int) -> nn.Module:
    """Return linear layers with ReLU between them; their weights are "0.weight", "2.weight" and on.

    >>> [tuple(p.shape) for p in mlp(inputs=20, hidden=[64], outputs=2).parameters()]
    [(64, 20), (64,), (2, 64), (2,)]
    """
    widths = [inputs, *hidden]
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(widths):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], outputs))


class Average(nn.ModuleList):
    """Models side by side whose scores are averaged: weights named "0.…", "1.…".

    Args:
        members: the models.
        average: makes one output of theirs, stacked along the first axis.
    """

    def __init__(self, members: Iterable[nn.Module], average: Callable[[Tensor], Tensor]) -> None:
        super().__init__(members)
        self._average = average

    def forward(self, x: Tensor) -> Tensor:
        """Return the output whose scores are the mean of the members' scores."""
        return self._average(torch.stack([member(x) for member in self]))
