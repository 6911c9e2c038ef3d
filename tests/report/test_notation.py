from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cohortium.report.notation import (
    DASH,
    MINUS,
    THIN,
    UNDEFINED,
    count,
    duration,
    metric_title,
    number,
    percent,
    plural,
    size,
    spans,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, UNDEFINED),
        (float("nan"), UNDEFINED),
        (float("inf"), "∞"),
        (float("-inf"), f"{MINUS}∞"),
        (0.0, "0.000"),
        (-0.0001, "0.000"),
        (-0.25, f"{MINUS}0.250"),
        (12345.678, f"12{THIN}345.7"),
    ],
)
def test_numbers_look_alike_to_all_readers(value: float | None, text: str) -> None:
    assert number(value) == text


@given(st.floats(-99, 99))
def test_a_number_can_be_read_back(value: float) -> None:
    assert float(number(value).replace(MINUS, "-")) == pytest.approx(value, abs=5.1e-4)


@given(st.integers(0, 10**15))
def test_thousands_are_kept_apart_by_thin_spaces_only(n: int) -> None:
    assert int(count(n).replace(THIN, "")) == n
    assert all(len(group) <= 3 for group in count(n).split(THIN))


@given(st.lists(st.integers(0, 60), max_size=30).map(lambda ns: sorted(set(ns))))
def test_spans_name_exactly_the_numbers_given(numbers: list[int]) -> None:
    named: list[int] = []
    for part in spans(numbers).split(", ") if numbers else []:
        first, _, last = part.partition(DASH)
        named += range(int(first), int(last or first) + 1)
    assert named == numbers


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, f"0.00{THIN}s"),
        (59.94, f"59.9{THIN}s"),
        (59.96, f"1{THIN}min 00{THIN}s"),
        (3599.7, f"1{THIN}h 00{THIN}min"),
    ],
)
def test_durations_do_not_overflow_their_unit(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [(999, "999 B"), (999.9, "1.0 kB"), (999_960, "1.0 MB"), (2.5e13, "25.0 TB")],
)
def test_sizes_do_not_overflow_their_unit(nbytes: float, text: str) -> None:
    assert size(nbytes) == text.replace(" ", THIN)


def test_words_follow_their_numbers() -> None:
    assert plural(1, "criterion", "criteria") == "1 criterion"
    assert plural(0, "criterion", "criteria") == "0 criteria"
    assert percent(1.0) == f"100.0{THIN}%"
    assert metric_title("a-metric-of-others") == "a-metric-of-others"
