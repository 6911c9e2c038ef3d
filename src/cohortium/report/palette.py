"""How arms look wherever they are drawn: a colour from the style sheet and a shape of their own."""

from __future__ import annotations

from markupsafe import Markup

from cohortium.report.svg import element, path

KNOWN = ("pooled", "federated", "single", "ensemble", "iil", "ciil", "leave-one-out")

_SHAPES = (
    [(-4.6, -4.6), (4.6, -4.6), (4.6, 4.6), (-4.6, 4.6)],
    None,
    [(0, -6.2), (6.2, 0), (0, 6.2), (-6.2, 0)],
    [(0, -6), (5.6, 4.4), (-5.6, 4.4)],
    [(-5.6, -4.4), (5.6, -4.4), (0, 6)],
    [
        (-2, -6),
        (2, -6),
        (2, -2),
        (6, -2),
        (6, 2),
        (2, 2),
        (2, 6),
        (-2, 6),
        (-2, 2),
        (-6, 2),
        (-6, -2),
        (-2, -2),
    ],
    [(-6, -3.4), (0, -6.4), (6, -3.4), (6, 3.4), (0, 6.4), (-6, 3.4)],
)


def arm_class(name: str) -> str:
    """Return the class that gives an arm's colour; arms that are not known here share one."""
    return f"arm-{KNOWN.index(name) if name in KNOWN else len(KNOWN)}"


def marker(name: str, *, title: str = "") -> Markup:
    """Return an arm's mark around (0, 0), about 12 pixels wide; unknown arms and ours are round."""
    shape = _SHAPES[KNOWN.index(name)] if name in KNOWN else None
    told = element("title", title) if title else Markup("")
    classes = f"mark {arm_class(name)}"
    if shape is None:
        return element("circle", told, r=5.4, class_=classes)
    return element("path", told, d=path(shape, closed=True), class_=classes)


def legend_mark(name: str) -> Markup:
    """Return an arm's mark as a little picture of its own, for a legend."""
    return element(
        "svg",
        marker(name),
        class_="key",
        width=16,
        height=16,
        viewBox="-8 -8 16 16",
        aria_hidden="true",
    )
