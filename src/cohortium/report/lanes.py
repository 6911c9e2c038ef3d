"""A round in lanes: one for each party, steps from left to right, and what travels between them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from cohortium.plan.step import RoundPlan, Step
from cohortium.report.ink import box, edge, fit, text_width
from cohortium.report.notation import TIMES, count
from cohortium.report.scene import REST, Band, Picture, Scene, tell
from cohortium.report.svg import curve, decimal, element, path
from cohortium.types import PartyId, SiteId

LABEL = 172
"""Width of the parties' names."""

ROW = 42
GAP = 58
"""Between two columns of boxes: room for the edges."""

ABOVE = ("stays", "metrics", "model")
"""Kinds of edges, the one that is drawn over the others last."""

ALIGNED = ("consensus", "evaluate", "tally", "outcome")
"""Ops that close a round: each stands in one column, however deep the sites' parts of it are."""


@dataclass(frozen=True, eq=False)  # a key of tables: hashed by identity, not by all of its steps
class _Box:
    """Steps that are drawn as one: all exchanges of a gossip, or those of everyone hidden."""

    party: PartyId
    op: str
    column: int
    steps: tuple[Step, ...]

    @property
    def label(self) -> str:
        return self.op if len(self.steps) == 1 else f"{self.op} {TIMES} {count(len(self.steps))}"


@dataclass(frozen=True)
class _Line:
    """An edge to a box; or to a party that is handed the model and does nothing with it yet."""

    source: _Box
    target: _Box | PartyId
    kind: str

    @property
    def lane(self) -> PartyId:
        return self.target.party if isinstance(self.target, _Box) else self.target


@dataclass
class _Frame:
    """Where lanes and columns lie."""

    lane: dict[PartyId, float]
    left: list[float]
    width: list[float]
    bands: list[tuple[Band, float, float]] = field(default_factory=list)
    height: float = 0.0

    @property
    def right(self) -> float:
        return self.left[-1] + self.width[-1] + 28


def lay_out(scene: Scene) -> Picture:
    """Draw a round in lanes."""
    boxes = _boxes(scene)
    lines = _lines(scene, boxes)
    frame = _frame(scene, list(dict.fromkeys(boxes.values())), lines)
    drawn = [_bands(frame), _lanes(scene, frame), _edges(scene, frame, lines)]
    drawn += [_drawn_box(scene, frame, box_) for box_ in dict.fromkeys(boxes.values())]
    ops = frozenset(step.op for step in scene.steps.steps)
    kinds = frozenset(line.kind for line in lines)
    return Picture(Markup("").join(drawn), frame.right, frame.height, ops, kinds)


# -- what is drawn ---------------------------------------------------------------------------------


def _boxes(scene: Scene) -> dict[str, _Box]:
    """Return step id to the box that it is drawn in."""
    depth = _columns(scene.steps)
    together: dict[tuple[PartyId, str], list[Step]] = {}
    for step in scene.steps.steps:
        party = scene.seen(step.party)
        same = f"{step.op} {depth[step.id]}" if party == REST else _without_count(step.id)
        together.setdefault((party, same), []).append(step)
    first = {key: min(depth[s.id] for s in steps) for key, steps in together.items()}
    rank = {column: i for i, column in enumerate(sorted(set(first.values())))}
    return {
        step.id: box_
        for key, steps in together.items()
        for box_ in [_Box(key[0], steps[0].op, rank[first[key]], tuple(steps))]
        for step in steps
    }


def _columns(steps: RoundPlan) -> dict[str, int]:
    """Return the length of the longest path to each step, the closing ops aligned."""
    floor: dict[str, int] = {}
    depth = _depths(steps, floor)
    for op in ALIGNED:
        floor[op] = max((depth[s.id] for s in steps.steps if s.op == op), default=0)
        depth = _depths(steps, floor)
    return depth


def _depths(steps: RoundPlan, floor: Mapping[str, int]) -> dict[str, int]:
    depth: dict[str, int] = {}
    for step in steps.steps:
        before = (depth[source] + 1 for source in step.inputs + step.gathers)
        depth[step.id] = max(floor.get(step.op, 0), max(before, default=0))
    return depth


def _without_count(step_id: str) -> str:
    """Return an id by which all exchanges of one gossip are one: `mix7/a` is `mix/a`."""
    return re.sub(r"^mix\d+/", "mix/", step_id)


def _lines(scene: Scene, boxes: Mapping[str, _Box]) -> list[_Line]:
    """Return the edges between boxes; of several between two, the kind that tells most."""
    found: dict[tuple[_Box, _Box | PartyId], str] = {}
    for step in scene.steps.steps:
        target = boxes[step.id]
        for source in step.inputs + step.gathers:
            pair = (boxes[source], target)
            if pair[0].column < target.column:
                kinds = (found.get(pair, "stays"), _kind(scene.steps[source], step))
                found[pair] = max(kinds, key=ABOVE.index)
    handed = {(boxes[s.id], scene.seen(party)): "model" for s, party in _handed(scene.steps)}
    return [_Line(source, target, kind) for (source, target), kind in (found | handed).items()]


def _kind(source: Step, target: Step) -> str:
    """Return what travels between two steps."""
    if source.party == target.party:
        return "stays"
    return "metrics" if target.op in ("tally", "outcome") else "model"


def _handed(steps: RoundPlan) -> list[tuple[Step, PartyId]]:
    """Return who is handed a consensus model that no step of theirs reads in this round."""
    reads = {(step.party, source) for step in steps.steps for source in step.inputs + step.gathers}
    return [
        (step, party)
        for step in steps.steps
        if step.op == "consensus"
        for party in step.to
        if party != step.party and (party, step.id) not in reads
    ]


