"""The values that every room shares: arrays on a declared layout, updates, and derived randomness.

Legend: P = number of elements of one dtype in a model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NewType

import numpy as np
from numpy.typing import NDArray

SiteId = NewType("SiteId", str)
PartyId = NewType("PartyId", str)
Array = NDArray[np.generic]
Statistics = Mapping[str, NDArray[np.float64]]
"""Additive statistics by name: summing them over sites gives those of all sites together."""

VALIDATION = "validation/"
"""Prefix of the statistics that come from the validation part."""


@dataclass(frozen=True)
class ArraySpec:
    """Name, shape and numpy dtype name of one declared array."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))


@dataclass(frozen=True)
class Layout:
    """The arrays of a model, in a fixed order, and where each lies in its flat buffer.

    All arrays of one dtype lie end to end, in order, in one 1-D buffer.
    """

    specs: tuple[ArraySpec, ...]

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Number of elements per dtype."""
        sizes: dict[str, int] = {}
        for spec in self.specs:
            sizes[spec.dtype] = sizes.get(spec.dtype, 0) + spec.size
        return sizes

    @cached_property
    def slices(self) -> dict[str, tuple[str, slice, tuple[int, ...]]]:
        """Array name to (dtype, slice of that dtype's buffer, shape)."""
        ends: dict[str, int] = {}
        places = {}
        for spec in self.specs:
            start = ends.get(spec.dtype, 0)
            ends[spec.dtype] = start + spec.size
            places[spec.name] = (spec.dtype, slice(start, start + spec.size), spec.shape)
        return places

    @cached_property
    def nbytes(self) -> int:
        return sum(size * np.dtype(dtype).itemsize for dtype, size in self.sizes.items())

    @classmethod
    def of(cls, arrays: Mapping[str, Array]) -> Layout:
        """Return the layout of named arrays, in their order."""
        return cls(tuple(ArraySpec(k, tuple(a.shape), a.dtype.name) for k, a in arrays.items()))


class Params(Mapping[str, Array]):
    """Named arrays on a layout, held as one flat read-only buffer per dtype.

    Args:
        layout: what the arrays are.
        buffers: dtype name to a 1-D array of `layout.sizes[dtype]` elements. Taken over without a
            copy and made read-only: hand over what nobody else writes.

    Raises:
        ValueError: a buffer is missing, superfluous, or of another dtype, shape or size.
    """

    __slots__ = ("__dict__", "__weakref__", "buffers", "layout")

    def __init__(self, layout: Layout, buffers: Mapping[str, Array]) -> None:
        if buffers.keys() != layout.sizes.keys():
            raise ValueError(f"buffers {sorted(buffers)} are not {sorted(layout.sizes)}")
        for dtype, size in layout.sizes.items():
            if buffers[dtype].shape != (size,) or buffers[dtype].dtype != np.dtype(dtype):
                raise ValueError(f"buffer {dtype} is not {size} elements of {dtype}")
            buffers[dtype].flags.writeable = False
        self.layout, self.buffers = layout, buffers

    @classmethod
    def of(cls, arrays: Mapping[str, Array]) -> Params:
        """Copy named arrays into new buffers.

        >>> params = Params.of({"w": np.ones((2, 2), np.float32), "n": np.array(3)})
        >>> params["w"].shape, params.layout.sizes
        ((2, 2), {'float32': 4, 'int64': 1})
        """
        layout = Layout.of(arrays)
        parts: dict[str, list[Array]] = {dtype: [] for dtype in layout.sizes}
        for spec in layout.specs:
            parts[spec.dtype].append(np.asarray(arrays[spec.name]).reshape(-1))
        return cls(layout, {dtype: np.concatenate(part) for dtype, part in parts.items()})

    def __getitem__(self, name: str) -> Array:
        dtype, where, shape = self.layout.slices[name]
        return self.buffers[dtype][where].reshape(shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self.layout.slices)

    def __len__(self) -> int:
        return len(self.layout.specs)

    @property
    def nbytes(self) -> int:
        return self.layout.nbytes

    @cached_property
    def digest(self) -> str:
        """SHA-256 over names, shapes, dtypes and little-endian bytes, as hex."""
        sha = hashlib.sha256(repr(self.layout.specs).encode())
        for dtype in sorted(self.buffers):
            sha.update(np.ascontiguousarray(self.buffers[dtype]).data)
        return sha.hexdigest()

    def is_finite(self) -> bool:
        """Tell whether no element is NaN or infinite."""
        return all(
            bool(np.isfinite(buffer).all())
            for buffer in self.buffers.values()
            if buffer.dtype.kind == "f"
        )


@dataclass(frozen=True, slots=True)
class Update:
    """What one step at one site produced. Never leaves the site: the gate makes a release of it.

    Attributes:
        params: the arrays, or None where a step only measured.
        weight: how much it counts: the number of training rows it comes from.
        statistics: additive statistics of the declared metrics.
    """

    params: Params | None
    weight: float
    statistics: Statistics = field(default_factory=dict)


def derive_seed(seed: int, *context: str | int) -> int:
    """Return a 63-bit seed for one use of a study's seed, such as ("batches", site, epoch).

    SHA-256 over the length-prefixed parts, so that no two contexts collide by concatenation.

    >>> derive_seed(0, "batches", "a", 1) == derive_seed(0, "batches", "a", 1)
    True
    >>> derive_seed(0, "ab") == derive_seed(0, "a", "b")
    False
    """
    parts = [str(part).encode() for part in (seed, *context)]
    message = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
    return int.from_bytes(hashlib.sha256(message).digest()[:8], "big") >> 1


def derive_rng(seed: int, *context: str | int) -> np.random.Generator:
    """Return a numpy generator for one use of a study's seed; see `derive_seed`."""
    return np.random.Generator(np.random.Philox(key=derive_seed(seed, *context)))


def sum_statistics(parts: Sequence[Statistics]) -> dict[str, NDArray[np.float64]]:
    """Add additive statistics in the order given.

    >>> sum_statistics([{"n": np.array([1.0])}, {"n": np.array([2.0])}])
    {'n': array([3.])}
    """
    total: dict[str, NDArray[np.float64]] = {}
    for statistics in parts:
        for name, values in statistics.items():
            total[name] = total[name] + values if name in total else values
    return total
