"""Many sites at once: the training of stacks of linear layers with ReLU as batched products.

A block of sites is trained by a handful of batched matrix products per step instead of a module's
forward and backward per site. Gradients are written out by hand; what happens to them afterwards is
the study's own algorithm and optimizer. The result equals training site by site within 1e-5.

Sites are ordered by their number of updates, so that those with work left are always the first k.
Rows that fill up a short batch have weight 0.

Legend: K sites (k still at work), T steps of a window, B rows of a batch, F features, O outputs of
a layer, C outputs of the model. Activations have shape (K, O, B): a softmax over outputs then runs
along memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cohortium.errors import ModelError, Problem
from cohortium.learning.algorithm import LocalAlgorithm
from cohortium.learning.batches import Feed, Shuffler
from cohortium.learning.optimizers import Optimizer
from cohortium.learning.task import Trained, TrainJob
from cohortium.learning.torch_losses import ClassLoss, LogitLoss, SquaredLoss, TorchLoss
from cohortium.types import Array, Layout, Params, Update

MAX_SITES = 200
"""Sites per block: beyond these a larger block gains nothing."""

CACHE_BYTES = 8 << 20
"""What a block may take: past the processor's caches, a block is slower than site by site."""

WINDOW_ROWS = 1 << 19
"""Row numbers that are made at a time."""

Slope = Callable[[Tensor, Tensor], Tensor]
"""From output and target, shape (k, C, B), to the derivative of each row's loss by the output."""

SLOPES: dict[type, Slope] = {
    LogitLoss: lambda output, target: output.sigmoid_().sub_(target),
    ClassLoss: lambda output, target: output.softmax(1).sub_(target),
    SquaredLoss: lambda output, target: output.sub_(target).mul_(2),
}


@dataclass(frozen=True)
class Layer:
    """One linear layer: its sizes, whether a ReLU follows, and where its arrays lie in a buffer."""

    inputs: int
    outputs: int
    relu: bool
    weight: slice
    bias: slice | None


def layers_of(module: nn.Module, layout: Layout) -> tuple[Layer, ...] | None:
    """Return the layers of a module that is nothing but linear layers with ReLU; else None.

    It must be a plain `nn.Linear`, or an `nn.Sequential` of those and `nn.ReLU` that ends in one:
    float32, all of it trained, without hooks or shared weights.
    """
    parts = list(module) if type(module) is nn.Sequential else [module]
    if not all(_is_plain(part) for part in [module, *parts]):
        return None
    kinds = [type(part) for part in parts]
    if not kinds or kinds[0] is not nn.Linear or kinds[-1] is not nn.Linear:
        return None
    linears = [part for part in parts if isinstance(part, nn.Linear)]
    names = {id(p): name for name, p in module.named_parameters()}
    arrays = [p for part in linears for p in part.parameters()]
    if len(names) != len(arrays) or any(not p.requires_grad for p in arrays):
        return None
    if set(layout.sizes) != {"float32"}:
        return None
    relu = [kinds[i + 1 : i + 2] == [nn.ReLU] for i, kind in enumerate(kinds) if kind is nn.Linear]
    return tuple(
        Layer(
            part.in_features,
            part.out_features,
            follows,
            layout.slices[names[id(part.weight)]][1],
            None if part.bias is None else layout.slices[names[id(part.bias)]][1],
        )
        for part, follows in zip(linears, relu, strict=True)
    )


_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
)


def _is_plain(part: nn.Module) -> bool:
    if type(part) not in (nn.Sequential, nn.Linear, nn.ReLU) or "forward" in vars(part):
        return False
    return not any(getattr(part, hooks) for hooks in _HOOKS)


