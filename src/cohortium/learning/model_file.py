"""Models on disk: safetensors files, the same bytes for the same parameters.

The metadata is one entry, `cohortium`, of canonical JSON: the format keeps no order among entries.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, deserialize, safe_open
from safetensors.numpy import save as to_bytes

from cohortium.errors import ModelError, Problem
from cohortium.types import Layout, Params

KEY = "cohortium"

NUMPY_NAMES = {
    "BOOL": "bool", "U8": "uint8", "U16": "uint16", "U32": "uint32", "U64": "uint64",
    "I8": "int8", "I16": "int16", "I32": "int32", "I64": "int64",
    "F16": "float16", "F32": "float32", "F64": "float64", "C64": "complex64",
}  # fmt: skip
"""The format's name of a dtype to numpy's; numpy has none for the others."""

_THEIR_NAMES = {ours: theirs for theirs, ours in NUMPY_NAMES.items()}


def save(params: Params, path: Path, *, metadata: Mapping[str, str]) -> None:
    """Write parameters to a file, whole or not at all.

    Args:
        params: named arrays.
        path: of the file; its folder exists. An existing file is replaced.
        metadata: what a reader should know, such as the study's digest. No time of day: equal
            parameters and metadata give equal bytes.
    """
    text = json.dumps(dict(metadata), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    arrays = {name: np.ascontiguousarray(array) for name, array in params.items()}
    content = to_bytes({n: a.reshape(params[n].shape) for n, a in arrays.items()}, {KEY: text})
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def load(path: Path, layout: Layout) -> Params:
    """Return the parameters in a file.

    Args:
        path: of a safetensors file.
        layout: what the model declares; the file must hold exactly these arrays.

    Raises:
        ModelError: there is no such file, it is not one of safetensors, or its arrays are not those
            of the layout, or not finite.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _not_safetensors(path.name, error) from error
    return from_bytes(content, layout, where=path.name)


def from_bytes(content: bytes, layout: Layout, *, where: str) -> Params:
    """Return the parameters in the bytes of a file.

    Args:
        content: of a safetensors file.
        layout: what the model declares; the file must hold exactly these arrays.
        where: the file's name, for messages.

    Raises:
        ModelError: the bytes are not those of safetensors, or the arrays are not those of the
            layout, or not finite.
    """
    try:
        arrays = dict(deserialize(content))  # type: ignore[no-untyped-call]
    except SafetensorError as error:
        raise _not_safetensors(where, error) from error
    _check_names(where, set(arrays), layout)
    buffers = {dtype: np.empty(size, dtype) for dtype, size in layout.sizes.items()}
    for name, (dtype, place, shape) in layout.slices.items():
        array = arrays.pop(name)
        _check_shape(where, name, tuple(array["shape"]), shape)
        _check_dtype(where, name, NUMPY_NAMES.get(array["dtype"], array["dtype"]), dtype)
        buffers[dtype][place] = np.frombuffer(array["data"], np.dtype(dtype).newbyteorder("<"))
    params = Params(layout, buffers)
    if not params.is_finite():
        raise _refusal(where, "", "values that are not finite", "finite parameters")
    return params


def header_of(layout: Layout) -> bytes:
    """Return the start of a safetensors file whose data are a layout's flat buffers, end to end.

    With the buffers after it, in the order of `layout.sizes`, it is a whole file: models travel so.

    >>> from cohortium.types import ArraySpec
    >>> header_of(Layout((ArraySpec("w", (2,), "float32"),)))[8:].decode().strip()
    '{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
    """
    starts, at = {}, 0
    for dtype, count in layout.sizes.items():
        starts[dtype] = at
        at += count * np.dtype(dtype).itemsize
    table = {}
    for spec in layout.specs:
        dtype, place, _ = layout.slices[spec.name]
        size = np.dtype(dtype).itemsize
        offsets = [starts[dtype] + place.start * size, starts[dtype] + place.stop * size]
        entry = {"dtype": _THEIR_NAMES[dtype], "shape": list(spec.shape), "data_offsets": offsets}
        table[spec.name] = entry
    text = json.dumps(table, separators=(",", ":"), ensure_ascii=True).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def read_metadata(path: Path) -> dict[str, str]:
    """Return the metadata that `save` wrote; empty for a file from elsewhere.

    Raises:
        ModelError: there is no such file, or it is not one of safetensors.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            metadata: dict[str, str] = json.loads((file.metadata() or {}).get(KEY, "{}"))
    except (OSError, SafetensorError) as error:
        raise _not_safetensors(path.name, error) from error
    return metadata


def _check_names(where: str, names: set[str], layout: Layout) -> None:
    missing, extra = sorted(layout.slices.keys() - names), sorted(names - layout.slices.keys())
    if missing:
        raise _refusal(where, missing[0], "no such array", f"the arrays {', '.join(layout.slices)}")
    if extra:
        raise _refusal(
            where, extra[0], "an array that the model lacks", f"{', '.join(layout.slices)}"
        )


def _check_shape(where: str, name: str, got: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if got != expected:
        raise _refusal(where, name, f"shape {got}", f"shape {expected}")


def _check_dtype(where: str, name: str, got: str, expected: str) -> None:
    if got != expected:
        raise _refusal(where, name, f"dtype {got}", f"dtype {expected}")


def _not_safetensors(where: str, error: OSError | SafetensorError) -> ModelError:
    return _refusal(where, "", f"{error}".splitlines()[0], "a safetensors file")


def _refusal(where: str, key: str, got: str, expected: str) -> ModelError:
    advice = "Start from a model that was trained with this study's task.model and features."
    return ModelError(Problem(where, key, got, expected, advice))
