"""Learning curves: one metric of the consensus model, round by round.

Widths are shares of the room there is, heights are pixels: a curve fits a phone and a wall, and its
letters keep their size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from markupsafe import Markup

from cohortium.report.notation import metric_title, number
from cohortium.report.palette import arm_class
from cohortium.report.scale import Scale, drawable, quantile, scale, whole_ticks
from cohortium.report.svg import Point, element, path, share
from cohortium.runtime.result import ArmResult, Result

T = TypeVar("T")

HEIGHT = 220
TOP = 10
LINES = 12
"""Sites up to which each has a thin line; of more, bands show how they spread."""

NEAR = 0.02
"""Least room around the arms' lines, as a share of their values."""

POINTS = 240
"""Most points of a line: more cannot be told apart."""

GAP = 15
"""Least distance of two labels."""

Points = list[tuple[int, float]]
"""Round and value."""


@dataclass(frozen=True)
class _Axes:
    rounds: tuple[int, int]
    values: Scale

    def x(self, round_: int) -> float:
        low, high = self.rounds
        return (round_ - low) / (high - low)

    def y(self, value: float) -> float:
        return TOP + (1 - self.values(value)) * HEIGHT


def learning_curve(result: Result, metric: str) -> Markup | None:
    """Return one metric's curves as SVG; None where no arm was measured in two rounds."""
    lines = {name: _overall(arm, metric) for name, arm in result.arms.items()}
    lines = {name: points for name, points in lines.items() if len(points) > 1}
    if not lines:
        return None
    leading = next(n for n in ("federated", *lines) if n in lines)
    sites = _per_site(result.arms[leading], metric)
    axes = _axes(list(lines.values()), list(sites.values()))
    drawn = [_grid(axes), _sites(leading, sites, axes), _lines(lines, axes)]
    drawn += [_points(result, name, points, axes) for name, points in lines.items()]
    drawn.append(_labels(result, lines, axes))
    title = f"{metric_title(metric)} over the rounds"
    return element(
        "svg",
        element("title", title, id=f"curve-{metric}-title"),
        element("desc", _told(result, lines), id=f"curve-{metric}-desc"),
        *drawn,
        class_="curve",
        width="100%",
        height=HEIGHT + TOP + 34,
        role="img",
        aria_labelledby=f"curve-{metric}-title curve-{metric}-desc",
    )


def _overall(arm: ArmResult, metric: str) -> Points:
    """Return the defined values by round; of a round that was repeated, the last."""
    found = {r.round: r.metrics[metric].overall for r in arm.rounds if metric in r.metrics}
    return [(r, value) for r, value in sorted(found.items()) if drawable(value)]


def _per_site(arm: ArmResult, metric: str) -> dict[str, Points]:
    found: dict[str, dict[int, float]] = {}
    for r in arm.rounds:
        if metric in r.metrics:
            for site, value in r.metrics[metric].per_site.items():
                if drawable(value):
                    found.setdefault(site, {})[r.round] = value
    return {site: sorted(points.items()) for site, points in found.items()}


def _axes(lines: Sequence[Points], sites: Sequence[Points]) -> _Axes:
    """Return axes that show the arms' lines well, and of the sites' lines what lies near them."""
    rounds = [round_ for points in lines for round_, _ in points]
    values = [value for points in lines for _, value in points]
    low, high = min(values), max(values)
    room = max((high - low) / 2, NEAR * max(abs(low), abs(high)))
    near = (min(max(v, low - room), high + room) for points in sites for _, v in points)
    return _Axes((min(rounds), max(rounds)), scale([*values, *near]))


def _grid(axes: _Axes) -> Markup:
    drawn = []
    for tick in axes.values.ticks:
        y = axes.y(tick)
        drawn.append(element("line", x1="0%", x2="100%", y1=y, y2=y, class_="grid"))
        label = axes.values.label(tick)
        drawn.append(element("text", label, x=-9, y=y + 4, class_="tick", text_anchor="end"))
    for round_ in whole_ticks(*axes.rounds, ticks=5):
        x, y = share(axes.x(round_)), HEIGHT + TOP + 20
        drawn.append(element("text", f"{round_}", x=x, y=y, class_="tick", text_anchor="middle"))
    return Markup("").join(drawn)


def _stretched(*children: Markup, cut: bool = False) -> Markup:
    """Return a drawing in shares of the width; strokes keep theirs. `cut` ends it at the frame."""
    return element(
        "svg",
        *children,
        width="100%",
        height=HEIGHT + TOP,
        viewBox=f"0 0 1000 {HEIGHT + TOP}",
        preserveAspectRatio="none",
        class_="stretched cut" if cut else "stretched",
    )


