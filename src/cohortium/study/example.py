"""The studies that come with Cohortium: one to start from, and the one that the demo runs."""

from __future__ import annotations

import tomllib
from importlib.resources import files

from cohortium.study.bundle import Bundle
from cohortium.study.study import Study


def template() -> str:
    """Return the commented study file that `cohortium new` writes."""
    return _text("template.toml")


def demo() -> Bundle:
    """Return the study that `cohortium demo` runs."""
    study = Study.from_dict(tomllib.loads(_text("demo.toml")), where="demo.toml")
    return Bundle.of(study, where="demo.toml")


def _text(name: str) -> str:
    return files("cohortium.study").joinpath(name).read_text(encoding="utf-8")
