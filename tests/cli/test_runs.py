"""Simulating and comparing from the command line: what is shown, written and answered."""

from __future__ import annotations

import json
import math
import shutil
from importlib.resources import files
from typing import Any

import pytest
from jsonschema import validate  # type: ignore[import-untyped]
from safetensors.numpy import load_file

from .conftest import SITES, Answer, Desk, hospitals, rows

SCHEMA = json.loads(files("cohortium.runtime").joinpath("result.schema.json").read_text("utf-8"))
WRITTEN = {"model.safetensors", "plan.svg", "report.html", "result.json"}
ALL_ARMS = ["pooled", "federated", "single", "ensemble", "iil", "ciil", "leave-one-out"]


def simulate(desk: Desk, *options: str) -> Answer:
    return desk.run("simulate", "study.toml", "--data", "data", *options)


def result(desk: Desk, folder: str = "out/small") -> Any:
    return json.loads((desk.folder / folder / "result.json").read_text("utf-8"))


def criteria(*lines: str) -> tuple[str, str]:
    tables = "\n".join(f"[[acceptance.criteria]]\n{line}" for line in lines)
    return "[plan]", f"{tables}\n\n[plan]"


def ill(desk: Desk, what: str, participation: str = "{}") -> None:
    """Make south's training do something after a few good batches."""
    desk.study(
        ('"linear"', '{kind = "code", file = "model.py", build = "Net"}'),
        ("rounds = 3", f"rounds = 3\nparticipation = {participation}"),
        ("[plan]", "[data.split]\ntest = 0.5\n\n[plan]"),
        ('target = "y"', 'target = "y"\nnormalize = "none"'),
    )
    (desk.folder / "model.py").write_text(
        f"""
import torch

batches = 0


class Net(torch.nn.Linear):
    def __init__(self):
        super().__init__(2, 1)

    def forward(self, x):
        global batches
        if self.training and bool((x[:, 1] == 2.5).all()):
            batches += 1
            if batches > 4:
                {what}
        return super().forward(x)
"""
    )
    south = "a,b,y\n" + "".join(f"{i / 20},2.5,{i % 2}\n" for i in range(20))
    desk.data({**hospitals(), "south": south})


# -- done ------------------------------------------------------------------------------------------


def test_a_run_shows_a_table_and_writes_its_results(desk: Desk) -> None:
    answer = simulate(desk)
    assert answer.code == 0, answer.err
    assert {path.name for path in (desk.folder / "out/small").iterdir()} == WRITTEN
    found = result(desk)
    validate(found, SCHEMA)
    assert list(found["arms"]) == ["federated"]
    assert list(found["sites"]) == list(SITES)
    assert "Federated" in answer.out
    assert f"{found['arms']['federated']['metrics']['auroc']['global']:.3f}" in answer.out
    for name in WRITTEN - {"plan.svg"}:
        assert f"out/small/{name}" in answer.out, "nobody has to look for it"


def test_a_path_is_never_broken(desk: Desk) -> None:
    folder = "/".join(["a-long-name" * 9] * 3)
    answer = simulate(desk, "--out", folder)
    assert f"{folder}/report.html" in answer.out


def test_progress_goes_to_standard_error(desk: Desk) -> None:
    """So that standard output can be kept, or read by a program."""
    answer = simulate(desk)
    assert "Federated: 3 rounds" in answer.err
    assert "3 rounds" not in answer.out


def test_json_is_the_result_and_nothing_else(desk: Desk) -> None:
    answer = simulate(desk, "--json")
    assert answer.code == 0
    assert answer.err == ""
    assert answer.out == (desk.folder / "out/small/result.json").read_text("utf-8")
    validate(json.loads(answer.out), SCHEMA)


def test_the_same_seed_gives_the_same_bytes(desk: Desk) -> None:
    for out in ("one", "two"):
        assert simulate(desk, "--seed", "7", "--out", out).code == 0
    assert simulate(desk, "--seed", "8", "--out", "other").code == 0
    one, two, other = (desk.folder / out / "model.safetensors" for out in ("one", "two", "other"))
    assert one.read_bytes() == two.read_bytes()
    assert load_file(one)["weight"].tolist() != load_file(other)["weight"].tolist()
    assert result(desk, "one")["seed"] == 7


