"""A researcher at a real hub with real nodes: join, submit, steer, follow, fetch."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.node.federation import Federation, federation

from cohortium.errors import ArgumentError, InvalidInputError, RefusedError, StudyError
from cohortium.researcher import studies
from cohortium.researcher.inbox import Inbox, follow
from cohortium.researcher.profile import Profile
from cohortium.researcher.results import result_of
from cohortium.researcher.studies import Standing, Study
from cohortium.runtime.engine import RoundLog
from cohortium.runtime.result import Result
from cohortium.runtime.simulation import simulate
from cohortium.transport.client import HubClient
from cohortium.transport.errors import ConflictError, ExpiredError, RequestError

STUDY = """
[study]
name = "{name}"
purpose = "Tell who is sick."
seed = 3

[task]
kind = "binary-classification"
model = {model}
optimizer = {{kind = "sgd", lr = 0.1}}
batch_size = 8

[data]
dataset = "hospitals"
target = "sick"
features = [{{name = "age", range = [0, 120]}}, {{name = "pressure", range = [50, 300]}}]
split = {{test = 0.25}}

[plan]
rounds = {rounds}
sites = ["aachen", "bonn"]
local = {{epochs = 1}}
"""
CODE = '{kind = "code", file = "net.py", build = "Net"}'
NET = """
import torch


class Net(torch.nn.Linear):
    def __init__(self):
        super().__init__(2, 1)
