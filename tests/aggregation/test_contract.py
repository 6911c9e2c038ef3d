"""What every aggregation rule and server optimizer promises: every entry of a table is held to it.

A part with a setting that has no default states an example in `Field(examples=[...])`; it is used
here and shown in the documentation.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from cohortium.aggregation.rule import AGGREGATORS, Aggregator
from cohortium.aggregation.server_optimizer import SERVER_OPTIMIZERS, ServerOptimizer
from cohortium.errors import DivergedError, RefusedError
from cohortium.types import Params

PARTS = [(table, kind) for table in (AGGREGATORS, SERVER_OPTIMIZERS) for kind in table]
NEED_SEVERAL = {
    "krum",
    "multi-krum",
}  # a rule may refuse a single update, and says how many it needs
every_part = pytest.mark.parametrize(("table", "kind"), PARTS, ids=[kind for _, kind in PARTS])
every_rule = pytest.mark.parametrize("kind", list(AGGREGATORS))
every_optimizer = pytest.mark.parametrize("kind", list(SERVER_OPTIMIZERS))


def example(cls: type) -> dict[str, Any]:
    """Return the settings that `cls` asks for, from its own examples."""
    schema = TypeAdapter(cls).json_schema()
    return {key: schema["properties"][key]["examples"][0] for key in schema.get("required", [])}


def rule(kind: str) -> Aggregator:
    made: Aggregator = AGGREGATORS[kind](**example(AGGREGATORS[kind]))
    return made


def optimizer(kind: str) -> ServerOptimizer:
    made: ServerOptimizer = SERVER_OPTIMIZERS[kind](**example(SERVER_OPTIMIZERS[kind]))
    return made


def model(rng: np.random.Generator, scale: float = 1.0) -> Params:
    """Return a model with arrays of every kind, interleaved, some empty, some with one element."""
    return Params.of(
        {
            "w": (scale * rng.standard_normal((4, 3))).astype(np.float32),
            "count": rng.integers(0, 1000, ()),
            "b": scale * rng.standard_normal(5),
            "none": np.zeros((0, 2), np.float32),
            "mask": rng.random(3) < 0.5,
            "last": (scale * rng.standard_normal(())).astype(np.float32),
            "codes": rng.integers(0, 200, 4).astype(np.uint8),
        }
    )


def wide(params: Params, name: str) -> NDArray[np.float64]:
    return np.asarray(params[name], np.float64)


def near(reference: Params, rng: np.random.Generator, scale: float = 0.01) -> Params:
    """Return an update that local training could have made of `reference`."""
    steps = model(rng, scale)
    moved = {
        key: (wide(reference, key) + wide(steps, key)).astype(reference[key].dtype)
        if reference[key].dtype.kind == "f"
        else steps[key]
        for key in reference
    }
    return Params.of(moved)


def aggregate(
    kind: str, reference: Params, updates: Sequence[tuple[int, Params, float]]
) -> tuple[Params, float]:
    fold = rule(kind).begin(reference)
    for index, params, weight in updates:
        fold.add(index, params, weight)
    return fold.finish()


def cohort(seed: int, count: int) -> tuple[Params, list[tuple[int, Params, float]]]:
    rng = np.random.default_rng(seed)
    reference = model(rng)
    indices = np.cumsum(rng.integers(1, 30, count))
    return reference, [(int(i), near(reference, rng), float(rng.uniform(1, 9))) for i in indices]


def assert_close(one: Params, other: Params, *, rtol: float = 1e-5) -> None:
    assert one.layout == other.layout
    for key, values in one.items():
        if values.dtype.kind == "f":
            np.testing.assert_allclose(wide(one, key), wide(other, key), rtol=rtol, atol=rtol)
        else:
            difference = np.abs(wide(one, key) - wide(other, key))
            assert difference.max(initial=0) <= 1  # a half may round either way


@every_rule
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32), count=st.integers(5, 80))
def test_layout_and_total_weight(kind: str, seed: int, count: int) -> None:
    reference, updates = cohort(seed, count)
    params, weight = aggregate(kind, reference, updates)
    assert params.layout == reference.layout
    for spec in reference.layout.specs:
        assert (params[spec.name].dtype.name, params[spec.name].shape) == (spec.dtype, spec.shape)
    assert params.is_finite()
    assert weight == pytest.approx(sum(weight for _, _, weight in updates), rel=1e-12)


@every_rule
def test_one_update_comes_back_to_the_bit(kind: str) -> None:
    reference, updates = cohort(0, 1)
    if kind in NEED_SEVERAL:
        with pytest.raises(RefusedError, match=r"got 1 updates; expected at least \d"):
            aggregate(kind, reference, updates)
        return
    params, weight = aggregate(kind, reference, updates)
    assert params.digest == updates[0][1].digest
    assert weight == updates[0][2]


@every_rule
@settings(max_examples=10, deadline=None)
@given(count=st.integers(5, 70), seed=st.integers(0, 2**32))
def test_equal_updates_come_back(kind: str, count: int, seed: int) -> None:
    reference, updates = cohort(seed, count)
    params, _ = aggregate(kind, reference, [(i, updates[0][1], w) for i, _, w in updates])
    assert_close(params, updates[0][1], rtol=1e-6)
    for key in ("count", "mask", "codes"):
        np.testing.assert_array_equal(params[key], updates[0][1][key])


@every_rule
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32), data=st.data())
def test_the_order_of_arrival_does_not_matter_to_the_bit(
    kind: str, seed: int, data: st.DataObject
) -> None:
    """The caller restores the plan's order by index: nothing else of an arrival may count."""
    reference, updates = cohort(seed, 9)
    arrived = data.draw(st.permutations(updates))
    again = sorted(arrived, key=lambda update: update[0])
    once = aggregate(kind, reference, updates)
    assert aggregate(kind, reference, again)[0].digest == once[0].digest


