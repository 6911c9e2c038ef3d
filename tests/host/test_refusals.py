"""What a host refuses, and what it is ordered to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError
from tests.host.post_office import Machine
from tests.host.test_host import machine, models, study, undisturbed

from cohortium.host.host import Host
from cohortium.host.receipts import BehindError, check_not_behind, highest, receipt
from cohortium.identity import Identity
from cohortium.plan.plan import State
from cohortium.runtime.events import Event
from cohortium.transport.envelope import Frame, Head, seal
from cohortium.types import PartyId

AGGREGATOR = PartyId("@aggregator")


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Machine]:
    one = machine(tmp_path, study(participation={"deadline": 60.0}))
    yield one
    one.close()


def frames(made: Machine, step: str) -> list[Frame]:
    return [frame for _, frame in made.office.waiting if frame.step.startswith(step)]


def wait_for(made: Machine, *, updates: int) -> None:
    with made.office.changed:
        assert made.office.changed.wait_for(lambda: len(frames(made, "train")) >= updates, 30)


def forged(made: Machine, frame: Frame, *, by: Identity, **head: Any) -> Frame:
    """Return a frame like another, sealed and signed anew by somebody else."""
    said = {name: getattr(frame, name) for name in Head.__dataclass_fields__} | head
    receivers = {"@hub": made.hub.certificate}
    return seal(Head(**said), [b"\x00" * 40], signer=by, receivers=receivers)[0]


@pytest.mark.parametrize(
    "forge",
    [
        lambda made, f: replace(f, signature="00" * 64),
        lambda made, f: replace(f, round=f.round + 1),
        lambda made, f: forged(made, f, by=made.identities["b"]),
        lambda made, f: forged(made, f, by=made.identities["b"], sender="a"),
        lambda made, f: forged(made, f, by=made.identities["a"], run="12" * 16),
        lambda made, f: forged(made, f, by=made.identities["a"], to=("b",)),
        lambda made, f: forged(made, f, by=made.identities["a"], kind="log"),
        lambda made, f: forged(made, f, by=made.identities["a"], sender="nobody"),
        lambda made, f: forged(made, f, by=Identity.create("a", role="site", now=0.0)),
    ],
    ids=["signature", "round", "other site", "as another", "run", "to", "kind", "party", "key"],
)
def test_a_forged_frame_changes_nothing(
    forge: Callable[[Machine, Frame], Frame], made: Machine
) -> None:
    made.start()
    wait_for(made, updates=4)
    real = next(frame for frame in frames(made, "train") if frame.sender == "a")
    host = made.hosts[AGGREGATOR]
    assert host.deliver(forge(made, real)) is None
    made.deliver(until=made.ended)
    assert models(made) == undisturbed(made)


def test_what_a_site_signed_and_nobody_can_read_is_void_and_named(tmp_path: Path) -> None:
    made = machine(tmp_path, study(participation={"quorum": 3}))
    made.start()
    wait_for(made, updates=4)
    office = made.office
    with office.changed:
        place, real = next(
            (i, f) for i, (_, f) in enumerate(office.waiting) if (f.sender, f.round) == ("a", 1)
        )
        office.waiting[place] = (AGGREGATOR, forged(made, real, by=made.identities["a"]))
    rounds: list[State] = []

    def ended() -> bool:
        state = made.hosts[AGGREGATOR].state
        if state.round not in [s.round for s in rounds]:
            rounds.append(state)
        return made.ended()

    made.deliver(until=ended)
    made.close()
    first = next(state for state in rounds if state.round == 1)
    [note] = [note for note in first.notes if note.site == "a"]
    assert note.status == "excluded"
    assert made.hosts[AGGREGATOR].state.status == "finished"


def test_a_paused_run_waits_and_a_stopped_one_ends(made: Machine) -> None:
    host = made.host(AGGREGATOR)
    made.hosts[AGGREGATOR] = host
    host.start()
    host.control({"op": "pause"})
    for party in made.run.plan.parties:
        if party != AGGREGATOR:
            made.hosts[party] = made.host(party)
            made.hosts[party].start()
    seen: list[str] = []

    def all_evaluated() -> bool:
        seen.extend(f.sender for f in made.office.frames.values() if f.step.startswith("evaluate"))
        return len(set(seen)) == 4 and not made.office.waiting

    made.deliver(until=all_evaluated)
    assert host.state.round == 0
    host.control({"op": "stop", "reason": "the sponsor said so"})
    made.deliver(until=made.ended)
    assert {(h.state.status, h.state.reason) for h in made.hosts.values()} == {
        ("stopped", "the sponsor said so")
    }


def test_an_excluded_site_is_waited_for_by_nobody(tmp_path: Path) -> None:
    made = machine(tmp_path, study(participation={"quorum": 3}))
    for party in made.run.plan.parties:
        if party != "d":
            made.hosts[party] = made.host(party)
            made.hosts[party].start()
            made.hosts[party].control({"op": "exclude", "site": "d", "reason": "its data are bad"})
    made.deliver(until=made.ended)
    state = made.hosts[AGGREGATOR].state
    made.close()
    assert state.status == "finished"
    assert "d" not in state.roster
    assert any(n.site == "d" and n.reason == "its data are bad" for n in state.notes)


def test_a_journal_that_refuses_for_a_while_loses_nothing(
    made: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cohortium.host.host.RETRY", 0.01)
    made.start()
    wait_for(made, updates=4)
    refusals = 0

    def refusing(host: Host) -> None:
        append = host._journal.append

        def full(event: Event) -> None:
            nonlocal refusals
            refusals += 1
            if refusals % 3 == 0:
                raise OperationalError("insert", {}, Exception("database or disk is full"))
            append(event)

        host._journal.append = full  # type: ignore[method-assign]

    for host in made.hosts.values():
        refusing(host)
    office, hand_over = made.office, made.hand_over

    def again(party: PartyId, frame: Frame) -> None:
        try:
            hand_over(party, frame)
        except OperationalError:
            with office.changed:
                office.waiting.append((party, frame))

    made.hand_over = again  # type: ignore[method-assign]
    made.deliver(until=made.ended)
    assert refusals > 3
    assert models(made) == undisturbed(made)


def test_receipts_count_only_for_whom_they_were_signed() -> None:
    peer = Identity.create("b", role="site", now=0.0)
    other = Identity.create("c", role="site", now=0.0)
    run = "00" * 16
    documents = [
        receipt(run, "a", 3, by=peer),
        receipt(run, "a", 9, by=other),
        receipt(run, "z", 8, by=peer),
        receipt("11" * 16, "a", 7, by=peer),
        replace(receipt(run, "a", 4, by=peer), signature="00" * 64),
    ]
    known = {peer.signing.public: peer.certificate}
    assert highest(documents, run=run, party="a", signed_by=known) == (3, "b")
    check_not_behind(3, 3, "b")
    with pytest.raises(BehindError, match="b has signed"):
        check_not_behind(2, 3, "b")
