"""Scales: those of the protocol, equal to a plain transcription."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cohortium.data.normalization import Normalization
from cohortium.data.schema import Feature
from cohortium.records import Part

INPUTS = arrays(
    np.float32,
    st.tuples(st.integers(2, 30), st.integers(1, 5)),
    elements=st.floats(-1e6, 1e6, width=32),
)


def part(x: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> Part:
    return Part(x, np.zeros(len(x), np.float32))


@given(INPUTS)
def test_mean_and_sample_sd_as_the_protocol_writes_them(
    x: np.ndarray[tuple[int, ...], np.dtype[np.float32]],
) -> None:
    wide = x.astype(np.float64)
    sd = np.sqrt(((wide - wide.mean(axis=0)) ** 2).sum(axis=0) / (len(x) - 1))
    expected = (wide - wide.mean(axis=0)) / (sd + 1e-9)
    scaled = Normalization.fit(part(x)).apply(part(x)).x
    assert scaled.dtype == np.float32
    got = scaled.astype(np.float64)
    varies = np.ptp(x, axis=0) > 0
    np.testing.assert_allclose(got[:, varies], expected[:, varies], rtol=1e-5, atol=1e-5)


@given(st.floats(-(2.0**90), 2.0**90, width=32), st.integers(2, 1000))
def test_an_input_that_never_varies_becomes_zero(value: float, n: int) -> None:
    constant = part(np.full((n, 1), value, np.float32))
    assert not Normalization.fit(constant).apply(constant).x.any()


def test_the_scale_of_one_part_is_applied_to_another() -> None:
    train, test = part(np.array([[0], [2]], np.float32)), part(np.array([[3]], np.float32))
    assert np.isclose(Normalization.fit(train).apply(test).x, 2 / np.sqrt(2))


def test_ranges_become_zero_to_one_and_categories_stay() -> None:
    features = [
        Feature(name="age", range=(20, 120)),
        Feature(name="cp", type="category", categories=(1, 2, 3)),
    ]
    x = np.array([[20, 0, 1], [70, 1, 0], [120, 0, 0]], np.float32)
    scaled = Normalization.of_ranges(features).apply(part(x)).x
    assert scaled.tolist() == [[0, 0, 1], [0.5, 1, 0], [1, 0, 0]]
