"""`report.html`: a result for a hospital's board and for an engineer, in one file.

Whatever comes from a study or a site is escaped by the template. The page's own policy (CSP) allows
the two style sheets inside it by their hashes and nothing else: no script, no request.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from cohortium.plan.plan import Plan
from cohortium.report import attendance, comparison, cost, hospitals
from cohortium.report.curves import LINES, learning_curve
from cohortium.report.drawing import draw, steps_told
from cohortium.report.findings import key_sentences, verdict
from cohortium.report.ink import STYLE
from cohortium.report.limits import limits
from cohortium.report.notation import (
    count,
    duration,
    metric_title,
    number,
    percent,
    plural,
    typeset,
)
from cohortium.report.palette import legend_mark
from cohortium.report.svg import share
from cohortium.runtime.result import NETWORK, ArmResult, Result
from cohortium.study import example

WARNINGS = 12
"""Most warnings on the page; all are in `result.json`."""

SHORT = 12
"""Digits of a digest that tell two studies apart at a glance; the whole one is on hover."""


@dataclass(frozen=True)
class Fact:
    """One entry of the header; `hover` holds what is too long to read."""

    name: str
    value: str
    note: str = ""
    hover: str = ""


@dataclass(frozen=True)
class Table:
    """The arms under one metric."""

    title: str
    better: str
    columns: tuple[str, ...]
    rows: tuple[comparison.Row, ...]


def render(result: Result, *, written: datetime.date | None = None) -> str:
    """Return the report as one HTML document; equal arguments give equal text.

    Args:
        result: what a run gave back.
        written: the day to print on it.
    """
    metric = comparison.primary_metric(result)
    leading = comparison.leading_arm(result)
    tables = [_table(result, name) for name in comparison.metric_names(result)]
    panel = hospitals.panel(result, metric) if metric else None
    view: dict[str, Any] = {
        "result": result,
        "written": written.isoformat() if written else "",
        "version": result.environment.get("cohortium", ""),
        "policy": _policy(),
        "css": Markup(_style()),  # noqa: S704 - ours
        "verdict": verdict(result),
        "sentences": key_sentences(result),
        "facts": _facts(result, leading, written),
        "leading": leading.name if leading else "",
        "leading_title": leading.title if leading else "",
        "columns": comparison.COLUMNS,
        "tables": tables,
        "best_marked": any(row.best for table in tables for row in table.rows),
        "warnings_shown": WARNINGS,
        "panel": panel,
        "primary_title": metric_title(metric) if metric else "",
        "cloud": hospitals.CLOUD,
        "lowest": hospitals.lowest(result, metric) if panel and panel.collapsed and metric else [],
        "times": cost.times(result),
        "traffic": cost.traffic(result),
        "idle_told": bool(leading and leading.idle),
        "across": result.engine == NETWORK,
        "traffic_collapsed": len(result.sites) > cost.MANY,
        "limits": limits(result),
        "command": command(result),
        **_curves(result),
        **_picture(result.plan),
        "disagreement": _disagreement(leading),
        **_participation(result),
    }
    view["contents"] = _contents(view)
    return _template().render(view)


def command(result: Result) -> str:
    """Return the command that gives this result again."""
    if result.engine == NETWORK:
        return "cohortium study submit study.toml"
    if result.digest == example.demo().override({"study.seed": result.seed}).digest:
        return f"cohortium demo --seed {result.seed}"
    settings = f"--seed {result.seed} --engine {result.engine}"
    if tuple(result.arms) in {(), ("federated",)}:
        return f"cohortium simulate study.toml {settings}"
    return f"cohortium compare study.toml --arms {','.join(result.arms)} {settings}"


# -- the frame -------------------------------------------------------------------------------------


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("cohortium.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {
        "mark": legend_mark,
        "number": number,
        "count": count,
        "typeset": typeset,
        "share": share,
        "sheet_summary": attendance.summary,
        "statuses": attendance.STATUSES,
        "bars": attendance.BARS,
    }
    return environment.get_template("report.html.j2")


@cache
def _style() -> str:
    loader = PackageLoader("cohortium.report")
    source, _, _ = loader.get_source(Environment(autoescape=True), "report.css")
    return source


def _policy() -> str:
    """Return the page's policy (CSP level 3): two style sheets by their SHA-256, nothing else."""
    hashes = " ".join(f"'sha256-{_hash(text)}'" for text in (_style(), STYLE))
    return f"default-src 'none'; style-src {hashes}; base-uri 'none'; form-action 'none'"


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _contents(view: dict[str, Any]) -> dict[str, str]:
    """Return the sections that there are, by id to title, in order."""
    shown = {
        "reached": ("What was reached", bool(view["tables"])),
        "acceptance": ("Acceptance", bool(view["result"].acceptance)),
        "curves": ("How it learned", bool(view["curves"])),
        "hospitals": ("Hospital by hospital", view["panel"] is not None),
        "connections": ("How they were connected", bool(view["plan"])),
        "participation": ("Who took part", bool(view["sheets"])),
        "cost": ("Time and traffic", True),
        "limits": ("What this report does not show", True),
        "reproduce": ("How to reproduce it", True),
    }
    return {key: title for key, (title, there) in shown.items() if there}