def test_both_engines_give_the_same_model(desk: Desk) -> None:
    for engine in ("sequential", "vectorised"):
        assert simulate(desk, "--engine", engine, "--out", engine).code == 0
        assert result(desk, engine)["engine"] == engine
    one, other = (
        load_file(desk.folder / e / "model.safetensors") for e in ("sequential", "vectorised")
    )
    for name, values in one.items():
        assert other[name] == pytest.approx(values, rel=1e-5, abs=1e-7)


def test_auto_is_the_default_and_takes_the_kernel(desk: Desk) -> None:
    assert simulate(desk).code == 0
    assert result(desk)["engine"] == "vectorised"


def test_a_run_writes_over_an_older_result_and_over_nothing_else(desk: Desk) -> None:
    own = [desk.folder / "out/small/journal" / name for name in ("mine", "federated/mine")]
    own[1].parent.mkdir(parents=True)
    for path in own:
        path.write_text("a diary")
    (desk.folder / "out/small/result.json").write_text("old")
    assert simulate(desk).code == 0
    assert [path.read_text() for path in own] == ["a diary", "a diary"]
    assert result(desk)["study"] == "small"
    assert {path.name for path in (desk.folder / "out/small").iterdir()} == WRITTEN | {"journal"}


def test_a_site_of_one_class_trains_with_a_warning(desk: Desk) -> None:
    """Its undefined metrics are null, and left out of means."""
    desk.data({**hospitals(), "south": rows(40, 5, lambda _: 1)})
    answer = simulate(desk)
    assert answer.code == 0, answer.err
    warning = "south: all 32 training rows are of class 1"
    assert any(line.startswith(f"note {warning}") for line in answer.out.splitlines())
    found = result(desk)
    assert found["warnings"][0].startswith(warning)
    auroc = found["arms"]["federated"]["metrics"]["auroc"]
    assert auroc["per_site"]["south"] is None
    defined = [auroc["per_site"][site] for site in ("north", "west")]
    assert auroc["worst"] == min(defined)
    assert auroc["global"] is not None
    lines = {(line["round"], line["site"]): line["status"] for line in found["participation"]}
    assert all(lines[round_, "south"] == "in" for round_ in (1, 2, 3))


def test_undefined_metrics_are_left_out_of_the_mean_of_single_models(desk: Desk) -> None:
    """South's own model is measured, over all; no model's value at south counts."""
    desk.data({**hospitals(), "south": rows(40, 5, lambda _: 1)})
    assert desk.run("compare", "study.toml", "--data", "data", "--arms", "single").code == 0
    auroc = result(desk)["arms"]["single"]
    assert auroc["members"]["south"]["auroc"]["per_site"]["south"] is None
    overall = [member["auroc"]["global"] for member in auroc["members"].values()]
    assert auroc["metrics"]["auroc"]["global"] == pytest.approx(math.fsum(overall) / 3)
    assert auroc["metrics"]["auroc"]["per_site"]["south"] is None


def test_compare_runs_the_arms_in_the_order_that_was_asked(desk: Desk) -> None:
    arms = ["single", "federated"]
    answer = desk.run("compare", "study.toml", "--data", "data", "--arms", " , ".join(arms))
    assert answer.code == 0, answer.err
    assert list(result(desk)["arms"]) == arms


def test_compare_runs_three_arms_unless_told_otherwise(desk: Desk) -> None:
    assert desk.run("compare", "study.toml", "--data", "data").code == 0
    assert list(result(desk)["arms"]) == ["pooled", "federated", "single"]


def test_all_arms_beside_each_other(desk: Desk) -> None:
    words = ["compare", "study.toml", "--data", "data", "--arms", ",".join(ALL_ARMS)]
    answer = desk.run(*words, "--seed", "3")
    assert answer.code == 0, answer.err
    found = result(desk)
    validate(found, SCHEMA)
    assert list(found["arms"]) == ALL_ARMS
    for arm in found["arms"].values():
        assert arm["title"] in answer.out
    assert answer.out.count("higher is better") == 1, "one table"
    assert "Worst hospital" in answer.out
    assert "Other hospitals" in answer.out


