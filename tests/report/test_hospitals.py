from __future__ import annotations

import math
from dataclasses import replace

from cohortium.report.hospitals import LOWEST, lowest, panel
from cohortium.report.notation import UNDEFINED
from cohortium.runtime.result import Result

from .conftest import MakeResult


def test_each_hospital_has_a_line_with_a_dot_for_each_arm(make_result: MakeResult) -> None:
    made = make_result(arms=("pooled", "federated", "single"))
    found = panel(made, "auroc")
    assert found is not None
    assert not found.collapsed
    assert [line.name for line in found.lines] == list(made.sites)
    assert [line.rows for line in found.lines] == list(made.sites.values())
    assert all(line.strip.count("<title>") == len(line.values) == 3 for line in found.lines)


def test_an_undefined_value_is_a_dash_with_its_reason(troubled: Result) -> None:
    found = panel(troubled, "auroc")
    assert found is not None
    line = next(line for line in found.lines if line.name == "hospital-04")
    assert line.note == f"{UNDEFINED} one class only"
    assert set(line.values) == {UNDEFINED}
    assert "<title>" not in line.strip
    assert "hospital-04: no value" in line.strip


def test_a_hospital_that_only_evaluates_is_marked(troubled: Result) -> None:
    found = panel(troubled, "auroc")
    assert found is not None
    assert [line.name for line in found.lines if "evaluates only" in line.note] == ["hospital-09"]


def test_an_arm_without_a_model_of_a_hospital_has_no_dot_there(compared: Result) -> None:
    found = panel(compared, "auroc")
    assert found is not None
    west = next(line for line in found.lines if line.name == "west")  # evaluates only
    values = dict(zip(found.arms, west.values, strict=True))
    assert values["single"] == UNDEFINED
    assert values["federated"] != UNDEFINED


def test_many_hospitals_become_a_spread_of_each_arm(make_result: MakeResult) -> None:
    made = make_result([f"h{i:03d}" for i in range(120)], arms=("pooled", "federated"))
    found = panel(made, "auroc")
    assert found is not None
    assert found.collapsed
    assert [line.name for line in found.lines] == ["Pooled", "Federated"]
    assert all(
        len(line.values) == 5 and list(line.values) == sorted(line.values) for line in found.lines
    )
    assert all(line.strip.count("<circle") == 120 for line in found.lines)


def test_a_crowd_is_not_drawn_dot_by_dot(make_result: MakeResult) -> None:
    found = panel(
        make_result([f"h{i}" for i in range(401)], arms=("federated",), rounds=1), "auroc"
    )
    assert found is not None
    assert "<circle" not in found.lines[0].strip


def test_the_worst_of_many_are_listed(make_result: MakeResult) -> None:
    made = make_result([f"h{i}" for i in range(60)])
    per_site = made.arms["federated"].metrics["auroc"].per_site
    by_value = sorted(per_site, key=lambda site: per_site[site] or 0)
    assert [site for site, _, _ in lowest(made, "auroc")] == by_value[:LOWEST]
    losses = made.arms["federated"].metrics["loss"].per_site
    by_loss = sorted(losses, key=lambda site: -(losses[site] or 0))
    assert [site for site, _, _ in lowest(made, "loss")] == by_loss[:LOWEST]


def test_what_is_not_finite_has_no_place_on_the_axis(make_result: MakeResult) -> None:
    made = make_result(["a", "b", "c"], arms=("federated",), metrics=("loss",))
    per_site = {"a": math.inf, "b": math.nan, "c": 0.5}
    value = replace(made.arms["federated"].metrics["loss"], per_site=per_site)
    arm = replace(made.arms["federated"], metrics={"loss": value})
    made = replace(made, arms={"federated": arm})
    found = panel(made, "loss")
    assert found is not None
    assert [line.values for line in found.lines] == [("∞",), (UNDEFINED,), ("0.500",)]
    assert ["<title>" in line.strip for line in found.lines] == [False, False, True]
    assert [site for site, _, _ in lowest(made, "loss")] == ["c"]


def test_nothing_measured_is_no_panel(make_result: MakeResult) -> None:
    made = make_result()
    assert panel(make_result(arms=()), "auroc") is None
    assert panel(made, "a metric that nobody measured") is None
    assert lowest(made, "a metric that nobody measured") == []
    assert lowest(make_result(arms=()), "auroc") == []


def test_values_that_are_all_undefined_still_make_a_panel(make_result: MakeResult) -> None:
    made = make_result(["a", "b"], arms=("federated",), metrics=("auroc",))
    value = replace(made.arms["federated"].metrics["auroc"], per_site={"a": None, "b": None})
    arm = replace(made.arms["federated"], metrics={"auroc": value})
    found = panel(replace(made, arms={"federated": arm}), "auroc")
    assert found is not None
    assert [line.note for line in found.lines] == [f"{UNDEFINED} one class only"] * 2
