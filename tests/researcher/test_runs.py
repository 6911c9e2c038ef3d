"""What the hub carries to a researcher is believed only as far as signatures and States go."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cohortium.errors import RefusedError
from cohortium.governance.roster import HUB
from cohortium.identity import SignatureError
from cohortium.plan.plan import State
from cohortium.researcher.runs import RunCopy
from cohortium.types import Params

from .conftest import Ran, Run


def keep_all(copy: RunCopy, ran: Ran) -> None:
    for log in ran.logs:
        copy.keep(*ran.log_frame(log))
    for party, params in ran.models.items():
        copy.keep(*ran.model_frame(party, params))


def test_what_came_is_there_again(copy: RunCopy, ran: Run) -> None:
    keep_all(copy, ran())
    found = list(copy.logs())
    assert [log.state for log in found] == [log.state for log in ran().logs]
    assert found[-1].evaluation is not None
    assert found[0].waited == ran().logs[0].waited
    models = copy.models(found[-1].state)
    assert [m.digest for m in models.values()] == [ran().result.model.digest]


def test_order_and_repetition_do_not_matter(copy: RunCopy, ran: Run) -> None:
    for log in (*reversed(ran().logs), *ran().logs):
        copy.keep(*ran().log_frame(log))
    assert [log.state.round for log in copy.logs()] == [1, 2, 3]


def test_rounds_are_read_from_where_one_stands(copy: RunCopy, ran: Run) -> None:
    first, second, third = ran().logs
    copy.keep(*ran().log_frame(first))
    copy.keep(*ran().log_frame(third))
    assert [log.state.round for log in copy.logs()] == [1]  # the second has not come
    copy.keep(*ran().log_frame(second))
    assert [log.state.round for log in copy.logs(first.state)] == [2, 3]


def test_only_the_owner_reads_it(copy: RunCopy, ran: Run) -> None:
    keep_all(copy, ran())
    assert {path.stat().st_mode & 0o777 for path in copy.folder.iterdir()} == {0o600}


class TestWhoSpeaks:
    def test_the_host_of_the_closing_party(self, copy: RunCopy, ran: Run) -> None:
        frame, _ = ran().log_frame(ran().logs[0])
        assert copy.check(frame) == ran().hosts[HUB].root.public

    @pytest.mark.parametrize(
        ("changed", "told"),
        [
            ({"sender": "north"}, "north does not close this run's rounds"),
            ({"signer": "north"}, "north does not speak for @aggregator"),
            ({"sender": "@stranger", "signer": HUB}, "does not speak for @stranger"),
            ({"run": "0" * 32}, "not for the researcher of this run"),
        ],
    )
    def test_others_do_not(
        self, copy: RunCopy, ran: Run, changed: dict[str, str], told: str
    ) -> None:
        frame, _ = ran().log_frame(ran().logs[0], **changed)
        with pytest.raises(RefusedError, match=told):
            copy.check(frame)

    def test_a_release_is_not_for_a_researcher(self, copy: RunCopy, ran: Run) -> None:
        frame, _ = ran().frame("release", ran().logs[0], [b""])
        with pytest.raises(RefusedError, match="not for the researcher"):
            copy.check(frame)

    def test_what_cannot_be_so_large_is_not_asked_for(self, copy: RunCopy, ran: Run) -> None:
        frame, _ = ran().log_frame(ran().logs[0])
        with pytest.raises(RefusedError, match="too much"):
            copy.check(replace(frame, size=1 << 40, blob="0" * 64, inline=b""))

    def test_a_changed_frame_is_noticed(self, ran: Run) -> None:
        frame, _ = ran().log_frame(ran().logs[0])
        with pytest.raises(SignatureError):
            replace(frame, round=2).check(ran().hosts[HUB].certificate)


class TestStates:
    def test_a_log_of_another_round_is_refused(self, copy: RunCopy, ran: Run) -> None:
        frame, content = ran().log_frame(ran().logs[0])
        with pytest.raises(RefusedError, match="another round"):
            copy.keep(replace(frame, round=2), content)

    def test_what_is_no_log_is_refused(self, copy: RunCopy, ran: Run) -> None:
        frame, _ = ran().log_frame(ran().logs[0])
        with pytest.raises(RefusedError):
            copy.keep(frame, memoryview(b"no log"))
        assert not list(copy.folder.iterdir())

    @pytest.mark.parametrize(
        ("change", "told"),
        [
            ({"previous": "0" * 64}, "it does not follow the state before it"),
            ({"study": "0" * 64}, "it does not follow the state before it"),
            ({"roster": ("north",)}, "below the quorum"),
            ({"roster": ("north", "south", "stranger")}, "stranger"),
            ({"status": "finished"}, "the stop rule"),
        ],
    )
    def test_a_chain_that_was_made_up_is_refused(
        self, copy: RunCopy, ran: Run, change: dict[str, object], told: str
    ) -> None:
        first, second, _ = ran().logs
        forged = replace(second, state=replace(second.state, **change))  # type: ignore[arg-type]
        copy.keep(*ran().log_frame(first))
        copy.keep(*ran().log_frame(forged))
        with pytest.raises(RefusedError, match=f"round 2 is not believed: .*{told}"):
            list(copy.logs())


class TestModels:
    def test_another_model_than_the_agreed_one_is_refused(self, copy: RunCopy, ran: Run) -> None:
        made = ran().result.model
        other = Params(made.layout, {k: np.zeros_like(v) for k, v in made.buffers.items()})
        copy.keep(*ran().model_frame("@aggregator", other))
        with pytest.raises(RefusedError, match="not the one that the run agreed on"):
            copy.models(ran().logs[-1].state)

    def test_a_model_that_has_not_come_is_named(self, copy: RunCopy, ran: Run) -> None:
        last = ran().logs[-1].state
        assert not copy.has_models(last)
        with pytest.raises(RefusedError, match="the model of @aggregator has not come"):
            copy.models(last)
        assert copy.has_models(State(last.study))

    def test_peers_send_one_each(self, copy: RunCopy, ran: Run) -> None:
        gossip = ran(("[plan]\n", '[plan]\ntopology = "gossip"\n'), EVERYONE)
        there = RunCopy(copy.folder, gossip.run)
        keep_all(there, gossip)
        found = there.models(gossip.logs[-1].state)
        assert set(found) == {"north", "south", "west"}
        assert {m.digest for m in found.values()} == set(gossip.logs[-1].state.models.values())


EVERYONE = ('evaluation_only = ["west"]\n', "")
