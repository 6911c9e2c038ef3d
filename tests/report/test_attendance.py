from __future__ import annotations

import re
from collections.abc import Sequence

from hypothesis import example, given
from hypothesis import strategies as st

from cohortium.report.attendance import CELLS, MANY, REASONS, STATUSES, reasons, sheets, summary
from cohortium.report.notation import DASH
from cohortium.runtime.result import Participation, Result

from .conftest import MakeResult, made_up


def attended(lines: Sequence[Participation], *arms: str) -> Result:
    return made_up(arms=arms or ("federated",), participation=tuple(lines))


def test_every_status_is_drawn_and_counted(troubled: Result) -> None:
    (sheet,) = sheets(troubled)
    assert list(sheet.counts) == list(STATUSES)
    assert sum(sheet.counts.values()) == len(troubled.participation)
    assert not sheet.perfect
    assert summary(sheet) == "4 times a hospital was expected and is not in the model."
    strips = "".join(line.strip for line in sheet.lines)
    assert all(f"status-{status.replace(' ', '-')}" in strips for status in STATUSES)
    assert "hospital-03, round 6: excluded: weight 9000 is above 50" in strips


def test_a_site_took_part_when_it_is_in_or_measured(troubled: Result) -> None:
    (sheet,) = sheets(troubled)
    told = {line.site: line.told for line in sheet.lines}
    assert told["hospital-01"] == "11 of 12"
    assert told["hospital-05"] == told["hospital-09"] == "12 of 12"


def test_reasons_draw_rounds_together(make_result: MakeResult) -> None:
    lines = [Participation("federated", r, "a", "absent") for r in (1, 2, 3, 7)]
    lines.append(Participation("federated", 2, "b", "excluded", "not finite"))
    found, left_out = reasons(attended(lines))
    assert [(r.site, r.status, r.rounds) for r in found] == [
        ("a", "absent", f"1{DASH}3, 7"),
        ("b", "excluded", "2"),
    ]
    assert [r.reason for r in found] == [STATUSES["absent"], "not finite"]
    assert left_out == 0


def test_reasons_are_limited_and_the_rest_is_counted() -> None:
    lines = [Participation("federated", 1, f"s{i}", "failed", "x") for i in range(REASONS + 5)]
    found, left_out = reasons(attended(lines))
    assert (len(found), left_out) == (REASONS, 5)


def test_the_federated_arm_comes_first_and_in_full() -> None:
    lines = [Participation(arm, 1, "a", "in") for arm in ("ciil", "federated", "iil")]
    found = sheets(attended(lines, "ciil", "federated", "iil"))
    assert [(sheet.title, len(sheet.lines)) for sheet in found] == [
        ("Federated", 1),
        ("Cyclic (CIIL)", 0),
        ("Incremental (IIL)", 0),
    ]


def test_other_arms_are_shown_where_something_went_wrong() -> None:
    lines = [Participation("federated", 1, "a", "in"), Participation("ciil", 1, "a", "failed")]
    assert [len(sheet.lines) for sheet in sheets(attended(lines, "federated", "ciil"))] == [1, 1]


def test_of_many_hospitals_those_with_trouble_are_listed() -> None:
    fine = [Participation("federated", 1, f"s{i}", "in") for i in range(100)]
    (quiet,) = sheets(attended(fine))
    assert (quiet.lines, quiet.left_out, quiet.truncated) == ((), 100, False)
    (sheet,) = sheets(attended([*fine, Participation("federated", 2, "s7", "absent")]))
    assert [line.site for line in sheet.lines] == ["s7"]
    assert (sheet.left_out, sheet.truncated) == (99, False)
    bad = [Participation("federated", 1, f"s{i}", "failed") for i in range(100)]
    (sheet,) = sheets(attended(bad))
    assert (len(sheet.lines), sheet.left_out, sheet.truncated) == (MANY, 100 - MANY, True)


def test_an_unknown_status_does_not_become_a_class() -> None:
    (sheet,) = sheets(attended([Participation("federated", 1, "a", 'x" onload="y')]))
    assert "status-other" in sheet.lines[0].strip
    assert 'x" onload' not in sheet.lines[0].strip


@given(st.lists(st.sampled_from(["in", "absent", "not sampled"]), min_size=1, max_size=3 * CELLS))
@example(["in", "in", "absent"] * CELLS)
def test_cells_cover_each_round_once(statuses: list[str]) -> None:
    lines = [Participation("federated", i + 1, "a", s) for i, s in enumerate(statuses)]
    (sheet,) = sheets(attended(lines))
    told: list[str] = []
    for first, last, status in re.findall(
        rf"rounds? (\d+){DASH}?(\d*): ([\w ]+)<", sheet.lines[0].strip
    ):
        told += [status] * (int(last or first) - int(first) + 1)
    assert told == statuses


def test_nobody_took_part_in_nothing(make_result: MakeResult) -> None:
    assert sheets(make_result(participation=())) == []
    assert reasons(make_result(participation=())) == ([], 0)
