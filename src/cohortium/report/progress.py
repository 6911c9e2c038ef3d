"""What a person sees while a simulation runs: one line for each arm.

On a terminal the line lives; elsewhere it is printed once, when the arm has ended.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from types import TracebackType

from rich import progress as bars
from rich.console import Console
from rich.markup import escape

from cohortium.plan.plan import State
from cohortium.report.notation import duration, metric_title, number, plural
from cohortium.runtime.engine import RoundLog


@dataclass
class _Arm:
    """What is known of an arm that runs or has run."""

    title: str
    begun: float
    runs: int = 0
    rounds: int = 0
    of: int = 0
    latest: str = ""
    task: bars.TaskID | None = None

    @property
    def text(self) -> str:
        """How far it has come."""
        if self.runs > 1:
            return f"run {self.runs}"
        return f"round {self.rounds} of {self.of}" if self.of else "evaluates"

    @property
    def done(self) -> str:
        """What it has done in the end."""
        if self.runs > 1:
            return plural(self.runs, "run")
        return plural(self.rounds, "round") if self.of else "evaluated"


@dataclass
class Progress:
    """An observer that shows every arm, its round, its latest metric and the time it took.

    Use it as a context manager: `with Progress() as progress: compare(..., observer=progress)`.

    Args:
        console: where to; by default standard output.
        quiet: show nothing at all.
    """

    console: Console = field(default_factory=Console)
    quiet: bool = False
    _arm: _Arm | None = field(default=None, init=False)
    _live: bars.Progress | None = field(default=None, init=False)

    def __enter__(self) -> Progress:
        if self.console.is_terminal and not self.quiet:
            self._live = bars.Progress(
                bars.TextColumn("{task.description}"),
                bars.BarColumn(bar_width=24),
                bars.TextColumn("{task.fields[text]}"),
                bars.TextColumn("{task.fields[latest]}", style="cyan"),
                bars.TimeElapsedColumn(),
                console=self.console,
            )
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()
        if error is None:
            self._end_arm()

    def run_started(self, title: str, rounds: int) -> None:
        """A run begins; runs of one arm are titled `arm: name`, and share a line."""
        name = title.partition(":")[0]
        if self._arm is None or self._arm.title != name:
            self._end_arm()
            self._arm = _Arm(name, time.monotonic())
            if self._live is not None:
                self._arm.task = self._live.add_task(escape(name), text="", latest="")
        self._arm.runs += 1
        self._arm.rounds, self._arm.of = 0, rounds
        self._show(0.0)

    def round_closed(self, log: RoundLog) -> None:
        """A round closed."""
        if self._arm is not None:
            self._arm.rounds = min(log.state.round, self._arm.of)
            self._arm.latest = _latest(log.state) or self._arm.latest
            self._show(0.0)

    def step_run(self, round_: int, done: int, of: int) -> None:  # noqa: ARG002 - the protocol's
        """Some of a round's steps have run."""
        if self._live is not None:
            self._show(done / of if of else 0.0)

    def _show(self, share: float) -> None:
        """Bring the line up to date; `share` of the round in progress is done."""
        arm = self._arm
        if self._live is None or arm is None or arm.task is None:
            return
        total = max(arm.of, 1)
        self._live.update(
            arm.task,
            total=total,
            completed=min(arm.rounds + share, total),
            text=arm.text,
            latest=arm.latest,
        )

    def _end_arm(self) -> None:
        """Close the line of the arm that ran."""
        arm, self._arm = self._arm, None
        if arm is None or self.quiet:
            return
        if self._live is not None and arm.task is not None:
            self._live.update(arm.task, completed=max(arm.of, 1))
            self._live.stop_task(arm.task)
            return
        parts = [arm.done, arm.latest, duration(time.monotonic() - arm.begun)]
        line = f"{arm.title}: {', '.join(part for part in parts if part)}"
        self.console.print(escape(line), highlight=False)


def _latest(state: State) -> str:
    """Return a state's first metric that is not the loss, over all sites."""
    names = [name for name in state.metrics if "/" not in name]
    name = next((name for name in names if name != "loss"), next(iter(names), None))
    if name is None:
        return ""
    return f"{metric_title(name)} {number(state.metrics[name].overall)}"
