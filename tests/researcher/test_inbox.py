"""Mail is believed by its signatures, whatever the hub says, and kept before it is acknowledged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from cohortium.errors import RefusedError
from cohortium.governance.roster import HUB
from cohortium.identity import Certificate, Identity
from cohortium.researcher.inbox import Inbox, follow
from cohortium.researcher.profile import Place, Profile
from cohortium.researcher.studies import Study
from cohortium.runtime.engine import RoundLog
from cohortium.transport.envelope import Frame
from cohortium.transport.trust import HubTrust

from .conftest import NOW, STUDY, Ran, Run


@dataclass
class Postman:
    """A hub that says whatever it is told to say.

    Attributes:
        ran: the run that it speaks of.
        frames: its mail.
        certificate: what it calls the certificate of whoever is asked for.
        roster: what it calls the run's roster.
        asked: what it was asked for mail.
        status: of the study.
        certified: how often it was asked for a certificate.
    """

    ran: Ran
    frames: list[Frame] = field(default_factory=list)
    certificate: Certificate | None = None
    roster: Mapping[str, Any] | None = None
    asked: list[Mapping[str, Any]] = field(default_factory=list)
    status: str = "running"
    certified: int = 0

    def call(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *, wait: float = 0.0
    ) -> Any:
        if path.startswith("/v1/certificates/"):
            self.certified += 1
            found = self.certificate or self.ran.hosts[HUB].certificate
            return {"certificate": found.to_json()}
        if path.startswith("/v1/runs/"):
            return {"roster": self.roster or self.ran.document.to_json()}
        if path.startswith("/v1/studies/"):
            return self.study.row
        assert (method, path) == ("POST", "/v1/inbox")
        assert body is not None
        self.asked.append(body)
        waiting = enumerate((frame.to_json() for frame in self.frames), start=1)
        messages = [
            {"seq": seq, "kind": "frame", "frame": frame}
            for seq, frame in waiting
            if seq > body["after"]
        ]
        return {"generation": "first", "messages": messages}

    def download(self, digest: str, size: int, into: bytearray) -> None:
        assert len(self.ran.blobs[digest]) == size
        into[:] = self.ran.blobs[digest]

    @property
    def study(self) -> Study:
        row = {"digest": self.ran.run.bundle.digest, "name": "small", "text": STUDY, "files": {}}
        return Study({**row, "status": self.status, "reason": "", "run": self.ran.run.id})


@pytest.fixture
def postman(ran: Run) -> Postman:
    return Postman(ran())


@pytest.fixture
def inbox(postman: Postman, tmp_path: Path) -> Inbox:
    profile = Profile(tmp_path)
    trust = HubTrust(postman.ran.hosts[HUB].certificate)
    profile.save("identity.json", postman.ran.hosts["rosa"].to_json())
    profile.save("hub.json", {"url": "https://hub", "trust": trust.to_json()})
    profile.save("inbox.json", asdict(Place("me")))
    return Inbox(profile, postman)  # type: ignore[arg-type]


def kept(inbox: Inbox, postman: Postman) -> list[str]:
    folder = inbox.copy(postman.ran.run.id).folder
    return sorted(path.name for path in folder.iterdir() if path.name != "roster.json")


def everything(ran: Ran) -> list[Frame]:
    logs = [ran.log_frame(log)[0] for log in ran.logs]
    return [*logs, *(ran.model_frame(p, m)[0] for p, m in ran.models.items())]


def test_what_is_signed_is_kept_and_acknowledged_with_the_next_question(
    inbox: Inbox, postman: Postman
) -> None:
    postman.frames = everything(postman.ran)
    assert inbox.fetch(0.0) == []
    assert len(kept(inbox, postman)) == 4
    assert inbox.refused == []
    assert postman.certified == 1
    assert inbox.fetch(0.0) is None
    assert [question["after"] for question in postman.asked] == [0, 4]


def test_a_run_is_followed_to_its_end(inbox: Inbox, postman: Postman) -> None:
    postman.frames = everything(postman.ran)
    postman.status = "finished"
    *rounds, last = follow(inbox, postman, postman.study)  # type: ignore[arg-type]
    assert [x.state.round for x in rounds if isinstance(x, RoundLog)] == [1, 2, 3]
    assert isinstance(last, Study)


def test_a_run_that_ended_without_a_word_is_not_followed_for_ever(
    inbox: Inbox, postman: Postman
) -> None:
    postman.status = "failed"
    assert [type(x) for x in follow(inbox, postman, postman.study)] == [Study]  # type: ignore[arg-type]


def test_what_could_not_be_kept_is_not_acknowledged(inbox: Inbox, postman: Postman) -> None:
    postman.frames = everything(postman.ran)
    folder = inbox.copy(postman.ran.run.id).folder
    (folder / "log-000002-0.msgpack").mkdir()  # as where the disk refuses
    with pytest.raises(OSError, match="directory"):
        inbox.fetch(0.0)
    (folder / "log-000002-0.msgpack").rmdir()
    inbox.fetch(0.0)
    assert len(kept(inbox, postman)) == 4
    assert [question["after"] for question in postman.asked] == [0, 0]


class TestTheHubCannotMakeAResultUp:
    def test_with_keys_of_its_own_choice(self, inbox: Inbox, postman: Postman) -> None:
        forger = Identity.create(HUB, role="hub", now=NOW)
        postman.certificate = forger.certificate
        hosts = {**postman.ran.hosts, HUB: forger}
        forged = replace(postman.ran, hosts=hosts)
        postman.frames = [forged.log_frame(postman.ran.logs[0])[0]]
        self._is_refused(inbox, postman, "the certificate of @hub is by key")

    def test_with_a_site_s_name(self, inbox: Inbox, postman: Postman) -> None:
        frame, _ = postman.ran.log_frame(postman.ran.logs[0])
        postman.frames = [replace(frame, host="north")]
        self._is_refused(inbox, postman, "north does not speak for @aggregator")

    def test_with_a_changed_frame(self, inbox: Inbox, postman: Postman) -> None:
        frame, _ = postman.ran.log_frame(postman.ran.logs[0])
        postman.frames = [replace(frame, round=2)]
        self._is_refused(inbox, postman, "no signature of a frame")

    def test_with_a_roster_that_it_did_not_sign(self, inbox: Inbox, postman: Postman) -> None:
        forger = Identity.create(HUB, role="hub", now=NOW)
        postman.roster = postman.ran.run.roster.sign(forger.root).to_json()
        with pytest.raises(RefusedError, match="not a roster by"):
            inbox.copy(postman.ran.run.id)

    def test_with_the_roster_of_another_run(self, inbox: Inbox, postman: Postman) -> None:
        with pytest.raises(RefusedError, match="is that of"):
            inbox.copy("0" * 32)

    def test_with_a_study_of_its_own(self, inbox: Inbox, postman: Postman) -> None:
        class Other(Postman):
            @property
            def study(self) -> Study:
                text = STUDY.replace("rounds = 3", "rounds = 4")
                return Study({**super().study.row, "text": text})

        liar = Other(postman.ran)
        inbox._client = liar  # type: ignore[assignment]
        with pytest.raises(RefusedError, match="not what its digest says"):
            inbox.copy(postman.ran.run.id)

    @staticmethod
    def _is_refused(inbox: Inbox, postman: Postman, told: str) -> None:
        assert inbox.fetch(0.0) == []
        [sentence] = inbox.refused
        assert told in sentence
        assert kept(inbox, postman) == []
