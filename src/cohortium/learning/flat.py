"""A module whose state lies in one flat buffer per dtype, so that a site's turn is a few copies.

The parameters that are trained lie first in their buffer, end to end: an optimizer's update is a
few operations on one tensor. A module is given a site's values by a copy into its buffers: no
module, optimizer or state dict is made per site.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from cohortium.errors import ModelError, Problem
from cohortium.types import Array, ArraySpec, Layout, Params

DTYPES = {
    torch.float32: "float32",
    torch.float64: "float64",
    torch.float16: "float16",
    torch.int64: "int64",
    torch.int32: "int32",
    torch.int16: "int16",
    torch.int8: "int8",
    torch.uint8: "uint8",
    torch.bool: "bool",
}


ALIGNMENT = 64
"""Bytes. Matrix products may differ in their last bits with the alignment of what they read: where
PyTorch allocates, and so here, every tensor starts at such a multiple."""


@dataclass(frozen=True)
class Entry:
    """One tensor of a module's state, and the table of its owner that holds it."""

    spec: ArraySpec
    tensor: Tensor
    owner: MutableMapping[str, Any]
    key: str

    @property
    def is_trained(self) -> bool:
        return isinstance(self.tensor, nn.Parameter) and self.tensor.requires_grad


@dataclass(frozen=True)
class Move:
    """A stretch of a dtype's buffer: where it lies in `Params`, and where in the module."""

    dtype: str
    wire: slice
    work: slice


@dataclass(frozen=True)
class Place:
    """A trained parameter, and its stretch of `trained[dtype]`."""

    tensor: Tensor
    dtype: str
    where: slice


class FlatModule:
    """A module and the flat buffers that its parameters and buffers are views of.

    Tied parameters are held and shared once, under their first name.

    Args:
        module: taken over; its values are kept.

    Raises:
        ModelError: its state cannot be shared as named arrays.

    Attributes:
        layout: the arrays that sites share, in the order of the module's state dict.
        trained: per dtype, the flat tensor of trained parameters; zeros lie between them where
            the next one's alignment asks for it.
        parameters: the trained ones.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self._entries = _entries(module)
        self.layout = Layout(tuple(entry.spec for entry in self._entries))
        order = sorted(self._entries, key=lambda entry: not entry.is_trained)
        places, sizes = _places(entry.spec for entry in order)
        work = {d: torch.zeros(size, dtype=_torch_dtype(d)) for d, size in sizes.items()}
        for entry in order:
            _adopt(entry, work[entry.spec.dtype][places[entry.spec.name]])
        self._arrays = {dtype: tensor.numpy() for dtype, tensor in work.items()}
        self._moves = _moves(self.layout, places)
        trained = [entry for entry in order if entry.is_trained]
        self.parameters = [Place(e.tensor, e.spec.dtype, places[e.spec.name]) for e in trained]
        self.trained = {p.dtype: work[p.dtype][: p.where.stop] for p in self.parameters}
        self._buffers = [e for e in self._entries if not isinstance(e.tensor, nn.Parameter)]
        self._transient = [(b, b.clone()) for b in _hidden_buffers(module, self._entries)]

    def load(self, params: Params) -> None:
        """Copy values into the module; what its layout does not name returns to its beginning."""
        for move in self._moves:
            self._arrays[move.dtype][move.work] = params.buffers[move.dtype][move.wire]
        for buffer, first in self._transient:
            buffer.copy_(first)

    def read(self) -> Params:
        """Return a copy of the module's values."""
        self._recapture()
        buffers: dict[str, Array] = {
            dtype: np.empty(size, dtype) for dtype, size in self.layout.sizes.items()
        }
        for move in self._moves:
            buffers[move.dtype][move.wire] = self._arrays[move.dtype][move.work]
        return Params(self.layout, buffers)

    def _recapture(self) -> None:
        """Take back buffers that the module replaced by new tensors."""
        for entry in self._buffers:
            current = entry.owner[entry.key]
            if current is not entry.tensor and current is not None:
                entry.tensor.copy_(current.detach())
                entry.owner[entry.key] = entry.tensor


def _torch_dtype(name: str) -> torch.dtype:
    return next(dtype for dtype, known in DTYPES.items() if known == name)


def _adopt(entry: Entry, flat: Tensor) -> None:
    """Make a tensor a view of its stretch of a flat buffer, without changing its value."""
    view = flat.view(entry.spec.shape)
    view.copy_(entry.tensor.detach())
    entry.tensor.data = view


