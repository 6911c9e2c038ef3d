"""A round on a ring: sites as cards that name their steps, and between them what travels.

Gossip and cyclic plans have no middle through which models pass, and this shows it: the clerk in
the centre is reached by metrics only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from cohortium.plan.cyclic import Cyclic
from cohortium.plan.step import Step
from cohortium.plan.topology import CLERK
from cohortium.report.ink import edge, fit, pill, text_width
from cohortium.report.notation import TIMES, number
from cohortium.report.scene import REST, Picture, Scene, tell
from cohortium.report.svg import Point, curve, decimal, element, path
from cohortium.types import PartyId

OPS = frozenset({"train", "mix", "select", "consensus", "evaluate", "tally", "outcome"})
"""What cards can tell. A round with other steps is drawn in lanes."""

PAD = 12
PILL = 18
BETWEEN = 5
FAINT = 24
"""Lines from which on they are drawn faintly, so that cards stand out."""

CARD = 164
"""Least width of a card."""

Lines = list[tuple[str, Markup]]
"""Kind of edge, and the edge."""


@dataclass(frozen=True)
class _Pill:
    op: str
    label: str
    steps: tuple[Step, ...]

    @property
    def width(self) -> float:
        return text_width(self.label, 10.5) + 16


@dataclass(frozen=True)
class _Ring:
    """Where cards lie: `seats` on an ellipse from the top on, clockwise, `aside` left of it."""

    seats: tuple[PartyId, ...]
    aside: tuple[PartyId, ...]
    width: float
    heights: dict[PartyId, float]
    centre: Point
    radii: Point

    def angle(self, party: PartyId) -> float:
        """Return a seat's angle, in radians clockwise from three o'clock."""
        return 2 * math.pi * self.seats.index(party) / len(self.seats) - math.pi / 2

    def at(self, angle: float) -> Point:
        """Return a point of the ellipse."""
        (cx, cy), (rx, ry) = self.centre, self.radii
        return cx + rx * math.cos(angle), cy + ry * math.sin(angle)

    def place(self, party: PartyId) -> Point:
        """Return the middle of a party's card."""
        if party in self.seats:
            return self.at(self.angle(party))
        if party not in self.aside:
            return self.centre
        step = max(self.heights[other] for other in self.aside) + 18
        y = self.centre[1] + self.radii[1] - (len(self.aside) - 1 - self.aside.index(party)) * step
        return 24 + self.width / 2, y


def lay_out(scene: Scene) -> Picture:
    """Draw a round on a ring."""
    cards = _cards(scene)
    ring = _ring(scene, cards)
    lines = _votes(scene, ring) + _models(scene, ring)
    drawn = [line for _, line in lines]
    drawn += [_card(scene, ring, party, pills) for party, pills in cards.items()]
    return Picture(
        Markup("").join(drawn),
        ring.centre[0] + ring.radii[0] + ring.width / 2 + 24,
        max(ring.place(party)[1] + ring.heights[party] / 2 for party in cards) + 4,
        frozenset(step.op for step in scene.steps.steps),
        frozenset(kind for kind, _ in lines),
    )


def _cards(scene: Scene) -> dict[PartyId, list[_Pill]]:
    """Return what each drawn party does, like steps together."""
    mine: dict[PartyId, dict[str, list[Step]]] = {party: {} for party in scene.parties}
    for step in scene.steps.steps:
        mine[scene.seen(step.party)].setdefault(step.op, []).append(step)
    return {
        party: [_pill(party, op, steps) for op, steps in by_op.items()]
        for party, by_op in mine.items()
    }


def _pill(party: PartyId, op: str, steps: list[Step]) -> _Pill:
    times = len(steps) if party != REST else 1
    return _Pill(op, op if times == 1 else f"{op} {TIMES} {times}", tuple(steps))


