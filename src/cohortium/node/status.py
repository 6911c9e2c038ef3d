"""`cohortium node status`: what this node does, from its own folder alone."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
from dataclasses import dataclass
from datetime import datetime

from cohortium.errors import RunFailedError
from cohortium.node.folder import Home
from cohortium.node.limits import GIB, Hours
from cohortium.node.runs import KnownRun
from cohortium.node.site import opened

RECENT = 10
"""Runs that ended which are shown."""


@dataclass(frozen=True)
class RunStatus:
    """A run at this node.

    Attributes:
        run: 32 hex digits.
        study: the study's name.
        digest: of the study.
        status: "running", "paused", "finished", "stopped", "failed" or "refused".
        round: rounds completed.
        reason: why it ended, and what last went wrong here.
        seconds: of computing that the study had.
        changed: when something last happened, seconds since 1970.
    """

    run: str
    study: str
    digest: str
    status: str
    round: int
    reason: str
    seconds: float
    changed: float


@dataclass(frozen=True)
class Status:
    """How a node is.

    Attributes:
        home: its folder.
        site: its name; empty before it has joined.
        federation, url: what it joined.
        pid: the process that runs, or None.
        stopped: when it was stopped on purpose, seconds since 1970; None: it was not.
        contact: when the hub last answered, seconds since 1970; None: never.
        waiting: names of studies that wait for a decision.
        runs: those that go on, then the last ones that ended.
        datasets: names.
        disk_free: GiB.
        opens_in: seconds until steps may start; 0 while they may.
    """

    home: str
    site: str
    federation: str
    url: str
    pid: int | None
    stopped: float | None
    contact: float | None
    waiting: tuple[str, ...]
    runs: tuple[RunStatus, ...]
    datasets: tuple[str, ...]
    disk_free: float
    opens_in: float


def status(home: Home) -> Status:
    """Return how a node is; nobody is asked.

    Raises:
        ArgumentError: `node.toml` is wrong.
    """
    hub = home.hub() if home.has_joined else {"federation": "", "url": ""}
    with opened(home) as site:
        offers = {offer.digest: offer for offer in site.consents.all()}
        known = site.runs.all()
        going = [run for run in known if run.goes_on]
        ended = [run for run in known if not run.goes_on][:RECENT]
        return Status(
            home=str(home.folder),
            site=home.identity().name if home.has_joined else "",
            federation=hub["federation"],
            url=home.settings.hub.url or hub["url"],
            pid=home.running(),
            stopped=site.fact("stopped"),
            contact=site.fact("contact"),
            waiting=tuple(offer.name for offer in offers.values() if offer.waits),
            runs=tuple(
                RunStatus(
                    run.run,
                    offers[run.study].name,
                    run.study,
                    run.status,
                    run.round,
                    _why(run),
                    offers[run.study].seconds,
                    run.changed,
                )
                for run in (*going, *ended)
            ),
            datasets=tuple(each.dataset.name for each in site.datasets.all()),
            disk_free=shutil.disk_usage(home.folder).free / GIB,
            opens_in=Hours(home.settings.limits.hours).wait(datetime.now().astimezone()),
        )


def _why(run: KnownRun) -> str:
    here = f"here: {run.trouble}" if run.trouble else ""
    return "; ".join(part for part in (run.reason, here) if part)


def stop(home: Home, *, now: bool = False) -> bool:
    """Stop the node that runs in a folder, and wait until it has; return whether one ran.

    Args:
        home: the node's folder.
        now: kill what computes and send nothing more; else the step in progress ends first.

    Raises:
        RunFailedError: the node belongs to another user.
    """
    pid = home.running()
    with opened(home) as site:
        site.remember("stopped", site.clock())
    if pid is None:
        return False
    try:
        os.kill(pid, signal.SIGUSR1 if now else signal.SIGTERM)
    except ProcessLookupError:
        return False
    except PermissionError as error:
        advice = "Stop it as the user who started it"
        raise RunFailedError(f"process {pid} is another user's", advice) from error
    with (home.folder / "lock").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)  # held by the node until its end
    return True
