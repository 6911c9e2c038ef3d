"""A run's copy on the researcher's machine.

What comes is checked against the signed roster before it is kept, and the chain of States whenever
it is read: the hub, which carries it here, cannot make a result up.

    roster.json               as the hub signed it
    log-000012-0.msgpack      what the closing party saw of a round; round, attempt
    model-<party>.safetensors the model of a party that holds one
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from cohortium.errors import RefusedError
from cohortium.host.run import HostedRun
from cohortium.identity import Document
from cohortium.learning.model_file import from_bytes
from cohortium.plan.plan import State
from cohortium.researcher.profile import write_file
from cohortium.runtime.closing import doubt
from cohortium.runtime.codec import decode_log, most_bytes
from cohortium.runtime.engine import RoundLog
from cohortium.transport.envelope import Frame
from cohortium.types import Params, PartyId

ROSTER = "roster.json"


@dataclass(frozen=True)
class RunCopy:
    """What is known here of a run.

    Attributes:
        folder: where it is kept.
        run: as its roster and its study say.
    """

    folder: Path
    run: HostedRun

    def check(self, frame: Frame) -> str:
        """Return the root key of the host that must have signed a frame.

        Raises:
            RefusedError: it is not one that a researcher gets in this run, or of somebody else.
        """
        plan, roster, sender = self.run.plan, self.run.roster, PartyId(frame.sender)
        if frame.run != self.run.id or frame.kind not in ("log", "model"):
            raise RefusedError(f"a {frame.kind} that is not for the researcher of this run")
        if sender not in plan.parties or frame.host != roster.host_of(sender):
            raise RefusedError(f"{frame.host} does not speak for {frame.sender} in this run")
        if frame.kind == "log" and sender != plan.topology.closer:
            raise RefusedError(f"{frame.sender} does not close this run's rounds")
        if frame.size > self._most(frame.kind):
            raise RefusedError(f"a {frame.kind} of {frame.size} bytes, which is too much")
        return roster.root_of(frame.host)

    def keep(self, frame: Frame, content: memoryview) -> None:
        """Keep what a frame held; it is durable when this returns, and may come again.

        Raises:
            RefusedError: it is not what such a frame holds.
        """
        if frame.kind == "log":
            state = decode_log(bytes(content)).state
            if (state.round, state.attempt) != (frame.round, frame.attempt):
                raise RefusedError("a log of another round than its frame says")
            write_file(self._log(state.round, state.attempt), bytes(content))
        else:
            write_file(self._model(PartyId(frame.sender)), bytes(content))

    def logs(self, after: State | None = None) -> Iterator[RoundLog]:
        """Yield the rounds that are here, each checked against the one before, oldest first.

        `after`: the State from which to go on.

        Raises:
            RefusedError: a State that does not follow from the one before: the run's closing party
                broke the rules that all had agreed on.
        """
        state = State(self.run.plan.study) if after is None else after
        while (log := self._following(state)) is not None:
            yield log
            state = log.state

    def has_models(self, state: State) -> bool:
        """Tell whether every model that a State names is here."""
        return all(self._model(party).exists() for party in state.models)

    def models(self, state: State) -> dict[PartyId, Params]:
        """Return the models that a State names.

        Raises:
            RefusedError: one is not here, or not the one that the State names.
        """
        found = {}
        for party, digest in state.models.items():
            path = self._model(party)
            if not path.exists():
                raise RefusedError(f"the model of {party} has not come")
            params = from_bytes(path.read_bytes(), self.run.roster.layout, where=path.name)
            if params.digest != digest:
                raise RefusedError(f"the model of {party} is not the one that the run agreed on")
            found[party] = params
        return found

    def _following(self, state: State) -> RoundLog | None:
        for key in ((state.round + 1, 0), (state.round, state.attempt + 1)):
            path = self._log(*key)
            if path.exists():
                log = decode_log(path.read_bytes())
                if why := doubt(self.run.agreement, state, log.state):
                    raise RefusedError(f"round {key[0]} is not believed: {why}")
                return log
        return None

    def _most(self, kind: str) -> int:
        declaration, sites = self.run.agreement.declaration, len(self.run.plan.rows)
        one = most_bytes(declaration.layout, declaration.statistics, sites=sites)
        return one if kind == "model" else one * (sites + 1)

    def _log(self, round_: int, attempt: int) -> Path:
        return self.folder / f"log-{round_:06d}-{attempt}.msgpack"

    def _model(self, party: PartyId) -> Path:
        return self.folder / f"model-{quote(party, safe='')}.safetensors"


def save_roster(folder: Path, document: Document) -> None:
    """Keep a run's signed roster."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_file(folder / ROSTER, json.dumps(document.to_json()).encode())
