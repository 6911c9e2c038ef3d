"""Models on disk: safetensors files, the same bytes for the same parameters.

The metadata is one entry, `cohortium`, of canonical JSON: the format keeps no order among entries.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_bytes

from cohortium.errors import ModelError, Problem
from cohortium.types import Array, Layout, Params

KEY = "cohortium"


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
    buffers = {dtype: np.empty(size, dtype) for dtype, size in layout.sizes.items()}
    try:
        with safe_open(path, framework="numpy") as file:
            _check_names(path, set(file.keys()), layout)
            for name, (dtype, where, shape) in layout.slices.items():
                _check_shape(path, name, tuple(file.get_slice(name).get_shape()), shape)
                array = file.get_tensor(name)
                _check_dtype(path, name, array, dtype)
                buffers[dtype][where] = array.reshape(-1)
    except (OSError, SafetensorError) as error:
        raise _refusal(path, "", f"{error}".splitlines()[0], "a safetensors file") from error
    params = Params(layout, buffers)
    if not params.is_finite():
        raise _refusal(path, "", "values that are not finite", "finite parameters")
    return params


def read_metadata(path: Path) -> dict[str, str]:
    """Return the metadata that `save` wrote; empty for a file from elsewhere.

    Raises:
        ModelError: there is no such file, or it is not one of safetensors.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            metadata: dict[str, str] = json.loads((file.metadata() or {}).get(KEY, "{}"))
    except (OSError, SafetensorError) as error:
        raise _refusal(path, "", f"{error}".splitlines()[0], "a safetensors file") from error
    return metadata


def _check_names(path: Path, names: set[str], layout: Layout) -> None:
    missing, extra = sorted(layout.slices.keys() - names), sorted(names - layout.slices.keys())
    if missing:
        raise _refusal(path, missing[0], "no such array", f"the arrays {', '.join(layout.slices)}")
    if extra:
        raise _refusal(
            path, extra[0], "an array that the model lacks", f"{', '.join(layout.slices)}"
        )


def _check_shape(path: Path, name: str, got: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if got != expected:
        raise _refusal(path, name, f"shape {got}", f"shape {expected}")


def _check_dtype(path: Path, name: str, array: Array, expected: str) -> None:
    if array.dtype.name != expected:
        raise _refusal(path, name, f"dtype {array.dtype.name}", f"dtype {expected}")


def _refusal(path: Path, key: str, got: str, expected: str) -> ModelError:
    advice = "Start from a model that was trained with this study's task.model and features."
    return ModelError(Problem(path.name, key, got, expected, advice))
