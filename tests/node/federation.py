"""A hub and nodes on loopback, with records of their own: real HTTPS, real signatures."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tests.hub.running import Hub, new_folder, running

from cohortium.identity import Identity
from cohortium.node.agent import Agent
from cohortium.node.approvals import Approvals
from cohortium.node.folder import Home
from cohortium.node.joining import client_of, join
from cohortium.node.site import Site, opened
from cohortium.transport.client import HubClient

STUDY = """
[study]
name = "{name}"
purpose = "Tell who is sick."
seed = 3

[task]
kind = "binary-classification"
model = {{kind = "linear", framework = "numpy"}}
optimizer = {{kind = "sgd", lr = 0.1}}
batch_size = 8

[data]
target = "sick"
features = [{{name = "age", range = [0, 120]}}, {{name = "pressure", range = [50, 300]}}]
split = {{test = 0.25}}

[plan]
rounds = {rounds}
topology = "{topology}"
local = {{epochs = 1}}
{plan}

[plan.participation]
deadline = {deadline}
{participation}
"""


def study(name: str = "hearts", **changes: Any) -> str:
    """Return a study's text."""
    defaults = {"rounds": 3, "topology": "star", "plan": "", "deadline": 60.0}
    return STUDY.format(name=name, **{**defaults, "participation": "", **changes})


def write_records(path: Path, *, seed: int, rows: int = 40) -> Path:
    """Write a hospital's table."""
    rng = np.random.default_rng(seed)
    age, pressure = rng.uniform(30, 90, rows), rng.uniform(80, 200, rows)
    sick = (age / 60 + pressure / 140 + rng.normal(0, 0.3, rows) > 2).astype(int)
    lines = [f"{a:.1f},{p:.1f},{s}" for a, p, s in zip(age, pressure, sick, strict=True)]
    path.write_text("age,pressure,sick\n" + "\n".join(lines) + "\n")
    return path


@dataclass
class Node:
    """A hospital's node that joined and has a dataset `records`."""

    home: Home
    records: Path

    @property
    def name(self) -> str:
        return self.home.identity().name

    @contextmanager
    def approvals(self) -> Iterator[Approvals]:
        """Open what the verbs work with."""
        client = client_of(self.home, patience=20.0)
        try:
            with opened(self.home) as site:
                yield Approvals(site, client, self.home.identity())
        finally:
            client.close()

    @contextmanager
    def up(self) -> Iterator[Agent]:
        """Run the node in a thread of this process."""
        with opened(self.home) as site:
            agent = Agent(site)
            errors: list[BaseException] = []

            def run() -> None:
                try:
                    agent.run()
                except BaseException as error:  # noqa: BLE001 - raised where the node is awaited
                    errors.append(error)

            thread = threading.Thread(target=run, name=f"node {self.name}")
            thread.start()
            try:
                yield agent
            finally:
                agent.order("kill")
                thread.join()
            if errors:
                raise errors[0]


@dataclass
class Federation:
    """A hub, its nodes, and a researcher."""

    hub: Hub
    folder: Path
    nodes: dict[str, Node] = field(default_factory=dict)

    def node(self, name: str, *, seed: int = 0, toml: str = "") -> Node:
        """Let a new hospital join, with records of its own."""
        home = Home.at(self.folder / name)
        home.folder.mkdir()
        (home.folder / "node.toml").write_text(LOOSE + toml)
        said = self.hub.coordinator.call("POST", "/v1/invitations", {"name": name, "role": "site"})
        join(home, self.hub.url, said["code"])
        records = write_records(self.folder / f"{name}.csv", seed=seed)
        with opened(home) as site:
            site.datasets.add("records", records)
        self.nodes[name] = Node(home, records)
        return self.nodes[name]

    def researcher(self) -> HubClient:
        """Return the researcher's way to the hub."""
        return self.hub.client(self.ada)

    @property
    def ada(self) -> Identity:
        if not hasattr(self, "_ada"):
            self._ada = self.hub.member("ada", "researcher")
        return self._ada

    def submit(self, text: str, files: Mapping[str, bytes] | None = None) -> str:
        """Submit a study; return its digest."""
        client = self.researcher()
        blobs = {}
        for path, content in (files or {}).items():
            blobs[path] = hashlib.sha256(content).hexdigest()
            client.upload(blobs[path], content)
        digest: str = client.call("POST", "/v1/studies", {"text": text, "files": blobs})["digest"]
        return digest

    def start(self, digest: str) -> str:
        """Start a study; return the run."""
        run: str = self.researcher().call("POST", f"/v1/studies/{digest}/start", {})["run"]
        return run

    def approved(self, text: str) -> str:
        """Submit a study that every node approves; return its digest."""
        digest = self.submit(text)
        for node in self.nodes.values():
            with node.approvals() as approvals:
                approvals.approve(digest)
        return digest


LOOSE = 'isolation = "best"\nlimits = {threads = 1, gpu = false}\n'


@contextmanager
def federation(folder: Path, **settings: Any) -> Iterator[Federation]:
    """Run a hub until the end of the block."""
    with running(new_folder(folder / "hub", **settings)) as hub:
        yield Federation(hub, folder)


def until(found: Callable[[], Any], *, seconds: float = 60.0) -> Any:
    """Return something as soon as it is there."""
    pause = threading.Event()
    for _ in range(int(seconds / 0.02)):
        if value := found():
            return value
        pause.wait(0.02)
    raise TimeoutError("it did not come")


def until_ended(site: Site, run: str, *, seconds: float = 60.0) -> str:
    """Return how a run ended at a node; waits for it."""

    def status() -> str:
        known = site.runs.get(run)
        return "" if known is None or known.goes_on else known.status

    return str(until(status, seconds=seconds))
