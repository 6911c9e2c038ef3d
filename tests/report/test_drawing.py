from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree

import pytest
from markupsafe import escape

from cohortium.errors import ArgumentError
from cohortium.plan.cyclic import Cyclic
from cohortium.plan.gossip import Gossip
from cohortium.plan.hybrid import Hybrid, SubFederation
from cohortium.plan.plan import Member, Plan, State
from cohortium.plan.star import Star
from cohortium.plan.step import RoundPlan, Step
from cohortium.plan.topology import Topology
from cohortium.plan.tree import Tree
from cohortium.report.drawing import describe, draw, headline
from cohortium.report.ink import STYLE, fit, text_width
from cohortium.types import SiteId

SVG = "{http://www.w3.org/2000/svg}"


def names(n: int, start: int = 0) -> tuple[str, ...]:
    return tuple(f"site-{i:03d}" for i in range(start, start + n))


def plan_of(topology: Topology, sites: tuple[str, ...], *, watching: int = 0, **rules: Any) -> Plan:
    trains = len(sites) - watching
    members = tuple(Member(SiteId(s), 10, trains=i < trains) for i, s in enumerate(sites))
    return Plan("ab" * 32, 5, topology, members, **{"rounds": 9, **rules})


def groups(**of: tuple[str, tuple[str, ...]]) -> tuple[SubFederation, ...]:
    return tuple(SubFederation(name=n, topology=kind, sites=s) for n, (kind, s) in of.items())


HYBRID = groups(
    stars=("star", names(3)), chain=("cyclic", names(3, 3)), peers=("gossip", names(3, 6))
)
PLANS = {
    "star": plan_of(Star(), names(10)),
    "star of one": plan_of(Star(), names(1)),
    "star without evaluation": plan_of(Star(), names(3), evaluate_every=4),
    "star with watchers": plan_of(Star(), names(6), watching=2, fraction=0.5),
    "evaluation only": plan_of(Star(), names(3), rounds=0),
    "evaluation only, by a clerk": plan_of(Gossip(), names(3), rounds=0),
    "star of many": plan_of(Star(), names(99)),
    "tree": plan_of(
        Tree(groups={"n": names(3), "s": {"x": names(2, 3), "y": names(2, 5)}}), names(7)
    ),
    "tree of many": plan_of(Tree(branching=4), names(64)),
    "ring": plan_of(Gossip(exchanges=3), names(7)),
    "pair": plan_of(Gossip(), names(2)),
    "alone": plan_of(Gossip(), names(1)),
    "everyone with everyone": plan_of(Gossip(graph="complete"), names(12), watching=2),
    "gossip of many": plan_of(Gossip(graph="random-regular"), names(50)),
    "cyclic": plan_of(Cyclic(select="best-local"), names(5)),
    "cyclic of one": plan_of(Cyclic(), names(1)),
    "cyclic of two": plan_of(Cyclic(), names(2)),
    "cyclic of many": plan_of(Cyclic(order="random"), names(40), watching=3),
    "gossip of groups": plan_of(Hybrid(outer="gossip", groups=HYBRID), names(10), watching=1),
    "star of groups": plan_of(Hybrid(outer="star", groups=HYBRID), names(9)),
    "chain of groups": plan_of(Hybrid(outer="cyclic", groups=HYBRID), names(9)),
}


@pytest.fixture(params=PLANS, ids=str)
def plan(request: pytest.FixtureRequest) -> Plan:
    return PLANS[request.param]


def texts(svg: str) -> list[str]:
    """Return what is written, apart from what shows on hover."""
    nodes = ElementTree.fromstring(svg).iter(f"{SVG}text")
    return ["".join([node.text or "", *(child.tail or "" for child in node)]) for node in nodes]


def titles(svg: str) -> list[str]:
    return [node.text or "" for node in ElementTree.fromstring(svg).iter(f"{SVG}title")]


