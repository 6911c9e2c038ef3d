"""How numbers look: the same to German and English readers.

A decimal point, no sign between thousands but a narrow space, and a narrow space before a unit (ISO
80000-1 §7). A minus is a minus, not a dash; an en dash stands for what is undefined.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

THIN = "\u202f"
"""Narrow no-break space."""

MINUS = "\u2212"
"""Minus sign, as wide as a digit."""

TIMES = "\u00d7"
"""Multiplication sign."""

DASH = "\u2013"
"""En dash, between the ends of a range."""

NBSP = "\u00a0"
"""No-break space."""

UNDEFINED = DASH
"""There is no such value."""

_TITLES = {
    "auroc": "AUROC",
    "brier": "Brier score",
    "mae": "MAE",
    "mse": "MSE",
    "r2": "R²",
}


def metric_title(name: str) -> str:
    """Return what readers call a metric.

    >>> metric_title("auroc"), metric_title("accuracy")
    ('AUROC', 'accuracy')
    """
    return _TITLES.get(name, name)


def number(value: float | None, digits: int = 3) -> str:
    r"""Return a metric's value with `digits` decimals; fewer before the point leave more after it.

    >>> number(0.98765), number(1234.5)
    ('0.988', '1\u202f234.5')
    >>> number(-0.5) == f"{MINUS}0.500", number(None) == UNDEFINED
    (True, True)
    """
    if value is None or math.isnan(value):
        return UNDEFINED
    if math.isinf(value):
        return "∞" if value > 0 else f"{MINUS}∞"
    if abs(value) >= 100:
        digits = min(digits, 1)
    text = f"{value:,.{digits}f}".replace(",", THIN)
    return text.replace("-", MINUS) if float(f"{value:.{digits}f}") else f"{0:.{digits}f}"


def percent(ratio: float) -> str:
    r"""Return a ratio as per cent with one decimal.

    >>> percent(0.994)
    '99.4\u202f%'
    """
    return f"{number(100 * ratio, 1)}{THIN}%"


def count(n: int) -> str:
    r"""Return a whole number with its thousands apart.

    >>> count(1234567)
    '1\u202f234\u202f567'
    """
    return f"{n:,}".replace(",", THIN)


def plural(n: int, one: str, many: str = "") -> str:
    """Return a number with its noun.

    >>> plural(1, "hospital"), plural(3, "hospital")
    ('1 hospital', '3 hospitals')
    """
    return f"{count(n)} {one if n == 1 else many or one + 's'}"


def duration(seconds: float) -> str:
    r"""Return a time that a person can grasp.

    >>> duration(0.0421), duration(12.34), duration(125), duration(7300)
    ('0.04\u202fs', '12.3\u202fs', '2\u202fmin 05\u202fs', '2\u202fh 01\u202fmin')
    """
    if seconds < 59.95:
        return f"{seconds:.{2 if seconds < 1 else 1}f}{THIN}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}{THIN}min {rest:02d}{THIN}s"
    hours, minutes = divmod(minutes, 60)
    return f"{count(hours)}{THIN}h {minutes:02d}{THIN}min"


def size(nbytes: float) -> str:
    r"""Return bytes in decimal units (IEC 80000-13: 1 kB is 1000 bytes).

    >>> size(980), size(12_345), size(3_400_000)
    ('980\u202fB', '12.3\u202fkB', '3.4\u202fMB')
    """
    if nbytes < 999.5:
        return f"{nbytes:.0f}{THIN}B"
    for unit in ("kB", "MB", "GB"):
        nbytes /= 1000
        if nbytes < 999.95:
            return f"{nbytes:.1f}{THIN}{unit}"
    return f"{number(nbytes / 1000, 1)}{THIN}TB"


def spans(numbers: Iterable[int]) -> str:
    """Return ascending numbers, with runs drawn together.

    >>> spans([1, 3, 4, 7, 8, 9]) == f"1, 3, 4, 7{DASH}9"
    True
    """
    runs: list[list[int]] = []
    for n in numbers:
        if runs and n == runs[-1][1] + 1:
            runs[-1][1] = n
        else:
            runs.append([n, n])
    return ", ".join(_span(first, last) for first, last in runs)


def typeset(text: str) -> str:
    r"""Return a text of ours with the apostrophes that books have.

    >>> typeset("the site's") == "the site\u2019s"
    True
    """
    return text.replace("'", "\u2019")


def _span(first: int, last: int) -> str:
    if first == last:
        return f"{first}"
    return f"{first}{DASH if last > first + 1 else ', '}{last}"
