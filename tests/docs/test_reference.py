"""The generated pages are what the code says, and leave out no setting, part, verb or option."""

from __future__ import annotations

import importlib
import pkgutil
import re
import sys
from collections.abc import Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from typer.main import get_command

import cohortium
from cohortium.cli.main import app
from cohortium.registry import Registry
from cohortium.study.study import Study

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = spec_from_file_location("docs_generate", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


def test_committed_pages_equal_the_generated_ones(generate: ModuleType) -> None:
    for path, text in generate.pages().items():
        assert path.read_text(encoding="utf-8") == text, f"run `make reference` for {path.name}"


def registries() -> list[Registry]:
    """Return every table of parts in the package, wherever it stands."""
    found: dict[int, Registry] = {}
    for info in pkgutil.walk_packages(cohortium.__path__, "cohortium."):
        if info.name.endswith("__main__"):
            continue  # importing it runs the command line
        for value in vars(importlib.import_module(info.name)).values():
            if isinstance(value, Registry):
                found[id(value)] = value
    return sorted(found.values(), key=lambda registry: registry.table)


def test_every_part_and_its_settings_are_documented(generate: ModuleType) -> None:
    texts = [path.read_text(encoding="utf-8") for path in DOCS.glob("*.md")]
    assert len(registries()) >= 8
    for registry in registries():
        for kind in registry:
            assert any(f"`{kind}`" in text for text in texts), f"{registry.table} {kind}"
            for name, info in generate.fields_of(registry[kind]).items():
                assert info.description, f"{registry.table} {kind}.{name} has no description"
                assert any(f"| `{name}` |" in text for text in texts), f"{kind}.{name}"


def test_every_setting_is_documented() -> None:
    page = (DOCS / "study-reference.md").read_text(encoding="utf-8")
    schema = Study.model_json_schema()
    definitions = [schema, *schema.get("$defs", {}).values()]
    names = {name for table in definitions for name in table.get("properties", {})}
    assert {"rounds", "purpose", "positive", "on_shortfall"} <= names
    undocumented = {
        name
        for name in names - {"kind"}
        if f"| `{name}` |" not in page and not re.search(rf"`\[+(\w+\.)*{name}\]+`", page)
    }
    assert undocumented == set()


def verbs(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    for name, inner in getattr(command, "commands", {}).items():
        yield f"{path} {name}", inner
        yield from verbs(inner, f"{path} {name}")


def test_every_verb_and_option_is_documented() -> None:
    page = (DOCS / "cli-reference.md").read_text(encoding="utf-8")
    known = dict(verbs(get_command(app), "cohortium"))
    assert {"cohortium demo", "cohortium simulate", "cohortium data get"} <= known.keys()
    for path, command in known.items():
        if getattr(command, "commands", None):
            continue
        _, _, section = page.partition(f"## `{path}`")
        section = section.partition("\n## ")[0]
        assert command.help, f"{path} has no help"
        assert section, f"{path} is missing"
        for parameter in command.params:
            shown = [opt for opt in parameter.opts if opt.startswith("--") and opt != "--help"]
            assert all(re.search(rf"`{option}[` ]", section) for option in shown), (path, shown)
            assert getattr(parameter, "help", None), f"{path}: {parameter.name} has no help"