@every_rule
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32), data=st.data())
def test_sites_are_treated_alike(kind: str, seed: int, data: st.DataObject) -> None:
    reference, updates = cohort(seed, 9)
    turned = data.draw(st.permutations(updates))
    swapped = [(i, params, w) for (i, _, _), (_, params, w) in zip(updates, turned, strict=True)]
    expected, weight = aggregate(kind, reference, updates)
    params, swapped_weight = aggregate(kind, reference, swapped)
    assert_close(params, expected)
    assert swapped_weight == pytest.approx(weight, rel=1e-12)


@every_rule
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32), scales=st.lists(st.floats(-30, 37), min_size=5, max_size=9))
def test_finite_in_finite_out(kind: str, seed: int, scales: list[float]) -> None:
    rng = np.random.default_rng(seed)
    reference = model(rng)
    updates = [(i, model(rng, 10.0**scale), 1.0) for i, scale in enumerate(scales)]
    assert aggregate(kind, reference, updates)[0].is_finite()


@every_rule
def test_what_goes_in_is_not_changed(kind: str) -> None:
    reference, updates = cohort(0, 70)
    copies = [Params.of(params) for _, params, _ in updates]
    origin = Params.of(reference)
    result, _ = aggregate(kind, reference, updates)
    assert origin.digest == reference.digest
    for copy, (_, params, _) in zip(copies, updates, strict=True):
        assert copy.digest == params.digest
    assert not any(buffer.flags.writeable for buffer in result.buffers.values())


@every_rule
def test_bad_updates_are_refused(kind: str) -> None:
    reference, updates = cohort(0, 2)
    fold = rule(kind).begin(reference)
    fold.add(*updates[0])
    with pytest.raises(RefusedError, match="strictly increasing"):
        fold.add(*updates[0])
    with pytest.raises(RefusedError, match="weight"):
        fold.add(updates[1][0], updates[1][1], -1.0)
    with pytest.raises(RefusedError, match="other arrays"):
        fold.add(updates[1][0], Params.of({"w": np.zeros(3)}), 1.0)


@every_rule
def test_no_update_at_all_is_refused(kind: str) -> None:
    with pytest.raises(RefusedError):
        rule(kind).begin(cohort(0, 1)[0]).finish()


@every_rule
def test_a_dtype_that_cannot_be_averaged_is_refused(kind: str) -> None:
    with pytest.raises(RefusedError, match="float16"):
        rule(kind).begin(Params.of({"w": np.zeros(2, np.float16)}))


