"""Rounding: what it does to numbers, and that the ranges it uses are the good ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from export.graph.builder import IR_VERSION, MICROSOFT, OPSET, GraphBuilder
from export.graph.matmul import integer_matmul
from export.graph.quantization import LARGEST_WEIGHT, Quantization, affine
from export.precision.activation_ranges import Observed
from toolkit.runtime.session import Session


def weights(inputs: int = 41) -> np.ndarray[Any, np.dtype[np.float32]]:
    spread = np.array([1, 10, 0.1, 0, 3], np.float32)
    return np.random.default_rng(0).normal(size=(inputs, 5)).astype(np.float32) * spread


@pytest.mark.parametrize("pairs_fit", [True, False])
@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("bits", [8, 4])
def test_a_weight_is_off_by_half_a_step_or_by_one_where_its_neighbour_needs_room(
    bits: Any, per_channel: bool, pairs_fit: bool
) -> None:
    matrix = weights()
    rounded, scale = Quantization(weight_bits=bits, per_channel=per_channel, pairs_fit=pairs_fit).weight(matrix)
    assert (rounded.dtype, rounded.shape) == (np.int8, matrix.shape)
    assert np.abs(rounded).max() <= LARGEST_WEIGHT[bits]
    assert scale.shape == ((5,) if per_channel else ())
    off = np.abs(rounded * scale - matrix) / scale
    assert (off <= 1.5001).all()
    assert (off > 0.5001).sum() <= (5 if pairs_fit else 0)


@pytest.mark.parametrize("inputs", [40, 41])
def test_neighbours_fit_in_sixteen_bits_together(inputs: int) -> None:
    rounded, _ = Quantization().weight(weights(inputs))
    even, odd = rounded[: inputs // 2 * 2 : 2].astype(int), rounded[1::2].astype(int)
    largest = np.maximum(np.maximum(even, 0) + np.maximum(odd, 0), np.maximum(-even, 0) + np.maximum(-odd, 0))
    assert largest.max() <= 128
    assert np.iinfo(np.int16).max >= 255 * 128
    assert np.abs(rounded).max() > 64  # finer than with weights of 7 bits


@pytest.mark.parametrize("batch", [1, 50])
def test_the_runtime_multiplies_such_weights_exactly(batch: int) -> None:
    """The largest activations against random weights and pairs at the limit: float64 says what is right."""
    matrix = weights(64)
    matrix[:2], matrix[2:4] = np.array([[2.0], [1.9]]), np.array([[-2.0], [-1.9]])
    rounded, scale = Quantization().weight(matrix)
    builder = GraphBuilder()
    names = [builder.constant(value, name=name) for name, value in (("matrix", rounded), ("scale", scale))]
    affine = builder.constant(np.float32(1), name="step"), builder.constant(np.uint8(0), name="zero")
    integer_matmul(builder, "levels", affine, names, "", "product")
    entry = helper.make_tensor_value_info("levels", TensorProto.UINT8, ["batch", 64])
    result = helper.make_tensor_value_info("product", TensorProto.FLOAT, ["batch", 5])
    graph = helper.make_graph(builder.nodes, "product", [entry], [result], list(builder.initializers.values()))
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
    levels = np.random.default_rng(1).integers(200, 256, (batch, 64), dtype=np.uint8)
    levels[:, :2] = 255
    levels[0] = 255
    (given,) = Session(model.SerializeToString(), threads=1).compute(["product"], {"levels": levels})
    exact = (levels.astype(np.float64) @ rounded) * scale
    np.testing.assert_allclose(given, exact, rtol=1e-6, atol=1e-4 * float(scale.max()))


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
