"""Every topology over the network: each holder's model has the bits of the simulation."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

import pytest
from tests.federation.consortium import Consortium, running

from cohortium.learning.model_file import from_bytes
from cohortium.types import PartyId

ROWS = {"north": 40, "east": 31, "south": 53, "west": 28}
SEEDS = itertools.count(1)

PLANS: dict[str, tuple[str, dict[str, str]]] = {
    "star": ("", {}),
    "star, carried by a site": ("", {"@aggregator": "south"}),
    "tree": (
        'topology = {kind = "tree", groups = {up = ["north", "east"], low = ["south", "west"]}}',
        {"@aggregator/up": "east"},
    ),
    "gossip": ('topology = {kind = "gossip", graph = "ring", exchanges = 2}', {}),
    "cyclic": ('topology = {kind = "cyclic", order = "random", select = "best-local"}', {}),
    "hybrid": (
        """
        topology = {kind = "hybrid", outer = {kind = "gossip", graph = "ring"}, groups = [
          {name = "stars", topology = "star", sites = ["north", "east"]},
          {name = "peers", topology = {kind = "gossip", graph = "ring"}, sites = ["south", "west"]},
        ]}
        """,
        {"@clerk": "north"},
    ),
}


@pytest.fixture(scope="module")
def consortium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Consortium]:
    with running(Consortium(tmp_path_factory.mktemp("consortium"), rows=ROWS)) as made:
        yield made


@pytest.mark.parametrize(("plan", "hosts"), PLANS.values(), ids=PLANS)
def test_every_holders_model_is_that_of_the_simulation(
    plan: str, hosts: dict[str, str], consortium: Consortium
) -> None:
    chosen = "\n".join(f'hosts."{party}" = "{site}"' for party, site in hosts.items())
    study = consortium.write_study(next(SEEDS), plan=f"{plan}\n{chosen}")
    digest = consortium.begin(study)
    found, simulated = consortium.result(digest), consortium.simulated(study)
    assert found["model_digest"] == simulated.model.digest
    assert _told(found) == _told(json.loads(json.dumps(simulated.to_json())))
    copy, layout = consortium.copy(digest), simulated.model.layout
    carried = json.loads((copy / "roster.json").read_text())["body"]["hosts"]
    assert {party: host for party, host in carried.items() if host != "@hub"} == hosts
    models = {
        unquote(path.stem.removeprefix("model-")): from_bytes(path.read_bytes(), layout, where="")
        for path in copy.glob("model-*")
    }
    assert simulated.plan is not None
    assert models.keys() == set(simulated.plan.layout(3).holder_of.values())
    for party, model in models.items():
        assert model.digest == simulated.models.get(PartyId(party), simulated.model).digest


def _told(result: Mapping[str, Any]) -> Any:
    """Return what a result says of a run, apart from how long it took."""
    [arm] = result["arms"].values()
    rounds = [(log["round"], log["metrics"]) for log in arm["rounds"]]
    return arm["metrics"], rounds, result["participation"], result["sites"]
