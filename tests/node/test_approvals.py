"""Approving: what is read is what is signed, and nothing leaves before."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from tests.node.federation import Federation, Node, federation, study, write_records

from cohortium.data.local import LocalDataset, prepare_local
from cohortium.errors import ArgumentError, DataError, RefusedError, RunFailedError
from cohortium.governance.grant import Grant
from cohortium.identity import Document
from cohortium.transport.errors import ConflictError

CODE = b"""
import torch

def model(inputs, outputs):
    return torch.nn.Linear(inputs, outputs)
"""


@pytest.fixture(scope="module")
def alliance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    with federation(tmp_path_factory.mktemp("alliance")) as alliance:
        alliance.node("aachen", seed=1)
        alliance.node("bonn", seed=2)
        yield alliance


@pytest.fixture
def node(alliance: Federation) -> Node:
    return alliance.nodes["aachen"]


def test_what_a_study_asks_is_said_in_plain_words(alliance: Federation, node: Node) -> None:
    digest = alliance.submit(study("plain", participation="quorum = 1"))
    with node.approvals() as approvals:
        shown = approvals.show("plain")
    assert shown["digest"] == digest
    assert shown["researcher"] == "ada"
    assert shown["wanted"]
    assert shown["purpose"] == "Tell who is sick."
    assert any("at most 3 rounds" in line for line in shown["leaves"])
    assert any(
        "aggregator runs at the hub: its operator can see your updates" in line
        for line in shown["seen_by"]
    )
    assert any("No differential privacy" in line for line in shown["unprotected"])
    assert Path(shown["text"]).read_text() == study("plain", participation="quorum = 1")


def test_who_carries_the_aggregator_is_named(alliance: Federation, node: Node) -> None:
    sites = 'sites = ["aachen", "bonn"]\nhosts = {"@aggregator" = "bonn"}'
    alliance.submit(study("regional", plan=sites))
    with node.approvals() as approvals:
        shown = approvals.show("regional")
    assert any("runs at bonn: its people can see your updates" in s for s in shown["seen_by"])
    assert not any("runs at the hub" in line for line in shown["seen_by"])


def test_peers_that_read_a_model_are_named(alliance: Federation, node: Node) -> None:
    alliance.submit(study("ring", topology="cyclic", plan='sites = ["aachen", "bonn"]'))
    with node.approvals() as approvals:
        shown = approvals.show("ring")
    assert any("bonn gets your model as it leaves your site" in line for line in shown["seen_by"])


def test_a_preview_is_this_sites_own_numbers(alliance: Federation, node: Node) -> None:
    digest = alliance.submit(study("foreseen"))
    with node.approvals() as approvals:
        found = approvals.preview("foreseen")
        assert approvals.site.consents.get(digest).decision == ""
    records = LocalDataset.detect("records", node.records)
    with node.approvals() as approvals:
        bundle = approvals.site.bundles.load(digest)
    summary = prepare_local(records, bundle.study, site="aachen").summary
    assert found["site"]["train"] == summary.train
    assert found["leaves"]["array_bytes"] == 3 * 4
    assert [array["shape"] for array in found["leaves"]["arrays"]] == [(1, 2), (1,)]
    assert found["once"]["rows"]["train"] == summary.train
    told = alliance.researcher().call("GET", f"/v1/studies/{digest}")
    assert told["grants"] == []


def test_an_approval_is_a_grant_to_exactly_this(alliance: Federation, node: Node) -> None:
    digest = alliance.submit(study("granted"))
    with node.approvals() as approvals:
        given = approvals.approve("granted", rounds=2, until=2e9)
        kept = approvals.site.consents.get(digest)
        registered = approvals.site.datasets.get("records")
    told = alliance.researcher().call("GET", f"/v1/studies/{digest}")
    (document,) = map(Document.from_json, told["grants"])
    grant = Grant.of(document)
    assert grant == given
    assert kept.grant == document
    assert kept.decision == "approved"
    assert document.key == node.home.identity().root.public
    assert (grant.rounds, grant.until, grant.site) == (2, 2e9, "aachen")
    assert grant.fingerprint == registered.fingerprint
    client = alliance.researcher()
    content = bytearray(client.size(grant.initial_blob))
    client.download(grant.initial_blob, len(content), content)
    with node.approvals() as approvals:
        kept_file = approvals.site.bundles.of(digest) / "initial.safetensors"
    assert kept_file.read_bytes() == content


def test_changed_records_are_refused_until_they_are_added_again(
    alliance: Federation, tmp_path: Path
) -> None:
    node = alliance.node("changing", seed=9)
    alliance.submit(study("changed-records"))
    write_records(node.records, seed=10)
    with node.approvals() as approvals:
        with pytest.raises(DataError, match="data add records"):
            approvals.approve("changed-records")
        approvals.site.datasets.add("records", node.records)
        approvals.approve("changed-records")
    del alliance.nodes["changing"]


def test_records_that_do_not_fit_say_why(alliance: Federation, node: Node, tmp_path: Path) -> None:
    alliance.submit(study("unfit"))
    path = tmp_path / "unfit.csv"
    path.write_text("age,sick\n61,1\n")
    with node.approvals() as approvals:
        approvals.site.datasets.add("unfit", path)
        with pytest.raises(DataError, match="pressure"):
            approvals.approve("unfit", dataset="unfit")
        approvals.site.datasets.remove("unfit")


def test_code_is_there_to_be_read_and_is_what_the_digest_says(
    alliance: Federation, node: Node
) -> None:
    pytest.importorskip("torch")
    code = 'model = {kind = "code", file = "net.py", build = "model"}'
    text = study("coded").replace('model = {kind = "linear", framework = "numpy"}', code)
    digest = alliance.submit(text, {"net.py": CODE})
    with node.approvals() as approvals:
        (file,) = approvals.show("coded")["code"]
        assert Path(file["read"]).read_bytes() == CODE
        Path(file["read"]).write_bytes(CODE + b"# harmless\n")
        with pytest.raises(RunFailedError, match="not what was approved"):
            approvals.site.bundles.load(digest)


def test_a_study_that_its_digest_does_not_describe(alliance: Federation, node: Node) -> None:
    digest = alliance.submit(study("honest"))
    with node.approvals() as approvals:
        told = approvals.client.call("GET", f"/v1/studies/{digest}")
        forged = {**told, "text": told["text"].replace("rounds = 3", "rounds = 300")}
        with pytest.raises(RefusedError, match="changed on the way"):
            approvals.site.bundles.fetch(forged, approvals.client)


def test_a_file_that_no_disk_can_hold(alliance: Federation, node: Node) -> None:
    path = f"{'é' * 200}.py"
    code = f'model = {{kind = "code", file = "{path}", build = "model"}}'
    text = study("long-named").replace('model = {kind = "linear", framework = "numpy"}', code)
    alliance.submit(text, {path: CODE})
    with node.approvals() as approvals, pytest.raises(RefusedError, match="no disk can hold"):
        approvals.show("long-named")


def test_a_study_that_asks_others_needs_no_answer(alliance: Federation, node: Node) -> None:
    alliance.submit(study("theirs", plan='sites = ["bonn"]'))
    with node.approvals() as approvals, pytest.raises(ArgumentError, match="does not ask"):
        approvals.approve("theirs")


def test_declining_reaches_the_researcher(alliance: Federation, node: Node) -> None:
    digest = alliance.submit(study("unwanted"))
    with node.approvals() as approvals:
        assert approvals.decline("unwanted", "no ethics vote") == ""
        assert approvals.site.consents.get(digest).decision == "declined"
    told = alliance.researcher().call("GET", f"/v1/studies/{digest}")
    assert told["declines"] == [{"site": "aachen", "reason": "no ethics vote"}]


def test_studies_are_found_by_name_and_by_digest(alliance: Federation, node: Node) -> None:
    digest = alliance.submit(study("found"))
    with node.approvals() as approvals:
        assert approvals.find("found").digest == digest
        assert approvals.find(digest[:8]).digest == digest
        with pytest.raises(ArgumentError, match="study list"):
            approvals.find("nowhere")


def test_a_study_goes_by_its_own_name(alliance: Federation, node: Node) -> None:
    digest = alliance.submit(study("renamed"))
    with closing(sqlite3.connect(alliance.hub.folder.folder / "hub.sqlite")) as database:
        database.execute("UPDATE studies SET name = 'harmless' WHERE digest = ?", [digest])
        database.commit()
    with node.approvals() as approvals, pytest.raises(RefusedError, match="own name is 'renamed'"):
        approvals.show("harmless")


def test_a_name_that_looks_like_another_study_s_digest(alliance: Federation, node: Node) -> None:
    digest = alliance.submit(study("looked-for"))
    whole, short = (alliance.submit(study(name)) for name in (digest, digest[:8]))
    with node.approvals() as approvals:
        assert approvals.find(digest).digest == digest
        assert approvals.find(whole[:16]).digest == whole
        with pytest.raises(ArgumentError, match="of which there are 2"):
            approvals.find(digest[:8])
        assert approvals.find(short).name == digest[:8]


def test_a_study_that_is_submitted_again_asks_again(alliance: Federation, node: Node) -> None:
    text = study("again")
    digest = alliance.submit(text)
    with node.approvals() as approvals:
        approvals.approve("again")
        alliance.researcher().call("POST", f"/v1/studies/{digest}/stop", {"reason": "typo"})
        assert alliance.submit(text) == digest
        offer = approvals.find("again")
        assert offer.decision == ""
        assert offer.waits
        approvals.approve("again")


def test_a_consent_that_the_hub_refuses_is_not_kept(
    alliance: Federation, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = alliance.submit(study("too-late"))
    with node.approvals() as approvals:
        upload = approvals.client.upload

        def stopped_meanwhile(blob: str, data: Path) -> None:
            upload(blob, data)
            alliance.researcher().call("POST", f"/v1/studies/{digest}/stop", {})

        monkeypatch.setattr(approvals.client, "upload", stopped_meanwhile)
        with pytest.raises(ConflictError, match="stopped"):
            approvals.approve("too-late")
        assert approvals.site.consents.get(digest).decision == ""