def points(node: ElementTree.Element, x: float = 0, y: float = 0) -> Iterator[tuple[float, float]]:
    """Yield what an element and those within it reach, as absolute coordinates."""
    if node.tag == f"{SVG}defs":
        return
    if shift := re.fullmatch(r"translate\((\S+) (\S+)\)", node.get("transform", "")):
        x, y = x + float(shift[1]), y + float(shift[2])
    if node.tag != f"{SVG}svg" and "x" in node.attrib:
        left, top = x + float(node.attrib["x"]), y + float(node.attrib["y"])
        yield left, top
        yield left + float(node.get("width", 0)), top + float(node.get("height", 0))
    for child in node:
        yield from points(child, x, y)


def test_a_drawing_is_a_standalone_picture_with_words(plan: Plan) -> None:
    root = ElementTree.fromstring(draw(plan))
    assert root.tag == f"{SVG}svg"
    assert root.get("role") == "img"
    assert (root.find(f"{SVG}title"), root.find(f"{SVG}desc")) != (None, None)
    assert headline(plan) in texts(draw(plan))
    assert describe(plan) == root.findtext(f"{SVG}desc")


def test_equal_plans_give_equal_bytes(plan: Plan) -> None:
    again = Plan(**{name: getattr(plan, name) for name in Plan.__dataclass_fields__})
    assert draw(again) == draw(plan)


def test_nothing_is_fetched(plan: Plan) -> None:
    svg = draw(plan)
    assert re.findall(r"https?:[^\"]*", svg) == ["http://www.w3.org/2000/svg"]
    assert set(re.findall(r"url\(([^)]*)\)", svg)) <= {"#plan-arrow"}
    assert not re.search(r"\b(href|src|@import|script|foreignObject)\b", svg)


def test_everything_lies_in_the_picture(plan: Plan) -> None:
    root = ElementTree.fromstring(draw(plan))
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    assert all(0 <= x <= width and 0 <= y <= height for x, y in points(root))


def test_every_drawn_site_and_op_is_there(plan: Plan) -> None:
    svg = draw(plan)
    written = " ".join(texts(svg))
    steps = plan.round(State(plan.study)).steps
    shown = [m.site for m in plan.members if m.site in written]
    assert len(shown) == (len(plan.members) if len(plan.members) <= 12 else 8)
    assert all(any(text.startswith(f"{step.op}:") for text in texts(svg)) for step in steps)


@pytest.mark.parametrize("name", ["star", "tree", "gossip of groups", "star of groups"])
def test_lanes_show_every_step_of_a_small_plan(name: str) -> None:
    steps = PLANS[name].round(State(PLANS[name].study)).steps
    told = [title for title in titles(draw(PLANS[name])) if "→" not in title]
    for step in steps:
        party = step.party.replace("@aggregator/", "aggregator of ").removeprefix("@")
        assert any(title.startswith(f"{step.op} at {party}") for title in told), step.id


def test_lanes_show_what_travels_and_what_stays() -> None:
    svg = draw(PLANS["star"])
    edges = re.findall(r'class="plan-edge plan-(\w+)"', svg)
    counts = {kind: edges.count(kind) for kind in ("model", "metrics", "stays")}
    in_legend = 1
    assert counts["model"] == 10 + 10 + in_legend  # train -> reduce, consensus -> evaluate
    assert counts["metrics"] == 10 + in_legend  # evaluate -> tally
    assert counts["stays"] == 3 + in_legend  # at the aggregator


def test_a_model_that_is_handed_over_unread_is_shown() -> None:
    told = titles(draw(PLANS["star without evaluation"]))
    assert sum("hands the model to" in title for title in told) == 3


def test_a_cyclic_ring_follows_the_order_of_visits() -> None:
    plan = plan_of(Cyclic(order="random"), names(6))
    visits = [s.party for s in plan.round(State(plan.study)).steps if s.op == "train"]
    assert visits != list(names(6))
    cards = [text for text in texts(draw(plan)) if re.match(r"\d\. ", text)]
    assert cards == [f"{i + 1}. {site}" for i, site in enumerate(visits)]


