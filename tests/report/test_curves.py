from __future__ import annotations

import math
import re
from dataclasses import replace
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cohortium.report.curves import GAP, _apart, learning_curve
from cohortium.runtime.result import MetricValue, Result, RoundResult

from .conftest import MakeResult


def drawn(result: Result, metric: str = "auroc") -> ElementTree.Element:
    curve = learning_curve(result, metric)
    assert curve is not None
    return ElementTree.fromstring(curve)


def lines(root: ElementTree.Element, class_: str) -> list[ElementTree.Element]:
    return [node for node in root.iter("path") if node.get("class", "").split()[0] == class_]


def test_arms_with_rounds_have_a_line_and_a_label(make_result: MakeResult) -> None:
    root = drawn(make_result(arms=("pooled", "federated", "single", "iil", "ciil")))
    assert len(lines(root, "line")) == 3
    labels = [
        "".join(node.itertext()) for node in root.iter("text") if "label" in node.attrib["class"]
    ]
    assert sorted(label.rpartition(" ")[0] for label in labels) == [
        "Cyclic (CIIL)",
        "Federated",
        "Pooled",
    ]


def test_every_site_has_a_thin_line_up_to_twelve(make_result: MakeResult) -> None:
    few = drawn(make_result([f"s{i}" for i in range(12)]))
    many = drawn(make_result([f"s{i}" for i in range(13)]))
    assert (len(lines(few, "thin")), len(lines(few, "band"))) == (12, 0)
    assert (len(lines(many, "thin")), len(lines(many, "band"))) == (0, 2)
    assert not lines(drawn(make_result(["only"])), "thin")


def test_every_round_can_be_hovered_over(make_result: MakeResult) -> None:
    root = drawn(make_result(arms=("federated",), rounds=4))
    told = [node.findtext("title") or "" for node in root.iter("circle") if node.findtext("title")]
    assert [text.partition(":")[0] for text in told] == [
        f"Federated, round {r}" for r in (1, 2, 3, 4)
    ]


def test_thousands_of_rounds_make_a_small_picture(make_result: MakeResult) -> None:
    curve = learning_curve(make_result(["a", "b"], arms=("federated",), rounds=3000), "auroc")
    assert curve is not None
    assert len(curve) < 120_000
    assert "round 3000" in curve


def test_no_curve_without_two_rounds(make_result: MakeResult) -> None:
    assert learning_curve(make_result(rounds=1), "auroc") is None
    assert learning_curve(make_result(), "a metric that nobody measured") is None
    assert learning_curve(make_result(arms=()), "auroc") is None


def test_rounds_without_a_value_are_left_out(make_result: MakeResult) -> None:
    made = make_result(arms=("federated",))
    nothing = {"auroc": MetricValue(None, {"north": None})}
    gaps = [nothing, {}, nothing]
    rounds = [
        replace(r, metrics=gap) for r, gap in zip(made.arms["federated"].rounds, gaps, strict=False)
    ]
    arm = replace(made.arms["federated"], rounds=(*rounds, *made.arms["federated"].rounds[3:]))
    root = drawn(replace(made, arms={"federated": arm}))
    assert lines(root, "line")[0].attrib["d"].count("L") == 1


def test_a_repeated_round_counts_once(make_result: MakeResult) -> None:
    made = make_result(arms=("federated",), rounds=2)
    first, second = made.arms["federated"].rounds
    again = RoundResult(1, {"auroc": MetricValue(0.123, {})}, 1.0, {}, {})
    arm = replace(made.arms["federated"], rounds=(first, again, second))
    root = drawn(replace(made, arms={"federated": arm}))
    told = [node.findtext("title") or "" for node in root.iter("circle") if node.findtext("title")]
    assert told[0] == "Federated, round 1: 0.123"
    assert len(told) == 2


def test_the_curve_is_told_in_words(make_result: MakeResult) -> None:
    root = drawn(make_result(arms=("federated",)))
    assert root.findtext("title") == "AUROC over the rounds"
    assert (root.findtext("desc") or "").startswith("Federated goes from 0.")
    assert root.attrib["aria-labelledby"] == "curve-auroc-title curve-auroc-desc"


def test_one_hospital_far_away_does_not_flatten_the_lines(make_result: MakeResult) -> None:
    made = make_result(["a", "b"], arms=("federated",), rounds=9)
    arm = made.arms["federated"]
    rounds = [
        replace(r, metrics={"auroc": replace(r.metrics["auroc"], per_site={"a": 0.9, "b": -50.0})})
        for r in arm.rounds
    ]
    root = drawn(replace(made, arms={"federated": replace(arm, rounds=tuple(rounds))}))
    heights = [float(y) for y in re.findall(r" ([\d.-]+)", lines(root, "line")[0].attrib["d"])]
    assert max(heights) - min(heights) > 70
    assert all(0 <= y <= 230 for y in heights)


def test_a_loss_that_overflowed_is_no_obstacle(make_result: MakeResult) -> None:
    made = make_result(["a", "b"], arms=("federated",), rounds=3)
    arm = made.arms["federated"]
    values = (math.inf, math.nan, 0.5)
    rounds = [
        replace(r, metrics={"auroc": MetricValue(value, {"a": value, "b": 0.5})})
        for r, value in zip(arm.rounds, values, strict=True)
    ]
    curve = learning_curve(
        replace(made, arms={"federated": replace(arm, rounds=tuple(rounds))}), "auroc"
    )
    assert curve is None  # one value is no curve


@given(st.dictionaries(st.text(max_size=3), st.floats(0, 220), max_size=9))
def test_labels_keep_apart_and_in_order(wanted: dict[str, float]) -> None:
    placed = _apart(wanted)
    assert placed.keys() == wanted.keys()
    ordered = sorted(placed, key=lambda name: (wanted[name], placed[name]))
    assert all(placed[b] - placed[a] >= GAP - 1e-6 for a, b in pairwise(ordered))


@given(st.floats(0, 100), st.floats(16, 100))
def test_labels_with_room_stay_where_they_are(first: float, apart: float) -> None:
    wanted = {"a": first, "b": first + apart}
    assert _apart(wanted) == pytest.approx(wanted)
