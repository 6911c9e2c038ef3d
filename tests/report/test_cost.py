from __future__ import annotations

from dataclasses import replace

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


def test_idle_time_is_a_share_of_the_run(make_result: MakeResult) -> None:
    made = make_result(["a", "b"], rounds=1, arms=("federated",))
    assert [t.idle for t in traffic(made)] == ["", ""]
    told = replace(made.arms["federated"], idle={"a": 0.25, "b": 0.5})
    waited = replace(made, arms={"federated": told})
    assert [t.idle for t in traffic(waited)] == [f"25.0{THIN}%", f"50.0{THIN}%"]


def test_idle_time_of_many_is_a_spread(make_result: MakeResult) -> None:
    made = make_result([f"s{i}" for i in range(100)], rounds=1, arms=("federated",))
    told = replace(made.arms["federated"], idle={f"s{i}": i / 100 for i in range(100)})
    shares = [t.idle for t in traffic(replace(made, arms={"federated": told}))]
    assert (shares[0], shares[2], shares[3]) == (f"0.0{THIN}%", f"99.0{THIN}%", "")
