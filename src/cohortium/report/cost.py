"""What a result took: time by arm, bytes by hospital."""

from __future__ import annotations

from dataclasses import dataclass

from cohortium.report.comparison import leading_arm
from cohortium.report.notation import count, duration, percent, plural, size
from cohortium.report.scale import quantile
from cohortium.runtime.result import Result

MANY = 40
"""Hospitals up to which each is listed; of more, how they spread."""

SPREAD = {"least": 0.0, "median": 0.5, "most": 1.0}


@dataclass(frozen=True)
class Time:
    """One arm's rounds, or runs, and its wall time."""

    title: str
    rounds: str
    time: str


@dataclass(frozen=True)
class Traffic:
    """Bytes of arrays that a hospital sent and received, over all rounds.

    `idle` is the share of the time in which it had nothing to do; empty where nobody can tell.
    """

    name: str
    sent: str
    received: str
    idle: str = ""


def times(result: Result) -> list[Time]:
    """Return each arm's time, and the whole."""
    arms = [
        Time(
            arm.title,
            plural(len(arm.members), "run") if arm.members else count(len(arm.rounds)),
            duration(arm.seconds),
        )
        for arm in result.arms.values()
    ]
    return [*arms, Time("In all", "", duration(result.seconds))]


def traffic(result: Result) -> list[Traffic]:
    """Return the bytes of the leading arm: each hospital's, or of many how they spread."""
    arm = leading_arm(result)
    if arm is None or not arm.rounds:
        return []
    sent = [sum(r.sent.get(site, 0) for r in arm.rounds) for site in result.sites]
    received = [sum(r.received.get(site, 0) for r in arm.rounds) for site in result.sites]
    if len(result.sites) <= MANY:
        idle = [percent(arm.idle[site]) if site in arm.idle else "" for site in result.sites]
        found = zip(result.sites, sent, received, idle, strict=True)
        return [Traffic(site, size(out), size(back), share) for site, out, back, share in found]
    out, back, shares = sorted(sent), sorted(received), sorted(arm.idle.values())
    spread = [
        Traffic(
            name,
            size(quantile(out, q)),
            size(quantile(back, q)),
            percent(quantile(shares, q)) if shares else "",
        )
        for name, q in SPREAD.items()
    ]
    return [*spread, Traffic(f"all {count(len(sent))}", size(sum(out)), size(sum(back)))]
