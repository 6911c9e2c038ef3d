from __future__ import annotations

import base64
import datetime
import hashlib
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from importlib.resources import files

import pytest

from cohortium.governance.acceptance import Verdict
from cohortium.report.ink import _HUES, STYLE, Hue
from cohortium.report.notation import THIN
from cohortium.report.page import command, render
from cohortium.runtime.result import Participation, Result
from cohortium.study import example
from cohortium.study.arms import ARMS

from .conftest import MakeResult

CSS = files("cohortium.report").joinpath("templates/report.css").read_text("utf-8")
NASTY = (
    "<script>alert(1)</script>",
    '" onmouseover="alert(1)',
    "</title></style><img src=x onerror=alert(1)>",
    "{{ 7 * 7 }} {% raw %}",
    "W" * 64,
    "A very long name of a university hospital with three departments and a foundation",
)
# fmt: off
TAGS = {
    "html", "head", "meta", "title", "style", "body", "main", "header", "nav",
    "section", "aside", "footer", "div", "span", "p", "a", "b", "strong",
    "small", "h1", "h2", "h3", "ul", "li", "dl", "dt", "dd",
    "table", "caption", "thead", "tbody", "tr", "th", "td", "details", "summary",
    "pre", "code", "svg", "g", "defs", "marker", "rect", "circle", "line",
    "path", "text", "tspan", "desc",
}
"""All that a report is made of: no script, frame, form, image or link to another file."""
# fmt: on

VOID = {"meta"}


