"""Hospital by hospital: each arm's value at each site as dots on one axis.

Every strip is as wide as the room there is, and each arm has a height of its own in it, so that no
arm hides another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from cohortium.report.comparison import leading_arm
from cohortium.report.notation import UNDEFINED, metric_title, number
from cohortium.report.palette import arm_class, marker
from cohortium.report.scale import Scale, drawable, quantile, scale
from cohortium.report.svg import element, share
from cohortium.runtime.result import Result

MANY = 40
"""Hospitals up to which each has a line of its own; of more, each arm's spread is shown."""

CLOUD = 400
"""Hospitals up to which a spread shows them as dots."""

LOWEST = 10
"""Of many hospitals, how many of those with the worst values are listed."""

QUARTILES = (0.0, 0.25, 0.5, 0.75, 1.0)

STEP = 6
"""Pixels between the heights of two arms in a strip."""


@dataclass(frozen=True)
class Line:
    """One hospital, or one arm of many hospitals.

    Attributes:
        name: what it is called.
        rows: training rows; None for an arm.
        note: what to know about it, such as why a value is missing.
        strip: the dots.
        values: the values as text, by arm.
    """

    name: str
    rows: int | None
    note: str
    strip: Markup
    values: tuple[str, ...]


@dataclass(frozen=True)
class Panel:
    """All hospitals under one metric.

    Attributes:
        axis: the ticks that all strips share.
        lines: by hospital, or by arm where `collapsed`.
        most: training rows of the largest hospital.
        arms: the arms shown, by name to title.
        collapsed: whether there are too many hospitals for a line each.
    """

    axis: Markup
    lines: tuple[Line, ...]
    most: int
    arms: Mapping[str, str]
    collapsed: bool


def panel(result: Result, metric: str) -> Panel | None:
    """Return the hospitals under one metric; None where no arm was measured at any."""
    values = {
        name: arm.metrics[metric].per_site
        for name, arm in result.arms.items()
        if metric in arm.metrics and arm.metrics[metric].per_site
    }
    if not values:
        return None
    found = [v for per_site in values.values() for v in per_site.values() if drawable(v)]
    axis = scale(found)
    collapsed = len(result.sites) > MANY
    make = _spreads if collapsed else _hospitals
    return Panel(
        axis=_axis(axis),
        lines=tuple(make(result, metric, values, axis)),
        most=max(result.sites.values(), default=0),
        arms={name: result.arms[name].title for name in values},
        collapsed=collapsed,
    )


def lowest(result: Result, metric: str) -> list[tuple[str, int, str]]:
    """Return the hospitals at which the leading arm does worst: name, training rows, value."""
    arm = leading_arm(result)
    if arm is None or metric not in arm.metrics:
        return []
    per_site = arm.metrics[metric].per_site
    defined = [(value, site) for site, value in per_site.items() if drawable(value)]
    defined.sort(key=lambda found: found[0], reverse=result.better.get(metric) == "lower")
    return [(site, result.sites.get(site, 0), number(v)) for v, site in defined[:LOWEST]]


def why_undefined(metric: str, seen: int) -> str:
    """Return why a metric has no value at a hospital where `seen` arms were measured."""
    if not seen:
        return "not measured here"
    if metric == "auroc":
        return "one class only"
    return f"{metric_title(metric)} is undefined on these records"


Values = Mapping[str, Mapping[str, float | None]]
"""Arm to site to value."""


def _hospitals(result: Result, metric: str, values: Values, axis: Scale) -> list[Line]:
    only = set(result.evaluation_only)
    lines = []
    for site, rows in result.sites.items():
        mine = {arm: per_site[site] for arm, per_site in values.items() if site in per_site}
        notes = ["evaluates only"] if site in only else []
        if not any(value is not None for value in mine.values()):
            notes.append(f"{UNDEFINED} {why_undefined(metric, len(mine))}")
        text = tuple(number(mine.get(arm)) for arm in values)
        strip = _strip(result, site, mine, list(values), axis)
        lines.append(Line(site, rows, ", ".join(notes), strip, text))
    return lines