class LinearStack:
    """Trains blocks of sites on one model.

    Args:
        layers: of the model.
        layout: of its parameters.
        loss: one of those in `SLOPES`.
        optimizer: of the study.
        algorithm: of the study.
        batch_size: rows per batch.
    """

    def __init__(
        self,
        layers: tuple[Layer, ...],
        *,
        layout: Layout,
        loss: TorchLoss,
        optimizer: Optimizer,
        algorithm: LocalAlgorithm,
        batch_size: int,
    ) -> None:
        self.layers, self.layout = layers, layout
        self._slope, self._one_hot = SLOPES[type(loss)], isinstance(loss, ClassLoss)
        self.optimizer, self.algorithm, self.batch_size = optimizer, algorithm, batch_size

    def fits(self, job: TrainJob) -> bool:
        """Tell whether a job's inputs are vectors that the first layer takes, and its end known.

        Sites that train for a time each go as far as they get: they do not step together.
        """
        if job.work.seconds is not None:
            return False
        x = job.data.x
        return x.dtype == np.float32 and x.shape[1:] == (self.layers[0].inputs,)

    def block_size(self, job: TrainJob) -> int:
        """Return how many jobs like this are best trained together; 1 where that is no gain."""
        if not self.fits(job):
            return 1
        outputs, rows = sum(layer.outputs for layer in self.layers), len(job.data)
        state = 2 * self.layout.sizes["float32"]
        activations = 2 * outputs * min(self.batch_size, rows)
        table = rows * (self.layers[0].inputs + self.layers[-1].outputs)
        return max(1, min(MAX_SITES, CACHE_BYTES // (4 * (state + activations + table))))

    @torch.no_grad()
    def train(self, jobs: Sequence[TrainJob]) -> list[Trained]:
        """Train a block of sites; results in the order of `jobs`."""
        feeds, table = self._feeds(jobs), self._table(jobs)
        order = sorted(range(len(jobs)), key=lambda i: -feeds[i].updates)
        ordered = [feeds[i] for i in order]
        rows_KP = np.stack([jobs[i].params.buffers["float32"] for i in order])
        block = _Block(self.layers, rows_KP, max(1, *(feed.width for feed in feeds)))
        descent = _Descent(block, self.optimizer, self.algorithm)
        for step in _steps(ordered, table, width=block.width, inputs=self.layers[0].inputs):
            block.differentiate(step, self._slope)
            descent.step(step.sites)
        block.write(rows_KP)
        rows = dict(zip(order, rows_KP, strict=True))
        return [
            Trained(Update(self._params(rows[i]), float(len(job.data))), feeds[i].cursor)
            for i, job in enumerate(jobs)
        ]

    def _params(self, row: Array) -> Params:
        return Params(self.layout, {"float32": row.copy()})

    def _feeds(self, jobs: Sequence[TrainJob]) -> list[Feed]:
        shuffler, first, feeds = Shuffler(), 0, []
        for job in jobs:
            feed = Feed(job, batch_size=self.batch_size, shuffler=shuffler, first_row=first)
            feeds.append(feed)
            first += len(job.data)
        return feeds

    def _table(self, jobs: Sequence[TrainJob]) -> Tensor:
        """Return all sites' rows, inputs beside targets, and one row of zeros at the end."""
        inputs, outputs = self.layers[0].inputs, self.layers[-1].outputs
        rows = sum(len(job.data) for job in jobs)
        table = np.zeros((rows + 1, inputs + outputs), np.float32)
        targets = np.concatenate([job.data.y for job in jobs])
        np.concatenate([job.data.x for job in jobs], out=table[:-1, :inputs])
        if self._one_hot:
            _check_classes(targets, outputs)
            table[np.arange(rows), inputs + targets] = 1
        else:
            table[:-1, inputs] = targets
        return torch.from_numpy(table)


def _check_classes(targets: Array, classes: int) -> None:
    """Refuse what would be written beside the table's columns of classes."""
    if targets.dtype.kind not in "iu" or (len(targets) and not _lie_within(targets, classes)):
        expected = f"class numbers 0 to {classes - 1}, as integers"
        raise ModelError(Problem("<model>", "target", "other targets in a site's rows", expected))


def _lie_within(targets: Array, classes: int) -> bool:
    return bool(targets.min() >= 0 and targets.max() < classes)


@dataclass(frozen=True, slots=True)
class _Step:
    """One batch of each of the first `sites` sites.

    `inputs` has shape (k, B, F), `targets` (k, C, B); `weight` is 1/rows of the batch, a number, or
    shape (k, 1, B) with zeros where a short batch is filled up.
    """

    sites: int
    inputs: Tensor
    targets: Tensor
    weight: Tensor | float


def _steps(feeds: Sequence[Feed], table: Tensor, *, width: int, inputs: int) -> Iterator[_Step]:
    """Yield the block's steps. Row numbers are made for a window of steps at a time."""
    padding = len(table) - 1
    updates = np.array([feed.updates for feed in feeds])
    window = max(1, WINDOW_ROWS // (len(feeds) * width))
    for begin in range(0, int(updates.max()), window):
        length = min(window, int(updates.max()) - begin)
        rows_KTB = np.full((len(feeds), length, width), padding)
        for feed, rows_TB in zip(feeds, rows_KTB, strict=True):
            feed.fill(rows_TB, begin)
        rows_TKB = np.ascontiguousarray(rows_KTB.swapaxes(0, 1))
        weights = _weights(rows_TKB != padding)
        for t, rows_KB in enumerate(torch.from_numpy(rows_TKB)):
            k = int((updates > begin + t).sum())
            batch = table.index_select(0, rows_KB[:k].view(-1)).view(k, width, -1)
            weight = 1 / width if weights is None else weights[t, :k]
            yield _Step(k, batch[:, :, :inputs], batch[:, :, inputs:].transpose(1, 2), weight)


def _weights(is_row_TKB: NDArray[np.bool_]) -> Tensor | None:
    """Return 1/rows of each batch, shape (T, K, 1, B), or None where every batch is full."""
    if is_row_TKB.all():
        return None
    lengths = np.maximum(is_row_TKB.sum(2, keepdims=True, dtype=np.float32), 1)
    return torch.from_numpy((is_row_TKB / lengths).astype(np.float32)[:, :, None])


@dataclass(frozen=True, slots=True)
class _BlockLayer:
    """One layer of K sites: weight (K, O, F), bias (K, O), output and its slope (K, O, B)."""

    relu: bool
    weight: Tensor
    weight_gradient: Tensor
    bias: Tensor | None
    bias_gradient: Tensor | None
    output: Tensor
    slope: Tensor

    def first(self, k: int) -> _BlockLayer:
        """Return the same layer of the first k sites, as views."""
        bias, bias_gradient = self.bias, self.bias_gradient
        return _BlockLayer(
            relu=self.relu,
            weight=self.weight[:k],
            weight_gradient=self.weight_gradient[:k],
            bias=None if bias is None else bias[:k],
            bias_gradient=None if bias_gradient is None else bias_gradient[:k],
            output=self.output[:k],
            slope=self.slope[:k],
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output for inputs of shape (K, F, B)."""
        if self.bias is None:
            torch.bmm(self.weight, x, out=self.output)
        else:
            torch.baddbmm(self.bias.unsqueeze(2), self.weight, x, out=self.output)
        return self.output.relu_() if self.relu else self.output

    def differentiate(self, slope: Tensor, x: Tensor) -> None:
        """Write the gradients, from the loss's slope by the output and inputs (K, B, F)."""
        torch.bmm(slope, x, out=self.weight_gradient)
        if self.bias_gradient is not None:
            torch.sum(slope, 2, out=self.bias_gradient)

    def pull_back(self, slope: Tensor, below: _BlockLayer) -> Tensor:
        """Return the slope by the output of the layer below. Uses that output up."""
        torch.bmm(self.weight.transpose(1, 2), slope, out=below.slope)
        return below.slope.mul_(below.output.gt_(0)) if below.relu else below.slope


class _Block:
    """The parameters, gradients and activations of K sites, layer by layer."""

    def __init__(self, layers: Sequence[Layer], rows_KP: Array, width: int) -> None:
        self._layers = layers
        self.width = width
        self.whole = [_block_layer(layer, rows_KP, width) for layer in layers]
        self._first = {len(rows_KP): self.whole}

    def first(self, k: int) -> list[_BlockLayer]:
        """Return the layers of the first k sites."""
        if k not in self._first:
            self._first[k] = [layer.first(k) for layer in self.whole]
        return self._first[k]

    def differentiate(self, step: _Step, slope_of: Slope) -> None:
        """Write the gradients of one batch of each site at work."""
        layers, x = self.first(step.sites), step.inputs.transpose(1, 2)
        for layer in layers:
            x = layer.forward(x)
        slope = slope_of(x, step.targets).mul_(step.weight)
        for layer, below in zip(layers[:0:-1], layers[-2::-1], strict=True):
            layer.differentiate(slope, below.output.transpose(1, 2))
            slope = layer.pull_back(slope, below)
        layers[0].differentiate(slope, step.inputs)

    def write(self, rows_KP: Array) -> None:
        """Write all sites' parameters back, one row per site."""
        for layer, block in zip(self._layers, self.whole, strict=True):
            rows_KP[:, layer.weight] = block.weight.numpy().reshape(len(rows_KP), -1)
            if layer.bias is not None and block.bias is not None:
                rows_KP[:, layer.bias] = block.bias.numpy()


def _block_layer(layer: Layer, rows_KP: Array, width: int) -> _BlockLayer:
    sites, shape = len(rows_KP), (layer.outputs, layer.inputs)
    weight = torch.empty(sites, *shape)  # as PyTorch aligns it, so that bits do not vary
    weight.copy_(torch.from_numpy(rows_KP[:, layer.weight]).view(sites, *shape))
    bias = None if layer.bias is None else torch.from_numpy(rows_KP[:, layer.bias].copy())
    return _BlockLayer(
        relu=layer.relu,
        weight=weight,
        weight_gradient=torch.empty_like(weight),
        bias=bias,
        bias_gradient=None if bias is None else torch.empty_like(bias),
        output=torch.empty(sites, layer.outputs, width),
        slope=torch.empty(sites, layer.outputs, width),
    )


class _Descent:
    """The study's algorithm and optimizer at work on a block."""

    def __init__(self, block: _Block, optimizer: Optimizer, algorithm: LocalAlgorithm) -> None:
        self._block, self._algorithm = block, algorithm
        self._runs = [optimizer.begin(parameters) for parameters, _ in _pieces(block.whole)]
        self._anchors = [parameters.clone() for parameters, _ in _pieces(block.whole)]

    def step(self, sites: int) -> None:
        """Update the first `sites` sites by their gradients."""
        pieces = _pieces(self._block.first(sites))
        for (parameters, gradient), run, anchor in zip(
            pieces, self._runs, self._anchors, strict=True
        ):
            self._algorithm.adjust(gradient, parameters, anchor[:sites])
            run.step(parameters, gradient)


def _pieces(layers: Sequence[_BlockLayer]) -> list[tuple[Tensor, Tensor]]:
    """Return the parameters beside their gradients."""
    pieces = []
    for layer in layers:
        pieces.append((layer.weight, layer.weight_gradient))
        if layer.bias is not None and layer.bias_gradient is not None:
            pieces.append((layer.bias, layer.bias_gradient))
    return pieces
