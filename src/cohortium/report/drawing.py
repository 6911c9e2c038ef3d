"""A plan as a picture: the steps of one round, who does them and what travels between them.

What is drawn is the compiled round itself, after every lowering pass. Gossip and cyclic plans lie
on a ring, as sites are connected; everything else in lanes by party, with time from left to right.
"""

from __future__ import annotations

from collections import Counter

from cohortium.errors import ArgumentError, Problem
from cohortium.plan.cyclic import Cyclic
from cohortium.plan.gossip import Gossip
from cohortium.plan.plan import Plan, State
from cohortium.plan.topology import TOPOLOGIES
from cohortium.report import lanes, ring
from cohortium.report.ink import OPS, STYLE, arrow_head, legend
from cohortium.report.notation import NBSP, TIMES, count, plural
from cohortium.report.scene import Scene, kind_of
from cohortium.report.svg import decimal, element

HEADER = 64
"""Height of what stands above the steps."""


def draw(plan: Plan, round: int = 1) -> str:  # noqa: A002 - the word that a plan has for it
    """Return the steps of one round as a standalone SVG; equal plans give equal bytes.

    Args:
        plan: the plan.
        round: counting from 1; 1 also for a plan that only evaluates.

    Raises:
        ArgumentError: the plan has no such round.
    """
    if not 1 <= round <= max(plan.rounds, 1):
        expected = f"a round from 1 to {max(plan.rounds, 1)}"
        raise ArgumentError(Problem("the drawing", "round", str(round), expected))
    scene = Scene.of(plan, plan.round(State(plan.study, round=round - 1)))
    shape = ring if _lies_on_ring(scene) else lanes
    picture = shape.lay_out(scene)
    width = max(picture.width, 720.0)
    marks, end = legend(picture.ops, picture.edges, width=width, y=HEADER + picture.height + 30)
    height = end + 10
    shift = f"translate({decimal((width - picture.width) / 2)} {HEADER})"
    drawing = element(
        "svg",
        element("title", headline(plan, round), id="plan-title"),
        element("desc", describe(plan, round), id="plan-desc"),
        element("style", STYLE),
        arrow_head(),
        element("rect", width=width, height=height, class_="plan-ground"),
        element(
            "text", headline(plan, round), x=24, y=26, class_="plan-ink plan-strong", font_size=14
        ),
        element("text", summary(plan), x=24, y=45, class_="plan-soft"),
        element("g", picture.drawn, transform=shift),
        marks,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {decimal(width)} {decimal(height)}",
        width=width,
        height=height,
        class_="plan",
        role="img",
        aria_labelledby="plan-title plan-desc",
    )
    return f"{drawing}\n"


def headline(plan: Plan, round: int = 1) -> str:  # noqa: A002
    """Return what a drawing shows, such as "Round 1 of 20: star, 10 sites"."""
    sites = plural(len(plan.members), "site")
    if not plan.rounds:
        return f"Evaluation only: {sites}"
    return f"Round {round} of {plan.rounds}: {kind_of(plan.topology)}, {sites}"


def summary(plan: Plan) -> str:
    """Return one sentence on what happens in a round, for the topology at hand."""
    if not plan.rounds:
        return "Nobody trains; every site measures the given model on its held-out records."
    return _SUMMARIES.get(_kind(plan), "Sites train; their models become one.")


def describe(plan: Plan, round: int = 1) -> str:  # noqa: A002
    """Return a drawing in words, for those who cannot see it."""
    return f"{summary(plan)} {steps_told(plan, round)}"


def steps_told(plan: Plan, round: int = 1) -> str:  # noqa: A002
    """Return how many steps a round has, by op."""
    steps = plan.round(State(plan.study, round=round - 1)).steps
    counts = Counter[str](step.op for step in steps)
    found = ", ".join(
        f"{count(counts[op])}{NBSP}{TIMES}{NBSP}{op}"
        for op in dict.fromkeys((*OPS, *counts))
        if counts[op]
    )
    return f"{plural(len(steps), 'step')} in the round: {found}."


def _lies_on_ring(scene: Scene) -> bool:
    ops = {step.op for step in scene.steps.steps}
    return isinstance(scene.plan.topology, Gossip | Cyclic) and "train" in ops and ops <= ring.OPS


def _kind(plan: Plan) -> str:
    return next((k for k in TOPOLOGIES if TOPOLOGIES[k] is type(plan.topology)), "")


_SUMMARIES = {
    "star": "Every site trains; one aggregator joins their updates; every site measures.",
    "tree": "Every site trains; regions join their sites' updates, the top joins the regions'.",
    "gossip": "Every site trains and mixes models with its neighbours; a clerk sees metrics only.",
    "cyclic": "One model travels from site to site and each trains it; the last hands it to all.",
    "hybrid": "Sub-federations, each connected in its own way, joined by an outer one.",
}
