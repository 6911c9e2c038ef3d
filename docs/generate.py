"""Writes the reference pages from the code that they describe, so that the two cannot disagree.

python docs/generate.py          write them
python docs/generate.py --check  fail when a page is not what the code says
"""

from __future__ import annotations

import inspect
import sys
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from typer.main import get_command

from cohortium.cli.main import app
from cohortium.part import PartOf
from cohortium.registry import Registry
from cohortium.study.example import template
from cohortium.study.study import Study

DOCS = Path(__file__).parent
INTRODUCTION = """\
Every section and every setting of `study.toml`. It is read strictly: what is not listed here is
refused. A setting that names a kind of something is written as the bare name, such as
`topology = "star"`, or as a table with the kind's own settings, such as
`topology = {kind = "gossip", graph = "complete"}`. The kinds follow after the sections; a
[whole study](#a-whole-study) stands at the end."""
EXIT_CODES = """\
Every verb ends with one of these exit codes:

| code | means |
|---|---|
| 0 | done |
| 1 | the run failed: below quorum, diverged, acceptance not met. It says why, and what next |
| 2 | the study, the data or an argument is invalid; nothing was written |
| 130 | interrupted; nothing half-written is left |"""
NOTE = "<!-- Written by `make reference` from the code: change the code, not this page. -->"


def pages() -> dict[Path, str]:
    """Return every generated page by its path."""
    return {
        DOCS / "study-reference.md": study_reference(),
        DOCS / "cli-reference.md": cli_reference(),
    }


# The study file


@dataclass(frozen=True)
class Section:
    """A table of the study file: its dotted path, whether it is a list, and the class behind it."""

    path: str
    repeated: bool
    settings: type


def study_reference() -> str:
    """Return the page on the study file: every section, then every kind of part."""
    blocks = [
        NOTE,
        "# The study file",
        INTRODUCTION,
    ]
    sections = list(_sections(Study))
    for section in sections:
        blocks += _section(section)
    for registry in _registries(sections):
        blocks += _kinds(registry)
    blocks += ["## A whole study", "What `cohortium new` writes; it runs as it is, offline."]
    return _page([*blocks, f"```toml\n{template()}```"])


def _sections(root: type) -> Iterator[Section]:
    todo = [Section("", repeated=False, settings=root)]
    while todo:
        section = todo.pop(0)
        yield section
        nested = []
        for name, info in fields_of(section.settings).items():
            found = _settings_in(info.annotation)
            if found is not None:
                settings, repeated = found
                path = f"{section.path}.{name}".lstrip(".")
                nested.append(Section(path, repeated=repeated, settings=settings))
        todo = nested + todo


def fields_of(settings: type) -> Mapping[str, FieldInfo]:
    """Return the fields of a pydantic model or dataclass; empty for anything else."""
    if issubclass(settings, BaseModel):
        return settings.model_fields
    fields: Mapping[str, FieldInfo] = getattr(settings, "__pydantic_fields__", {})
    return fields


def _settings_in(annotation: Any) -> tuple[type, bool] | None:
    """Return the class of settings inside an annotation, and whether it is a list of them."""
    annotation = _bare(annotation)
    if isinstance(annotation, type) and fields_of(annotation):
        return annotation, False
    repeated = get_origin(annotation) in (tuple, list)
    for argument in get_args(annotation):
        found = None if argument in (None, ...) else _settings_in(argument)
        if found is not None:
            return found[0], repeated or found[1]
    return None


def _section(section: Section) -> list[str]:
    if not section.path:
        rows = [r for r in _rows(section.settings, section.path) if "](#" not in r[1]]
        return [_table(HEAD, rows)] if rows else []
    name = f"[[{section.path}]]" if section.repeated else f"[{section.path}]"
    rows = _rows(section.settings, section.path)
    return [
        f"## `{name}` {{ #{_anchor(section.path)} }}",
        _prose(section.settings),
        _table(HEAD, rows),
    ]


def _rows(settings: type, path: str = "") -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for name, info in fields_of(settings).items():
        where = f"{path}.{name}".lstrip(".")
        rows.append(
            (f"`{name}`", _type(info, where), _default(info), _cell(info.description or ""))
        )
    return rows