"""


@dataclass
class Desk:
    """A researcher, and the federation that they joined.

    Attributes:
        alliance: the hub and its nodes.
        profile: the researcher's folder.
        client: the way to the hub.
        folder: where study files lie.
    """

    alliance: Federation
    profile: Profile
    client: HubClient
    folder: Path

    def study(self, rounds: int = 3, model: str = '"linear"') -> Path:
        (self.folder / "net.py").write_text(NET)
        path = self.folder / "hearts.toml"
        path.write_text(STUDY.format(name="hearts", rounds=rounds, model=model))
        return path

    def submit(self, rounds: int = 3, model: str = '"linear"') -> Study:
        return studies.submit(self.profile, self.study(rounds, model))

    def approved(self, rounds: int = 3) -> Study:
        study = self.submit(rounds)
        for node in self.alliance.nodes.values():
            with node.approvals() as approvals:
                approvals.approve(study.digest)
        return studies.one(self.client, study.digest)

    def inbox(self) -> Inbox:
        return Inbox(self.profile, self.client)

    def simulated(self, path: Path) -> Result:
        data = self.folder / "data"
        data.mkdir(exist_ok=True)
        for name, node in self.alliance.nodes.items():
            shutil.copy(node.records, data / f"{name}.csv")
        return simulate(path, data=data, engine="sequential")


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with desk_at(tmp_path) as made:
        yield made


@contextmanager
def desk_at(tmp_path: Path, **settings: Any) -> Iterator[Desk]:
    """Let a researcher and two nodes join a hub with some settings."""
    with federation(tmp_path, **settings) as alliance:
        profile = Profile.at(tmp_path / "rosa")
        profile.join(alliance.hub.url, code(alliance))
        alliance.node("aachen", seed=1)
        alliance.node("bonn", seed=2)
        with closing(profile.client()) as client:
            yield Desk(alliance, profile, client, tmp_path)


def code(alliance: Federation, name: str = "rosa", role: str = "researcher") -> str:
    said = alliance.hub.coordinator.call("POST", "/v1/invitations", {"name": name, "role": role})
    return str(said["code"])


def plain(result: Result) -> dict[str, Any]:
    """Return a result without what belongs to the machines that it was reached on."""
    table: dict[str, Any] = json.loads(json.dumps(result.to_json()))
    for key in ("engine", "environment", "timing"):
        del table[key]
    for arm in table["arms"].values():
        arm.pop("idle", None)
        for each in arm["rounds"]:
            del each["duration"], each["bytes"]
    return table


@contextmanager
def watching(desk: Desk, study: Study) -> Iterator[list[RoundLog]]:
    """Let a second command of the same researcher watch; yield what it will have seen."""
    seen: list[RoundLog] = []

    def watch() -> None:
        with closing(desk.profile.client()) as client:
            inbox = Inbox(desk.profile, client)
            seen.extend(x for x in follow(inbox, client, study) if isinstance(x, RoundLog))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        thread.join()


class TestJoining:
    def test_keys_are_made_here_and_only_their_owner_reads_them(self, desk: Desk) -> None:
        assert desk.profile.identity.name == "rosa"
        assert desk.profile.identity.role == "researcher"
        assert desk.profile.trust.root == desk.alliance.hub.folder.identity.root.public
        for path in desk.profile.folder.iterdir():
            assert path.stat().st_mode & 0o077 == 0, path

    def test_a_folder_belongs_to_one_hub(self, desk: Desk) -> None:
        with pytest.raises(ArgumentError, match="belongs to a hub already"):
            desk.profile.join(desk.alliance.hub.url, code(desk.alliance, "rosa2"))

    def test_a_lost_answer_costs_no_code(self, desk: Desk) -> None:
        again, used = Profile.at(desk.folder / "again"), code(desk.alliance, "paul")
        first = again.join(desk.alliance.hub.url, used)
        (again.folder / "hub.json").unlink()  # as where the answer never came
        assert again.join(desk.alliance.hub.url, used).identity == first.identity

    def test_a_code_is_for_one(self, desk: Desk) -> None:
        used = code(desk.alliance, "paul")
        Profile.at(desk.folder / "one").join(desk.alliance.hub.url, used)
        with pytest.raises(ExpiredError):
            Profile.at(desk.folder / "two").join(desk.alliance.hub.url, used)

    def test_a_sites_code_is_no_researchers(self, desk: Desk) -> None:
        site = code(desk.alliance, "chur", "site")
        with pytest.raises(ArgumentError, match="cohortium node join"):
            Profile.at(desk.folder / "chur").join(desk.alliance.hub.url, site)
        assert not (desk.folder / "chur").exists()

    def test_a_slip_in_the_code_is_told_before_anything_is_sent(self, desk: Desk) -> None:
        slip = code(desk.alliance, "paul")
        slip = slip[:-1] + ("0" if slip[-1] != "0" else "1")
        with pytest.raises(ArgumentError, match="slip"):
            Profile.at(desk.folder / "slip").join("https://localhost:1", slip)

    def test_who_has_not_joined_is_told_how(self, tmp_path: Path) -> None:
        with pytest.raises(ArgumentError, match="cohortium study join URL CODE"):
            Profile.at(tmp_path / "nobody").client()


class TestStudies:
    def test_sites_answer(self, desk: Desk) -> None:
        study = desk.submit()
        asked = [Standing("aachen", "asked"), Standing("bonn", "asked")]
        assert (study.status, study.standings()) == ("open", asked)
        with desk.alliance.nodes["aachen"].approvals() as approvals:
            approvals.approve(study.digest)
        with desk.alliance.nodes["bonn"].approvals() as approvals:
            approvals.decline(study.digest, "no ethics vote yet")
        study = studies.one(desk.client, study.digest)
        assert study.standings() == [
            Standing("aachen", "approved", "30 training rows of records"),
            Standing("bonn", "declined", "no ethics vote yet"),
        ]
        with pytest.raises(InvalidInputError, match="no consent of bonn"):
            studies.change(desk.client, study, "start")

    def test_it_is_found_by_name_or_digest(self, desk: Desk) -> None:
        study = desk.submit()
        for wanted in ("hearts", study.digest, study.digest[:6]):
            assert studies.find(desk.client, wanted).digest == study.digest
        with pytest.raises(ArgumentError, match="There are: hearts"):
            studies.find(desk.client, "lungs")
        desk.submit(rounds=4)
        with pytest.raises(ArgumentError, match="several studies fit"):
            studies.find(desk.client, "hearts")

    def test_its_files_come_back_from_the_hub(self, desk: Desk) -> None:
        study = desk.submit(model=CODE)
        own = studies.bundle_of(desk.profile, desk.client, study)
        shutil.rmtree(desk.profile.folder / "studies")
        fetched = studies.bundle_of(desk.profile, desk.client, study)
        assert fetched.files == own.files == {"net.py": NET.encode()}
        assert fetched.digest == own.digest == study.digest

    def test_a_study_that_is_not_its_digest_is_refused(self, desk: Desk) -> None:
        study = desk.submit()
        shutil.rmtree(desk.profile.folder / "studies")
        text = study.row["text"].replace("rounds = 3", "rounds = 300")
        with pytest.raises(RefusedError, match="not what its digest says"):
            studies.bundle_of(desk.profile, desk.client, Study({**study.row, "text": text}))

    def test_what_its_sites_cannot_do_is_refused_before_it_is_sent(self, desk: Desk) -> None:
        path = desk.study()
        path.write_text(path.read_text() + 'topology = {kind = "tree", groups = {n = ["x"]}}\n')
        with pytest.raises(StudyError):
            studies.submit(desk.profile, path)
        assert studies.all_of(desk.client) == []

    def test_who_could_read_what_is_said(self, desk: Desk) -> None:
        bundle = studies.bundle_of(desk.profile, desk.client, desk.submit())
        [line] = studies.exposed(bundle, [])
        assert line.startswith("the hub, as @aggregator, reads each single update of aachen, bonn")

    def test_others_studies_are_not_shown(self, desk: Desk) -> None:
        desk.submit()
        other = Profile.at(desk.folder / "paul")
        other.join(desk.alliance.hub.url, code(desk.alliance, "paul"))
        with closing(other.client()) as client:
            assert studies.all_of(client) == []

    def test_what_has_not_started_cannot_be_paused(self, desk: Desk) -> None:
        study = desk.submit()
        with pytest.raises(ConflictError):
            studies.change(desk.client, study, "pause")
        assert studies.change(desk.client, study, "stop", reason="a mistake").status == "stopped"


class TestRuns:
    def test_the_result_is_that_of_a_simulation(self, desk: Desk) -> None:
        study = desk.approved()
        with ExitStack() as nodes:
            for node in desk.alliance.nodes.values():
                nodes.enter_context(node.up())
            study = studies.change(desk.client, study, "start")
            other = nodes.enter_context(watching(desk, study))
            inbox = desk.inbox()
            rounds = [x for x in follow(inbox, desk.client, study) if isinstance(x, RoundLog)]
        assert [log.state.round for log in rounds] == [1, 2, 3]
        assert [log.state for log in other] == [log.state for log in rounds]  # two may watch
        assert inbox.refused == []
        copy = inbox.copy(study.run)
        found = result_of(copy.run, rounds, copy.models(rounds[-1].state))
        simulated = desk.simulated(desk.study())
        assert found.model.digest == simulated.model.digest
        assert plain(found) == plain(simulated)
        assert set(found.arms["federated"].idle) == {"aachen", "bonn"}
        assert set(found.environment) >= {"python", "torch"}
        self._can_be_fetched_again(desk, study, rounds)

    @staticmethod
    def _can_be_fetched_again(desk: Desk, study: Study, rounds: list[RoundLog]) -> None:
        """What was acknowledged is kept here, and another command finds it, without waiting."""
        ended = studies.one(desk.client, study.digest)
        assert ended.status == "finished"
        again = [x for x in follow(desk.inbox(), desk.client, ended) if isinstance(x, RoundLog)]
        assert [log.state for log in again] == [log.state for log in rounds]

    def test_a_stopped_run_ends_the_watch(self, desk: Desk) -> None:
        study = desk.approved(rounds=100_000)
        with ExitStack() as nodes:
            for node in desk.alliance.nodes.values():
                nodes.enter_context(node.up())
            study = studies.change(desk.client, study, "start")
            seen = []
            for each in follow(desk.inbox(), desk.client, study):
                seen.append(each)
                if len(seen) == 2:
                    studies.change(desk.client, study, "stop", reason="seen enough")
        last = [each for each in seen if isinstance(each, RoundLog)][-1]
        assert last.state.status == "stopped"
        assert any(isinstance(each, Study) and each.status == "stopped" for each in seen)

    def test_behind_a_broker_sites_appear_under_pseudonyms(self, tmp_path: Path) -> None:
        with desk_at(tmp_path, broker=True) as desk, ExitStack() as nodes:
            path = desk.study()
            text = path.read_text()
            path.write_text(text.replace('sites = ["aachen", "bonn"]\n', ""))
            study = studies.submit(desk.profile, path)
            for node in desk.alliance.nodes.values():
                with node.approvals() as approvals:
                    approvals.approve(study.digest)
                nodes.enter_context(node.up())
            study = studies.one(desk.client, study.digest)
            assert {standing.answer for standing in study.standings()} == {"approved"}
            study = studies.change(desk.client, study, "start")
            inbox = desk.inbox()
            rounds = [x for x in follow(inbox, desk.client, study) if isinstance(x, RoundLog)]
            copy = inbox.copy(study.run)
            found = result_of(copy.run, rounds, copy.models(rounds[-1].state))
        told = json.dumps([found.to_json(), study.row])
        assert "aachen" not in told
        assert "bonn" not in told
        assert set(found.sites.values()) == {30}
        assert found.environment == {}

    def test_a_restored_hub_counts_its_mail_anew(self, desk: Desk) -> None:
        inbox = desk.inbox()
        inbox.fetch(0.0)
        kept = desk.profile.read("inbox.json")
        desk.profile.save("inbox.json", {**kept, "generation": "another", "after": 10**6})
        desk.submit()
        inbox.fetch(0.0)
        assert desk.profile.place.after < 10**6
        assert desk.profile.place.generation == kept["generation"]

    def test_a_run_of_somebody_else_is_not_shown(self, desk: Desk) -> None:
        with pytest.raises(RequestError):
            desk.inbox().copy(os.urandom(16).hex())
