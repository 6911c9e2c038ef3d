"""What networks, disks and clocks do to a federation: the same bits, or somebody absent by name."""

from __future__ import annotations

import itertools
import json
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from pathlib import Path

import pytest
from tests.federation.consortium import LARGE, Consortium, running, told

from cohortium.testing.consortium import RESEARCHER

SEEDS = itertools.count(1)
MIB = 1 << 20
HUB, AGGREGATOR = "hub", "@aggregator"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Consortium]:
    with running(Consortium(tmp_path_factory.mktemp("consortium"), relayed=True)) as made:
        yield made


@pytest.fixture
def consortium(whole: Consortium) -> Iterator[Consortium]:
    yield whole
    whole.check_alive()


# --- the line ---


def test_a_line_that_is_cut_in_a_round_and_restored(consortium: Consortium) -> None:
    study, log = consortium.write_study(next(SEEDS)), consortium.log("east")
    trained = consortium.hold(at="work", when="after", step="train", round=2, party="east")
    digest = consortium.begin(study)
    trained.come()
    consortium.relays["east"].cut()
    trained.go()
    log.wait("the hub does not answer")
    consortium.relays["east"].restore()
    log.wait("the hub is back")
    consortium.check_same(study, digest)


def test_an_upload_and_a_download_that_are_cut_go_on_where_they_were(
    consortium: Consortium,
) -> None:
    study = consortium.write_study(next(SEEDS), rounds=2, parts=LARGE)
    relay, most = consortium.relays["east"], 4 * MIB + 300_000
    posts = consortium.hold(at="post", when="before", kind="Send", step="train", party="east")
    posted = consortium.hold(at="keep", when="before", step="train", sender="east")
    fetches = consortium.hold(at="deliver", when="before", step="consensus", party="east")
    fetched = consortium.hold(at="deliver", when="after", step="consensus", party="east")
    digest = consortium.begin(study)
    for begins, ends in ((posts, posted), (fetches, fetched)):
        begins.come()
        before = relay.passed
        relay.cut_after(most)
        begins.go()
        ends.come()
        assert most < relay.passed - before < most + MIB  # not all of it again
        ends.go()
    consortium.check_same(study, digest)


def test_a_far_site_and_one_with_a_slow_line(consortium: Consortium) -> None:
    consortium.relays["north"].delay(0.02)
    consortium.relays["east"].limit(4 * MIB)
    study = consortium.write_study(next(SEEDS), rounds=1, parts=LARGE)
    consortium.check_same(study, consortium.begin(study))


def test_a_hub_that_restarts_in_the_middle_of_a_broadcast(consortium: Consortium) -> None:
    study, hub = consortium.write_study(next(SEEDS)), consortium.processes[HUB]
    posted = consortium.hold(at="post", when="after", step="train", round=1, party="east")
    digest = consortium.begin(study)
    posted.come()
    consortium.relays["east"].stall()
    has_it = consortium.hold(at="deliver", when="after", step="consensus", party="north")
    posted.go()
    has_it.come()
    hub.stop()
    has_it.go()
    hub.start()
    consortium.wait_for_hub()
    consortium.relays["east"].restore()
    consortium.check_same(study, digest)


def test_mail_in_another_order(consortium: Consortium) -> None:
    study, updates = consortium.write_study(next(SEEDS)), {"step": "train", "round": 1}
    consortium.arm(do="reverse", at="hand out", when="after")
    first = consortium.hold(at="deliver", when="before", party=AGGREGATOR, **updates)
    third = consortium.hold(at="keep", when="after", nth=3, **updates)
    digest = consortium.begin(study)
    first.come()
    third.come()  # now two wait together
    third.go()
    first.go()
    consortium.check_same(study, digest)


def test_mail_that_comes_twice_also_after_the_end(consortium: Consortium) -> None:
    study, log = consortium.write_study(next(SEEDS)), consortium.log("east")
    consortium.arm(do="twice", at="hand out", when="after")
    last = {"step": "outcome", "round": 3, "party": "east"}
    again = consortium.hold(at="deliver", when="before", nth=2, **last)
    digest = consortium.begin(study)
    again.come()
    log.wait("run ended")
    again.go()
    consortium.check_same(study, digest)


# --- the hub's disk ---


def damage(consortium: Consortium, sender: str, step: str) -> None:
    """Flip a bit of the blob of a frame that waits at the hub."""
    with closing(sqlite3.connect(consortium.home(HUB) / "hub.sqlite")) as database:
        frames = [
            json.loads(text) for (text,) in database.execute("SELECT frame FROM frames") if text
        ]
    [blob] = [f["blob"] for f in frames if f["sender"] == sender and f["step"].startswith(step)]
    [path] = (consortium.home(HUB) / "blobs").glob(f"*/{blob}")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_an_update_that_is_damaged_at_the_hub_is_left_out_by_name(consortium: Consortium) -> None:
    plan = "participation = {quorum = 2}"
    study = consortium.write_study(next(SEEDS), rounds=2, plan=plan, parts=LARGE)
    update = {"step": "train", "sender": "east", "party": AGGREGATOR}
    reads = consortium.hold(at="deliver", when="before", **update)
    digest = consortium.begin(study)
    reads.come()
    damage(consortium, "east", "train")
    reads.go()
    found = consortium.result(digest)
    assert told(found, "east") == [
        ("excluded", "chunk 2 of a payload is not what was sealed"),
        ("in", ""),
    ]
    assert told(found, "north") == told(found, "south") == [("in", "")] * 2