def _sites(name: str, sites: Mapping[str, Points], axes: _Axes) -> Markup:
    if len(sites) < 2:
        return Markup("")
    if len(sites) > LINES:
        return _stretched(*_bands(name, sites, axes), cut=True)
    return _stretched(
        *(
            element(
                "path",
                element("title", f"{site}: {number(points[-1][1])} in the last round"),
                d=path(_thinned(points, axes)),
                class_=f"thin {arm_class(name)}",
            )
            for site, points in sites.items()
        ),
        cut=True,
    )


def _bands(name: str, sites: Mapping[str, Points], axes: _Axes) -> list[Markup]:
    """Shade from the lowest to the highest site, and the middle half."""
    by_round: dict[int, list[float]] = {}
    for points in sites.values():
        for round_, value in points:
            by_round.setdefault(round_, []).append(value)
    spread = {round_: sorted(values) for round_, values in sorted(by_round.items())}
    rounds = _stride(list(spread))
    drawn = []
    for part, text in ((0.0, "all hospitals"), (0.25, "the middle half of the hospitals")):
        low = [(axes.x(r) * 1000, axes.y(quantile(spread[r], part))) for r in rounds]
        high = [(axes.x(r) * 1000, axes.y(quantile(spread[r], 1 - part))) for r in rounds]
        title = element("title", text)
        shape = path([*low, *reversed(high)], closed=True)
        drawn.append(element("path", title, d=shape, class_=f"band {arm_class(name)}"))
    return drawn


def _lines(lines: Mapping[str, Points], axes: _Axes) -> Markup:
    order = sorted(lines, key=lambda name: name == "federated")
    return _stretched(
        *(
            element("path", d=path(_thinned(lines[name], axes)), class_=f"line {arm_class(name)}")
            for name in order
        )
    )


def _points(result: Result, name: str, points: Points, axes: _Axes) -> Markup:
    """Return places to hover over: the value of each round."""
    title = result.arms[name].title
    return Markup("").join(
        element(
            "circle",
            element("title", f"{title}, round {round_}: {number(value)}"),
            cx=share(axes.x(round_)),
            cy=axes.y(value),
            r=6,
            class_=f"touch {arm_class(name)}",
        )
        for round_, value in _stride(points)
    )


def _labels(result: Result, lines: Mapping[str, Points], axes: _Axes) -> Markup:
    """Write each arm's name at the end of its line, none over another."""
    wanted = {name: axes.y(points[-1][1]) for name, points in lines.items()}
    drawn = []
    for name, y in _apart(wanted).items():
        colour, x = arm_class(name), share(axes.x(lines[name][-1][0]))
        value = element("tspan", f" {number(lines[name][-1][1])}", class_="figure")
        text = (result.arms[name].title, value)
        drawn.append(element("circle", cx=x, cy=wanted[name], r=3, class_=f"end {colour}"))
        drawn.append(element("text", *text, x="100%", y=y + 4, dx=10, class_=f"label {colour}"))
    return Markup("").join(drawn)


def _apart(wanted: Mapping[str, float]) -> dict[str, float]:
    """Move labels as little as needed for `GAP` between them, within the plot.

    >>> _apart({"a": 100.0, "b": 104.0})
    {'a': 94.5, 'b': 109.5}
    """
    names = sorted(wanted, key=lambda name: wanted[name])
    blocks: list[list[float]] = []  # sum of places, each moved back to the block's start; members
    for name in names:
        blocks.append([wanted[name], 1.0])
        while len(blocks) > 1 and _start(blocks[-2]) + blocks[-2][1] * GAP > _start(blocks[-1]):
            total, members = blocks.pop()
            blocks[-1][0] += total - members * blocks[-1][1] * GAP
            blocks[-1][1] += members
    places = [_start(b) + i * GAP for b in blocks for i in range(int(b[1]))]
    return dict(zip(names, places, strict=True))


def _start(block: Sequence[float]) -> float:
    """Return where a block of labels begins, so that they lie as near to their lines as can be."""
    return block[0] / block[1]


def _thinned(points: Points, axes: _Axes) -> list[Point]:
    return [(axes.x(round_) * 1000, axes.y(value)) for round_, value in _stride(points)]


def _stride(items: list[T]) -> list[T]:
    """Return at most about `POINTS` items, the last among them."""
    step = -(-len(items) // POINTS)
    return items if step <= 1 else [*items[:-1:step], items[-1]]


def _told(result: Result, lines: Mapping[str, Points]) -> str:
    parts = [
        f"{result.arms[name].title} goes from {number(points[0][1])} in round {points[0][0]} "
        f"to {number(points[-1][1])} in round {points[-1][0]}"
        for name, points in lines.items()
    ]
    return "; ".join(parts) + "."