def _ring(scene: Scene, cards: dict[PartyId, list[_Pill]]) -> _Ring:
    trained = {scene.seen(step.party) for step in scene.steps.steps if step.op == "train"}
    seats = tuple(party for party in scene.parties if party in trained)
    aside = tuple(party for party in scene.parties if party not in trained and party != CLERK)
    width = max(CARD, 2 * PAD + max(p.width for pills in cards.values() for p in pills))
    heights = {
        party: 34.0 + len(_rows(pills, width)) * (PILL + BETWEEN) for party, pills in cards.items()
    }
    tall = max(heights.values())
    rx = max(1.5 * width, 36.0 * len(seats))
    ry = max(1.9 * tall, 27.0 * len(seats), len(aside) * (tall + 18) / 2)
    left = width + 56 if aside else 0
    centre = (left + rx + width / 2 + 24, ry + tall / 2 + 8)
    return _Ring(seats, aside, width, heights, centre, (rx, ry))


def _rows(pills: Sequence[_Pill], width: float) -> list[list[_Pill]]:
    """Set pills into rows that fit a card."""
    rows: list[list[_Pill]] = []
    used = width
    for found in pills:
        used += BETWEEN + found.width
        if not rows or used > width - 2 * PAD:
            rows.append([])
            used = found.width
        rows[-1].append(found)
    return rows


# -- what travels ----------------------------------------------------------------------------------


def _models(scene: Scene, ring: _Ring) -> Lines:
    """Draw who hands models to whom."""
    directed = isinstance(scene.plan.topology, Cyclic)
    pairs: dict[tuple[PartyId, PartyId], float | None] = {}
    for step in scene.steps.steps:
        for i, source in enumerate(step.inputs + step.gathers):
            ends = (scene.seen(scene.steps[source].party), scene.seen(step.party))
            if step.op in ("tally", "outcome") or ends[0] == ends[1]:
                continue
            if step.op == "evaluate" and directed and ends[1] not in (*ring.aside, ring.seats[0]):
                continue  # the last site hands the model to everyone: one arrow says so
            back = pairs.keys() & {ends[::-1]}
            if directed or not back:
                pairs.setdefault(ends, step.weights[i] if step.weights else None)
    faint = " plan-faint" if len(pairs) > FAINT else ""
    return [("model", _model(scene, ring, a, b, weight, faint)) for (a, b), weight in pairs.items()]


def _model(
    scene: Scene, ring: _Ring, a: PartyId, b: PartyId, weight: float | None, faint: str
) -> Markup:
    names = f"{scene.label(a)} and {scene.label(b)}"
    if b in ring.aside:
        title = f"{scene.label(a)} hands the round's model to {scene.label(b)}"
        return edge(_aside(ring, a, b), "model", title=title)
    if weight is not None:
        title = f"{names} mix their models, weight {number(weight)}"
        return edge(_between(ring, a, b), f"model{faint}", title=title, arrow=False)
    title = f"{scene.label(a)} hands the model to {scene.label(b)}"
    return edge(_arc(ring, a, b), "model", title=title)


def _votes(scene: Scene, ring: _Ring) -> Lines:
    """Draw who sends metrics or votes to the clerk."""
    senders: dict[PartyId, None] = {}
    for step in scene.steps.steps:
        if step.op in ("tally", "outcome"):
            for source in step.inputs + step.gathers:
                senders[scene.seen(scene.steps[source].party)] = None
    senders.pop(CLERK, None)
    to = ring.place(CLERK)
    return [
        (
            "metrics",
            edge(
                path([ring.place(party), to]),
                "metrics",
                title=f"{scene.label(party)} sends metrics and its vote to the clerk",
                arrow=False,
            ),
        )
        for party in senders
    ]


