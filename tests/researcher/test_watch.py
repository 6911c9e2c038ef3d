"""What is shown of a run: true to the rounds, with whatever went wrong named."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from rich.console import Console

from cohortium.plan.plan import Metric, Note, State
from cohortium.report.notation import THIN, size
from cohortium.researcher.watch import Page, as_json, attendance, seconds_left, spark, told
from cohortium.runtime.engine import RoundLog
from cohortium.types import SiteId

from .conftest import Ran, Run


def shown(page: Page, width: int = 120) -> str:
    console = Console(width=width, height=60, force_terminal=False, color_system=None)
    with console.capture() as capture:
        console.print(page)
    return capture.get()


def with_trouble(ran: Ran) -> RoundLog:
    """Return round 2, in which one site's own gate refused."""
    log = ran.logs[1]
    note = Note(SiteId("south"), "refused")
    reasons = {("south", "refused"): "an array is not finite"}
    state = replace(log.state, roster=(SiteId("north"),), notes=(note,))
    return replace(log, state=state, reasons=reasons, evaluated=(SiteId("west"),))


def test_everybody_is_named_as_they_fared(ran: Run) -> None:
    found = attendance(ran().run.plan, with_trouble(ran()))
    assert {site: fared.told for site, fared in found.items()} == {
        "north": "in",
        "south": "refused (an array is not finite)",
        "west": "evaluated",
    }


def test_a_line_tells_a_round(ran: Run) -> None:
    log = replace(ran().logs[0], seconds=0.25)
    line = told(ran().run.plan, log)
    auroc = log.state.metrics["auroc"].overall
    assert line.startswith("round 1 of 3, 3 of 3 sites, loss 0.")
    assert f"AUROC {auroc:.3f}" in line
    assert f"0.25{THIN}s" in line
    assert "validation" not in line
    assert told(ran().run.plan, with_trouble(ran())).endswith(
        "; south refused (an array is not finite)"
    )


def test_a_round_that_fell_short_is_told_by_its_reason(ran: Run) -> None:
    note = Note(SiteId("south"), "absent", "nothing came")
    state = State("x", 1, 1, reason="round 2: 1 of 2 needed sites", notes=(note,))
    line = told(ran().run.plan, replace(ran().logs[0], state=state))
    assert line.startswith("round 2: 1 of 2 needed sites, 2 of 3 sites")


def test_json_is_one_line_and_strict(ran: Run) -> None:
    log = ran().logs[1]
    broken = {**log.state.metrics, "loss": Metric(float("nan"), {})}
    log = replace(log, state=replace(log.state, metrics=broken))
    text = json.dumps(as_json(ran().run.plan, log, left=1.5), allow_nan=False)
    assert "\n" not in text
    found = json.loads(text)
    assert (found["round"], found["of"], found["seconds_left"]) == (2, 3, 1.5)
    assert found["metrics"]["loss"] is None
    assert found["sites"]["north"]["sent"] == log.sent["north"] > 0
    assert found["sites"]["west"]["waited"] == log.waited["west"]


@pytest.mark.parametrize(("seconds", "left"), [([2.0], 4.0), ([9.0, 2.0, 2.0], 0.0)])
def test_the_rest_takes_as_long_as_the_last_rounds(
    ran: Run, seconds: list[float], left: float
) -> None:
    logs = [replace(log, seconds=s) for log, s in zip(ran().logs, seconds, strict=False)]
    assert seconds_left(ran().run.plan, logs) == left
    assert seconds_left(ran().run.plan, []) is None


def test_spark_lines_show_the_last_values() -> None:
    assert spark([0.0] * 100) == "▁" * 40
    assert spark([*[5.0] * 100, 10.0])[-2:] == "▁█"
    assert spark([]) == ""
    assert spark([float("nan"), 1.0, float("inf")]) == " ▁ "


class TestPage:
    def test_it_shows_rounds_sites_metrics_and_bytes(self, ran: Run) -> None:
        page = Page("small", ran().run.plan)
        assert "round 0 of 3" in shown(page)
        for log in ran().logs:
            page.add(replace(log, seconds=10.0, waited={"north": 5.0}))
        page.status = "finished"
        text = shown(page)
        assert "round 3 of 3" in text
        assert f"30.0{THIN}s in all, 10.0{THIN}s a round" in text
        north = next(line for line in text.splitlines() if line.startswith("north"))
        sent = sum(log.sent["north"] for log in ran().logs)
        assert size(sent) in north
        assert north.rstrip().endswith("50 %")
        assert "AUROC" in text

    def test_it_estimates_the_end_while_the_run_goes_on(self, ran: Run) -> None:
        page = Page("small", ran().run.plan)
        page.add(replace(ran().logs[0], seconds=10.0))
        assert f"done in about 20.0{THIN}s" in shown(page)
        page.status, page.reason = "paused", "paused by rosa: a power cut"
        assert "done in" not in shown(page)
        assert "a power cut" in shown(page)

    def test_of_many_sites_the_troubled_ones_come_first(self, ran: Run) -> None:
        plan = ran().run.plan
        many = tuple(replace(plan.members[0], site=SiteId(f"s{i:03d}")) for i in range(100))
        log = ran().logs[0]
        notes = (Note(SiteId("s099"), "absent", "nothing came"),)
        roster = tuple(SiteId(f"s{i:03d}") for i in range(99))
        page = Page("large", replace(plan, members=many))
        page.add(replace(log, state=replace(log.state, roster=roster, notes=notes)))
        lines = [line for line in shown(page).splitlines() if line.startswith(("s0", "and"))]
        assert lines[0].startswith("s099")
        assert lines[-1].startswith("and 70 more")

    def test_names_are_text(self, ran: Run) -> None:
        page = Page("[red]small[/red]", ran().run.plan)
        assert "[red]small[/red]" in shown(page)
