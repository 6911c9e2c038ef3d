from __future__ import annotations

from typing import Annotated, Any, ClassVar

import pytest
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from cohortium.part import PartOf, Refusal, part, refuse
from cohortium.registry import Registry


@part
class Ball:
    """A toy part."""

    round: ClassVar[bool] = True
    radius: Annotated[float, Field(gt=0, description="In metres.")] = 1.0


@part
class Box:
    """A toy part with a setting that it needs, and others inside."""

    sides: Annotated[tuple[int, ...], Field(description="In metres.")]
    inside: Annotated[tuple[Annotated[Any, Field()], ...], Field(description="Contents.")] = ()


SHAPES = Registry(
    "shape",
    group="cohortium.test_shapes",
    builtin={
        "ball": f"{__name__}:Ball",
        "box": f"{__name__}:Box",
        "cone": "a_package_that_is_not_there:Cone",
    },
)
SHAPE = PartOf(SHAPES)


class Room(BaseModel):
    shape: Annotated[Any, PartOf(SHAPES)]
    others: tuple[Annotated[Any, PartOf(SHAPES)], ...] = ()
    spare: Annotated[Any, PartOf(SHAPES)] | None = None


@pytest.mark.parametrize("value", ["ball", {"kind": "ball"}, {"kind": "ball", "radius": 1}, Ball()])
def test_a_kind_a_table_and_a_part_are_the_same(value: object) -> None:
    assert SHAPE.build(value) == Ball(radius=1.0)


def test_settings_come_as_json_has_them() -> None:
    assert SHAPE.build({"kind": "box", "sides": [1, 2]}) == Box(sides=(1, 2))


@pytest.mark.parametrize(
    "shape", [Ball(radius=2.5), Box(sides=(1, 2)), Box(sides=(), inside=("a",))]
)
def test_a_part_survives_its_table(shape: object) -> None:
    table = SHAPE.table(shape)
    assert table["kind"] in SHAPES
    assert SHAPE.build(table) == shape


def test_a_model_dumps_and_reads_its_parts() -> None:
    text = '{"shape": "ball", "others": [{"kind": "box", "sides": [3]}, "ball"], "spare": null}'
    room = Room.model_validate_json(text)
    assert room.others == (Box(sides=(3,)), Ball())
    assert room.model_dump()["shape"] == {"kind": "ball", "radius": 1.0}
    assert Room.model_validate_json(room.model_dump_json()) == room


@pytest.mark.parametrize(
    ("value", "at", "words"),
    [
        ("bal", (), ("ball, box, cone", "Did you mean 'ball'?")),
        ({"kind": "bal"}, ("kind",), ("ball, box, cone", "Did you mean 'ball'?")),
        ({"kind": 1}, ("kind",), ("ball, box, cone",)),
        ({"radius": 1}, ("kind",), ("nothing", "ball, box, cone")),
        (3, (), ("ball, box, cone", "a table with a `kind`")),
        (Room, (), ("ball, box, cone",)),
        ("cone", (), ("'cone'", "a_package_that_is_not_there", "pip install")),
        ("box", ("sides",), ("required",)),
        ({"kind": "ball", "radius": "1"}, ("radius",), ("number",)),
        ({"kind": "ball", "radius": 0}, ("radius",), ("greater than 0",)),
        ({"kind": "ball", "radius": float("nan")}, ("radius",), ("finite",)),
        ({"kind": "ball", "colour": "red"}, ("colour",), ("Unexpected",)),
        ({"kind": "box", "sides": [1, 2.5]}, ("sides", 1), ("integer",)),
    ],
)
def test_what_is_no_part_is_refused_at_its_key(
    value: object, at: tuple[str, ...], words: tuple[str, ...]
) -> None:
    adapter: TypeAdapter[object] = TypeAdapter(Annotated[Any, SHAPE])
    with pytest.raises(ValidationError) as caught:
        adapter.validate_python(value)
    (error,) = caught.value.errors()
    assert error["loc"] == at
    for word in words:
        assert word in f"{error['msg']} {error.get('ctx')}"


def test_keys_above_a_part_are_prefixed() -> None:
    with pytest.raises(ValidationError) as caught:
        Room.model_validate({"shape": "ball", "others": ("ball", {"kind": "box", "sides": [True]})})
    assert [error["loc"] for error in caught.value.errors()] == [("others", 1, "sides", 0)]


def test_a_refusal_keeps_its_words() -> None:
    error = refuse(
        Refusal(("a", 0), expected="{x}", got="%s", advice="Do."), Refusal((), expected="y")
    )
    first, second = error.errors()
    assert first["loc"] == ("a", 0)
    assert first["ctx"] == {"at": None, "expected": "{x}", "got": "%s", "advice": "Do."}
    assert second["loc"] == ()


def test_the_kind_of_another_object_is_none() -> None:
    assert SHAPE.kind_of(Ball()) == "ball"
    assert SHAPE.kind_of(3) is None


def test_parts_are_strict_and_frozen() -> None:
    with pytest.raises(ValidationError):
        Ball(radius="1")  # type: ignore[arg-type]
    with pytest.raises(ValidationError):
        Ball(radius=float("inf"))
    with pytest.raises(AttributeError):
        Ball().radius = 2.0  # type: ignore[misc]