def _places(specs: Iterable[ArraySpec]) -> tuple[dict[str, slice], dict[str, int]]:
    """Return where each array lies in its dtype's buffer, and the buffers' sizes."""
    places, ends = {}, dict[str, int]()
    for spec in specs:
        unit = ALIGNMENT // np.dtype(spec.dtype).itemsize
        start = -(-ends.get(spec.dtype, 0) // unit) * unit
        ends[spec.dtype] = start + spec.size
        places[spec.name] = slice(start, start + spec.size)
    return places, ends


def _entries(module: nn.Module) -> list[Entry]:
    entries: dict[int, Entry] = {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        problem = _problem(tensor)
        if problem:
            raise _refusal(name, problem)
        if id(tensor) not in entries:
            path, _, key = name.rpartition(".")
            owner = module.get_submodule(path)
            is_parameter = key in owner._parameters
            table: MutableMapping[str, Any] = owner._parameters if is_parameter else owner._buffers
            if key not in table:
                raise _refusal(name, "an entry that is neither a parameter nor a buffer")
            spec = ArraySpec(name, tuple(tensor.shape), DTYPES[tensor.dtype])
            entries[id(tensor)] = Entry(spec, tensor, table, key)
    _check_complete(module, entries)
    _check_apart([entry.tensor for entry in entries.values()])
    return list(entries.values())


def _problem(tensor: object) -> str:
    if not isinstance(tensor, Tensor):
        return f"a {type(tensor).__name__}"
    if is_lazy(tensor):
        return "a lazy tensor whose size is not known yet"
    if tensor.dtype not in DTYPES:
        return f"dtype {tensor.dtype}"
    if tensor.device.type != "cpu":
        return f"a tensor on {tensor.device}"
    return ""


def _check_complete(module: nn.Module, entries: Mapping[int, Entry]) -> None:
    for name, parameter in module.named_parameters():
        if id(parameter) not in entries:
            raise _refusal(name, "a parameter that the state dict leaves out")
    if not entries:
        raise _refusal("", "a module without parameters")


def _check_apart(tensors: list[Tensor]) -> None:
    """Refuse tensors that share memory without being one and the same parameter."""
    stretches = sorted(_stretch(tensor) for tensor in tensors if tensor.numel())
    for (_, end), (start, _) in pairwise(stretches):
        if start < end:
            raise _refusal("", "parameters that are views of one another")


def _stretch(tensor: Tensor) -> tuple[int, int]:
    reach = sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.data_ptr(), tensor.data_ptr() + (reach + 1) * tensor.element_size()


def _refusal(name: str, got: str) -> ModelError:
    expected = "state made of plain CPU tensors, of floats up to 64 bits, integers or bool"
    advice = (
        "Build the module with sizes given, on the CPU, and tie weights by sharing a Parameter."
    )
    return ModelError(Problem("<model>", name, got, expected, advice))


def _hidden_buffers(module: nn.Module, entries: Iterable[Entry]) -> list[Tensor]:
    """Return the buffers that the state dict leaves out (`persistent=False`)."""
    known = {id(entry.tensor) for entry in entries}
    return [buffer for buffer in module.buffers() if id(buffer) not in known]


def _moves(layout: Layout, work: Mapping[str, slice]) -> list[Move]:
    """Return the stretches to copy between wire and module, as few as possible."""
    moves: dict[str, list[Move]] = {dtype: [] for dtype in layout.sizes}
    for name, (dtype, wire, _) in layout.slices.items():
        move, before = Move(dtype, wire, work[name]), moves[dtype]
        if before and before[-1].work.stop == move.work.start:
            first = before.pop()
            to = slice(first.work.start, move.work.stop)
            move = Move(dtype, slice(first.wire.start, wire.stop), to)
        before.append(move)
    return [move for before in moves.values() for move in before]


class Gradients(Protocol):
    """Where a module's gradients are, beside the flat pieces of parameters that they belong to."""

    pieces: list[Tensor]

    def clear(self) -> None:
        """Forget the gradients, before a backward pass."""

    def read(self) -> Sequence[Tensor | None]:
        """Return the gradients of `pieces`, 1-D; None for a parameter that took no part."""


class AddedGradients:
    """Gradients added into one flat buffer per dtype: cheapest for many small parameters.

    A parameter that takes no part in a backward pass has a gradient of zeros.
    """

    def __init__(self, flat: FlatModule) -> None:
        self.pieces = list(flat.trained.values())
        self._gradients = [torch.zeros_like(piece) for piece in self.pieces]
        buffers = dict(zip(flat.trained, self._gradients, strict=True))
        for place in flat.parameters:
            gradient = buffers[place.dtype][place.where]
            place.tensor.grad = gradient.view(place.tensor.shape)

    def clear(self) -> None:
        for gradient in self._gradients:
            gradient.zero_()

    def read(self) -> Sequence[Tensor | None]:
        return self._gradients


class TakenGradients:
    """Gradients taken over as autograd makes them: spares large parameters two passes of memory."""

    def __init__(self, flat: FlatModule) -> None:
        self._parameters = [place.tensor for place in flat.parameters]
        self.pieces = [parameter.detach().view(-1) for parameter in self._parameters]

    def clear(self) -> None:
        for parameter in self._parameters:
            parameter.grad = None

    def read(self) -> Sequence[Tensor | None]:
        gradients = (parameter.grad for parameter in self._parameters)
        return [None if gradient is None else gradient.reshape(-1) for gradient in gradients]


LARGE = 8192
"""Elements per parameter, on average, from which gradients are better taken over than added."""


def gradients_of(flat: FlatModule) -> Gradients:
    """Return the cheaper way to hold a module's gradients."""
    elements = sum(place.tensor.numel() for place in flat.parameters)
    is_large = elements > LARGE * len(flat.parameters)
    return TakenGradients(flat) if is_large else AddedGradients(flat)
