from __future__ import annotations

from dataclasses import replace

import pytest

from cohortium.governance.acceptance import Verdict as Criterion
from cohortium.report.findings import key_sentences, verdict
from cohortium.report.notation import THIN
from cohortium.runtime.result import MetricValue, Result

from .conftest import MakeResult


def criterion(*, met: bool) -> Criterion:
    return Criterion("global auroc at least 0.9", "auroc", "global", 0.9, 0.8, met)


def told(result: Result) -> str:
    text = " ".join(key_sentences(result))
    return text.replace("<b>", "").replace("</b>", "").replace(THIN, " ").replace("\u2019", "'")


def valued(result: Result, **arms: tuple[float | None, float | None]) -> Result:
    """Return a result with the arms' global values and those at the other hospitals."""
    metric = next(iter(result.better))
    made = {
        name: replace(
            result.arms[name],
            metrics={metric: MetricValue(overall, {"a": 0.5, "b": 0.9}, elsewhere, 0.5)},
        )
        for name, (overall, elsewhere) in arms.items()
    }
    return replace(result, arms=made)


def test_verdict_follows_the_criteria(make_result: MakeResult) -> None:
    met, missed = criterion(met=True), criterion(met=False)
    assert verdict(make_result(acceptance=(met, met))).kind == "good"
    found = verdict(make_result(acceptance=(met, missed)))
    assert (found.kind, found.word) == ("bad", "Not accepted")
    assert found.text == "2 criteria agreed before round 1, 1 missed."
    assert verdict(make_result()).word == "No criteria"
    assert verdict(make_result(arms=())).word == "Not measured"


def test_the_key_sentences_compare_with_pooled_and_single(make_result: MakeResult) -> None:
    made = make_result(metrics=("auroc",))
    made = valued(made, pooled=(1.0, 0.8), federated=(0.994, 0.796), single=(0.7, 0.6))
    assert told(made) == (
        "The federated model reaches 99.4 % of the pooled model's AUROC (0.994 against 1.000). "
        "On the other hospitals' patients it reaches 99.5 %, a hospital that trains alone 75.0 % "
        "on average. Its worst hospital is a, with 0.500."
    )


@pytest.mark.parametrize(
    ("ours", "words"),
    [(1.1, "10.0 % above"), (0.9, "10.0 % below"), (1.0001, "equal to")],
)
def test_errors_are_told_as_a_difference(make_result: MakeResult, ours: float, words: str) -> None:
    made = make_result(metrics=("mae",), better="lower")
    made = valued(made, pooled=(1.0, 1.0), federated=(ours, 0.9), single=(3.0, 2.0))
    assert f"The federated model's MAE is {words} the pooled model's" in told(made)
    assert "it reaches 0.900, a hospital that trains alone 2.000 on average" in told(made)


def test_a_lone_arm_is_told_by_its_value(make_result: MakeResult) -> None:
    made = valued(make_result(metrics=("auroc",)), federated=(0.75, None))
    assert told(made).startswith("The federated model's AUROC is 0.750 over the held-out records")
    pooled = valued(make_result(metrics=("auroc",)), pooled=(0.75, None))
    assert told(pooled).startswith("The pooled model's AUROC is 0.750")


def test_what_is_undefined_is_said_to_be(make_result: MakeResult) -> None:
    made = valued(make_result(metrics=("auroc",)), federated=(None, None), pooled=(0.9, 0.9))
    assert "The federated model's AUROC is undefined" in told(made)
    assert told(make_result(arms=())) == "No model was measured, so there is nothing to compare."


def test_names_of_sites_are_escaped(make_result: MakeResult) -> None:
    made = make_result(("<script>x</script>", "b"), arms=("federated",), metrics=("auroc",))
    value = MetricValue(0.9, {"<script>x</script>": 0.5, "b": 0.9}, None, 0.5)
    arm = replace(made.arms["federated"], metrics={"auroc": value})
    text = "".join(key_sentences(replace(made, arms={"federated": arm})))
    assert "&lt;script&gt;x" in text
    assert "<script" not in text
