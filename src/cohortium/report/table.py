"""Arms beside each other, for a terminal."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from cohortium.report.comparison import COLUMNS, leading_arm, metric_names, rows
from cohortium.report.notation import metric_title
from cohortium.runtime.result import Result


def arms_table(result: Result, metric: str | None = None) -> Table:
    """Return one metric of every arm: global, at the worst hospital, at the other hospitals.

    Args:
        result: what a run gave back.
        metric: by default the first that is not the loss. The best values of those arms that leave
            records at their hospital are bold.
    """
    names = metric_names(result)
    chosen = metric or next(iter(names), "")
    better = result.better.get(chosen, "higher")
    title = f"{metric_title(chosen)} ({better} is better)" if chosen else "nothing was measured"
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    found = rows(result, chosen)
    columns = [key for key in COLUMNS if any(getattr(row, key) is not None for row in found)]
    table.add_column("Arm", no_wrap=True)
    for key in columns:
        table.add_column(COLUMNS[key][0], justify="right")
    leading = leading_arm(result)
    for row in found:
        ours = leading is not None and row.name == leading.name
        cells = [Text(row.text(key), "bold" if key in row.best else "") for key in columns]
        table.add_row(Text(row.title, "bold" if ours else ""), *cells)
    return table
