"""Slices of long buffers that fit a processor's cache, so that a rule passes over memory once."""

from __future__ import annotations

from collections.abc import Iterator


def tiles(size: int, length: int) -> Iterator[slice]:
    """Yield the slices that cut `size` elements into pieces of `length`; the last may be shorter.

    >>> list(tiles(5, 2))
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    for start in range(0, size, length):
        yield slice(start, min(start + length, size))