# -- what sections show ----------------------------------------------------------------------------


def _facts(result: Result, leading: ArmResult | None, written: datetime.date | None) -> list[Fact]:
    only = len(result.evaluation_only)
    rounds = max((r.round for r in leading.rounds), default=0) if leading else 0
    facts = [
        Fact("Hospitals", count(len(result.sites)), f"{only} only evaluate" if only else ""),
        Fact("Training rows", count(sum(result.sites.values())), _range(result.sites.values())),
        Fact("Rounds", count(rounds)),
        Fact("Seed", f"{result.seed}"),
        Fact("Engine", result.engine),
        Fact("Running time", duration(result.seconds), plural(len(result.arms), "arm")),
        Fact("Study digest", f"{result.digest[:SHORT]}…", hover=result.digest),
        Fact("Model digest", f"{result.model.digest[:SHORT]}…", hover=result.model.digest),
    ]
    return [*facts, Fact("Written", written.isoformat())] if written else facts


def _range(sizes: Iterable[int]) -> str:
    ordered = sorted(sizes)
    return f"{count(ordered[0])} to {count(ordered[-1])} each" if len(ordered) > 1 else ""


def _table(result: Result, metric: str) -> Table:
    rows = tuple(comparison.rows(result, metric))
    columns = ["overall"]
    if len(result.sites) > 1:
        columns += ["worst", "elsewhere"]
    if any(row.relative is not None and row.name != comparison.YARDSTICK for row in rows):
        columns.append("relative")
    better = result.better.get(metric, "higher")
    return Table(metric_title(metric), better, tuple(columns), rows)


def _curves(result: Result) -> dict[str, Any]:
    drawn = {metric_title(n): learning_curve(result, n) for n in comparison.metric_names(result)}
    sites = len(result.sites)
    note = ""
    if sites > LINES:
        note = "Shaded: from the lowest to the highest hospital, and the middle half of them."
    elif sites > 1:
        note = (
            "Thick: all hospitals together. Thin: each hospital, under the federated model; where "
            "one ends at the frame, it goes on beyond it."
        )
    lone = [arm.title for arm in result.arms.values() if len(arm.rounds) < 2]
    if lone:
        note += f" No curve for {', '.join(lone)}: not a run of several rounds."
    return {"curves": {k: v for k, v in drawn.items() if v is not None}, "curves_note": note}


def _picture(plan: Plan | None) -> dict[str, Any]:
    if plan is None:
        return {"plan": "", "plan_text": ""}
    return {"plan": Markup(draw(plan)), "plan_text": steps_told(plan)}  # noqa: S704 - escaped there


def _disagreement(leading: ArmResult | None) -> str:
    """Return how far apart the hospitals' own models are; empty where they are one."""
    if leading is None or leading.disagreement is None:
        return ""
    return percent(leading.disagreement)


def _participation(result: Result) -> dict[str, Any]:
    reasons, left_out = attendance.reasons(result)
    sheets = attendance.sheets(result)
    return {
        "sheets": sheets,
        "amiss": not all(sheet.perfect for sheet in sheets),
        "quiet_arms": ", ".join(s.title for s in sheets if s.perfect and not s.lines),
        "reasons": reasons,
        "reasons_left_out": left_out,
    }
