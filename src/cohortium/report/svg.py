"""Elements of SVG: escaped, and with numbers written one way: equal drawings are equal bytes."""

from __future__ import annotations

import re
from collections.abc import Sequence

from markupsafe import Markup, escape

Point = tuple[float, float]

_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 §2.2 does not allow in a document, not even escaped."""


def element(name: str, /, *children: str, **attributes: str | float | None) -> Markup:
    """Return an element; children that are not markup are escaped, attributes always are.

    An underscore in an attribute's name is a dash (`class_` is `class`); None leaves it out.

    >>> str(element("text", "a < b", x=1.0, y=2.345678, class_="label", text_anchor="end"))
    '<text x="1" y="2.35" class="label" text-anchor="end">a &lt; b</text>'
    """
    head = Markup("").join(
        Markup(' {}="{}"').format(_dashed(key), _text(value))
        for key, value in attributes.items()
        if value is not None
    )
    inner = Markup("").join(clean(child) for child in children)
    if not inner:
        return Markup("<{}{}/>").format(name, head)
    return Markup("<{0}{1}>{2}</{0}>").format(name, head, inner)


def clean(text: str) -> Markup:
    """Return text that may stand in a document: escaped, without what XML forbids."""
    return Markup(_NOT_XML.sub("\ufffd", escape(text)))  # noqa: S704 - escaped


def decimal(value: float) -> str:
    """Return a coordinate with at most two decimals.

    >>> decimal(3.0), decimal(-0.001), decimal(12.3456)
    ('3', '0', '12.35')
    """
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def share(value: float) -> str:
    """Return a coordinate that is a share of the width, in per cent."""
    return f"{decimal(100 * value)}%"


def path(points: Sequence[Point], *, closed: bool = False) -> str:
    """Return the data of a polyline.

    >>> path([(0, 0), (1.5, 2)])
    'M0 0L1.5 2'
    """
    steps = (f"{decimal(x)} {decimal(y)}" for x, y in points)
    return "M" + "L".join(steps) + ("Z" if closed else "")


def curve(*points: Point) -> str:
    """Return the data of a Bezier curve: quadratic of three points, cubic of four.

    >>> curve((0, 0), (1, 2), (3, 0))
    'M0 0Q1 2 3 0'
    """
    start, *rest = (f"{decimal(x)} {decimal(y)}" for x, y in points)
    return f"M{start}{'Q' if len(rest) == 2 else 'C'}{' '.join(rest)}"


def _text(value: str | float) -> Markup | str:
    return clean(value) if isinstance(value, str) else decimal(value)


def _dashed(name: str) -> str:
    return name.rstrip("_").replace("_", "-")
