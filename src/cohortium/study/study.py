"""`Study`: what a consortium agrees on, before anything runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic import ValidationError as PydanticError

from cohortium.data.schema import Schema
from cohortium.errors import Problem, StudyError
from cohortium.part import refuse
from cohortium.study.json_schema import spell_out
from cohortium.study.plain import plain
from cohortium.study.problems import explain
from cohortium.study.rules import conflicts
from cohortium.study.sections import (
    AcceptanceSection,
    CompareSection,
    PlanSection,
    PrivacySection,
    StudySection,
    TaskSection,
)

PYTHON = "<python>"


class Study(BaseModel):
    """A study: purpose, task, data, plan, privacy and acceptance, strictly validated.

    Sections are tables as in the file, or section objects; parts are kinds, tables or objects:
    `Study(study={...}, task={...}, plan={"rounds": 3, "topology": Star(), ...})`.

    Raises:
        StudyError: with every problem found.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    schema_version: Annotated[
        Literal[1], Field(description="The version of this format of study files.")
    ] = 1
    study: Annotated[StudySection, Field(description="What the study is, and why.")]
    task: Annotated[
        TaskSection, Field(description="What the model predicts, and how a site trains it.")
    ]
    data: Annotated[Schema, Field(description="What every site's records must look like.")] = (
        Schema()
    )
    plan: Annotated[
        PlanSection, Field(description="In which order and where the model is trained and joined.")
    ]
    privacy: Annotated[PrivacySection, Field(description="What protects patients, and how.")] = (
        PrivacySection()
    )
    acceptance: Annotated[AcceptanceSection, Field(description="What the model must meet.")] = (
        AcceptanceSection()
    )
    compare: Annotated[CompareSection, Field(description="How the arms of a comparison train.")] = (
        CompareSection()
    )

    def __init__(self, **sections: Any) -> None:
        self._fill(sections, where=PYTHON)

    @classmethod
    def from_dict(cls, tables: Mapping[str, Any], *, where: str = PYTHON) -> Self:
        """Return the study that nested tables describe.

        Args:
            tables: the sections, as `tomllib` reads them; Python objects are welcome, too.
            where: what messages call the source.

        Raises:
            StudyError: with every problem found.
        """
        study = cls.__new__(cls)
        study._fill(tables, where=where)
        return study

    def _fill(self, tables: Mapping[str, Any], *, where: str) -> None:
        data = plain(tables, where=where)
        try:  # as JSON: a list may be a tuple and 1 may be 1.0, but "1" is no number
            self.__pydantic_validator__.validate_json(json.dumps(data), self_instance=self)
        except PydanticError as error:
            raise StudyError(*explain(error, data=data, root=type(self), where=where)) from None

    @model_validator(mode="after")
    def _sections_agree(self) -> Self:
        if found := tuple(conflicts(self)):
            raise refuse(*found)
        return self

    @property
    def split_seed(self) -> int:
        """The seed that splits each site's rows: the split's own, or else the study's."""
        return self.study.seed if self.data.split.seed is None else self.data.split.seed

    def canonical(self) -> dict[str, Any]:
        """Return the whole study as JSON values, every default spelled out."""
        tables = self.model_dump(mode="json")
        tables["data"]["split"]["seed"] = self.split_seed
        return tables

    def override(self, settings: Mapping[str, Any], *, where: str = PYTHON) -> Self:
        """Return a copy with some settings changed, validated anew.

        Args:
            settings: dotted key to value, such as `{"plan.rounds": 3, "study.seed": 1}`; None
                takes an optional setting back.
            where: what messages call the source.

        Raises:
            StudyError: a key that is not there, or a value that does not fit.
        """
        tables = self.model_dump(mode="json", exclude_unset=True)
        for key, value in settings.items():
            _set(tables, key, value, where=where)
        return self.from_dict(tables, where=where)

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """Return the JSON Schema of a study file, with the settings of every registered kind."""
        return spell_out(cls.model_json_schema())


def _set(tables: dict[str, Any], key: str, value: object, *, where: str) -> None:
    *above, last = key.split(".")
    table = tables
    for name in above:
        table = table.setdefault(name, {})
        if not isinstance(table, dict):
            raise StudyError(Problem(where, key, f"{name!r}, which is no table", "a dotted key"))
    table[last] = value
