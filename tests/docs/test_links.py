"""Links inside the repository's texts lead somewhere, and the site builds from them, offline."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXTS = sorted(
    path.relative_to(ROOT)
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("studies/**/*.md")]
)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)[^)]*\)")
HEADING = re.compile(r"^#+ (.+?)(?: \{ ?#([\w-]+) ?\})?$", re.MULTILINE)


def anchors(text: str) -> set[str]:
    """Return the anchors of a text's headings, as mkdocs and code hosts make them."""
    found = set()
    for title, given in HEADING.findall(text):
        words = re.sub(r"[^\w\s-]", "", title.lower())
        found |= {given, re.sub(r"[-\s]+", "-", words).strip("-"), words.replace(" ", "-")}
    return found | set(re.findall(r"\{ ?#([\w-]+) ?\}", text))


@pytest.mark.parametrize("path", TEXTS, ids=str)
def test_links_resolve(path: Path) -> None:
    for link in LINK.findall((ROOT / path).read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (ROOT / path).parent / file if file else ROOT / path
        assert target.exists(), f"{path} links to {link}"
        if anchor:
            assert anchor in anchors(target.read_text(encoding="utf-8")), f"{path} links to {link}"


def test_a_dead_link_is_found() -> None:
    assert LINK.findall("see [there](gone.md#part)") == ["gone.md#part"]
    assert "your-own-study" in anchors("# Start\n## Your own study\n")


def test_every_decision_is_listed() -> None:
    listed = (ROOT / "docs/adr/index.md").read_text(encoding="utf-8")
    menu = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for path in ROOT.glob("docs/adr/0*.md"):
        assert path.name in listed
        assert path.name in menu
        assert "\nBad:\n" in path.read_text(encoding="utf-8"), f"{path.name} has no bad consequence"


class Sources(HTMLParser):
    """Collects what a page makes a browser fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        key = {"script": "src", "img": "src", "link": "href", "iframe": "src"}.get(tag)
        if key and named.get(key) and named.get("rel") != "canonical":
            self.found.append(str(named[key]))


def test_the_site_builds_and_fetches_nothing_from_elsewhere(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    pages = list(tmp_path.glob("**/*.html"))
    assert {"index.html", "start.html", "study-reference.html"} <= {page.name for page in pages}
    for page in pages:
        sources = Sources()
        sources.feed(page.read_text(encoding="utf-8"))
        assert sources.found
        assert not [source for source in sources.found if re.match(r"(https?:)?//", source)], page
