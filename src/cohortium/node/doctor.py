"""`cohortium node doctor`: what stands between this machine and taking part, and what to do.

It attacks the isolation of study code from inside, and shows what happened.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from cohortium.errors import CohortiumError
from cohortium.node.folder import Home
from cohortium.node.limits import GIB, Hours
from cohortium.node.settings import Settings
from cohortium.node.site import opened
from cohortium.runtime.environment import environment
from cohortium.transport.probe import Probe, probe
from cohortium.transport.signing import SKEW, SUPPORTED
from cohortium.transport.trust import HubTrust
from cohortium.worker.attack import attack
from cohortium.worker.isolation import Isolation, available

MEMORY = 2.0
"""GiB of memory below which training a model is unlikely to work."""

DATE = 60.0
"""Seconds of clock difference that are worth a word."""


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: what.
        ok: whether it is as it should be.
        needed: whether taking part fails without it.
        found: what is there.
        advice: what to do; empty where nothing has to be done.
        ask: what to ask the IT department for; empty where that does not help.
    """

    name: str
    ok: bool
    needed: bool
    found: str
    advice: str = ""
    ask: str = ""


def examine(home: Home, *, url: str | None = None) -> list[Check]:
    """Look at everything that a node depends on.

    Args:
        home: the node's folder; it need not have joined.
        url: of a hub, before this node has joined one.

    Raises:
        ArgumentError: `node.toml` is wrong.
    """
    settings = home.settings
    return [
        _folder(home),
        *_way(home, settings, url),
        _memory(settings),
        _disk(home, settings),
        _hours(settings),
        _gpu(settings),
        _packages(),
        *_isolation(home, settings),
        *_records(home),
        _notifications(settings),
    ]


# --- the folder ---


def _folder(home: Home) -> Check:
    if not home.has_joined:
        advice = "Ask the coordinator for a code, then: cohortium node join URL CODE"
        return Check("membership", ok=False, needed=False, found="not joined yet", advice=advice)
    pid = home.running()
    found = f"joined as {home.identity().name}; the node "
    if pid is not None:
        return Check("membership", ok=True, needed=True, found=f"{found}runs, process {pid}")
    advice = "Start it: cohortium node up"
    return Check("membership", ok=True, needed=True, found=f"{found}does not run", advice=advice)


def _records(home: Home) -> Iterator[Check]:
    if not home.has_database:
        return
    with opened(home) as site:
        for each in site.datasets.all():
            name = each.dataset.name
            try:
                same = site.datasets.is_unchanged(each)
            except CohortiumError as error:
                yield Check(f"dataset {name}", ok=False, needed=False, found=str(error))
                continue
            found = f"{each.summary.rows} rows, " + ("as added" if same else "changed since added")
            advice = "" if same else f"cohortium node data add {name} PATH, and approve again"
            yield Check(f"dataset {name}", ok=same, needed=False, found=found, advice=advice)


# --- the way to the hub ---


def _way(home: Home, settings: Settings, url: str | None) -> Iterator[Check]:
    hub = home.hub() if home.has_joined else {}
    url = url or settings.hub.url or hub.get("url")
    if url is None:
        advice = "Name the hub: cohortium node doctor --url URL"
        yield Check("hub", ok=False, needed=False, found="no hub to reach", advice=advice)
        return
    trust = HubTrust.from_json(hub["trust"]) if hub else None
    proxy = settings.hub.proxy or hub.get("proxy")
    ca = home.ca or (Path(hub["ca"]) if hub.get("ca") else None)
    seen = probe(url, hub=trust, proxy=proxy, ca=ca)
    yield _reached(seen)
    yield Check("proxy", ok=True, needed=False, found=seen.proxy or "none is used")
    if seen.subject:
        yield _inspection(seen)
    if seen.clock is not None:
        yield _clock(seen.clock)
    if seen.protocols:
        yield _protocol(seen)


def _reached(seen: Probe) -> Check:
    if seen.problem is None:
        found = f"{seen.url} answers"
        found += f" in {1000 * seen.latency:.0f} ms" if seen.latency is not None else ""
        return Check("hub", ok=True, needed=True, found=found)
    name = urlsplit(seen.url).netloc
    ask = (
        f"Allow this machine to connect to {name} (HTTPS, outbound only; no inbound port), "
        "directly or through the proxy; long answers, up to a minute, must not be cut"
    )
    return Check("hub", ok=False, needed=True, found=str(seen.problem), ask=ask)


def _inspection(seen: Probe) -> Check:
    if seen.inspected is None:
        found = f"the certificate is by {seen.issuer}"
        return Check("TLS inspection", ok=True, needed=False, found=found)
    if not seen.inspected:
        found = "none: the certificate is by the hub's own authority"
        return Check("TLS inspection", ok=True, needed=False, found=found)
    works = seen.problem is None
    found = f"a proxy looks into TLS (its certificate is by {seen.issuer})"
    found += "; Cohortium works through it, and what is sent stays sealed" if works else ""
    return Check(
        "TLS inspection",
        ok=works,
        needed=True,
        found=found,
        advice="" if works else "Name the file with its CA: hub.ca in node.toml, or join --ca FILE",
        ask="" if works else "The PEM file of the CA with which the proxy signs, or an exception",
    )


