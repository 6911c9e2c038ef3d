from __future__ import annotations

from cohortium.report.cost import times, traffic
from cohortium.report.notation import THIN

from .conftest import MakeResult


def test_times_tell_runs_from_rounds(make_result: MakeResult) -> None:
    found = [(time.title, time.rounds) for time in times(make_result())]
    assert found == [("Pooled", "5"), ("Federated", "5"), ("Single site", "3 runs"), ("In all", "")]
    assert times(make_result())[-1].time == f"12.5{THIN}s"


def test_traffic_is_the_sum_over_rounds(make_result: MakeResult) -> None:
    found = traffic(make_result(["a", "b"], rounds=5))
    assert [(t.name, t.sent, t.received) for t in found] == [
        ("a", f"20.0{THIN}kB", f"7.5{THIN}kB"),
        ("b", f"20.0{THIN}kB", f"7.5{THIN}kB"),
    ]


def test_traffic_of_many_is_a_spread_and_a_sum(make_result: MakeResult) -> None:
    found = traffic(make_result([f"s{i}" for i in range(100)], rounds=1))
    assert [t.name for t in found] == ["least", "median", "most", "all 100"]
    assert found[-1].sent == f"400.0{THIN}kB"


def test_no_rounds_no_traffic(make_result: MakeResult) -> None:
    assert traffic(make_result(arms=("single",))) == []
    assert traffic(make_result(arms=())) == []