def test_gossip_edges_are_the_graph() -> None:
    told = titles(draw(plan_of(Gossip(), names(5))))
    pairs = [tuple(sorted(re.findall(r"site-\d+", t))) for t in told if "mix their models" in t]
    ring = names(5)
    assert sorted(pairs) == sorted(tuple(sorted((ring[i], ring[(i + 1) % 5]))) for i in range(5))


@pytest.mark.parametrize("name", ["ring", "cyclic", "everyone with everyone"])
def test_no_model_reaches_the_clerk(name: str) -> None:
    told = [t for t in titles(draw(PLANS[name])) if t.endswith("the clerk")]
    assert told
    assert all("metrics and its vote" in title for title in told)


@pytest.mark.parametrize(
    "name", ["star of many", "tree of many", "gossip of many", "cyclic of many"]
)
def test_a_crowd_is_drawn_as_one_and_counted(name: str) -> None:
    svg = draw(PLANS[name])
    assert f"… {len(PLANS[name].members) - 8} more sites" in texts(svg)
    assert len(svg) < 60_000


def test_another_round_is_another_drawing() -> None:
    plan = plan_of(Star(), names(6), fraction=0.5)
    assert draw(plan, 2) != draw(plan, 1)
    assert "Round 2 of 9: star, 6 sites" in texts(draw(plan, 2))


@pytest.mark.parametrize("round_", [0, 10, -1])
def test_a_round_that_does_not_exist_is_refused(round_: int) -> None:
    with pytest.raises(ArgumentError, match="from 1 to 9"):
        draw(PLANS["star"], round_)


@pytest.mark.parametrize("topology", [Star(), Gossip(), Cyclic()], ids=["star", "gossip", "cyclic"])
def test_names_are_escaped_and_fitted(topology: Topology) -> None:
    nasty = ("<script>alert(1)</script>", '" onload="alert(1)', "W" * 64, "Ü" * 64, "医" * 40)
    svg = draw(plan_of(topology, nasty))
    tags = {node.tag.removeprefix(SVG) for node in ElementTree.fromstring(svg).iter()}
    assert "script" not in tags
    assert "<script" not in svg
    assert all(name in titles(svg) for name in nasty)  # in full on hover
    assert not any(text_width(text) > 200 for text in texts(svg) if "W" in text)


def test_ops_of_a_lowering_pass_are_drawn_in_lanes() -> None:
    def lower(plan: RoundPlan) -> RoundPlan:
        train = [s for s in plan.steps if s.op == "train"]
        masked = tuple(
            Step(f"mask/{s.party}", s.party, "mask", inputs=(s.id,))  # type: ignore[arg-type]
            for s in train
        )
        return RoundPlan(plan.round, (*train, *masked, *plan.steps[len(train) :]))

    svg = draw(plan_of(Gossip(), names(3), passes=(lower,)))
    assert texts(svg).count("mask") == 3 + 1  # boxes and legend
    assert "clerk" in texts(svg)


def test_the_style_needs_no_escaping() -> None:
    assert str(escape(STYLE)) == STYLE


@pytest.mark.parametrize("text", ["short", "x" * 200, "医" * 50, "", "mmmmmmmmmmmmmmmmmmmm"])
def test_fitted_texts_fit(text: str) -> None:
    assert text_width(fit(text, 120), 12) <= 120 or len(fit(text, 120)) <= 4
    assert fit(text, 1e6) == text


def test_drawings_do_not_depend_on_the_hash_seed() -> None:
    code = """
from cohortium.plan.plan import Member, Plan
from cohortium.plan.gossip import Gossip
from cohortium.plan.tree import Tree
from cohortium.report.drawing import draw
members = tuple(Member(f"s{i}", 5) for i in range(30))
print(*(draw(Plan("x", 1, t, members, 2)) for t in (Gossip(graph="complete"), Tree(branching=3))))
"""
    drawn = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(drawn) == 1