class Page(HTMLParser):
    """Reads a page and insists that what is opened is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.styles: list[str] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {key: value or "" for key, value in attrs}))
        assert len(dict(attrs)) == len(attrs), f"an attribute twice in {tag}"
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        (self.styles if self._open[-1:] == ["style"] else self.words).append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))

    def attributes(self) -> Iterator[tuple[str, str, str]]:
        for tag, attributes in self.tags:
            for key, value in attributes.items():
                yield tag, key, value


@pytest.fixture(scope="module")
def results(make_result: MakeResult, compared: Result, troubled: Result) -> dict[str, Result]:
    many = [f"hospital-{i:03d}" for i in range(130)]
    failed = make_result(arms=("federated",), rounds=0)
    arm = replace(failed.arms["federated"], metrics={}, rounds=())
    lines = tuple(Participation("federated", 1, site, "absent") for site in failed.sites)
    return {
        "real": compared,
        "troubled": troubled,
        "many": make_result(many, arms=("pooled", "federated", "single"), rounds=30),
        "one": make_result(["only"], arms=("federated",)),
        "names": make_result(NASTY, metrics=("mae", "loss"), better="lower"),
        "failed": replace(failed, arms={"federated": arm}, participation=lines),
        "nothing": make_result(arms=(), participation=(), plan=None),
        "no metrics": make_result(metrics=()),
        "every arm": make_result(arms=tuple(ARMS)),
    }


KINDS = ("real", "troubled", "many", "one", "names", "failed", "nothing", "no metrics", "every arm")


@pytest.fixture(params=KINDS)
def page(request: pytest.FixtureRequest, results: dict[str, Result]) -> Page:
    return Page(render(results[request.param]))


# -- it stands alone, and nobody's name becomes code -----------------------------------------------


def test_a_page_is_made_of_harmless_tags_only(page: Page) -> None:
    assert {tag for tag, _ in page.tags} <= TAGS


def test_nothing_is_fetched_and_nothing_runs(page: Page) -> None:
    for tag, key, value in page.attributes():
        assert not key.startswith("on"), (tag, key)
        assert key not in ("src", "srcset", "action", "formaction", "data", "poster", "style"), tag
        if key in ("href", "xlink:href"):
            assert value.startswith("#")
        if key != "xmlns":
            assert "://" not in value, (tag, key)
        assert set(re.findall(r"url\(([^)]*)\)", value)) <= {"#plan-arrow"}
    for style in page.styles:
        assert not re.search(r"url\(|@import|expression|//", style)


def test_the_policy_allows_the_pages_own_styles_and_nothing_else(page: Page) -> None:
    policy = next(a["content"] for t, a in page.tags if a.get("http-equiv"))
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules.pop("default-src") == rules.pop("base-uri") == rules.pop("form-action") == "'none'"
    allowed = set(rules.pop("style-src").split())
    assert rules == {}
    for style in page.styles:
        digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in allowed


def test_names_are_text(results: dict[str, Result]) -> None:
    nasty = replace(
        results["names"],
        study=NASTY[0],
        purpose=NASTY[2],
        digest=NASTY[1],
        engine=NASTY[0],
        warnings=NASTY,
        environment={NASTY[1]: NASTY[2]},
        acceptance=(Verdict(NASTY[0], NASTY[1], "global", 0.5, None, met=False),),
        participation=tuple(
            Participation("federated", 1, site, "failed", NASTY[2]) for site in NASTY
        ),
    )
    page = Page(render(nasty))
    assert {tag for tag, _ in page.tags} <= TAGS
    assert not [key for _, key, _ in page.attributes() if key.startswith("on")]
    assert page.text.count("<script>alert(1)</script>") >= 5
    assert page.text.count("{{ 7 * 7 }} {% raw %}") >= 5


def test_importing_the_page_needs_no_torch() -> None:
    code = "import sys, cohortium.report.page; assert not {'torch', 'sklearn'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)


# -- it can be read by everybody -------------------------------------------------------------------


def test_ids_are_unique_and_references_are_met(page: Page) -> None:
    ids = [value for _, key, value in page.attributes() if key == "id"]
    assert len(set(ids)) == len(ids)
    wanted = {
        v for _, k, value in page.attributes() if k == "aria-labelledby" for v in value.split()
    }
    wanted |= {value[1:] for tag, key, value in page.attributes() if key == "href"}
    assert wanted <= set(ids)


def test_pictures_have_words_or_are_hidden(page: Page) -> None:
    for tag, attributes in page.tags:
        if tag == "svg" and attributes.get("class") not in ("stretched", "stretched cut", "at"):
            assert attributes.get("aria-hidden") == "true" or attributes.get("role") == "img"
            if attributes.get("role") == "img":
                assert attributes.get("aria-label") or attributes.get("aria-labelledby")


def test_headings_of_tables_have_a_scope(page: Page) -> None:
    assert all(
        attributes.get("scope") in ("col", "row") for tag, attributes in page.tags if tag == "th"
    )


def test_what_scrolls_can_be_reached_by_keyboard(page: Page) -> None:
    for _, attributes in page.tags:
        if "scroll" in attributes.get("class", "").split():
            assert attributes["tabindex"] == "0"
            assert attributes["role"] == "region"
            assert attributes["aria-label"]


def luminance(colour: str) -> float:
    """WCAG 2.2, relative luminance."""
    parts = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    r, g, b = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def contrast(one: str, other: str) -> float:
    """WCAG 2.2, contrast ratio."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def schemes() -> list[dict[str, str]]:
    """Return the colours of the light and of the dark scheme."""
    found = [
        dict(re.findall(r"--([\w-]+): (#\w{6});", b))
        for b in re.findall(r":root \{(.*?)\}", CSS, re.S)
    ]
    return [colours for colours in found if len(colours) > 10]


@pytest.mark.parametrize("scheme", schemes(), ids=["light", "dark"])
def test_text_stands_out(scheme: dict[str, str]) -> None:
    for ground in ("paper", "panel"):
        for name in ("ink", "soft", "accent", *(f"arm-{i}" for i in range(8))):
            assert contrast(scheme[name], scheme[ground]) >= 4.5, (name, ground)
    for kind in ("good", "bad"):
        assert contrast(scheme[kind], scheme[f"{kind}-wash"]) >= 4.5
    assert contrast(scheme["soft"], scheme["open-wash"]) >= 4.5
    for name in ("ink", "soft", "accent"):
        assert contrast(scheme[name], scheme["wash"]) >= 4.5
    for status in ("absent", "refused", "failed", "excluded"):
        assert contrast(scheme[status], scheme["panel"]) >= 3, status


@pytest.mark.parametrize("hue", _HUES.values(), ids=_HUES)
def test_words_in_boxes_stand_out(hue: Hue) -> None:
    for fill, _, text in (hue.light, hue.dark):
        assert contrast(fill, text) >= 4.5