def _between(ring: _Ring, a: PartyId, b: PartyId) -> str:
    """Return a line between two seats: along the ring for neighbours, else around the centre."""
    n, i, j = len(ring.seats), ring.seats.index(a), ring.seats.index(b)
    if (j - i) % n == 1 or (i - j) % n == 1:
        first, second = (a, b) if (j - i) % n == 1 else (b, a)
        return _ellipse(ring, ring.angle(first), ring.angle(second))
    (x1, y1), (x2, y2), (cx, cy) = ring.place(a), ring.place(b), ring.centre
    mx, my = (x1 + x2) / 2 - cx, (y1 + y2) / 2 - cy
    far = math.hypot(mx, my)
    if far < 1:  # opposite seats: bend to the right of the way
        length = math.hypot(x2 - x1, y2 - y1)
        mx, my = (y1 - y2) / length, (x2 - x1) / length
        far = 1.0
    bend = max(0.0, 1.2 * ring.width - far)
    qx, qy = (x1 + x2) / 2 + bend * mx / far, (y1 + y2) / 2 + bend * my / far
    return curve((x1, y1), (qx, qy), (x2, y2))


def _arc(ring: _Ring, a: PartyId, b: PartyId) -> str:
    """Return the way along the ring from one card's edge to the next one's."""
    return _ellipse(ring, _leave(ring, a, 1), _leave(ring, b, -1))


def _leave(ring: _Ring, party: PartyId, direction: int) -> float:
    """Return the angle at which the ring comes out of a card."""
    (x0, y0), angle = ring.place(party), ring.angle(party)
    for _ in range(90):
        x, y = ring.at(angle)
        if abs(x - x0) > ring.width / 2 + 4 or abs(y - y0) > ring.heights[party] / 2 + 4:
            break
        angle += direction * math.pi / 180
    return angle


def _ellipse(ring: _Ring, start: float, end: float) -> str:
    (x1, y1), (x2, y2), (rx, ry) = ring.at(start), ring.at(end), ring.radii
    around = (end - start) % (2 * math.pi)
    big = int(around > math.pi + 1e-9)
    return (
        f"M{decimal(x1)} {decimal(y1)}"
        f"A{decimal(rx)} {decimal(ry)} 0 {big} 1 {decimal(x2)} {decimal(y2)}"
    )


def _aside(ring: _Ring, a: PartyId, b: PartyId) -> str:
    """Return the way from a seat to a card left of the ring."""
    (x1, y1), (x2, y2) = ring.place(a), ring.place(b)
    x1, x2 = x1 - ring.width / 2, x2 + ring.width / 2 + 3
    bend = x2 + 0.35 * (x1 - x2)
    return curve((x1, y1), (bend, y1), (bend, y2), (x2, y2))


# -- cards -----------------------------------------------------------------------------------------


def _card(scene: Scene, ring: _Ring, party: PartyId, pills: Sequence[_Pill]) -> Markup:
    (x, y), width, height = ring.place(party), ring.width, ring.heights[party]
    left, top = x - width / 2, y - height / 2
    name = scene.label(party)
    if isinstance(scene.plan.topology, Cyclic) and party in ring.seats and party != REST:
        name = f"{ring.seats.index(party) + 1}. {name}"
    frame = element("rect", x=left, y=top, width=width, height=height, rx=12, class_="plan-card")
    label = element(
        "text",
        element("title", scene.label(party)),
        fit(name, width - 2 * PAD),
        x=x,
        y=top + 17,
        class_="plan-ink plan-strong",
        text_anchor="middle",
    )
    rows = _rows(pills, width)
    drawn = [_row(scene, row, x, top + 42 + i * (PILL + BETWEEN)) for i, row in enumerate(rows)]
    ghost = "plan-ghost" if party == REST else None
    return element("g", frame, label, *drawn, class_=ghost)


def _row(scene: Scene, pills: Sequence[_Pill], x: float, y: float) -> Markup:
    x -= (sum(found.width for found in pills) + BETWEEN * (len(pills) - 1)) / 2
    drawn = []
    for found in pills:
        title = tell(scene, found.steps)
        drawn.append(pill(x, y, found.width, found.op, found.label, title=title))
        x += found.width + BETWEEN
    return Markup("").join(drawn)
