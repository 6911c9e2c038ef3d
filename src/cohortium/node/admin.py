"""What a hospital does at its node: `cohortium node`, without the words."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cohortium.errors import DataError
from cohortium.governance.grant import Grant
from cohortium.node import backup as backups
from cohortium.node import doctor as doctors
from cohortium.node import joining
from cohortium.node import status as statuses
from cohortium.node.agent import Agent, Order
from cohortium.node.approvals import DAY, DAYS, Approvals
from cohortium.node.consents import Offer
from cohortium.node.datasets import Registered
from cohortium.node.doctor import Check
from cohortium.node.folder import Home
from cohortium.node.joining import Membership, client_of
from cohortium.node.logs import configure_logs
from cohortium.node.site import Site, opened
from cohortium.node.status import Status

Folder = Path | str | None
"""A node's folder; None: COHORTIUM_HOME, else the user's own."""


@dataclass(frozen=True)
class Dataset:
    """A registered dataset, and what is wrong with its records now; empty if nothing is."""

    registered: Registered
    problem: str


def join(
    folder: Folder, url: str, code: str, *, ca: Path | None = None, proxy: str | None = None
) -> Membership:
    """Make this site's keys and join a hub; see `joining.join`."""
    return joining.join(Home.at(folder), url, code, ca=ca, proxy=proxy)


def rotate_keys(folder: Folder) -> int:
    """Make new working keys; a node that runs goes on with them. Return their serial."""
    home = Home.at(folder)
    serial = joining.rotate_keys(home)
    pid = home.running()
    if pid is not None:
        os.kill(pid, signal.SIGHUP)
    return serial


def data_add(folder: Folder, name: str, path: Path, *, labels: Path | None = None) -> Registered:
    """Register records under a name; see `Datasets.add`."""
    with opened(Home.at(folder)) as site:
        return site.datasets.add(name, path, labels=labels)


def data_list(folder: Folder) -> list[Dataset]:
    """Return this site's datasets."""
    with opened(Home.at(folder)) as site:
        return [Dataset(each, _problem(site, each)) for each in site.datasets.all()]


def data_remove(folder: Folder, name: str) -> None:
    """Forget a dataset; its records are not touched."""
    with opened(Home.at(folder)) as site:
        site.datasets.remove(name)


def study_list(folder: Folder) -> list[Offer]:
    """Return the studies that this site was asked to take part in."""
    with _approvals(folder) as approvals:
        return approvals.refresh()


def study_show(folder: Folder, study: str) -> dict[str, Any]:
    """Return what a study asks for, in plain words; see `Approvals.show`."""
    with _approvals(folder) as approvals:
        return approvals.show(study)


def preview(folder: Folder, study: str, *, dataset: str | None = None) -> dict[str, Any]:
    """Return exactly what would leave this site; see `Approvals.preview`."""
    with _approvals(folder) as approvals:
        return approvals.preview(study, dataset=dataset)


def study_approve(
    folder: Folder,
    study: str,
    *,
    dataset: str | None = None,
    rounds: int | None = None,
    days: float = DAYS,
) -> Grant:
    """Sign a consent and send it; see `Approvals.approve`."""
    with _approvals(folder) as approvals:
        until = approvals.site.clock() + days * DAY
        return approvals.approve(study, dataset=dataset, rounds=rounds, until=until)


def study_decline(folder: Folder, study: str, *, reason: str = "") -> str:
    """Say no, or take a consent back; return what people should know, or nothing."""
    with _approvals(folder) as approvals:
        return approvals.decline(study, reason)


def up(folder: Folder) -> None:
    """Run the node until SIGINT, SIGTERM or `stop`; see `Agent.run`."""
    home = Home.at(folder)
    home.hub()
    configure_logs()
    with opened(home) as site:
        agent = Agent(site)
        with _orders(agent):
            agent.run()


def stop(folder: Folder, *, now: bool = False) -> bool:
    """Stop the node that runs in a folder; return whether one did."""
    return statuses.stop(Home.at(folder), now=now)


def status(folder: Folder) -> Status:
    """Return how the node is, from its own folder."""
    return statuses.status(Home.at(folder))


def doctor(folder: Folder, *, url: str | None = None) -> list[Check]:
    """Look at everything that the node depends on."""
    return doctors.examine(Home.at(folder), url=url)


def backup(folder: Folder, file: Path) -> None:
    """Write the node's folder into one file, which then holds its secret keys."""
    backups.backup(Home.at(folder), file)


def restore(folder: Folder, file: Path) -> None:
    """Make a node's folder from a backup."""
    backups.restore(Home.at(folder), file)


def _problem(site: Site, each: Registered) -> str:
    try:
        return "" if site.datasets.is_unchanged(each) else "changed since it was added"
    except DataError as error:
        return str(error)


@contextmanager
def _approvals(folder: Folder) -> Iterator[Approvals]:
    home = Home.at(folder)
    with closing(client_of(home)) as client, opened(home) as site:
        yield Approvals(site, client, home.identity())


@contextmanager
def _orders(agent: Agent) -> Iterator[None]:
    """Turn signals into orders; a second one to stop does not wait for the step in progress."""
    first: list[Order] = ["stop"]
    stops = iter(first)
    handlers: dict[signal.Signals, Callable[[int, object], None]] = {
        signal.SIGTERM: lambda *_: agent.order(next(stops, "kill")),
        signal.SIGINT: lambda *_: agent.order(next(stops, "kill")),
        signal.SIGUSR1: lambda *_: agent.order("kill"),
        signal.SIGHUP: lambda *_: agent.order("reload"),
    }
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
