"""What a run shows while it goes on: a page on a terminal, a line per round elsewhere, or JSON."""

from __future__ import annotations

import math
import statistics
import time
from collections import Counter, deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cohortium.plan.plan import Plan
from cohortium.report.notation import duration, metric_title, number, plural, size
from cohortium.runtime.engine import RoundLog
from cohortium.types import VALIDATION, SiteId

RECENT = 10
"""Rounds whose time tells how long the next ones will take."""

SPARKS = "▁▂▃▄▅▆▇█"
SPARKED = 40
"""Rounds that a spark line shows."""

METRICS = 4
"""Metrics that the page shows."""

SITES = 30
"""Sites that the page lists; of more, those with something amiss first."""

SUMMED = ("sent", "received", "waited")
FINE = ("in", "evaluated", "not sampled")


@dataclass(frozen=True)
class Fared:
    """How a site fared in a round: a status of the participation statement, and why."""

    status: str
    reason: str = ""

    @property
    def told(self) -> str:
        return f"{self.status} ({self.reason})" if self.reason else self.status


def attendance(plan: Plan, log: RoundLog) -> dict[SiteId, Fared]:
    """Return how each site fared in the round that a log is of, in roster order."""
    found = dict.fromkeys(log.evaluated, Fared("evaluated"))
    for note in reversed(log.state.notes):
        reason = note.reason or log.reasons.get((note.site, note.status), "")
        found[note.site] = Fared(note.status, reason)
    found |= dict.fromkeys(log.state.roster, Fared("in"))
    return {site: found.get(site, Fared("")) for site in plan.rows}


def seconds_left(plan: Plan, logs: Sequence[RoundLog]) -> float | None:
    """Return how long the rest will take if rounds go on as the last ones went; None: unknown.

    A study that stops early may end before.
    """
    if not logs or not plan.rounds:
        return None
    return _pace(logs) * max(plan.rounds - logs[-1].state.round, 0)


def values(log: RoundLog) -> dict[str, float | None]:
    """Return the metrics over all sites, of test records or else of validation records."""
    named = {name: metric.overall for name, metric in log.state.metrics.items()}
    own = {name: value for name, value in named.items() if not name.startswith(VALIDATION)}
    return own or named


def spark(numbers: Sequence[float | None]) -> str:
    """Return numbers as a line of small bars; what is undefined is a gap.

    >>> spark([0.0, 1.0, None, 0.5])
    '▁█ ▅'
    """
    shown = [n if n is not None and math.isfinite(n) else None for n in numbers][-SPARKED:]
    known = [n for n in shown if n is not None]
    low = min(known, default=0.0)
    step = (max(known, default=0.0) - low) / (len(SPARKS) - 1)
    return "".join(
        " " if n is None else SPARKS[round((n - low) / step) if step else 0] for n in shown
    )


def told(plan: Plan, log: RoundLog) -> str:
    """Return one line on a round: who was in it, what it reached, what it took."""
    sites = attendance(plan, log)
    there = sum(fared.status in FINE for fared in sites.values())
    amiss = [f"{site} {fared.told}" for site, fared in sites.items() if fared.status not in FINE]
    state = log.state
    head = f"round {state.round} of {plan.rounds}" if plan.rounds else "evaluation"
    if state.reason and not state.roster:
        head = state.reason
    parts = [
        head,
        f"{there} of {plural(len(sites), 'site')}",
        *(f"{metric_title(name)} {number(value)}" for name, value in values(log).items()),
        duration(log.seconds),
        size(sum(log.sent.values()) + sum(log.received.values())),
    ]
    return ", ".join(parts) + (f"; {'; '.join(amiss)}" if amiss else "")


