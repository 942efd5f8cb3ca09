"""Rounding: what it does to numbers, and that the ranges it uses are the good ones."""

from __future__ import annotations

import numpy as np
import pytest

from export.activation_ranges import Observed
from export.quantization import LARGEST_WEIGHT, Quantization, affine


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("bits", [8, 7, 4])
def test_a_weight_is_off_by_half_a_step_at_most(bits: int, per_channel: bool) -> None:
    matrix = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32) * np.array([1, 10, 0.1, 0, 3], np.float32)
    rounded, scale = Quantization(weight_bits=bits, per_channel=per_channel).weight(matrix)  # type: ignore[arg-type]
    assert rounded.dtype == np.int8
    assert np.abs(rounded).max() == LARGEST_WEIGHT[bits]
    assert scale.shape == ((5,) if per_channel else ())
    assert (np.abs(rounded * scale - matrix) <= scale * 0.5001).all()


def test_two_products_with_weights_of_seven_bits_fit_in_sixteen() -> None:
    """Processors without VNNI add two products of unsigned activations in 16 bits."""
    assert 2 * 255 * LARGEST_WEIGHT[7] <= np.iinfo(np.int16).max < 2 * 255 * LARGEST_WEIGHT[8]


@pytest.mark.parametrize(("low", "high"), [(-1.0, 3.0), (0.0, 5.0), (-2.0, -1.0), (0.5, 0.75), (0.0, 0.0)])
def test_zero_is_exact_and_the_ends_are_near(low: float, high: float) -> None:
    scale, zero = affine(low, high)
    assert 0 <= zero <= 255
    ends = (np.array([0, 255]) - int(zero)) * scale
    assert ends[0] <= min(low, 0) + scale
    assert ends[1] >= max(high, 0) - scale


def test_a_symmetric_range_has_its_zero_at_zero() -> None:
    scale, zero = affine(-1.0, 3.0, symmetric=True)
    assert (zero.dtype, int(zero)) == (np.int8, 0)
    assert 127 * scale == pytest.approx(3.0)


def test_long_tails_are_cut_where_that_makes_the_error_smaller() -> None:
    values = np.random.default_rng(0).laplace(size=100_000).astype(np.float32)
    observed = Observed()
    observed.add(values, np.arange(len(values)))
    low, high = observed.range()
    assert observed.low < low < 0 < high < observed.high

    def error(low: float, high: float) -> float:
        scale, zero = affine(low, high)
        rounded = (np.clip(np.rint(values / scale) + int(zero), 0, 255) - int(zero)) * scale
        return float(np.square(rounded - values).mean())

    assert error(low, high) < 0.9 * error(observed.low, observed.high)


def test_values_without_outliers_keep_nearly_their_range() -> None:
    observed = Observed()
    values = np.linspace(-1, 2, 1000, dtype=np.float32)
    observed.add(values, np.arange(1000))
    low, high = observed.range()
    assert -1 <= low < -0.95
    assert 1.95 < high <= 2
