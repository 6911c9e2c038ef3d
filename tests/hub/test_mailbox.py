"""The durable mailbox: who may write to whom, what is delivered, and when it may go."""

from __future__ import annotations

import hashlib
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from tests.hub.federation import BIG, INITIAL, Federation, federation, receipt

from cohortium.errors import RefusedError
from cohortium.hub import mailbox
from cohortium.hub.folder import Limits
from cohortium.hub.runs import Run
from cohortium.identity import SignatureError
from cohortium.transport.envelope import Frame, open_frame
from cohortium.transport.errors import (
    ConflictError,
    RequestError,
    RevokedError,
    StorageFullError,
    TooLargeError,
    UnknownError,
)


@pytest.fixture
def run(fed: Federation) -> Run:
    """A run of a and b, for ada; the aggregator is carried by the hub."""
    started = fed.started(["a", "b"])
    for member in ("a", "b", "c", "@hub", "ada"):
        fed.service.mailbox.acknowledge(member, 1_000)
    return started


def frames(fed: Federation, member: str) -> list[Frame]:
    waiting = fed.service.mailbox.waiting(member, 0)
    return [Frame.from_json(m["frame"]) for m in waiting if m["kind"] == "frame"]


# --- delivery ---


def test_a_frame_reaches_its_readers_and_nobody_else(fed: Federation, run: Run) -> None:
    frame, _ = fed.frame(run, "a", ["b", "ada"])

    assert fed.post("a", frame)

    assert frames(fed, "b") == frames(fed, "ada") == [frame]
    assert frames(fed, "a") == frames(fed, "c") == frames(fed, "@hub") == []
    plain = open_frame(frame, identity=fed.identities["b"], sender=fed.member("a").certificate)
    assert bytes(plain) == bytes(100)


def test_a_frame_to_several_parties_of_one_host_comes_once(fed: Federation, run: Run) -> None:
    frame, _ = fed.frame(run, "a", ["@aggregator"])
    fed.post("a", frame)

    assert frames(fed, "@hub") == [frame]


def test_what_was_posted_is_there_after_a_restart(fed: Federation, run: Run) -> None:
    frame, ciphertext = fed.frame(run, "a", ["b"], size=BIG)
    fed.post("a", frame, ciphertext)

    fed.restarted()

    assert frames(fed, "b") == [frame]
    assert fed.service.depot.blobs.read(frame.blob, 0, len(ciphertext)) == ciphertext


def test_a_frame_that_comes_twice_is_delivered_once(fed: Federation, run: Run) -> None:
    frame, _ = fed.frame(run, "a", ["b"])
    resealed, _ = fed.frame(run, "a", ["b"])  # after a crash: another key, the same name

    assert [fed.post("a", f) for f in (frame, frame, resealed)] == [True, False, False]
    assert frames(fed, "b") == [frame]


def test_a_frame_stays_known_when_it_was_acknowledged(fed: Federation, run: Run) -> None:
    frame, _ = fed.frame(run, "a", ["b"])
    fed.post("a", frame)
    fed.service.mailbox.acknowledge("b", fed.seqs("b")[-1])

    assert fed.service.mailbox.has("a", frame.id)
    assert not fed.post("a", frame)
    assert frames(fed, "b") == []


def test_mail_comes_in_order_and_in_parts(fed: Federation, run: Run) -> None:
    sent = [fed.frame(run, "a", ["b"], step=f"s{i}")[0] for i in range(70)]
    for frame in sent:
        fed.post("a", frame)

    first = fed.seqs("b")
    rest = fed.seqs("b", after=first[-1])

    assert first + rest == sorted(first + rest)
    assert len(first) < 70 == len(first) + len(rest)


