"""Studies: submitted, answered, started, steered, ended; and who may do and see what."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import pytest
from structlog.testing import LogCapture
from tests.hub.federation import DIGEST, INITIAL, STUDY, Federation

from cohortium.errors import RefusedError, StudyError
from cohortium.governance.roster import Roster
from cohortium.identity import Document, SignatureError
from cohortium.transport.errors import ConflictError, RequestError, RevokedError, UnknownError

NAMED = STUDY.replace("[plan]", '[plan]\nsites = ["b", "a"]')
CODE = b"MODEL = 1\n"
WITH_CODE = STUDY.replace('"linear"', '{kind = "code", file = "net.py", build = "Net"}')


def shown(fed: Federation, member: str, digest: str = DIGEST) -> dict[str, Any]:
    return fed.service.studies.show(fed.member(member), digest)


def steer(fed: Federation, op: str, member: str = "ada", digest: str = DIGEST) -> str:
    return fed.service.studies.steer(fed.member(member), digest, op, "because")


# --- submitting ---


def test_a_study_waits_for_the_sites_and_they_are_told(fed: Federation) -> None:
    digest = fed.submit()

    assert digest == DIGEST
    study = shown(fed, "a")
    assert study["status"] == "open"
    assert (study["name"], study["submitted_by"], study["text"]) == ("small", "ada", STUDY)
    assert [fed.notices(site) for site in "abc"] == [[{"kind": "study", "digest": DIGEST}]] * 3


def test_a_study_is_there_after_a_restart(fed: Federation) -> None:
    fed.submit()
    fed.grant("a")

    fed.restarted()

    assert shown(fed, "ada")["granted"] == ["a"]


def test_the_same_study_again_is_the_same(fed: Federation) -> None:
    fed.submit()
    fed.grant("a")

    assert fed.submit() == DIGEST
    assert shown(fed, "ada")["granted"] == ["a"]


def test_somebody_elses_study_is_not_taken_over(fed: Federation) -> None:
    fed.submit()
    fed.join("eve", "researcher")

    with pytest.raises(ConflictError, match="somebody else"):
        fed.service.studies.submit(fed.member("eve"), STUDY, {})


def test_a_site_submits_nothing(fed: Federation) -> None:
    with pytest.raises(RequestError, match="a, a site; expected a researcher"):
        fed.service.studies.submit(fed.member("a"), STUDY, {})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rounds = [", "invalid TOML"),
        (STUDY.replace("rounds = 3", "rounds = -3"), "plan.rounds"),
        (STUDY + "\n[nonsense]\nx = 1\n", "nonsense"),
    ],
)
def test_a_study_that_is_none_is_refused(fed: Federation, text: str, message: str) -> None:
    with pytest.raises(StudyError, match=message):
        fed.submit(text)


def test_a_study_whose_code_is_missing_is_refused(fed: Federation) -> None:
    studies, ada = fed.service.studies, fed.member("ada")
    code = hashlib.sha256(CODE).hexdigest()

    with pytest.raises(StudyError, match=r"net\.py"):
        studies.submit(ada, WITH_CODE, {})
    with pytest.raises(ConflictError, match="is not here"):
        studies.submit(ada, WITH_CODE, {"net.py": code})
    fed.service.depot.append("ada", code, 0, chunk=CODE[:3], total=len(CODE))
    with pytest.raises(ConflictError, match="is not here"):
        studies.submit(ada, WITH_CODE, {"net.py": code})
    fed.service.depot.append("ada", code, 3, chunk=CODE[3:], total=len(CODE))
    with pytest.raises(StudyError, match=r"'more\.py'; expected only files"):
        studies.submit(ada, WITH_CODE, {"net.py": code, "more.py": code})

    digest = studies.submit(ada, WITH_CODE, {"net.py": code})
    assert studies.bundle(digest).files == {"net.py": CODE}


def test_sites_read_the_files_of_the_studies_that_they_see(fed: Federation) -> None:
    code = hashlib.sha256(CODE).hexdigest()
    fed.service.depot.append("ada", code, 0, chunk=CODE, total=len(CODE))
    studies, digest = fed.service.studies, None

    def readers() -> list[str]:
        return [
            name
            for name in ("a", "ada", "eve")
            if fed.service.depot.is_readable(name, code, studies.visible(fed.member(name)))
        ]

    fed.join("eve", "researcher")
    assert readers() == []
    digest = studies.submit(fed.member("ada"), WITH_CODE, {"net.py": code})
    assert readers() == ["a", "ada"]
    steer(fed, "stop", digest=digest)
    assert readers() == ["ada"]


# --- who sees what ---


def test_who_sees_a_study(fed: Federation) -> None:
    fed.join("eve", "researcher")
    fed.started(["a", "b"])

    assert [s["digest"] for s in fed.service.studies.shown(fed.member("a"))] == [DIGEST]
    assert [s["digest"] for s in fed.service.studies.shown(fed.member("coordinator"))] == [DIGEST]
    for stranger in ("c", "eve"):  # c did not consent, and it is not open any more
        assert fed.service.studies.shown(fed.member(stranger)) == []
        with pytest.raises(UnknownError):
            shown(fed, stranger)


def test_who_is_in_the_directory(fed: Federation) -> None:
    fed.started(["a", "b"])

    names = {
        name: [entry["name"] for entry in fed.service.directory(fed.member(name))]
        for name in ("a", "c", "ada", "coordinator")
    }

    assert names["a"] == names["ada"] == ["@hub", "ada", "a", "b"]
    assert names["c"] == ["@hub", "c"]
    assert names["coordinator"] == ["@hub", "coordinator", "ada", "a", "b", "c"]


def test_certificates_are_given_to_who_is_in_a_common_run(fed: Federation) -> None:
    run = fed.started(["a", "b"])
    certificate = fed.service.certificate

    assert certificate(fed.member("a"), "b", run=run.id) == fed.member("b").certificate
    assert certificate(fed.member("a"), "b") == fed.member("b").certificate
    assert certificate(fed.member("c"), "@hub") == fed.member("@hub").certificate
    rotated = fed.identities["b"].rotated(fed.clock())
    fed.service.registry.rotate("b", rotated.certificate)
    assert certificate(fed.member("a"), "b", run=run.id).serial == 2
    assert certificate(fed.member("a"), "b", serial=1, run=run.id).serial == 1
    for name, run_name, serial in (("b", "", 0), ("b", run.id, 0), ("@hub", "", 9)):
        with pytest.raises(UnknownError):
            certificate(fed.member("c"), name, serial=serial, run=run_name)


# --- answers ---


def test_a_consent_is_kept_and_the_researcher_told(fed: Federation) -> None:
    fed.submit()
    fed.grant("a")

    study = shown(fed, "ada")
    assert [grant["body"]["site"] for grant in study["grants"]] == ["a"]
    assert fed.notices("ada") == [{"kind": "study", "digest": DIGEST}]


def test_a_newer_answer_replaces_the_older(fed: Federation) -> None:
    fed.submit()
    fed.grant("a")
    fed.service.studies.decline(fed.member("a"), DIGEST, "no budget")
    assert shown(fed, "ada")["declines"] == [{"site": "a", "reason": "no budget"}]
    assert shown(fed, "ada")["grants"] == []

    fed.grant("a")

    assert shown(fed, "ada")["declines"] == []
    assert shown(fed, "ada")["granted"] == ["a"]


def test_a_consent_needs_its_initial_model_first(fed: Federation) -> None:
    fed.submit()

    with pytest.raises(ConflictError, match="initial model that is not here"):
        fed.service.studies.grant(fed.member("a"), DIGEST, fed.consent("a"))


def test_a_consent_lets_nobody_read_a_blob_of_others(fed: Federation) -> None:
    digest, secret = fed.submit(), b"a blob of others"
    blob = hashlib.sha256(secret).hexdigest()
    fed.service.depot.append("a", blob, 0, chunk=secret, total=len(secret))

    with pytest.raises(ConflictError, match="an initial model that is not here"):
        fed.service.studies.grant(fed.member("c"), digest, fed.consent("c", initial_blob=blob))


def test_a_study_lets_nobody_read_a_blob_of_others(fed: Federation) -> None:
    secret = b"a blob of others"
    blob = hashlib.sha256(secret).hexdigest()
    fed.service.depot.append("a", blob, 0, chunk=secret, total=len(secret))

    with pytest.raises(ConflictError, match="that is not here"):
        fed.service.studies.submit(fed.member("ada"), STUDY, {"model.py": blob})


def test_a_consent_is_ones_own_and_to_this_study(fed: Federation) -> None:
    fed.submit()
    fed.grant("b")  # brings the initial model
    studies, a = fed.service.studies, fed.member("a")
    own = fed.consent("a")

    refused: list[tuple[Document, str, str]] = [
        (fed.consent("b"), DIGEST, "not signed with the key of a"),
        (fed.consent("a", site="b"), DIGEST, "a consent of 'b'"),
        (fed.consent("a", study="0" * 64), DIGEST, "another study"),
        (replace(own, kind="receipt"), DIGEST, "not a grant"),
    ]
    for document, digest, message in refused:
        with pytest.raises(RefusedError, match=message):
            studies.grant(a, digest, document)
    with pytest.raises(SignatureError):
        studies.grant(a, DIGEST, replace(own, body={**own.body, "rounds": 99}))
    with pytest.raises(UnknownError):
        studies.grant(a, "0" * 64, fed.consent("a", "0" * 64))
    with pytest.raises(RequestError, match="a researcher; expected a site"):
        studies.grant(fed.member("ada"), DIGEST, own)


# --- starting ---


def test_a_run_is_what_all_have_signed(fed: Federation) -> None:
    run = fed.started(["c", "a"])

    roster = Roster.of(run.document, hub=fed.service.registry.identity.root.public)
    assert [seat.site for seat in roster.seats] == ["a", "c"]  # in the order of joining
    assert roster.host_of("@aggregator") == "@hub"  # type: ignore[arg-type]
    assert roster.researcher == fed.member("ada").certificate
    assert [seat.rows for seat in roster.seats] == [103, 103]
    assert shown(fed, "ada")["status"] == "running"
    notice = {"kind": "run", "run": run.id, "study": DIGEST}
    assert [fed.notices(name)[-1] for name in ("a", "c", "ada", "@hub")] == [notice] * 4
    assert notice not in fed.notices("b")


def test_a_run_is_told_to_who_is_in_it(fed: Federation) -> None:
    run = fed.started(["a"])

    fed.restarted()

    told = fed.service.run(fed.member("a"), run.id)
    assert Document.from_json(told["roster"]) == run.document
    assert (told["study"], told["status"]) == (DIGEST, "running")
    for stranger, name in (("b", run.id), ("a", "0" * 32)):
        with pytest.raises(UnknownError):
            fed.service.run(fed.member(stranger), name)


def test_a_study_that_names_its_sites_waits_for_all_of_them(fed: Federation) -> None:
    digest = fed.submit(NAMED)
    fed.grant("a", digest)
    fed.grant("c", digest)
    start = fed.service.studies.start

    with pytest.raises(StudyError, match="no consent of b"):
        start(fed.member("ada"), digest)
    fed.grant("b", digest)

    run = start(fed.member("ada"), digest)
    assert [seat.site for seat in run.roster.seats] == ["b", "a"]  # as the study says


def test_nobody_consented(fed: Federation) -> None:
    fed.submit()

    with pytest.raises(StudyError, match="no site that consented"):
        fed.service.studies.start(fed.member("ada"), DIGEST)


@pytest.mark.parametrize("changes", [{"rounds": 2}, {"until": 0.0}])
def test_a_consent_that_does_not_cover_the_run_is_named(
    fed: Federation, changes: dict[str, Any]
) -> None:
    fed.submit()
    fed.grant("a", **changes)

    with pytest.raises(StudyError, match="of a: the consent"):
        fed.service.studies.start(fed.member("ada"), DIGEST)


def test_sites_whose_models_differ_are_named_with_their_versions(fed: Federation) -> None:
    fed.submit()
    fed.grant("a")
    fed.grant("b", initial="0" * 64, environment={"python": "3.12"})

    with pytest.raises(StudyError, match=r"initial at b \(python 3.12\).*a \(python 3.11\)"):
        fed.service.studies.start(fed.member("ada"), DIGEST)


def test_who_was_revoked_has_not_consented(fed: Federation) -> None:
    fed.submit()
    fed.grant("a")
    fed.grant("b")
    fed.service.revoke(fed.member("coordinator"), "b", "")

    run = fed.service.studies.start(fed.member("ada"), DIGEST)

    assert [seat.site for seat in run.roster.seats] == ["a"]


def test_a_consent_ends_with_its_membership(fed: Federation) -> None:
    digest = fed.submit()
    for site in ("a", "b"):
        fed.grant(site, digest)

    fed.service.revoke(fed.member("coordinator"), "a", "its key was stolen")
    fed.join("a")

    assert shown(fed, "ada")["granted"] == ["b"]
    assert list(fed.service.studies.start(fed.member("ada"), digest).members) == [
        "b",
        "@hub",
        "ada",
    ]


@pytest.mark.parametrize("role", ["site", "researcher"])
def test_a_study_is_its_submitters_not_that_of_who_has_the_name_later(
    fed: Federation, role: str
) -> None:
    digest = fed.submit()
    fed.grant("a", digest)
    fed.service.revoke(fed.member("coordinator"), "ada", "left")
    fed.join("ada", role)

    with pytest.raises(RequestError):
        fed.service.studies.start(fed.member("ada"), digest)
    with pytest.raises(ConflictError, match="who had this name before"):
        fed.service.studies.start(fed.member("coordinator"), digest)
    if role == "researcher":
        assert fed.service.studies.shown(fed.member("ada")) == []
        with pytest.raises(ConflictError, match="who had this name before"):
            fed.submit()
        steer(fed, "stop", "coordinator")
        assert fed.submit() == digest


def test_a_site_may_carry_a_party(fed: Federation) -> None:
    text = STUDY + '[plan.hosts]\n"@aggregator" = "b"\n'
    digest = fed.submit(text)
    fed.grant("a", digest)

    with pytest.raises(StudyError, match="expected a site that takes part: a"):
        fed.service.studies.start(fed.member("ada"), digest)
    fed.grant("b", digest)
    run = fed.service.studies.start(fed.member("ada"), digest)

    frame, _ = fed.frame(run, "@aggregator", ["a"], signer=fed.identities["b"])
    assert fed.post("b", frame)
    assert fed.service.runs.carried() == []


def test_only_the_submitter_and_coordinators_steer(fed: Federation) -> None:
    fed.join("eve", "researcher")
    fed.started(["a"])

    for member in ("a", "eve"):
        with pytest.raises(RequestError):
            steer(fed, "pause", member)
        with pytest.raises(RequestError):
            fed.service.studies.start(fed.member(member), DIGEST)
    assert steer(fed, "pause", "coordinator") == "paused"


def test_a_running_study_takes_no_answers_and_does_not_start_again(fed: Federation) -> None:
    fed.started(["a"])

    with pytest.raises(ConflictError, match="a study that is running"):
        fed.grant("b")
    with pytest.raises(ConflictError, match="a study that is running"):
        fed.service.studies.start(fed.member("ada"), DIGEST)


# --- steering ---


def test_orders_reach_every_host_once_and_in_order(fed: Federation) -> None:
    run = fed.started(["a"])
    for op in ("pause", "pause", "resume", "stop"):  # again: it is so already
        steer(fed, op)

    for name in ("a", "ada", "@hub"):
        orders = [n for n in fed.notices(name) if n["kind"] == "control"]
        assert [order["op"] for order in orders] == ["pause", "resume", "stop"]
        assert len({order["id"] for order in orders}) == 3
        assert {order["run"] for order in orders} == {run.id}
    assert shown(fed, "a")["status"] == "stopped"
    assert shown(fed, "a")["reason"] == "because"
    assert fed.service.run(fed.member("a"), run.id)["status"] == "stopped"
    assert "control" not in {notice["kind"] for notice in fed.notices("b")}


def test_an_order_that_does_not_fit_is_refused(fed: Federation) -> None:
    fed.submit()
    with pytest.raises(ConflictError, match="open; expected one that is running"):
        steer(fed, "pause")
    steer(fed, "stop")
    with pytest.raises(ConflictError, match="stopped; expected one that is paused"):
        steer(fed, "resume")


def test_a_withdrawn_study_may_be_submitted_again(fed: Federation) -> None:
    fed.submit()
    fed.grant("a")
    steer(fed, "stop")
    with pytest.raises(ConflictError):
        fed.service.studies.start(fed.member("ada"), DIGEST)
    fed.clock.now += 10

    fed.submit()

    study = shown(fed, "ada")
    assert (study["status"], study["grants"], study["reason"]) == ("open", [], "")
    fed.grant("b")
    assert fed.service.studies.start(fed.member("ada"), DIGEST).status == "running"


def test_a_coordinator_extends_excludes_and_readmits(fed: Federation) -> None:
    run = fed.started(["a", "b"])
    control = fed.service.studies.control

    control(run.id, "extend", site="", seconds=60.0, reason="slow line")
    control(run.id, "exclude", site="b", seconds=0.0, reason="")
    control(run.id, "readmit", site="b", seconds=0.0, reason="")

    orders = [n for n in fed.notices("b") if n["kind"] == "control"]
    assert [(o["op"], o["site"], o["seconds"]) for o in orders] == [
        ("extend", "", 60.0),
        ("exclude", "b", 0.0),
        ("readmit", "b", 0.0),
    ]
    with pytest.raises(UnknownError, match="'c'"):
        control(run.id, "exclude", site="c", seconds=0.0, reason="")
    steer(fed, "stop")
    with pytest.raises(ConflictError, match="a run that is stopped"):
        control(run.id, "extend", site="", seconds=1.0, reason="")


def test_the_first_end_of_a_run_counts(fed: Federation) -> None:
    run = fed.started(["a"])

    fed.service.studies.end(run.id, "failed", "below quorum")
    fed.service.studies.end(run.id, "finished", "")
    fed.restarted()

    assert fed.service.run(fed.member("a"), run.id)["status"] == "failed"
    assert shown(fed, "a")["reason"] == "below quorum"
    assert fed.notices("a")[-1] == {"kind": "study", "digest": DIGEST}


def test_the_end_is_told_by_who_closes_the_rounds(fed: Federation) -> None:
    digest = fed.submit(STUDY + '[plan.hosts]\n"@aggregator" = "b"\n')
    for site in ("a", "b"):
        fed.grant(site, digest)
    run = fed.service.studies.start(fed.member("ada"), digest)

    for other in ("a", "ada", "c"):
        with pytest.raises(RequestError, match="the host of @aggregator"):
            fed.service.end(fed.member(other), run.id, "finished", "")
    fed.service.end(fed.member("b"), run.id, "finished", "")

    assert shown(fed, "ada", digest)["status"] == "finished"


def test_a_revoked_researcher_starts_nothing(fed: Federation) -> None:
    fed.submit()
    fed.grant("a")
    fed.service.revoke(fed.member("coordinator"), "ada", "")

    with pytest.raises(RevokedError):
        fed.service.studies.start(fed.member("coordinator"), DIGEST)


def test_the_initial_model_is_kept_with_the_study(fed: Federation) -> None:
    fed.started(["a"])
    fed.clock.now += 3 * 86_400

    fed.service.sweep()

    assert fed.service.depot.blobs.size(INITIAL) is not None


def test_what_happens_to_a_study_is_logged(fed: Federation, log: LogCapture) -> None:
    run = fed.started(["a"])
    fed.service.studies.control(run.id, "extend", site="", seconds=1.0, reason="")
    steer(fed, "pause")
    fed.service.studies.end(run.id, "failed", "below quorum")

    events = {e["event"]: e for e in log.entries if e.get("study") == DIGEST}
    assert list(events) == [
        "study submitted", "study granted", "run started", "run controlled", "study steered",
        "run ended",
    ]  # fmt: skip
    assert {events[e]["run"] for e in list(events)[2:]} == {run.id}
    assert events["study granted"]["site"] == "a"