def _clock(offset: float) -> Check:
    found = f"{abs(offset):.0f} s {'behind' if offset > 0 else 'ahead of'} the hub's"
    fits = abs(offset) <= SKEW - DATE
    close = abs(offset) <= DATE
    advice = "" if close else "Set this machine's clock, best by NTP"
    ask = "" if close else "A time server (NTP) that this machine may use"
    return Check("clock", ok=fits, needed=True, found=found, advice=advice, ask=ask)


def _protocol(seen: Probe) -> Check:
    common = bool(SUPPORTED.intersection(seen.protocols))
    found = f"the hub speaks version {', '.join(map(str, seen.protocols))}"
    advice = "" if common else "Install the version of Cohortium that the hub has"
    return Check("protocol", ok=common, needed=True, found=found, advice=advice)


# --- the machine ---


def _memory(settings: Settings) -> Check:
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIB
    limit = settings.limits.memory_gib
    found = f"{total:.1f} GiB"
    found += "" if limit is None else f", of which a study may use {limit:g}"
    ok = min(total, limit or total) >= MEMORY
    advice = "" if ok else "Models with images need more; linear models and small tables do not"
    return Check("memory", ok=ok, needed=False, found=found, advice=advice)


def _disk(home: Home, settings: Settings) -> Check:
    place = next(folder for folder in (home.folder, *home.folder.parents) if folder.exists())
    free, least = shutil.disk_usage(place).free / GIB, settings.limits.disk_free_gib
    found = f"{free:.1f} GiB free; steps start above {least:g}"
    ok = free >= least
    advice = "" if ok else "Make room, or lower limits.disk_free_gib in node.toml"
    return Check("disk", ok=ok, needed=True, found=found, advice=advice)


def _hours(settings: Settings) -> Check:
    limits = settings.limits
    closed = Hours(limits.hours).wait(datetime.now().astimezone())
    found = "always" if limits.hours is None else f"{limits.hours} local time"
    found += f"; steps start in {closed / 3600:.1f} h" if closed else ""
    return Check("hours", ok=True, needed=False, found=found)


def _gpu(settings: Settings) -> Check:
    if not settings.limits.gpu:
        return Check("GPU", ok=True, needed=False, found="not used: limits.gpu is false")
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return Check("GPU", ok=True, needed=False, found="none found; the processor computes")
    query = [tool, "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        advice = "Ask nvidia-smi why; until then the processor computes"
        return Check("GPU", ok=False, needed=False, found=type(error).__name__, advice=advice)
    return Check("GPU", ok=True, needed=False, found="; ".join(done.stdout.split("\n")[:-1]))


def _packages() -> Check:
    here = environment()
    found = ", ".join(f"{name} {here[name]}" for name in ("python", "cohortium", "numpy"))
    if find_spec("torch") is None:
        advice = "Linear models train without it; for others: pip install 'cohortium[torch]'"
        return Check("packages", ok=True, needed=False, found=f"{found}, no torch", advice=advice)
    return Check("packages", ok=True, needed=False, found=f"{found}, torch {here['torch']}")


# --- isolation ---


def _isolation(home: Home, settings: Settings) -> Iterator[Check]:
    strong, there = settings.isolation == "strong", available()
    best = next((each for each in there if each.is_strong or not strong), None)
    if best is None:
        advice = "Install bubblewrap, or run Linux 6.2 or later with Landlock; or allow less: "
        advice += 'isolation = "best" in node.toml'
        ask = "The package bubblewrap, and user namespaces for this user; or a newer kernel"
        found = "nothing here isolates study code"
        yield Check("isolation", ok=False, needed=True, found=found, advice=advice, ask=ask)
        return
    advice = "" if best.is_strong else "It keeps mistakes in, and nobody who means harm"
    found = f"{best.name} ({'strong' if best.is_strong else 'weak'})"
    yield Check("isolation", ok=best.is_strong, needed=strong, found=found, advice=advice)
    yield from _attacked(best, home, strong=strong)


def _attacked(isolation: Isolation, home: Home, *, strong: bool) -> Iterator[Check]:
    keys = home.folder / "identity.json"
    try:
        findings = attack(isolation, keys=keys if keys.exists() else None)
    except CohortiumError as error:
        yield Check("attack on it", ok=False, needed=strong, found=str(error))
        return
    for finding in findings:
        outcome = "blocked" if finding.blocked else "SUCCEEDED"
        found = f"{outcome}: {finding.detail}" if finding.detail else outcome
        advice = "" if finding.blocked else "Until it is blocked, approve code that you trust only"
        name = f"attack: {finding.attempt}"
        yield Check(name, ok=finding.blocked, needed=False, found=found, advice=advice)


def _notifications(settings: Settings) -> Check:
    ways = [name for name in ("webhook", "mail") if getattr(settings.notify, name)]
    if ways:
        return Check("notifications", ok=True, needed=False, found=" and ".join(ways))
    advice = "So that pending approvals are noticed: notify.webhook or notify.mail in node.toml"
    return Check("notifications", ok=False, needed=False, found="nobody is told", advice=advice)


def lacking(checks: list[Check]) -> list[Check]:
    """Return what taking part fails without."""
    return [check for check in checks if check.needed and not check.ok]
