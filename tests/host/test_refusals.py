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

from cohortium.errors import RefusedError
from cohortium.governance.gate import Plain
from cohortium.host.host import Host
from cohortium.host.receipts import BehindError, check_not_behind, highest, receipt
from cohortium.identity import Certificate, Document, Identity
from cohortium.plan.plan import Note, State
from cohortium.runtime.codec import from_bytes, to_parts
from cohortium.runtime.events import Event
from cohortium.transport.envelope import Frame, Head, open_frame, seal
from cohortium.types import PartyId, SiteId

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


def stamped(number: int, *, signer: Identity, run: str = "00" * 16, sender: str = "a") -> Frame:
    head = Head(
        run=run,
        sender=sender,
        to=("b",),
        number=number,
        kind="release",
        round=1,
        attempt=0,
        step="s",
    )
    return seal(head, [b""], signer=signer, receivers={"b": PEER.certificate})[0]


PEER = Identity.create("b", role="site", now=0.0)


def test_receipts_count_only_with_the_stamp_of_who_sent() -> None:
    own, run = Identity.create("a", role="site", now=0.0), "00" * 16
    third = stamped(3, signer=own)
    documents = [
        receipt(third, by=PEER),
        receipt(stamped(9, signer=PEER), by=PEER),
        receipt(replace(third, number=1 << 52), by=PEER),
        receipt(stamped(8, signer=own, sender="z"), by=PEER),
        receipt(stamped(7, signer=own, run="11" * 16), by=PEER),
        replace(receipt(stamped(4, signer=own), by=PEER), signature="00" * 64),
        Document.of("receipt", {"run": run, "from": "a"}, PEER.signing),
    ]

    def certificate(serial: int) -> Certificate:
        assert serial == 1
        return own.certificate

    assert highest(documents, run=run, party="a", own=certificate) == (3, "b")
    check_not_behind(3, 3, "b")
    with pytest.raises(BehindError, match="b has had"):
        check_not_behind(2, 3, "b")


def test_one_long_note_does_not_stop_a_run(tmp_path: Path) -> None:
    made = machine(tmp_path, study(participation={"deadline": 60.0}))
    made.start()
    wait_for(made, updates=4)
    place, real = next(
        (i, f) for i, (_, f) in enumerate(made.office.waiting) if (f.sender, f.round) == ("a", 1)
    )
    blob = made.office.blobs.get(real.blob, b"")
    sender = made.identities["a"]
    opened = open_frame(real, blob, identity=made.hub, sender=sender.certificate)
    payload = from_bytes(opened, made.task.layout)
    assert isinstance(payload, Plain)
    payload = replace(payload, notes=(Note(SiteId("a"), "in", "\u00e9\x1b[8m" * 50),) * 40)
    said = {name: getattr(real, name) for name in Head.__dataclass_fields__}
    frame, ciphertext = seal(
        Head(**said), to_parts(payload), signer=sender, receivers={"@hub": made.hub.certificate}
    )
    made.office.blobs[frame.blob] = bytes(ciphertext)
    made.office.waiting[place] = (AGGREGATOR, frame)
    made.deliver(until=made.ended)
    assert models(made) == undisturbed(made)
    made.close()


def test_what_no_step_could_use_is_not_kept(made: Machine) -> None:
    made.start()
    wait_for(made, updates=4)
    real = next(frame for frame in frames(made, "train") if frame.sender == "a")
    host, kept = made.hosts[AGGREGATOR], []
    append = host._journal.append
    host._journal.append = lambda event: (kept.append(event), append(event))[1]  # type: ignore
    for head in (
        {"step": "nothing"},
        {"step": "train/b"},
        {"step": "consensus"},
        {"step": "outcome"},
        {"round": 0},
        {"round": 99},
        {"attempt": 99},
        {"round": 3, "step": "train/nobody"},
    ):
        assert host.deliver(forged(made, real, by=made.identities["a"], **head)) is not None
    assert kept == []
    made.deliver(until=made.ended)
    assert models(made) == undisturbed(made)


def test_a_reader_without_a_key_keeps_nothing_from_the_others(
    made: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = made.office.certificate

    def refusing(host: str, *, serial: int | None = None, run: str = "") -> Certificate:
        if host == "d":
            raise RefusedError("no such certificate")
        return certificate(host, serial=serial, run=run)

    monkeypatch.setattr(made.office, "certificate", refusing)
    host = made.host(AGGREGATOR)
    found = dict(host._receivers(["a", "b", "d"]))
    assert found.keys() == {"a", "b"}