@every_rule
def test_says_whether_it_is_additive(kind: str) -> None:
    assert isinstance(AGGREGATORS[kind].additive, bool)  # type: ignore[attr-defined]
    assert "additive" not in TypeAdapter(AGGREGATORS[kind]).json_schema().get("properties", {})


@every_rule
def test_an_additive_rule_is_a_weighted_mean(kind: str) -> None:
    if not rule(kind).additive:
        return
    reference, updates = cohort(0, 9)
    flat, weight = aggregate(kind, reference, updates)
    branches = [aggregate(kind, reference, part) for part in (updates[:4], updates[4:])]
    nested, nested_weight = aggregate(kind, reference, [(i, *b) for i, b in enumerate(branches)])
    assert nested_weight == pytest.approx(weight, rel=1e-12)
    assert_close(nested, flat, rtol=1e-6)


@every_optimizer
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32), scales=st.lists(st.floats(-30, 37), min_size=1, max_size=4))
def test_optimizers_keep_the_layout_and_stay_finite(
    kind: str, seed: int, scales: list[float]
) -> None:
    rng = np.random.default_rng(seed)
    made, current = optimizer(kind), model(rng)
    state = made.init(current)
    for scale in scales:
        mean = near(current, rng, 10.0**scale)
        try:
            current, state = made.step(state, current, mean)
        except DivergedError:
            return
        assert current.layout == mean.layout
        assert current.is_finite()
        assert all(old.is_finite() for old in state.values())
        for key in ("count", "mask", "codes"):
            np.testing.assert_array_equal(current[key], mean[key])


@every_optimizer
def test_optimizers_are_pure(kind: str) -> None:
    rng = np.random.default_rng(0)
    current = model(rng)
    mean = near(current, rng)
    made, copies = optimizer(kind), [Params.of(current), Params.of(mean)]
    state = made.init(current)
    first, new = made.step(state, current, mean)
    second, _ = made.step(state, current, mean)
    assert first.digest == second.digest
    assert [copy.digest for copy in copies] == [current.digest, mean.digest]
    assert new.keys() == state.keys()
    assert not any(buffer.flags.writeable for buffer in first.buffers.values())


@every_optimizer
def test_optimizers_move_towards_the_mean_or_stay(kind: str) -> None:
    rng = np.random.default_rng(0)
    current = model(rng)
    mean = near(current, rng, 1.0)
    made = optimizer(kind)
    moved, _ = made.step(made.init(current), current, mean)
    for key in ("w", "b", "last"):
        origin = wide(current, key)
        assert ((wide(moved, key) - origin) * (wide(mean, key) - origin) > 0).all()
    stayed, _ = made.step(made.init(current), current, current)
    assert_close(stayed, current, rtol=0)


@every_part
def test_settings_are_strict(table: Any, kind: str) -> None:
    cls, wanted = table[kind], example(table[kind])
    with pytest.raises(ValidationError, match="no_such_setting"):
        cls(**wanted, no_such_setting=1)
    for name in TypeAdapter(cls).json_schema().get("properties", {}):
        with pytest.raises(ValidationError, match=name):
            cls(**{**wanted, name: "1"})


@every_part
def test_parts_are_values(table: Any, kind: str) -> None:
    cls, wanted = table[kind], example(table[kind])
    made = cls(**wanted)
    assert made == cls(**wanted)
    assert table.kind_of(made) == kind
    for name in wanted:
        with pytest.raises(AttributeError):
            setattr(made, name, wanted[name])


@every_part
def test_every_setting_is_described(table: Any, kind: str) -> None:
    properties = TypeAdapter(table[kind]).json_schema().get("properties", {})
    for name, shown in properties.items():
        assert shown.get("description", "").endswith("."), f"{kind}.{name}"


@every_part
def test_the_docstring_shows_it_at_work(table: Any, kind: str) -> None:
    text = (inspect.getdoc(table[kind]) or "") + (sys.modules[table[kind].__module__].__doc__ or "")
    assert ">>> " in text, f"{kind} has no doctest"