def _type(info: FieldInfo, where: str) -> str:
    registry = _registry_of(info)
    if registry is not None:
        kind = f"[{registry.table}](#{_anchor(registry.table)})"
        return f"list, each a {kind}" if get_origin(_bare(info.annotation)) is tuple else kind
    found = _settings_in(info.annotation)
    if found is not None:
        return f"[{'tables' if found[1] else 'table'}](#{_anchor(where)})"
    return _words(info.annotation, info.metadata)


def _registry_of(info: FieldInfo) -> Registry | None:
    marks = [mark for mark in _marks(info.annotation, info.metadata) if isinstance(mark, PartOf)]
    return marks[0].registry if marks else None


def _marks(annotation: Any, metadata: Iterable[Any] = ()) -> Iterator[Any]:
    yield from metadata
    yield from getattr(annotation, "__metadata__", ())
    for argument in get_args(annotation):
        yield from _marks(argument)


HEAD = ("setting", "type", "default", "meaning")

NAMES: dict[Any, str] = {
    bool: "true or false",
    int: "whole number",
    float: "number",
    str: "text",
    Any: "any value",
}


def _words(annotation: Any, metadata: Sequence[Any] = ()) -> str:
    """Say in words what a plain setting may be."""
    limits = ", ".join(limit for mark in metadata for limit in _limits(mark))
    text = _kind_of_value(annotation)
    if limits and text.startswith("list of "):
        return f"list ({limits}) of {text.removeprefix('list of ')}"
    return f"{text} ({limits})" if limits else text


def _kind_of_value(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _words(arguments[0], annotation.__metadata__)
    if origin is Literal:
        return " or ".join(f"`{_toml(choice)}`" for choice in arguments)
    if origin in (Union, types.UnionType):
        shown = [
            a for a in arguments if a is not type(None) and not (a is int and float in arguments)
        ]
        return " or ".join(_words(a) for a in shown)
    if origin in (tuple, list) and (origin is list or arguments[-1] is ...):
        return f"list of {_words(arguments[0])}"
    if origin is tuple:
        return f"[{', '.join(_words(a) for a in arguments)}]"
    if annotation is dict or origin in (dict, Mapping):
        return "table"
    return NAMES.get(annotation, getattr(annotation, "__name__", str(annotation)))


LIMITS = {"gt": "> {}", "ge": "≥ {}", "lt": "< {}", "le": "≤ {}", "pattern": "matching `{}`"}


def _limits(mark: Any) -> Iterator[str]:
    if isinstance(mark, FieldInfo):
        for inner in mark.metadata:
            yield from _limits(inner)
    for name, text in LIMITS.items():
        value = getattr(mark, name, None)
        if isinstance(value, int | float | str) and value != r"\S":
            yield text.format(str(value).replace("|", "\\|"))
    if getattr(mark, "min_length", None) == 1 or getattr(mark, "pattern", None) == r"\S":
        yield "not empty"


def _default(info: FieldInfo) -> str:
    if info.is_required():
        return "**required**"
    if info.default_factory_takes_validated_data:
        return "depends"
    value = info.get_default(call_default_factory=True)
    if value is None or value is PydanticUndefined:
        return "none"
    return _shown(value, _registry_of(info))


def _shown(value: Any, registry: Registry | None) -> str:
    if registry is not None and not isinstance(value, str | tuple | list):
        return f'`"{registry.kind_of(value)}"`'
    if is_dataclass(value) or isinstance(value, BaseModel):
        return "its defaults"
    return f"`{_toml(value)}`"


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, tuple | list):
        return f"[{', '.join(_toml(item) for item in value)}]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{k} = {_toml(v)}" for k, v in value.items()) + "}"
    return str(value)


def _registries(sections: Iterable[Section]) -> list[Registry]:
    """Return the tables of parts that a study can name, in the order in which it names them."""
    found: dict[int, Registry] = {}
    for section in sections:
        for info in fields_of(section.settings).values():
            registry = _registry_of(info)
            if registry is not None:
                found.setdefault(id(registry), registry)
    return list(found.values())