def test_a_study_may_only_evaluate_a_model(desk: Desk) -> None:
    assert simulate(desk).code == 0
    shutil.copy(desk.folder / "out/small/model.safetensors", desk.folder / "first.safetensors")
    released = result(desk)["arms"]["federated"]["metrics"]["auroc"]
    start = ("batch_size = 8", 'initial_model = "first.safetensors"')
    desk.study(start, ("rounds = 3\nlocal = {epochs = 1}", "rounds = 0"))
    answer = simulate(desk, "--out", "measured")
    assert answer.code == 0, answer.err
    assert result(desk, "measured")["arms"]["federated"]["metrics"]["auroc"] == released
    lines = result(desk, "measured")["participation"]
    assert [(line["round"], line["site"], line["status"]) for line in lines] == [
        (0, site, "evaluated") for site in SITES
    ]


# -- a dry run -------------------------------------------------------------------------------------


def test_a_dry_run_shows_what_would_leave_and_writes_nothing(desk: Desk) -> None:
    before = desk.files()
    answer = simulate(desk, "--dry-run")
    assert answer.code == 0, answer.err
    assert desk.files() == before
    for site, count in SITES.items():
        (line,) = [line.split() for line in answer.out.splitlines() if line.split()[:1] == [site]]
        assert line[1] == str(count)
        assert line[-1] == "yes"
    assert "weight  float32  1 x 2" in answer.out
    assert "auroc.positives  1024 numbers" in answer.out
    assert "loss.rows  1 number\n" in answer.out
    assert answer.out.rstrip().endswith("Nothing was run.")


def test_a_dry_run_as_json(desk: Desk) -> None:
    answer = simulate(desk, "--dry-run", "--json")
    assert answer.code == 0
    found = json.loads(answer.out)
    assert [site["site"] for site in found["sites"]] == list(SITES)
    assert found["leaves"]["array_bytes"] == 12
    plan = json.loads(desk.run("plan", "study.toml", "--data", "data", "--json").out)
    assert found["digest"] == plan["digest"]


def test_a_dry_run_tells_long_names_whole(desk: Desk) -> None:
    name = "The hospital of the long name, in full".replace(",", "")
    desk.data({name: rows(30, 1), "other": rows(30, 2)})
    desk.patch.setenv("COLUMNS", "60")
    answer = simulate(desk, "--dry-run")
    assert name in answer.out


# -- failed ----------------------------------------------------------------------------------------


def test_acceptance_that_is_not_met_fails_and_is_marked_in_the_results(desk: Desk) -> None:
    met, missed = 'metric = "loss"\nat_most = 9.0', 'metric = "auroc"\nat_least = 0.999'
    floor = 'metric = "accuracy"\nscope = "every-site"\nat_least = 1.0'
    desk.study(criteria(met, missed, floor))
    answer = simulate(desk)
    assert answer.code == 1
    failed, step = answer.err.splitlines()[-2:]
    assert failed.startswith("failed: the consensus model misses what was agreed")
    assert "auroc" in failed
    assert "accuracy" in failed
    assert "loss" not in failed
    assert step.startswith("next step: ")
    assert "out/small/report.html" in step
    assert {path.name for path in (desk.folder / "out/small").iterdir()} == WRITTEN
    assert [criterion["met"] for criterion in result(desk)["acceptance"]] == [True, False, False]
    assert answer.out.count("not met") == 2
    assert "Not accepted" in (desk.folder / "out/small/report.html").read_text("utf-8")


def test_json_stays_json_where_acceptance_is_not_met(desk: Desk) -> None:
    desk.study(criteria('metric = "auroc"\nat_least = 0.999'))
    answer = simulate(desk, "--json")
    assert answer.code == 1
    validate(json.loads(answer.out), SCHEMA)
    assert len(answer.err.splitlines()) == 2


def test_a_criterion_without_a_value_is_not_met(desk: Desk) -> None:
    desk.study(criteria('metric = "auroc"\nat_least = 0.0'), ("[data]", "[data]\nsplit.test = 0.0"))
    answer = simulate(desk)
    assert answer.code == 1
    assert "global auroc at least 0: undefined" in answer.err
    (verdict,) = result(desk)["acceptance"]
    assert (verdict["value"], verdict["met"]) == (None, False)