def test_both_schemes_name_the_same_colours() -> None:
    light, dark = schemes()
    assert light.keys() == dark.keys()
    used = set(re.findall(r"var\(--([\w-]+)\)", CSS))
    assert used <= light.keys()


# -- it says what it should ------------------------------------------------------------------------


def test_equal_results_give_equal_pages(results: dict[str, Result]) -> None:
    assert render(results["troubled"]) == render(replace(results["troubled"]))


def test_a_full_page_has_every_section(results: dict[str, Result]) -> None:
    page = Page(render(results["troubled"], written=datetime.date(2026, 11, 20)))
    sections = [attributes["id"] for tag, attributes in page.tags if tag == "section"]
    assert sections == [
        "reached",
        "acceptance",
        "curves",
        "hospitals",
        "connections",
        "participation",
        "cost",
        "limits",
        "reproduce",
    ]
    for words in ("Not accepted", "one class only", "evaluates only", "2026-11-20", "made-up"):
        assert words in page.text
    assert "an array is not finite" in page.text
    assert "mean model is 1.2 %" in page.text


def test_empty_sections_are_left_out(results: dict[str, Result]) -> None:
    page = Page(render(results["nothing"]))
    sections = [attributes["id"] for tag, attributes in page.tags if tag == "section"]
    assert sections == ["connections", "cost", "limits", "reproduce"]
    assert "No model was measured" in page.text
    page = Page(render(replace(results["nothing"], plan=None)))
    assert "connections" not in [
        attributes.get("id") for tag, attributes in page.tags if tag == "section"
    ]


def test_a_failed_run_tells_who_was_missing(results: dict[str, Result]) -> None:
    text = Page(render(results["failed"])).text
    assert "3 times a hospital was expected and is not in the model." in text
    assert "nothing came by the deadline" in text


def test_all_arms_are_named_and_explained(results: dict[str, Result]) -> None:
    text = Page(render(results["every arm"])).text
    for arm in ARMS.values():
        assert arm.title in text
        assert arm.why.replace("'", "\u2019") in text


def test_digests_are_short_to_read_and_whole_to_copy(results: dict[str, Result]) -> None:
    page = Page(render(results["one"]))
    assert f"{'ab' * 6}…" in page.text
    assert "ab" * 32 in page.text
    assert "ab" * 32 in [value for _, key, value in page.attributes() if key == "title"]


def test_many_hospitals_stay_readable(results: dict[str, Result]) -> None:
    text = render(results["many"])
    assert len(text) < 300_000
    assert "Where it does worst" in Page(text).text


def test_many_warnings_are_cut_and_counted(make_result: MakeResult) -> None:
    text = Page(render(make_result(warnings=tuple(f"warning {i}" for i in range(50))))).text
    assert "warning 11" in text
    assert "warning 12" not in text
    assert "and 38 more" in text


def test_the_plan_is_drawn_once(results: dict[str, Result]) -> None:
    assert Page(render(results["real"])).styles == [CSS, STYLE]


def test_a_run_across_hospitals_tells_idle_time(make_result: MakeResult) -> None:
    made = make_result(["a", "b"], arms=("federated",), engine="network")
    told = replace(made.arms["federated"], idle={"a": 0.25, "b": 0.5})
    page = render(replace(made, arms={"federated": told}))
    assert f"25.0{THIN}%" in page
    assert "simulated" not in page
    assert "simulated federation" in render(make_result())


def test_commands_reproduce_the_run(make_result: MakeResult) -> None:
    assert (
        command(make_result(arms=("federated",)))
        == "cohortium simulate study.toml --seed 7 --engine sequential"
    )
    assert (
        command(make_result(arms=("pooled", "iil")))
        == "cohortium compare study.toml --arms pooled,iil --seed 7 --engine sequential"
    )
    across = make_result(arms=("federated",), engine="network")
    assert command(across) == "cohortium study submit study.toml"
    digest = example.demo().override({"study.seed": 3}).digest
    assert command(make_result(digest=digest, seed=3)) == "cohortium demo --seed 3"
