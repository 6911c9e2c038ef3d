"""Values that return to their dtype: rounded, saturated, never of another dtype."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cohortium.aggregation.precision import check_dtypes, restore
from cohortium.errors import RefusedError
from cohortium.types import ArraySpec, Layout

INTEGERS = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]


@given(st.sampled_from(INTEGERS), st.floats(-1e30, 1e30))
def test_integers_are_the_nearest_that_the_dtype_holds(dtype: str, value: float) -> None:
    limits = np.iinfo(dtype)
    restored = restore(np.array([value]), dtype)
    nearest = min(max(round(value), int(limits.min)), int(limits.max))
    assert restored.dtype == np.dtype(dtype)
    assert abs(int(restored[0]) - nearest) <= (2047 if abs(nearest) > 2**53 else 0)


def test_floats_are_cast() -> None:
    assert restore(np.array([1 / 3]), "float32").tolist() == [float(np.float32(1 / 3))]


@pytest.mark.parametrize("dtype", ["float16", "complex64", "str"])
def test_other_dtypes_are_refused(dtype: str) -> None:
    layout = Layout((ArraySpec("ok", (2,), "int8"), ArraySpec("bad", (2,), dtype)))
    with pytest.raises(RefusedError, match=f"'bad' is {dtype}; .* Convert it"):
        check_dtypes(layout)