def test_a_model_that_is_damaged_at_the_hub_is_refused_by_who_reads_it(
    consortium: Consortium,
) -> None:
    plan, pair = "participation = {quorum = 1}", ["north", "east"]
    study = consortium.write_study(next(SEEDS), plan=plan, sites=pair, parts=LARGE)
    digest = consortium.submit(study)
    consortium.approve(digest, *pair)
    posted = consortium.hold(at="post", when="after", step="train", round=1, party="east")
    north = consortium.hold(at="keep", when="after", step="evaluate", round=1, sender="north")
    consortium.at(RESEARCHER, "study", "start", digest)
    posted.come()
    consortium.relays["east"].stall()
    posted.go()
    north.come()
    damage(consortium, AGGREGATOR, "consensus")
    north.go()
    waits = consortium.hold(at="deliver", when="before", step="train", round=2, party=AGGREGATOR)
    log = consortium.log("east")
    consortium.relays["east"].restore()
    assert "what the hub sent is" in log.wait("payload refused")["reason"]
    waits.come()
    consortium.at(HUB, "hub", "exclude", digest, "east", "--reason", "its copy is damaged")
    consortium.at(HUB, "hub", "readmit", digest, "east")
    waits.go()
    found = consortium.result(digest)
    assert told(found, "east") == [("in", ""), ("excluded", "its copy is damaged"), ("in", "")]
    assert told(found, "north") == [("in", "")] * 3


# --- clocks ---


def test_clocks_that_differ_by_four_minutes_disturb_nobody(consortium: Consortium) -> None:
    consortium.clock("north").write_text("240")
    consortium.clock("east").write_text("-240")
    study = consortium.write_study(next(SEEDS))
    consortium.check_same(study, consortium.begin(study))


def test_a_clock_that_is_wrong_by_six_minutes_is_told_and_can_be_put_right(
    consortium: Consortium,
) -> None:
    study, log = consortium.write_study(next(SEEDS)), consortium.log("north")
    digest = consortium.submit(study)
    consortium.approve(digest)
    consortium.clock("north").write_text("360")
    consortium.at(RESEARCHER, "study", "start", digest)
    reason = log.wait("the session broke off; trying again")["reason"]
    times = re.findall(r"(\d{4}-\d\d-\d\d \d\d:\d\d):\d\d UTC", reason)
    here, there = (datetime.strptime(each, "%Y-%m-%d %H:%M") for each in times)  # noqa: DTZ007
    assert 300 <= abs((here - there).total_seconds()) <= 420
    assert "Set the clock that is wrong" in reason
    consortium.clock("north").unlink()
    consortium.check_same(study, digest)


# --- sites that are gone ---


def lose(consortium: Consortium, study: Path) -> str:
    """Run a study in whose second round a site is killed, and is back when its time is over.

    The hub's clock is put forward: nobody has to be fast. Returns the study's digest.
    """
    consortium.arm(at="work", when="before", step="train", round=2, party="east")
    updates = {"step": "train", "round": 2, "party": AGGREGATOR}
    here = consortium.hold(at="deliver", when="after", nth=2, **updates)
    over = consortium.hold(at="journal", when="after", kind="TimedOut", party=AGGREGATOR)
    digest = consortium.begin(study)
    consortium.processes["east"].died()
    here.come()
    consortium.clock(HUB).write_text("120")
    here.go()
    consortium.at(HUB, "hub", "extend", digest, "--seconds", "1")  # and looks at the clock
    over.come()
    consortium.processes["east"].start()
    over.go()
    return digest


def test_a_site_that_comes_back_after_its_deadline_is_absent_once(consortium: Consortium) -> None:
    plan = "participation = {quorum = 2, deadline = 60.0}"
    found = consortium.result(lose(consortium, consortium.write_study(next(SEEDS), plan=plan)))
    first, second, third = told(found, "east")
    assert first == third == ("in", "")
    assert second[0] == "absent"
    why = r"nothing came of 'train/east' in 90 s; not heard from since 20\d\d-.* UTC"
    assert re.fullmatch(why, second[1])
    assert told(found, "north") == told(found, "south") == [("in", "")] * 3


def test_below_the_quorum_a_run_stops_and_says_who_was_missing(consortium: Consortium) -> None:
    plan = "participation = {deadline = 60.0}"
    digest = lose(consortium, consortium.write_study(next(SEEDS), plan=plan))
    for verb in ("watch", "result"):
        arguments = [verb, digest, "--home", str(consortium.home(RESEARCHER))]
        code, _, error = consortium.tried("study", *arguments)
        assert code == 1
        assert "failed: below quorum in round 2: 2 of 3 needed sites: east absent (nothing" in error
        assert "next step: Mend those sites, lower plan.participation.quorum" in error
    [listed] = [
        s for s in consortium.tell("study", "list", *arguments[2:]) if s["digest"] == digest
    ]
    assert (listed["status"], listed["reason"]) == ("failed", "round 2: 2 of 3 needed sites")
