"""Who took part: every hospital in every round of every arm, and why where one did not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from markupsafe import Markup

from cohortium.report.notation import DASH, plural, spans
from cohortium.report.svg import element, share
from cohortium.runtime.result import Participation, Result

STATUSES = {
    "in": "in the consensus model",
    "evaluated": "measured the model, does not train",
    "not sampled": "not drawn for this round",
    "absent": "nothing came by the deadline",
    "refused": "its own gate let nothing out",
    "failed": "its training raised an error",
    "excluded": "what it sent was refused",
}
"""Every status and what it means, in the order of the legend."""

FINE = ("in", "evaluated", "not sampled")
"""Nothing went wrong."""

BARS = {"in": 12, "evaluated": 8, "not sampled": 3}
"""Heights of marks: what went wrong is tall, so that it shows without colour too."""

CELLS = 60
"""Rounds up to which each has a cell; of more, equal neighbours are drawn together."""

MANY = 40
"""Hospitals up to which each has a line; of more, those with something amiss, up to this many."""

REASONS = 40
"""Most lines of the list of reasons."""

FEWEST = 12
"""Rounds that a strip has room for at least: few cells are not stretched over all of it."""

HEIGHT = 20


@dataclass(frozen=True)
class Line:
    """One hospital's rounds, drawn, and in how many it took part."""

    site: str
    strip: Markup
    told: str


@dataclass(frozen=True)
class Sheet:
    """One arm's attendance.

    Attributes:
        title: the arm's.
        first, last: its rounds.
        lines: by hospital; empty where everyone took part in everything.
        left_out: how many hospitals have no line.
        truncated: whether something went wrong at one of those too.
        counts: status to how many site-rounds had it.
    """

    title: str
    first: int
    last: int
    lines: tuple[Line, ...]
    left_out: int
    truncated: bool
    counts: dict[str, int]

    @property
    def perfect(self) -> bool:
        """Whether nothing went wrong."""
        return not set(self.counts) - set(FINE)


@dataclass(frozen=True)
class Reason:
    """Why hospitals missed rounds."""

    arm: str
    site: str
    status: str
    rounds: str
    reason: str


def sheets(result: Result) -> list[Sheet]:
    """Return each arm's attendance: in full for the federated one and where all did not go well."""
    found: list[Sheet] = []
    for arm, entries in _by_arm(result.participation):
        title = result.arms[arm].title if arm in result.arms else arm
        found.append(_sheet(title, entries, full=not found or arm == "federated"))
    return found


def reasons(result: Result) -> tuple[list[Reason], int]:
    """Return who missed which rounds and why, like entries together, and how many are left out."""
    rounds: dict[tuple[str, str, str, str], list[int]] = {}
    for entry in result.participation:
        if entry.status not in FINE or entry.reason:
            key = (entry.arm, entry.site, entry.status, entry.reason)
            rounds.setdefault(key, []).append(entry.round)
    found = [
        Reason(
            result.arms[arm].title if arm in result.arms else arm,
            site,
            status,
            spans(sorted(set(when))),
            reason or STATUSES.get(status, ""),
        )
        for (arm, site, status, reason), when in rounds.items()
    ]
    return found[:REASONS], max(0, len(found) - REASONS)


def _by_arm(entries: Iterable[Participation]) -> list[tuple[str, list[Participation]]]:
    found: dict[str, list[Participation]] = {}
    for entry in entries:
        found.setdefault(entry.arm, []).append(entry)
    return sorted(found.items(), key=lambda item: item[0] != "federated")


def _sheet(title: str, entries: Sequence[Participation], *, full: bool) -> Sheet:
    by_site: dict[str, dict[int, Participation]] = {}
    for entry in entries:
        by_site.setdefault(entry.site, {})[entry.round] = entry
    rounds = [entry.round for entry in entries]
    first, last = min(rounds), max(rounds)
    found = Counter(entry.status for entry in entries)
    counts = {s: found[s] for s in dict.fromkeys((*STATUSES, *found)) if s in found}
    amiss = [site for site, lines in by_site.items() if _amiss(lines.values())]
    chosen = list(by_site) if len(by_site) <= MANY else amiss[:MANY]
    if not full and not amiss:
        chosen = []
    lines = tuple(_line(site, by_site[site], first, last) for site in chosen)
    left_out = len(by_site) - len(chosen) if lines or len(by_site) > MANY else 0
    return Sheet(title, first, last, lines, left_out, len(amiss) > len(chosen), counts)


def _amiss(entries: Iterable[Participation]) -> bool:
    return any(entry.status not in FINE for entry in entries)


def _line(site: str, by_round: dict[int, Participation], first: int, last: int) -> Line:
    taken = sum(entry.status in ("in", "evaluated") for entry in by_round.values())
    told = f"{taken} of {last - first + 1}"
    cells = [
        _cell(by_round[start], start, end, first, last)
        for start, end in _runs(by_round, last - first)
    ]
    strip = element(
        "svg",
        *cells,
        class_="strip",
        width="100%",
        height=HEIGHT,
        role="img",
        aria_label=f"{site} took part in {told} rounds",
    )
    return Line(site, strip, told)


def _runs(by_round: dict[int, Participation], length: int) -> list[tuple[int, int]]:
    """Return first and last round of each cell: one each, or equal neighbours together."""
    ordered = sorted(by_round)
    if length < CELLS:
        return [(round_, round_) for round_ in ordered]
    found = []
    keyed = groupby(
        enumerate(ordered),
        key=lambda at: (at[1] - at[0], by_round[at[1]].status, by_round[at[1]].reason),
    )
    for _, group in keyed:
        members = [round_ for _, round_ in group]
        found.append((members[0], members[-1]))
    return found


def _cell(entry: Participation, start: int, end: int, first: int, last: int) -> Markup:
    total = max(last - first + 1, FEWEST)
    status = entry.status if entry.status in STATUSES else "other"
    tall = BARS.get(entry.status, HEIGHT)
    gap = 0.12 if total <= CELLS else 0.0
    when = f"round {start}" if start == end else f"rounds {start}{DASH}{end}"
    reason = f": {entry.reason}" if entry.reason else ""
    return element(
        "rect",
        element("title", f"{entry.site}, {when}: {entry.status}{reason}"),
        x=share((start - first) / total),
        width=share((end - start + 1 - gap) / total),
        y=(HEIGHT - tall) / 2,
        height=tall,
        rx=1.5,
        class_=f"cell status-{status.replace(' ', '-')}",
    )


def summary(sheet: Sheet) -> str:
    """Return one sentence on an arm's attendance."""
    if sheet.perfect:
        return "Nothing went wrong: who was drawn took part."
    missed = sum(n for status, n in sheet.counts.items() if status not in FINE)
    return f"{plural(missed, 'time')} a hospital was expected and is not in the model."