def test_a_floor_leaves_out_sites_without_a_value(desk: Desk) -> None:
    desk.data({**hospitals(), "south": rows(40, 5, lambda _: 1)})
    desk.study(criteria('metric = "auroc"\nscope = "every-site"\nat_least = 0.0'))
    assert simulate(desk).code == 0
    (verdict,) = result(desk)["acceptance"]
    assert verdict["met"]


def test_below_quorum_fails_with_cause_and_next_step(desk: Desk) -> None:
    ill(desk, 'raise ValueError("out of order")')
    before = desk.files()
    answer = simulate(desk)
    assert answer.code == 1
    failed, step = answer.err.splitlines()
    assert failed.startswith("failed: below quorum in round 2: 2 of 3 needed sites: south failed")
    assert "ValueError: out of order" in failed
    assert "plan.participation.quorum" in step
    assert desk.files() == before, "no result of a run that has none"


def test_below_quorum_may_be_skipped(desk: Desk) -> None:
    ill(desk, 'raise ValueError("out of order")', '{on_shortfall = "skip"}')
    answer = simulate(desk)
    assert answer.code == 0, answer.err
    lines = {(line["round"], line["site"]): line for line in result(desk)["participation"]}
    assert lines[1, "south"]["status"] == "in"
    for round_ in (2, 3):
        assert lines[round_, "south"]["status"] == "failed"
        assert "out of order" in lines[round_, "south"]["reason"]
    assert [round_["round"] for round_ in result(desk)["arms"]["federated"]["rounds"]] == [1, 2, 3]


def test_every_round_below_quorum_is_no_consensus(desk: Desk) -> None:
    ill(desk, 'raise ValueError("out of order")', '{on_shortfall = "wait"}')
    answer = simulate(desk)
    assert answer.code == 1
    assert "below quorum in round 2" in answer.err


@pytest.mark.parametrize(
    ("what", "status", "reason"),
    [
        ("return super().forward(x) * float('nan')", "refused", "not finite"),
        ("raise SystemExit(0)", "failed", "SystemExit"),
        ("raise MemoryError", "failed", "MemoryError"),
    ],
)
def test_an_ill_site_is_excluded_and_named_where_a_quorum_remains(
    desk: Desk, what: str, status: str, reason: str
) -> None:
    ill(desk, what, "{quorum = 2}")
    answer = simulate(desk)
    assert answer.code == 0, answer.err
    found = result(desk)
    lines = {(line["round"], line["site"]): line for line in found["participation"]}
    assert lines[1, "south"]["status"] == "in"
    for round_ in (2, 3):
        assert lines[round_, "south"]["status"] == status
        assert reason in lines[round_, "south"]["reason"]
        assert lines[round_, "north"]["status"] == lines[round_, "west"]["status"] == "in"
    loss = found["arms"]["federated"]["metrics"]["loss"]["global"]
    assert math.isfinite(loss)


def test_divergence_fails_with_cause_and_next_step(desk: Desk) -> None:
    desk.study(('"binary-classification"', '"regression"'), ("lr = 0.1", "lr = 1e38"))
    answer = simulate(desk)
    assert answer.code == 1
    failed, step = answer.err.splitlines()
    assert failed.startswith("failed: training diverged in round 1: 0 of 3 needed sites: north")
    assert "not finite" in failed
    assert "below quorum" not in failed
    assert "learning rate" in step
    assert not (desk.folder / "out").exists()


def test_a_folder_in_place_of_a_result_is_refused_before_the_run(desk: Desk) -> None:
    (desk.folder / "out/small/report.html").mkdir(parents=True)
    before = desk.files()
    answer = simulate(desk)
    assert answer.code == 2
    assert answer.err.startswith("invalid: out/small: --out: got a folder named report.html in it;")
    assert desk.files() == before


def test_resuming_where_nothing_was_kept_begins_anew_and_says_so(desk: Desk) -> None:
    answer = simulate(desk, "--resume")
    assert answer.code == 0
    assert (
        answer.err.splitlines()[0]
        == "note: no checkpoint in out/small; the run begins with round 1"
    )
