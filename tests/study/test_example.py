from __future__ import annotations

import re
import tomllib

import pytest

from cohortium.data.sources import open_dataset
from cohortium.data.table import Table
from cohortium.study.example import demo, template
from cohortium.study.study import Study


def alternatives() -> list[str]:
    """Return the template once for each "# or" line, which stands in for the setting above it."""
    lines = template().splitlines()
    variants = []
    for number, line in enumerate(lines):
        if match := re.fullmatch(r"# or ((\w+) = .*)", line):
            above = next(i for i in range(number, 0, -1) if lines[i].startswith(f"{match[2]} = "))
            variants.append("\n".join([*lines[:above], match[1], *lines[above + 1 :]]))
    return variants


def test_the_template_is_a_study() -> None:
    study = Study.from_dict(tomllib.loads(template()))
    assert study.plan.topology == Study.from_dict(demo().study.canonical()).plan.topology
    assert study.acceptance.criteria


def test_the_template_shows_a_dozen_alternatives() -> None:
    assert len(alternatives()) >= 12


@pytest.mark.parametrize("text", alternatives(), ids=range(len(alternatives())))
def test_each_alternative_in_the_template_is_valid(text: str) -> None:
    assert Study.from_dict(tomllib.loads(text)) != Study.from_dict(tomllib.loads(template()))


def test_the_settings_that_the_template_hides_are_valid() -> None:
    text = template()
    for hidden in ("features", "sites", "evaluation_only", "quorum"):
        assert f"# {hidden} = " in text or hidden == "features"
    shown = re.sub(
        r"(?m)^(\s*)# (?=\{name|sites|evaluation|quorum|\[|column|min|epochs)", r"\1", text
    )
    shown = shown.replace("quorum = 8", "quorum = 1")
    study = Study.from_dict(tomllib.loads(shown))
    assert study.data.features[-1].name == "sex"
    assert study.data.cohort[0].column == "age"
    assert study.plan.training_sites == ("hospital-01",)
    assert study.compare.central.epochs == 50


def test_the_template_speaks_of_every_section() -> None:
    for section in ("study", "task", "data", "data.split", "plan", "plan.participation"):
        assert f"[{section}]" in template()


@pytest.mark.parametrize("study", [Study.from_dict(tomllib.loads(template())), demo().study])
def test_the_features_and_the_target_are_columns_of_the_dataset(study: Study) -> None:
    dataset = study.data.dataset
    assert dataset is not None
    sites = open_dataset(dataset)
    assert len(sites) == 10
    for table in sites.values():
        assert isinstance(table, Table)
        columns = set(table.columns)
        assert {feature.name for feature in study.data.features} <= columns
        assert study.data.target in columns


def test_the_demo_is_a_study_of_thirty_features() -> None:
    bundle = demo()
    assert bundle.study.study.name == "demo"
    assert len(bundle.study.data.features) == 30
    assert bundle.study.task.metric_names == ("loss", "auroc", "accuracy")
    assert bundle.files == {}