def test_one_answer_holds_only_so_much(
    fed: Federation, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in "xyz":
        fed.post("a", fed.frame(run, "a", ["b"], step=step, size=2000)[0])
    monkeypatch.setattr(mailbox, "LETTERS", 4000)

    first = fed.seqs("b")

    assert len(first) == 2
    assert len(fed.seqs("b", first[-1])) == 1


def test_an_acknowledgement_covers_all_before_it_and_nothing_after(
    fed: Federation, run: Run
) -> None:
    fed.post("a", fed.frame(run, "a", ["ada"])[0])
    for i in range(3):
        fed.post("a", fed.frame(run, "a", ["b"], step=f"s{i}")[0])
    first, second, third = fed.seqs("b")
    assert third == second + 1 == first + 2

    fed.service.mailbox.acknowledge("b", second)

    assert fed.seqs("b") == [third]
    assert fed.seqs("b", after=first) == [third]
    assert len(fed.seqs("ada")) == 1


def test_an_acknowledgement_of_the_future_loses_nothing_new(fed: Federation, run: Run) -> None:
    """Numbers only grow, so that acknowledging more than has come can only hit what has come."""
    fed.post("a", fed.frame(run, "a", ["b"])[0])
    [seq] = fed.seqs("b")
    fed.service.mailbox.acknowledge("b", seq)

    fed.post("a", fed.frame(run, "a", ["b"], step="next")[0])

    assert fed.seqs("b")[0] > seq


def test_a_bell_rings_when_mail_has_come(fed: Federation, run: Run) -> None:
    rung = threading.Event()
    with fed.service.bells.listening("b", rung.set):
        fed.post("a", fed.frame(run, "a", ["@aggregator"])[0])
        assert not rung.is_set()
        fed.post("a", fed.frame(run, "a", ["b"])[0])
        assert rung.is_set()


def test_many_may_post_at_once(fed: Federation, run: Run) -> None:
    sent = [fed.frame(run, "a", ["b"], step=f"s{i}")[0] for i in range(24)]
    threads = [
        threading.Thread(target=lambda part: [fed.post("a", f) for f in part], args=(sent[i::4],))
        for i in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert {frame.id for frame in frames(fed, "b")} == {frame.id for frame in sent}


# --- who may ---


def test_who_is_not_in_the_run_posts_nothing(fed: Federation, run: Run) -> None:
    frame, _ = fed.frame(run, "a", ["b"], signer=fed.identities["c"])

    with pytest.raises(RequestError, match="not in"):
        fed.post("c", frame)


def test_nobody_speaks_for_another_party(fed: Federation, run: Run) -> None:
    frame, _ = fed.frame(run, "b", ["@aggregator"], signer=fed.identities["a"])

    with pytest.raises(RequestError, match="a frame of b by a; expected of parties of a"):
        fed.post("a", frame)


def test_nobody_hands_in_anothers_frame(fed: Federation, run: Run) -> None:
    frame, _ = fed.frame(run, "a", ["@aggregator"])

    with pytest.raises(RequestError, match="expected of parties of b"):
        fed.post("b", frame)


def test_a_site_speaks_for_no_party_that_the_hub_carries(fed: Federation, run: Run) -> None:
    frame, _ = fed.frame(run, "@aggregator", ["b"], signer=fed.identities["a"])

    with pytest.raises(RequestError, match="of parties of a"):
        fed.post("a", frame)


def test_a_frame_to_somebody_outside_the_run_is_refused(fed: Federation, run: Run) -> None:
    frame, _ = fed.frame(run, "a", ["b"])

    with pytest.raises(RequestError, match="a frame to 'c'"):
        fed.post("a", replace(frame, to=("b", "c")))


def test_each_reader_needs_a_key_and_nobody_else_has_one(fed: Federation, run: Run) -> None:
    frame, _ = fed.frame(run, "a", ["b"])

    with pytest.raises(RequestError, match="keys for b; expected one for each of @hub, b"):
        fed.post("a", replace(frame, to=("b", "@aggregator")))
    both, _ = fed.frame(run, "a", ["b", "@aggregator"])
    with pytest.raises(RequestError, match="keys for ada, b; expected one for each of @hub, b"):
        fed.post("a", replace(both, keys={**frame.keys, "ada": frame.keys["b"]}))


@pytest.mark.parametrize("change", [{"number": 9}, {"step": "other"}, {"inline": bytes(116)}])
def test_a_changed_frame_is_refused(fed: Federation, run: Run, change: dict[str, object]) -> None:
    frame, _ = fed.frame(run, "a", ["b"])

    with pytest.raises(SignatureError):
        fed.post("a", replace(frame, **change))  # type: ignore[arg-type]

    assert frames(fed, "b") == []


def test_a_frame_of_an_unknown_run_is_refused(fed: Federation, run: Run) -> None:
    frame, _ = fed.frame(run, "a", ["b"])

    with pytest.raises(UnknownError, match="run"):
        fed.post("a", replace(frame, run="0" * 32))


def test_a_frame_under_an_unknown_certificate_is_refused(fed: Federation, run: Run) -> None:
    rotated = fed.identities["a"].rotated(fed.clock())
    frame, _ = fed.frame(run, "a", ["b"], signer=rotated)

    with pytest.raises(RequestError, match="certificate 2 of a"):
        fed.post("a", frame)

    fed.service.registry.rotate("a", rotated.certificate)
    assert fed.post("a", frame)


def test_keys_of_another_root_do_not_sign_for_the_run(fed: Federation, run: Run) -> None:
    """A site that was revoked and came back with other keys is not the one that consented."""
    fed.service.revoke(fed.member("coordinator"), "a", "lost keys")
    fed.join("a")
    fed.service.registry.rotate("a", fed.identities["a"].rotated(fed.clock()).certificate)
    frame, _ = fed.frame(run, "a", ["b"], signer=fed.identities["a"].rotated(fed.clock()))

    with pytest.raises(RefusedError):
        fed.post("a", frame)


def test_a_frame_that_is_too_large_is_refused(fed: Federation, run: Run) -> None:
    frame, _ = fed.frame(run, "a", ["b"])
    huge = replace(frame, size=1 << 50, inline=b"", blob=INITIAL)

    with pytest.raises(TooLargeError):
        fed.post("a", huge)


# --- blobs ---


def test_a_frame_comes_after_its_blob(fed: Federation, run: Run) -> None:
    frame, ciphertext = fed.frame(run, "a", ["b"], size=BIG)

    with pytest.raises(ConflictError, match="the blob first"):
        fed.post("a", frame)
    fed.service.depot.append("a", frame.blob, 0, chunk=ciphertext[:10], total=len(ciphertext))
    with pytest.raises(ConflictError, match="the blob first"):
        fed.post("a", frame)


def test_a_blob_is_read_by_who_it_is_addressed_to(fed: Federation, run: Run) -> None:
    frame, ciphertext = fed.frame(run, "a", ["b"], size=BIG)
    fed.post("a", frame, ciphertext)

    readers = [
        name
        for name in ("a", "b", "c", "ada")
        if fed.service.depot.is_readable(
            name, frame.blob, fed.service.studies.visible(fed.member(name))
        )
    ]

    assert readers == ["b"]


def test_a_blob_goes_when_all_have_it(fed: Federation, run: Run) -> None:
    frame, ciphertext = fed.frame(run, "a", ["b", "ada"], size=BIG)
    fed.post("a", frame, ciphertext)
    blobs = fed.service.depot.blobs

    fed.service.mailbox.acknowledge("b", 1_000)
    assert blobs.size(frame.blob) == len(ciphertext)
    fed.service.mailbox.acknowledge("ada", 1_000)
    assert blobs.size(frame.blob) is None
    assert blobs.size(INITIAL) is not None  # the study needs it


def test_what_nothing_refers_to_goes_after_a_day(fed: Federation, run: Run) -> None:
    blobs, stray = fed.service.depot.blobs, hashlib.sha256(b"stray").hexdigest()
    half = hashlib.sha256(b"half").hexdigest()
    fed.service.depot.append("a", stray, 0, chunk=b"stray", total=5)
    fed.service.depot.append("a", half, 0, chunk=b"ha", total=4)

    fed.service.sweep()
    assert blobs.size(stray) == 5
    fed.clock.now += 25 * 3600
    fed.service.sweep()

    assert blobs.size(stray) is None
    assert blobs.received(half) == 0
    assert blobs.size(INITIAL) is not None


def test_a_member_may_not_fill_the_disk(fed: Federation, run: Run) -> None:
    limits = fed.service.settings.limits
    digest = hashlib.sha256(b"x").hexdigest()

    with pytest.raises(TooLargeError, match="a blob of"):
        fed.service.depot.append("a", digest, 0, chunk=b"x", total=limits.blob + 1)
    for i in range(limits.pending // limits.blob):
        fed.service.depot.append("a", f"{i:064x}", 0, chunk=b"x", total=limits.blob)
    with pytest.raises(StorageFullError, match="bytes of blobs of a"):
        fed.service.depot.append("a", digest, 0, chunk=b"x", total=limits.blob)
    fed.service.depot.append("b", digest, 0, chunk=b"x", total=limits.blob)


def test_a_blob_is_as_large_as_it_was_announced(fed: Federation) -> None:
    digest = hashlib.sha256(b"abc").hexdigest()
    fed.service.depot.append("a", digest, 0, chunk=b"a", total=3)

    with pytest.raises(ConflictError, match="a blob of 1000000 bytes; expected 3"):
        fed.service.depot.append("a", digest, 1, chunk=b"bc", total=1_000_000)


def test_what_was_posted_counts_until_it_is_fetched(tmp_path: Path) -> None:
    with federation(tmp_path, "sqlite", limits=Limits(pending=2 * BIG)) as fed:
        run = fed.started(["a", "b"])
        fed.post("a", *fed.frame(run, "a", ["b"], step="x", size=BIG))
        second = fed.frame(run, "a", ["b"], step="y", size=BIG)
        with pytest.raises(StorageFullError, match="bytes of blobs of a"):
            fed.post("a", *second)

        fed.service.mailbox.acknowledge("b", 1_000)

        assert fed.post("a", *second)


def test_only_so_many_frames_of_a_member_wait(tmp_path: Path) -> None:
    with federation(tmp_path, "sqlite", limits=Limits(frames=2)) as fed:
        run = fed.started(["a", "b"])
        frames = [fed.frame(run, "a", ["b"], step=step)[0] for step in "xyz"]
        assert [fed.post("a", frame) for frame in frames[:2]] == [True, True]
        with pytest.raises(StorageFullError, match="2 frames of a that wait in this run"):
            fed.post("a", frames[2])
        assert fed.post("b", fed.frame(run, "b", ["a"])[0])

        fed.service.mailbox.acknowledge("b", 1_000)

        assert fed.post("a", frames[2])


def test_nobody_spoils_anothers_upload(fed: Federation) -> None:
    digest, depot = hashlib.sha256(b"abc").hexdigest(), fed.service.depot
    depot.append("c", digest, 0, chunk=b"X", total=3)

    assert depot.received("b", digest) == 0
    depot.append("b", digest, 0, chunk=b"a", total=3)
    depot.append("b", digest, 1, chunk=b"bc", total=3)

    assert depot.blobs.read(digest, 0, 3) == b"abc"


def test_who_knows_only_a_blobs_digest_does_not_have_it(fed: Federation) -> None:
    digest, depot = hashlib.sha256(b"abc").hexdigest(), fed.service.depot
    depot.append("c", digest, 0, chunk=b"", total=3)
    depot.append("a", digest, 0, chunk=b"abc", total=3)
    depot.append("b", digest, 0, chunk=b"abc", total=3)

    def is_at_hand(name: str) -> bool:
        return depot.is_at_hand(name, digest, fed.service.studies.visible(fed.member(name)))

    assert [name for name in "abc" if is_at_hand(name)] == ["a", "b"]
    with pytest.raises(RefusedError, match="is not what its digest"):
        depot.append("c", digest, 0, chunk=b"xyz", total=3)
    assert depot.blobs.read(digest, 0, 3) == b"abc"


# --- receipts ---


def test_the_newest_receipt_of_each_host_is_kept(fed: Federation, run: Run) -> None:
    a, b = fed.identities["a"], fed.identities["b"]
    box = fed.service.mailbox
    box.put_receipts("b", [receipt(run.id, "a", n, by=b) for n in (1, 3, 2)])
    box.put_receipts("a", [receipt(run.id, "@aggregator", 7, by=a)])

    fed.restarted()

    found = fed.service.mailbox.receipts("a", run.id, "a")
    assert [document.body for document in found] == [
        {"run": run.id, "from": "a", "host": "b", "number": 3, "serial": 1, "stamp": "00" * 64}
    ]


def test_a_receipt_is_ones_own(fed: Federation, run: Run) -> None:
    box = fed.service.mailbox

    with pytest.raises(RequestError, match="of another host"):
        box.put_receipts("a", [receipt(run.id, "a", 1, by=fed.identities["b"])])
    own = receipt(run.id, "a", 1, by=fed.identities["b"])
    with pytest.raises(SignatureError):
        box.put_receipts("b", [replace(own, body={**own.body, "number": 9})])
    with pytest.raises(RequestError, match="not in"):
        box.receipts("c", run.id, "a")

    assert box.receipts("a", run.id, "a") == []


# --- the end ---


def test_mail_of_who_was_revoked_is_dropped_and_none_follows(fed: Federation, run: Run) -> None:
    frame, ciphertext = fed.frame(run, "a", ["b"], size=BIG)
    fed.post("a", frame, ciphertext)

    fed.service.revoke(fed.member("coordinator"), "b", "left")
    fed.post("a", fed.frame(run, "a", ["b"], step="next")[0])

    assert fed.seqs("b") == []
    assert fed.service.depot.blobs.size(frame.blob) is None
    with pytest.raises(RevokedError):
        fed.service.registry.active("b")


def test_no_run_waits_for_who_was_revoked(fed: Federation, run: Run) -> None:
    fed.service.revoke(fed.member("coordinator"), "b", "left")

    [order] = [n for n in fed.notices("a") if n["kind"] == "control"]
    assert (order["run"], order["op"], order["site"]) == (run.id, "exclude", "b")
    assert order["reason"] == "its membership was revoked"


def test_an_ended_runs_mail_is_kept_for_some_time(fed: Federation, run: Run) -> None:
    frame, ciphertext = fed.frame(run, "a", ["ada"], size=BIG)
    fed.post("a", frame, ciphertext)
    fed.service.mailbox.put_receipts("b", [receipt(run.id, "a", 1, by=fed.identities["b"])])
    fed.service.studies.end(run.id, "finished", "")
    days = fed.service.settings.retention

    fed.clock.now += (days - 1) * 86_400
    fed.service.sweep()
    assert frames(fed, "ada") == [frame]

    fed.clock.now += 2 * 86_400
    fed.service.sweep()
    assert frames(fed, "ada") == []
    assert fed.service.depot.blobs.size(frame.blob) is None
    assert fed.service.mailbox.receipts("a", run.id, "a") == []
    with pytest.raises(ConflictError, match="ended long ago"):
        fed.post("a", fed.frame(run, "a", ["b"])[0])
