"""Which dtypes are aggregated, and how a value computed in float64 returns to its own dtype."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cohortium.errors import RefusedError
from cohortium.types import Array, Layout


def check_dtypes(layout: Layout) -> None:
    """Refuse a model whose arrays cannot be averaged without losing them.

    Raises:
        RefusedError: an array is neither float32, float64, integer nor bool.
    """
    for spec in layout.specs:
        if spec.dtype not in ("float32", "float64") and np.dtype(spec.dtype).kind not in "iub":
            raise RefusedError(
                f"array {spec.name!r} is {spec.dtype}; aggregated are float32, float64, integers "
                "and bool. Convert it in the model before training"
            )


def is_float(dtype: str) -> bool:
    """Tell whether a buffer of this dtype is averaged in its own precision.

    >>> is_float("float32"), is_float("int64")
    (True, False)
    """
    return np.dtype(dtype).kind == "f"


def restore(values: Array, dtype: str) -> NDArray[Any]:
    """Return values computed in float64 as `dtype`.

    Integers are rounded to the nearest (half to even) and saturate at the dtype's limits; a bool is
    true where the value exceeds one half: the majority.

    Args:
        values: any shape, float64.
        dtype: numpy name of the dtype to return.

    >>> restore(np.array([1.4, 1.6, 300.0]), "uint8")
    array([  1,   2, 255], dtype=uint8)
    >>> restore(np.array([0.4, 0.6]), "bool")
    array([False,  True])
    """
    target = np.dtype(dtype)
    if target.kind not in "iu":
        return (np.rint(values) if target.kind == "b" else values).astype(target)
    limits = np.iinfo(target)
    top = float(limits.max)
    if int(top) > limits.max:  # 2**63 is a float64, 2**63 - 1 is not
        top = float(np.nextafter(top, 0.0))
    return np.clip(np.rint(values), float(limits.min), top).astype(target)
