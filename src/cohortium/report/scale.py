"""Axes: round numbers to stand beside them, and where a value lies between their ends."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeGuard

from cohortium.report.notation import number

ROOM = 0.04
"""Share of an axis that is left free at each end."""


@dataclass(frozen=True)
class Scale:
    """A linear axis.

    Attributes:
        low, high: its ends.
        ticks: round values within them.
        digits: decimals that tell the ticks apart.
    """

    low: float
    high: float
    ticks: tuple[float, ...]
    digits: int

    def __call__(self, value: float) -> float:
        """Return where a value lies: 0 at the low end, 1 at the high one."""
        return (value - self.low) / (self.high - self.low)

    def label(self, tick: float) -> str:
        """Return the text beside a tick."""
        return number(tick, self.digits)


def scale(values: Iterable[float], *, ticks: int = 5) -> Scale:
    """Return an axis over all finite values, with a little room at both ends and ticks within.

    Args:
        values: what is to be shown; without any the axis is 0 to 1.
        ticks: about how many ticks.

    >>> scale([0.62, 0.97]).ticks
    (0.7, 0.8, 0.9)
    """
    finite = [value for value in values if drawable(value)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
    if high - low <= 1e-9 * max(abs(low), abs(high), 1e-3):
        margin = max(abs(low) * 0.05, 1e-3)
        low, high = low - margin, high + margin
    step = _round_step((high - low) / ticks)
    room = ROOM * (high - low)
    low, high = low - room, high + room
    first, last = math.ceil(low / step), math.floor(high / step)
    digits = next((d for d in range(12) if math.isclose(round(step, d), step)), 12)
    marks = tuple(round(i * step, digits + 2) for i in range(first, last + 1))
    return Scale(low, high, marks, digits)


def whole_ticks(low: int, high: int, *, ticks: int = 6) -> tuple[int, ...]:
    """Return round whole numbers from `low` to `high`, always with both ends.

    >>> whole_ticks(1, 20)
    (1, 5, 10, 15, 20)
    """
    if high - low < ticks:
        return tuple(range(low, high + 1))
    step = max(1, round(_round_step((high - low) / (ticks - 1))))
    between = range(step * (low // step + 1), high, step)
    kept = [n for n in between if min(n - low, high - n) >= step / 3]
    return (low, *kept, high)


def drawable(value: float | None) -> TypeGuard[float]:
    """Tell whether a value has a place on an axis: it is defined, and finite."""
    return value is not None and math.isfinite(value)


def quantile(ordered: Sequence[float], share: float) -> float:
    """Return a quantile of ascending values, between neighbours where it falls between two.

    >>> quantile([1.0, 2.0, 4.0], 0.75)
    3.0
    """
    place = share * (len(ordered) - 1)
    below = min(int(place), max(len(ordered) - 2, 0))
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def _round_step(raw: float) -> float:
    """Return the least of 1, 2, 2.5, 5 times a power of ten that is no less than `raw`."""
    power: float = 10.0 ** math.floor(math.log10(raw))
    return next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * (1 - 1e-9))
