"""What the texts tell people to type exists: make targets, verbs of the command line, options."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from cohortium.cli.main import app

ROOT = Path(__file__).parents[2]
TEXTS = sorted(
    path.relative_to(ROOT)
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("studies/**/*.md")]
    if path.name not in ("cli-reference.md", "CHANGELOG.md")
)
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
COMMAND = re.compile(r"^(?:\$ |\.venv/bin/)*(make|cohortium)(?= |$)(.*)$")


def typed(text: str) -> Iterator[tuple[str, str]]:
    """Yield (program, rest of the line) of everything in code that calls make or cohortium."""
    blocks = re.findall(r"^```(?:sh|console|bash|text)?\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    spans = re.findall(r"(?<!`)`([^`\n]+)`(?!`)", text)
    for line in [line.strip() for block in blocks for line in block.splitlines()] + spans:
        found = COMMAND.match(line)
        if found:
            yield found[1], found[2].split(" #")[0].strip()


def verb_of(words: list[str]) -> tuple[Any, list[str]]:
    """Follow the words that name a verb; return its command and the words after it."""
    command: Any = get_command(app)
    while words and words[0] in getattr(command, "commands", {}):
        command, words = command.commands[words[0]], words[1:]
    return command, words


@pytest.mark.parametrize("path", TEXTS, ids=str)
def test_what_is_to_be_typed_exists(path: Path) -> None:
    for program, rest in typed((ROOT / path).read_text(encoding="utf-8")):
        words = rest.replace("[", " ").replace("]", " ").split()
        if program == "make":
            targets = [word for word in shlex.split(rest) if "=" not in word]
            assert set(targets) <= TARGETS, f"{path}: make {rest}"
        else:
            check_verb(f"{path}: cohortium {rest}", words)


def check_verb(where: str, words: list[str]) -> None:
    command, rest = verb_of(words)
    missing = getattr(command, "commands", {}) and [w for w in rest if not w.startswith("-")]
    assert not missing, f"{where}: no verb {missing}"
    options = {name for parameter in command.params for name in parameter.opts} | {"--help"}
    used = {word.split("=")[0] for word in rest if word.startswith("--")}
    assert used <= options, f"{where}: no option {used - options}"


def test_a_command_that_is_not_there_is_found() -> None:
    with pytest.raises(AssertionError, match="no verb"):
        check_verb("here", ["simulat", "study.toml"])
    with pytest.raises(AssertionError, match="no option"):
        check_verb("here", ["simulate", "study.toml", "--sed", "3"])


def test_the_readme_shows_the_two_commands() -> None:
    shown = [
        f"{program} {rest}"
        for program, rest in typed((ROOT / "README.md").read_text(encoding="utf-8"))
    ]
    assert {"make demo", "make test"} <= set(shown)