def as_json(plan: Plan, log: RoundLog, *, left: float | None) -> dict[str, Any]:
    """Return a round as JSON values, for a line of `study watch --json`."""
    return {
        "round": log.state.round,
        "of": plan.rounds,
        "attempt": log.state.attempt,
        "status": log.state.status,
        "reason": log.state.reason,
        "metrics": {name: _finite(value) for name, value in values(log).items()},
        "sites": {
            site: {
                "status": fared.status,
                "reason": fared.reason,
                "sent": log.sent.get(site, 0),
                "received": log.received.get(site, 0),
                "waited": log.waited.get(site),
            }
            for site, fared in attendance(plan, log).items()
        },
        "seconds": log.seconds,
        "seconds_left": left,
    }


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


class Page:
    """A run on a terminal.

    Args:
        title: the study's name.
        plan: what runs.

    Attributes:
        status: of the study at the hub, such as "running" or "paused".
        reason: why, where there is something to say.
    """

    def __init__(self, title: str, plan: Plan) -> None:
        self.title, self.plan = title, plan
        self.status, self.reason = "running", ""
        self._logs: deque[RoundLog] = deque(maxlen=SPARKED)
        self._sums: dict[str, Counter[str]] = {name: Counter() for name in SUMMED}
        self._seconds, self._since = 0.0, time.monotonic()

    def add(self, log: RoundLog) -> None:
        """Take in a round that closed."""
        self._logs.append(log)
        for name, total in self._sums.items():
            total.update(getattr(log, name))
        self._seconds, self._since = self._seconds + log.seconds, time.monotonic()

    def __rich__(self) -> RenderableType:
        if not self._logs:
            return self._head()
        return Group(self._head(), self._metrics(), Text(), self._sites(self._logs[-1]))

    def _head(self) -> Text:
        done = self._logs[-1].state.round if self._logs else 0
        head = Text.assemble((self.title, "bold"), f"  {self.status}")
        if self.plan.rounds:
            head.append(f"  round {done} of {self.plan.rounds}  {_bar(done / self.plan.rounds)}")
        if self.reason:
            head.append(f"  {self.reason}", "yellow")
        if self.status == "running":
            head.append(f"\n{duration(time.monotonic() - self._since)} since the last round")
        else:
            head.append(f"\n{duration(self._seconds)} in all")
        if self._logs:
            head.append(f", {duration(_pace(self._logs))} a round")
        left = seconds_left(self.plan, self._logs)
        if left and self.status == "running":
            head.append(f", done in about {duration(left)}")
        return head

    def _metrics(self) -> Table:
        table = Table(box=None, show_header=False, pad_edge=False)
        rounds = [values(log) for log in self._logs]
        names = list(dict.fromkeys(name for found in rounds for name in found))[:METRICS]
        for name in names:
            series = [found[name] for found in rounds if name in found]
            table.add_row(metric_title(name), number(series[-1]), Text(spark(series), "cyan"))
        return table

    def _sites(self, log: RoundLog) -> Table:
        table = Table("site", "last round", box=None, pad_edge=False)
        for title in ("sent", "received", "idle"):
            table.add_column(title, justify="right")
        found = attendance(self.plan, log)
        amiss_first = sorted(found, key=lambda site: found[site].status in FINE)
        for site in amiss_first[:SITES] if len(found) > SITES else found:
            style = "" if found[site].status in FINE else "yellow"
            traffic = (size(self._sums[name][site]) for name in ("sent", "received"))
            table.add_row(site, Text(found[site].told, style), *traffic, self._idle(site))
        if len(found) > SITES:
            table.add_row(f"and {len(found) - SITES} more")
        return table

    def _idle(self, site: str) -> str:
        waited = self._sums["waited"]
        known = site in waited and self._seconds
        return f"{100 * waited[site] / self._seconds:.0f} %" if known else ""


def _pace(logs: Collection[RoundLog]) -> float:
    """Return the seconds that a round takes at present."""
    return statistics.median([log.seconds for log in logs][-RECENT:])


def _bar(share: float, width: int = 24) -> str:
    full = round(min(share, 1.0) * width)
    return "━" * full + "─" * (width - full)