def _strip(
    result: Result, site: str, mine: Mapping[str, float | None], arms: Sequence[str], axis: Scale
) -> Markup:
    """Draw one hospital's dots; each arm has a height of its own."""
    height = _height(len(arms))
    dots, told = [], []
    for i, arm in enumerate(arms):
        value = mine.get(arm)
        if drawable(value):
            text = f"{result.arms[arm].title} {number(value)}"
            told.append(text)
            dot = marker(arm, title=f"{site}: {text}")
            x, y = share(axis(value)), 9 + STEP * i
            dots.append(element("svg", dot, x=x, y=y, class_="at"))
    words = f"{site}: {', '.join(told) or 'no value'}"
    return _frame(_gridlines(axis, height), *dots, height=height, words=words)


def _spreads(result: Result, metric: str, values: Values, axis: Scale) -> list[Line]:
    lines = []
    for arm, per_site in values.items():
        ordered = sorted(v for v in per_site.values() if drawable(v))
        missing = len(per_site) - len(ordered)
        note = f"{UNDEFINED} at {missing}: {why_undefined(metric, 1)}" if missing else ""
        strip = _spread(result, arm, ordered, axis)
        text = tuple(number(quantile(ordered, q)) for q in QUARTILES if ordered)
        lines.append(Line(result.arms[arm].title, None, note, strip, text))
    return lines


def _spread(result: Result, arm: str, ordered: Sequence[float], axis: Scale) -> Markup:
    """Draw how an arm's values spread over hospitals: range, middle half, median, and dots."""
    title, colour = result.arms[arm].title, arm_class(arm)
    if not ordered:
        return _frame(_gridlines(axis, 40), height=40, words=f"{title}: no value")
    least, low, middle, high, most = (axis(quantile(ordered, q)) for q in QUARTILES)
    box = {"x": share(low), "width": share(high - low)}
    drawn = [
        _rule(least, most, (13, 13), f"whisker {colour}"),
        element("rect", **box, y="7", height="12", rx="3", class_=f"half {colour}"),
        _rule(middle, middle, (4, 22), f"median {colour}"),
    ]
    if len(ordered) <= CLOUD:
        drawn += [_speck(axis(value), i, colour) for i, value in enumerate(ordered)]
    words = f"{title}: from {number(ordered[0])} to {number(ordered[-1])}, "
    words += f"median {number(quantile(ordered, 0.5))}, over {len(ordered)} hospitals"
    return _frame(_gridlines(axis, 40), *drawn, height=40, words=words)


def _rule(x1: float, x2: float, y: tuple[float, float], class_: str) -> Markup:
    return element("line", x1=share(x1), x2=share(x2), y1=y[0], y2=y[1], class_=class_)


def _speck(x: float, i: int, colour: str) -> Markup:
    """Draw one of many hospitals; three heights in turn, so that few lie on one another."""
    return element("circle", cx=share(x), cy=29 + 2 * (i % 3), r=2.2, class_=f"speck {colour}")


def _height(arms: int) -> int:
    return 18 + STEP * (arms - 1)


def _frame(*children: Markup, height: float, words: str) -> Markup:
    return element(
        "svg",
        *children,
        class_="strip",
        width="100%",
        height=height,
        role="img",
        aria_label=words,
    )


def _gridlines(axis: Scale, height: float) -> Markup:
    lines = (_rule(axis(tick), axis(tick), (0, height), "grid") for tick in axis.ticks)
    return Markup("").join(lines)


def _axis(axis: Scale) -> Markup:
    ticks = [
        element("text", axis.label(t), x=share(axis(t)), y=12, class_="tick", text_anchor="middle")
        for t in axis.ticks
    ]
    return element("svg", *ticks, class_="strip", width="100%", height=18, aria_hidden="true")
