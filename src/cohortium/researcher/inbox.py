"""A researcher's mail: what came is kept on this machine first, and acknowledged then.

Several commands may read it at once: each keeps what it gets, and keeping twice changes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from typing import Any
from urllib.parse import quote

from cohortium.errors import RefusedError
from cohortium.host.run import HostedRun
from cohortium.identity import Certificate, Document
from cohortium.plan.plan import State
from cohortium.researcher.profile import Profile
from cohortium.researcher.runs import ROSTER, RunCopy, save_roster
from cohortium.researcher.studies import Study, bundle_of, one
from cohortium.runtime.engine import RoundLog
from cohortium.transport.client import HubClient
from cohortium.transport.envelope import Frame, open_frame

POLL = 50.0
"""Seconds for which the hub may keep a question open."""

LAST = 10.0
"""Seconds of silence after which nothing more is expected of a run that was stopped or failed."""


class Inbox:
    """The mailbox, and what is kept of it here.

    Args:
        profile: the researcher's folder.
        client: the way to the hub.

    Attributes:
        refused: what came and was not believed, in sentences.
    """

    def __init__(self, profile: Profile, client: HubClient) -> None:
        self._profile, self._client, self._identity = profile, client, profile.identity
        self._root = profile.trust.root
        self._copies: dict[str, RunCopy] = {}
        self._certificates: dict[tuple[str, str, int], Certificate] = {}
        self.refused: list[str] = []

    def copy(self, run: str) -> RunCopy:
        """Return what is kept here of a run, which may be nothing yet.

        Raises:
            RefusedError: its roster is not the hub's, or not of the study that was submitted.
        """
        if run not in self._copies:
            folder = self._profile.folder / "runs" / run
            if not (folder / ROSTER).exists():
                said = self._client.call("GET", f"/v1/runs/{run}")
                save_roster(folder, Document.from_json(said["roster"]))
            document = Document.from_json(json.loads((folder / ROSTER).read_text("utf-8")))
            study = one(self._client, str(document.body["study"]))
            bundle = bundle_of(self._profile, self._client, study)
            hosted = HostedRun.of(document, bundle, hub=self._root)
            if hosted.id != run:
                raise RefusedError(f"the roster of {run} is that of {hosted.id}")
            self._copies[run] = RunCopy(folder, hosted)
        return self._copies[run]

    def fetch(self, wait: float) -> list[Mapping[str, Any]] | None:
        """Keep what has come, waiting for it up to some seconds.

        Returns:
            the notices among it; None where nothing came.
        """
        place = self._profile.place
        question = {"instance": place.instance, "after": place.after, "wait": wait, "receipts": []}
        said = self._client.call("POST", "/v1/inbox", question, wait=wait)
        anew = bool(place.generation) and said["generation"] != place.generation
        messages = [] if anew else said["messages"]  # what was asked for was another mailbox's
        after = 0 if anew else place.after
        for message in messages:
            if message["kind"] == "frame":
                self._keep(message["frame"])
            after = max(after, int(message["seq"]))
        kept = replace(place, generation=str(said["generation"]), after=after)
        self._profile.save("inbox.json", asdict(kept))
        if anew:
            return self.fetch(0.0)
        notices = [message["notice"] for message in messages if message["kind"] == "notice"]
        return notices if messages else None

    def _keep(self, value: object) -> None:
        """Keep what a frame holds, if it is what it should be; else say why not."""
        try:
            frame = Frame.from_json(value)
            copy = self.copy(frame.run)
            sender = self._certificate(frame, root=copy.check(frame))
            blob = bytearray(frame.payload_size if frame.blob else 0)
            if frame.blob:
                self._client.download(frame.blob, frame.payload_size, blob)
            copy.keep(frame, open_frame(frame, blob, identity=self._identity, sender=sender))
        except RefusedError as error:
            self.refused.append(f"a message was not believed: {error}")

    def _certificate(self, frame: Frame, *, root: str) -> Certificate:
        """Return the certificate of who signed a frame, by the root key that its run pins."""
        key = frame.run, frame.host, frame.serial
        if key not in self._certificates:
            path = f"/v1/certificates/{quote(frame.host)}?serial={frame.serial}&run={frame.run}"
            found = Certificate.from_json(self._client.call("GET", path)["certificate"])
            found.check(root)
            self._certificates[key] = found
        return self._certificates[key]


def follow(inbox: Inbox, client: HubClient, study: Study) -> Iterator[RoundLog | Study]:
    """Yield the rounds of a study's run as they close, and the study whenever it changes.

    It ends when the run has, with all its models kept here, or when nothing more comes of one that
    has ended; the last is the study as it is then. It polls nothing: the hub answers when there is
    something.

    Raises:
        RefusedError: the run's closing party broke the rules that all had agreed on.
    """
    copy, state, is_silent = inbox.copy(study.run), None, False
    while True:
        for log in copy.logs(state):
            state = log.state
            yield log
        if _is_complete(copy, state) or is_silent:
            study = one(client, study.digest)
            if study.has_ended or is_silent:  # a site that closes the rounds tells the hub last
                yield study
                return
        notices = inbox.fetch(LAST if study.status in ("stopped", "failed") else POLL)
        is_silent = notices is None and (study.has_ended or _is_complete(copy, state))
        if any(_concerns(notice, study) for notice in notices or ()):
            now = one(client, study.digest)
            changed = (now.status, now.reason) != (study.status, study.reason)
            study = now
            if changed and not study.has_ended:
                yield study


def _is_complete(copy: RunCopy, state: State | None) -> bool:
    return state is not None and state.status != "running" and copy.has_models(state)


def _concerns(notice: Mapping[str, Any], study: Study) -> bool:
    return notice.get("digest") == study.digest or notice.get("run") == study.run