# -- where it lies ---------------------------------------------------------------------------------


def _frame(scene: Scene, boxes: Sequence[_Box], lines: Sequence[_Line]) -> _Frame:
    handed = [line.source.column + 1 for line in lines if not isinstance(line.target, _Box)]
    columns = 1 + max([box_.column for box_ in boxes] + handed)
    widths = [78.0] * columns
    for box_ in boxes:
        widths[box_.column] = max(widths[box_.column], text_width(box_.label) + 22)
    left = [LABEL + 16.0]
    for width in widths[:-1]:
        left.append(left[-1] + width + GAP)
    frame = _Frame({}, left, widths)
    _stack(scene, frame)
    return frame


def _stack(scene: Scene, frame: _Frame) -> None:
    """Put one lane below the other, with room for the names of bands."""
    y, top = 0.0, {}
    for party in scene.parties:
        for band in scene.bands:
            if band.parties[0] == party:
                y += 8
                top[band] = y
                y += 20
        frame.lane[party] = y + ROW / 2
        y += ROW
        for band in reversed(scene.bands):
            if band.parties[-1] == party:
                y += 6
                frame.bands.append((band, top[band], y))
                y += 4
    frame.height = y


# -- how it looks ----------------------------------------------------------------------------------


def _bands(frame: _Frame) -> Markup:
    drawn = []
    for band, top, bottom in sorted(frame.bands, key=lambda found: found[0].depth):
        inset = 10.0 + 8 * band.depth
        size = {"width": frame.right - 2 * inset, "height": bottom - top}
        drawn.append(element("rect", x=inset, y=top, rx=12, class_="plan-band", **size))
        label = fit(band.label, 300, 11)
        place = {"x": inset + 14, "y": top + 13}
        drawn.append(element("text", label, class_="plan-soft", font_size=11, **place))
    return Markup("").join(drawn)


def _lanes(scene: Scene, frame: _Frame) -> Markup:
    drawn = []
    deep = {p: 1 + b.depth for b in scene.bands for p in b.parties}
    for party, y in frame.lane.items():
        x = 24.0 + 8 * deep.get(party, 0)
        site = SiteId(party) in scene.plan.rows or party == REST
        label = fit(scene.short(party), LABEL - x)
        classes = "plan-ink" if site else "plan-ink plan-strong"
        name = element(
            "text", element("title", scene.label(party)), label, x=x, y=y, class_=classes
        )
        end = frame.right - 20
        drawn += [
            element("path", d=f"M{LABEL + 6} {decimal(y)}H{decimal(end)}", class_="plan-lane"),
            name,
        ]
    return Markup("").join(drawn)


def _drawn_box(scene: Scene, frame: _Frame, found: _Box) -> Markup:
    width = frame.width[found.column]
    return box(
        frame.left[found.column] + width / 2,
        frame.lane[found.party],
        width,
        found.op,
        found.label,
        title=tell(scene, found.steps),
        ghost=found.party == REST,
    )


def _edges(scene: Scene, frame: _Frame, lines: Sequence[_Line]) -> Markup:
    """Draw all edges; those that meet at a box fan out over its side, in the order of lanes."""
    starts, ends = _fans(frame, lines, outgoing=True), _fans(frame, lines, outgoing=False)
    order = sorted(range(len(lines)), key=lambda i: ABOVE.index(lines[i].kind))
    return Markup("").join(_edge(scene, frame, lines[i], starts[i], ends[i]) for i in order)


def _fans(frame: _Frame, lines: Sequence[_Line], *, outgoing: bool) -> list[float]:
    """Return how far above or below the middle of its box each edge begins, or ends."""
    meeting: dict[object, list[int]] = {}
    for i, line in enumerate(lines):
        if line.kind != "stays":
            meeting.setdefault((line.source if outgoing else line.target), []).append(i)
    shift = [0.0] * len(lines)
    for places in meeting.values():
        other = [lines[i].lane if outgoing else lines[i].source.party for i in places]
        ordered = sorted(zip(places, other, strict=True), key=lambda found: frame.lane[found[1]])
        for rank, (i, _) in enumerate(ordered):
            shift[i] = (rank - (len(ordered) - 1) / 2) * min(4.0, 18 / len(ordered))
    return shift


def _edge(scene: Scene, frame: _Frame, line: _Line, start: float, end: float) -> Markup:
    column = line.source.column
    x1 = frame.left[column] + frame.width[column]
    y1, y2 = frame.lane[line.source.party] + start, frame.lane[line.lane] + end
    if not isinstance(line.target, _Box):
        x2 = frame.left[column + 1]
        title = f"{scene.label(line.source.party)} hands the model to {scene.label(line.target)}"
        return edge(_curve(x1, y1, x2, y2), line.kind, title=title)
    x2 = frame.left[line.target.column]
    title = f"{tell(scene, line.source.steps)} → {tell(scene, line.target.steps)}"
    if y1 == y2 and line.target.column > column + 1:  # around the boxes between
        return edge(
            curve((x1, y1), (x1 + 40, y1 + 34), (x2 - 40, y2 + 34), (x2, y2)),
            line.kind,
            title=title,
        )
    return edge(_curve(x1, y1, x2, y2), line.kind, title=title)


def _curve(x1: float, y1: float, x2: float, y2: float) -> str:
    if y1 == y2:
        return path([(x1, y1), (x2, y2)])
    middle = (x1 + x2) / 2
    return curve((x1, y1), (middle, y1), (middle, y2), (x2, y2))
