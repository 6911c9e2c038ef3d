from __future__ import annotations

import io
import re

from rich.console import Console
from rich.table import Table

from cohortium.report.table import arms_table
from cohortium.runtime.result import Result

from .conftest import MakeResult


def printed(table: Table, *, colour: bool = False) -> str:
    console = Console(file=io.StringIO(), width=100, force_terminal=colour)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_every_arm_has_a_line(compared: Result) -> None:
    text = printed(arms_table(compared))
    assert text.splitlines()[0].strip() == "AUROC (higher is better)"
    for arm in compared.arms.values():
        line = next(line for line in text.splitlines() if line.startswith(arm.title))
        overall = arm.metrics["auroc"].overall
        assert overall is not None
        assert f"{overall:.3f}" in line


def test_another_metric_can_be_shown(compared: Result) -> None:
    assert "loss (lower is better)" in printed(arms_table(compared, "loss"))


def test_best_values_are_bold(make_result: MakeResult) -> None:
    made = make_result()
    bold = re.findall(r"\x1b\[1m\s*(\d\.\d+)\x1b", printed(arms_table(made), colour=True))
    value = made.arms["federated"].metrics["auroc"]
    assert bold == [f"{v:.3f}" for v in (value.overall, value.worst, value.elsewhere)]


def test_columns_without_a_value_are_left_out(make_result: MakeResult) -> None:
    text = printed(arms_table(make_result(["only"], arms=("federated",))))
    assert "Global" in text
    assert "Other hospitals" not in text
    assert "pooled" not in text


def test_nothing_measured_is_said(make_result: MakeResult) -> None:
    for made in (make_result(metrics=()), make_result(arms=())):
        assert arms_table(made).title == "nothing was measured"


def test_markup_in_a_title_is_text(make_result: MakeResult) -> None:
    made = make_result(arms=("federated",))
    object.__setattr__(made.arms["federated"], "title", "[bold]x[/bold]")
    assert "[bold]x[/bold]" in printed(arms_table(made))
