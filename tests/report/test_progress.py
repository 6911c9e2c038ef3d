from __future__ import annotations

import contextlib
import io

import pytest
from rich.console import Console

from cohortium.plan.plan import Metric, State
from cohortium.report.progress import Progress
from cohortium.runtime.engine import Observer, RoundLog
from cohortium.runtime.simulation import compare

from .conftest import STUDY, own_sites


def log(round_: int, auroc: float | None = 0.5) -> RoundLog:
    metrics = {
        "loss": Metric(1.0, {}),
        "auroc": Metric(auroc, {}),
        "validation/auroc": Metric(0.1, {}),
    }
    return RoundLog(State("x", round=round_, metrics=metrics), None, 0.1, {}, {}, {})


def watch(observer: Observer) -> None:
    """Run two arms, the second of two models."""
    observer.run_started("Federated", 3)
    for round_ in (1, 2, 3):
        observer.step_run(round_, 1, 2)
        observer.round_closed(log(round_, 0.5 + round_ / 10))
    for site in ("[a]", "b"):
        observer.run_started(f"Single site: {site}", 1)
        observer.round_closed(log(1))


def told(*, terminal: bool, quiet: bool = False) -> str:
    out = io.StringIO()
    with Progress(Console(file=out, width=100, force_terminal=terminal), quiet=quiet) as progress:
        watch(progress)
    return out.getvalue()


def test_without_a_terminal_each_arm_is_one_line() -> None:
    first, second = told(terminal=False).splitlines()
    assert first.startswith("Federated: 3 rounds, AUROC 0.800, ")
    assert second.startswith("Single site: 2 runs, AUROC 0.500, ")


def test_on_a_terminal_the_line_tells_round_metric_and_time() -> None:
    text = told(terminal=True)
    for words in ("Federated", "round 3 of 3", "AUROC 0.800", "Single site", "run 2", "0:00:00"):
        assert words in text


@pytest.mark.parametrize("terminal", [True, False])
def test_quiet_is_quiet(terminal: bool) -> None:
    assert told(terminal=terminal, quiet=True) == ""


def test_a_run_that_breaks_off_is_not_told_as_done() -> None:
    out = io.StringIO()
    progress = Progress(Console(file=out))
    with contextlib.suppress(KeyboardInterrupt), progress:
        progress.run_started("Federated", 3)
        raise KeyboardInterrupt
    assert out.getvalue() == ""


def test_what_was_not_measured_is_not_told() -> None:
    out = io.StringIO()
    with Progress(Console(file=out)) as progress:
        progress.run_started("Federated", 2)
        progress.round_closed(RoundLog(State("x", round=1), None, 0.1, {}, {}, {}))
        progress.run_started("Ensemble", 0)
    first, second = out.getvalue().splitlines()
    assert first.startswith("Federated: 1 round, 0.")
    assert second.startswith("Ensemble: evaluated, 0.")


@pytest.mark.parametrize("terminal", [True, False])
def test_it_watches_a_real_comparison(terminal: bool) -> None:
    out = io.StringIO()
    with Progress(Console(file=out, width=100, force_terminal=terminal)) as progress:
        compare(STUDY, own_sites(), arms=("federated", "single"), observer=progress)
    assert "Federated" in out.getvalue()
    assert "Single site" in out.getvalue()
