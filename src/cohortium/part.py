"""A part is its own settings: a frozen dataclass whose fields are what a study may write."""

from __future__ import annotations

from typing import TypeVar, dataclass_transform

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass as pydantic_dataclass

T = TypeVar("T")


@dataclass_transform(frozen_default=True, kw_only_default=True)
def part(cls: type[T]) -> type[T]:
    """Make `cls` a part: frozen, keyword-only, strictly typed; unknown fields are refused.

    Constrain fields with `Annotated[float, Field(gt=0, description=...)]`: the description is what
    the study reference prints.
    """
    config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    return pydantic_dataclass(cls, frozen=True, kw_only=True, config=config)  # type: ignore[return-value]