def _kinds(registry: Registry) -> list[str]:
    blocks = [f"## Kinds of {registry.table} {{ #{_anchor(registry.table)} }}"]
    for kind in registry:
        settings, path = registry[kind], f"{registry.table}.{kind}"
        blocks += [f"### `{kind}` {{ #{_anchor(path)} }}", _prose(settings)]
        blocks += [_settings(settings, path)]
        for name, info in fields_of(settings).items():
            found = _settings_in(info.annotation)
            if found is not None:
                where = f"{path}.{name}"
                blocks += [f"#### Each of its `{name}` {{ #{_anchor(where)} }}"]
                blocks += [_settings(found[0], where)]
    return blocks


def _settings(settings: type, path: str) -> str:
    rows = _rows(settings, path)
    return _table(HEAD, rows) if rows else "No settings."


# The command line


def cli_reference() -> str:
    """Return the page on the command line: every verb with its arguments and options."""
    root = get_command(app)
    blocks = [NOTE, "# The command line", _help(root), EXIT_CODES, _parameters(root)]
    for path, command in _verbs(root, "cohortium"):
        blocks += [
            f"## `{path}` {{ #{_anchor(path)} }}",
            _help(command),
            f"```text\n{_usage(path, command)}\n```",
            _parameters(command),
        ]
    return _page(blocks)


def _verbs(group: Any, path: str) -> Iterator[tuple[str, Any]]:
    for name, command in getattr(group, "commands", {}).items():
        inner = f"{path} {name}"
        if getattr(command, "commands", None):
            yield from _verbs(command, inner)
        elif not command.hidden:
            yield inner, command


def _help(command: Any) -> str:
    return inspect.cleandoc(command.help or "")


def _usage(path: str, command: Any) -> str:
    arguments = [_metavar(p) for p in command.params if not _is_option(p)]
    return " ".join([path, *arguments, "[OPTIONS]"])


def _parameters(command: Any) -> str:
    rows = [_parameter(p) for p in command.params if "--help" not in p.opts]
    return _table(("argument or option", "default", "meaning"), rows) if rows else ""


def _parameter(parameter: Any) -> tuple[str, ...]:
    name = f"`{_metavar(parameter)}`"
    if _is_option(parameter):
        value = "" if parameter.is_flag else f" {_metavar(parameter)}"
        name = ", ".join(f"`{o}{value}`" for o in parameter.opts + parameter.secondary_opts)
    return name, _parameter_default(parameter), _cell(parameter.help or "")


def _is_option(parameter: Any) -> bool:
    return bool(parameter.opts[0].startswith("-"))


def _metavar(parameter: Any) -> str:
    return str(parameter.metavar or parameter.name.upper())


def _parameter_default(parameter: Any) -> str:
    if parameter.required:
        return "**required**"
    given = isinstance(parameter.default, str | int) and parameter.default is not False
    return f"`{parameter.default}`" if given else ""


# Markdown


def _page(blocks: Iterable[str]) -> str:
    return "\n\n".join(block for block in blocks if block) + "\n"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _prose(settings: type) -> str:
    paragraphs = inspect.cleandoc(settings.__doc__ or "").split("\n\n")
    return "\n\n".join(text for text in paragraphs if not text.startswith(">>>"))


def _cell(text: str) -> str:
    words = " ".join(text.split()).replace("|", "\\|").split("`")
    outside_code = [part.replace("<", "&lt;") for part in words[::2]]
    words[::2] = outside_code
    return "`".join(words)


def _anchor(text: str) -> str:
    return "".join(char if char.isalnum() else "-" for char in text.lower()).strip("-")


def _bare(annotation: Any) -> Any:
    return _bare(get_args(annotation)[0]) if get_origin(annotation) is Annotated else annotation


def main(arguments: Sequence[str]) -> int:
    """Write the pages, or with `--check` compare them; return the exit code."""
    stale = [path for path, text in pages().items() if not _equals(path, text)]
    if "--check" in arguments:
        for path in stale:
            print(f"{path.name} is not what the code says; run `make reference`", file=sys.stderr)
        return 1 if stale else 0
    for path in stale:
        path.write_text(pages()[path], encoding="utf-8")
        print(f"wrote {path.name}")
    return 0


def _equals(path: Path, text: str) -> bool:
    return path.exists() and path.read_text(encoding="utf-8") == text


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
