"""Models on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from safetensors.torch import save as save_torch

from cohortium.errors import ModelError
from cohortium.learning.model_file import from_bytes, load, read_metadata, save
from cohortium.types import Layout, Params

ARRAYS = {
    "weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "bias": np.array([0.5, -0.5]),
    "steps": np.array(7),
    "mask": np.array([True, False]),
}


@pytest.fixture
def params() -> Params:
    return Params.of(ARRAYS)


def test_a_model_survives_a_round_trip(params: Params, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save(params, path, metadata={"study": "heart", "digest": "ab"})
    read = load(path, params.layout)
    assert read.layout == params.layout
    assert read.digest == params.digest
    assert read_metadata(path) == {"digest": "ab", "study": "heart"}
    assert np.array_equal(load_file(path)["weight"], ARRAYS["weight"])


def test_equal_models_have_equal_bytes(params: Params, tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    save(params, one, metadata={str(i): "x" for i in range(20)})
    save(Params.of(ARRAYS), other, metadata={str(i): "x" for i in reversed(range(20))})
    assert one.read_bytes() == other.read_bytes()


def test_a_file_is_replaced_whole_and_nothing_else_is_left(params: Params, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_text("something older")
    save(params, path, metadata={})
    assert load(path, params.layout).digest == params.digest
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.safetensors"]


def test_a_file_from_elsewhere_has_no_metadata_of_ours(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file(ARRAYS, path, {"format": "pt"})
    assert read_metadata(path) == {}
    assert load(path, Layout.of(ARRAYS)).digest == Params.of(ARRAYS).digest


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bias": None}, "bias: got no such array"),
        ({"extra": np.zeros(2)}, "extra: got an array that the model lacks"),
        ({"weight": np.zeros((3, 2), np.float32)}, r"weight: got shape \(3, 2\).*\(2, 3\)"),
        ({"weight": np.zeros((2, 3))}, "weight: got dtype float64; expected dtype float32"),
        ({"bias": np.array([1.0, np.nan])}, "values that are not finite"),
    ],
)
def test_other_arrays_are_refused(
    params: Params, tmp_path: Path, change: dict[str, np.ndarray | None], message: str
) -> None:
    arrays = {name: array for name, array in {**ARRAYS, **change}.items() if array is not None}
    path = tmp_path / "model.safetensors"
    save_file(arrays, path)
    with pytest.raises(ModelError, match=rf"model\.safetensors: .*{message}") as refusal:
        load(path, params.layout)
    assert "\n" not in str(refusal.value)
    with pytest.raises(ModelError) as other:
        from_bytes(path.read_bytes(), params.layout, where="model.safetensors")
    assert str(other.value) == str(refusal.value)


def test_a_dtype_that_numpy_lacks_is_refused() -> None:
    content = save_torch({"weight": torch.zeros(2, dtype=torch.bfloat16)})
    layout = Layout.of({"weight": np.zeros(2, np.float32)})
    with pytest.raises(ModelError, match="weight: got dtype BF16; expected dtype float32"):
        from_bytes(content, layout, where="start.safetensors")


@pytest.mark.parametrize(
    "dtype",
    ["bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64"],
)
def test_every_dtype_survives(dtype: str, tmp_path: Path) -> None:
    arrays = {"a": np.arange(3).astype(dtype), "b": np.ones((), dtype), "c": np.ones((0, 2), dtype)}
    params = Params.of(arrays)
    save(params, tmp_path / "model.safetensors", metadata={})
    content = (tmp_path / "model.safetensors").read_bytes()
    assert from_bytes(content, params.layout, where="").digest == params.digest


@pytest.mark.parametrize("content", [b"", b"not safetensors", b"\xff" * 64])
def test_a_file_that_is_something_else_is_refused(
    params: Params, tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelError, match="expected a safetensors file"):
        load(path, params.layout)
    with pytest.raises(ModelError, match=r"start: got .*expected a safetensors file"):
        from_bytes(content, params.layout, where="start")
    with pytest.raises(ModelError, match="expected a safetensors file"):
        read_metadata(path)


def test_a_truncated_file_is_refused(params: Params, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save(params, path, metadata={})
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ModelError, match="expected a safetensors file"):
        load(path, params.layout)


def test_a_missing_file_and_a_folder_are_refused(params: Params, tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(ModelError, match="expected a safetensors file"):
            load(path, params.layout)
