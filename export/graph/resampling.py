"""Pillow's resampling of 8-bit images as ONNX nodes, to the bit.

Pillow resamples an axis at a time. Each output pixel is a sum over a window of input pixels with
weights from a filter, computed in float64, normalised and rounded to 22 binary places; the sum is
exact in integers and is rounded back to 8 bits between the axes (Pillow 13, ``src/libImaging/
Resample.c``). ONNX's ``Resize`` computes its weights in float32 and so differs by a grey level here
and there. Here the weights are computed in float64 too, for whatever size comes in, and the sums are
matmuls: the outputs of an axis are cut into blocks, and a block is a matmul of its window
with a small matrix. Matmuls are fp32, which holds integers of 24 bits: a weight goes in as two
parts of 15 and 7 bits, whose sums stay below that for windows of up to 1,023 pixels.

Where a block begins is needed on the host: a slice takes its ends there, on every provider. ONNX Runtime leaves what is
computed from sizes alone on the host as long as no constant of more than 100 elements meets it, and it forgets that a
tensor lies there when a branch of an ``If`` takes it. So the plan of an axis adds two short constants where one long
one would do, and everything whole is computed before the branches; the weights, which only matmuls take, are computed
on the device.
"""

# B images, H and W input rows and columns, K blocks, N outputs of a block, V pixels of a window

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from export.graph.builder import GraphBuilder, Scope

FILTERS = {"bicubic": 2.0, "bilinear": 1.0}
"""Filters that can be expressed, with their support in pixels."""
WEIGHT_BITS = 22
LOW_BITS = 7
"""Bits of a weight's smaller part."""
BLOCK = 8
"""Outputs of a block, about: larger ones waste matmuls, smaller ones waste calls."""
CHANNELS = 3


@dataclass(frozen=True)
class Length:
    """Pixels along an axis, as a tensor [1] of int64 and of float64."""

    integer: str
    double: str


@dataclass(frozen=True)
class Axis:
    """What resampling along an axis needs: tensors by name, and static counts."""

    starts: str
    """First pixel of each block's window: int64 [K]."""
    window: str
    """Name of the tensor with the window V: int64 [1]."""
    steps: str
    """0, 1, … of a window: int64 [V]."""
    weights: str
    """Whole numbers of 22 binary places: float64 [K, N, V]."""
    blocks: int
    outputs: int
    size: int
    """Outputs that are wanted; the last block may hold more."""


def length(add: Scope, integer: str) -> Length:
    """A length from its int64 tensor [1]."""
    return Length(integer, add("Cast", integer, to=TensorProto.DOUBLE))


def plan_axis(add: Scope, source: Length, target: Length, size: int, resample: str) -> Axis:
    """Windows and weights of an axis that is resampled and then cut to its middle.

    Args:
        add: where to.
        source: pixels that there are.
        target: pixels to resample to.
        size: pixels of the middle to keep; where it is more than ``target``, zeros are added on both sides.
        resample: a key of ``FILTERS``.
    """
    outputs = min(range(max(1, BLOCK // 2), 2 * BLOCK + 1), key=lambda count: (-size % count, abs(count - BLOCK)))
    blocks = -(-size // outputs)
    one, half = add.double([1.0]), add.double([0.5])
    offset = add("Floor", add("Mul", add("Sub", target.double, add.double([float(size)])), half))
    block_starts = add("Add", add.double(outputs * np.arange(blocks, dtype=np.float64).reshape(blocks, 1, 1)), offset)
    wanted = add("Add", add.double(np.arange(outputs, dtype=np.float64).reshape(outputs, 1)), block_starts)  # [K, N, 1]
    if blocks * outputs > size:
        wanted = add("Min", wanted, add("Add", offset, add.double([size - 1.0])))
    index = add("Max", add("Min", wanted, add("Sub", target.double, one)), add.double([0.0]))
    inside = add("Equal", wanted, index)

    scale = add("Div", source.double, target.double)
    filter_scale = add("Max", scale, one)
    support = add("Mul", add.double([FILTERS[resample]]), filter_scale)
    center = add("Mul", add("Add", index, half), scale)  # [K, N, 1]
    first = add("Max", add("Floor", add("Add", add("Sub", center, support), half)), add.double([0.0]))
    end = add("Min", add("Floor", add("Add", add("Add", center, support), half)), source.double)

    block_first = add("ReduceMin", first, add.integers(1), keepdims=1)  # [K, 1, 1]
    block_end = add("ReduceMax", end, add.integers(1), keepdims=1)
    window = add("Reshape", add("ReduceMax", add("Sub", block_end, block_first), keepdims=0), add.integers(1))
    start = add("Min", block_first, add("Sub", source.double, window))
    count = add("Cast", window, to=TensorProto.INT64)
    steps = add("Range", add.integer(0), add("Squeeze", count), add.integer(1))
    pixel = add("Add", start, add("Cast", steps, to=TensorProto.DOUBLE))  # [K, 1, V]

    covered = add("And", add("And", add("GreaterOrEqual", pixel, first), add("Less", pixel, end)), inside)
    distance = add("Mul", add("Add", add("Sub", pixel, center), half), add("Div", one, filter_scale))
    raw = add("Where", covered, _filter(add, add("Abs", distance), resample), add.double([0.0]))  # [K, N, V]
    total = add("ReduceSum", raw, add.integers(2), keepdims=1)
    total = add("Where", add("Equal", total, add.double([0.0])), one, total)
    share = add("Mul", add("Div", raw, total), add.double([2.0**WEIGHT_BITS]))
    weights = add("Mul", add("Floor", add("Add", add("Abs", share), half)), add("Sign", share))
    starts = add("Cast", add("Reshape", start, add.integers(blocks)), to=TensorProto.INT64)
    return Axis(starts, count, steps, weights, blocks, outputs, size)


def _filter(add: Scope, distance: str, resample: str) -> str:
    """The filter at non-negative distances, in Pillow's order of operations."""
    zero, one = add.double([0.0]), add.double([1.0])
    if resample == "bilinear":
        return str(add("Max", add("Sub", one, distance), zero))
    a = -0.5
    near = add("Sub", add("Mul", add.double([a + 2]), distance), add.double([a + 3]))
    near = add("Add", add("Mul", add("Mul", near, distance), distance), one)
    far = add("Add", add("Mul", add("Sub", distance, add.double([5.0])), distance), add.double([8.0]))
    far = add("Mul", add("Sub", add("Mul", far, distance), add.double([4.0])), add.double([a]))
    beyond = add("Where", add("Less", distance, add.double([2.0])), far, zero)
    return str(add("Where", add("Less", distance, one), near, beyond))


def resample(builder: GraphBuilder, image: str, columns: Axis, rows: Axis, vertical_first: str, name: str) -> str:
    """Resample an image along both axes.

    Args:
        builder: where to.
        image: uint8 [B, H, W, 3].
        columns: the plan of the horizontal axis.
        rows: the plan of the vertical axis.
        vertical_first: bool [1], whether Pillow would begin with the rows, which it does for tall images.
        name: of the node and of the result.

    Returns:
        Whole numbers from 0 to 255 in float32 [B, rows.size, columns.size, 3].
    """
    flat = Scope(builder, name)("Reshape", image, builder.constant([0, 0, -1], np.int64))  # [B, H, W*3]
    windows = _windows(Scope(builder, f"{name}/columns"), columns)
    places = _places(Scope(builder, f"{name}/rows"), rows)

    def wide(branch: GraphBuilder, pixels: str) -> str:
        return _columns(Scope(branch, f"{name}/columns"), pixels, columns, windows)

    def high(branch: GraphBuilder, pixels: str) -> str:
        return _rows(Scope(branch, f"{name}/rows"), pixels, rows, places)

    def horizontal_then_vertical(branch: GraphBuilder) -> str:
        return high(branch, wide(branch, flat))

    def vertical_then_horizontal(branch: GraphBuilder) -> str:
        return wide(branch, high(branch, flat))

    both = builder.choose(
        vertical_first, vertical_then_horizontal, horizontal_then_vertical, name=f"{name}/vertical_first"
    )
    add = Scope(builder, name)
    shape = add.integers(-1, rows.blocks * rows.outputs, columns.blocks * columns.outputs, CHANNELS)
    result = add("Reshape", both, shape)
    # the last blocks may hold more than is wanted
    return str(
        add("Slice", result, add.integers(0, 0), add.integers(rows.size, columns.size), add.integers(1, 2), name=name)
    )


@dataclass(frozen=True)
class Windows:
    """The windows of columns in rows of interleaved channels: int64 tensors that lie on the host."""

    starts: list[str]
    """Of each block [1]."""
    ends: list[str]
    shape: str
    """Of the blocks' windows one below the other: K, all rows, V*3."""


def _windows(add: Scope, axis: Axis) -> Windows:
    first = add("Mul", axis.starts, add.integers(CHANNELS))
    count = add("Mul", axis.window, add.integers(CHANNELS))
    end = add("Add", first, count)
    starts, ends = [first], [end]
    if axis.blocks > 1:
        starts, ends = (
            add("Split", each, outputs=axis.blocks, axis=0, num_outputs=axis.blocks) for each in (first, end)
        )
    return Windows(starts, ends, add("Concat", add.integers(axis.blocks, -1), count, axis=0))


def _places(add: Scope, axis: Axis) -> str:
    """The pixels of each block's window: int64 [K, V]."""
    return str(add("Add", add("Reshape", axis.starts, add.integers(axis.blocks, 1)), axis.steps))


def _columns(add: Scope, pixels: str, axis: Axis, windows: Windows) -> str:
    """Resample [B, H, W*3] along its columns to float32 [B, H, K*N*3]."""
    blocks, width = axis.blocks, axis.outputs * CHANNELS
    bounds = zip(windows.starts, windows.ends, strict=True)
    stacked = add("Concat", *(add("Slice", pixels, *each, add.integers(2)) for each in bounds), axis=0)  # [K*B, H, V*3]
    stacked = add("Reshape", stacked, windows.shape)  # [K, B*H, V*3]

    # a pixel's three channels lie side by side: a weight becomes a diagonal of three
    matrix = add("Transpose", axis.weights, perm=[0, 2, 1])  # [K, V, N]
    matrix = add("Reshape", matrix, add.integers(blocks, -1, 1, axis.outputs, 1))
    matrix = add("Mul", matrix, add.double(np.eye(CHANNELS).reshape(1, 1, CHANNELS, 1, CHANNELS)))
    matrix = add("Reshape", matrix, add.integers(blocks, -1, width))  # [K, V*3, N*3]
    matmuls = add("MatMul", add("Cast", stacked, to=TensorProto.FLOAT), _two_parts(add, matrix, axis=2))
    values = _rounded(add, matmuls, axis=2)  # [K, B*H, N*3]

    shape = add("Shape", pixels, start=0, end=2)  # [B, H]
    values = add("Reshape", values, add("Concat", add.integers(blocks), shape, add.integers(width), axis=0))
    values = add("Transpose", values, perm=[1, 2, 0, 3])
    return str(add("Reshape", values, add.integers(0, 0, blocks * width)))


def _rows(add: Scope, pixels: str, axis: Axis, places: str) -> str:
    """Resample [B, H, M] along its rows to float32 [B, K*N, M]."""
    windows = add("Cast", add("Gather", pixels, places, axis=1), to=TensorProto.FLOAT)  # [B, K, V, M]
    matmuls = add("MatMul", _two_parts(add, axis.weights, axis=1), windows)
    values = _rounded(add, matmuls, axis=2)  # [B, K, N, M]
    width = add("Shape", pixels, start=2, end=3)
    return str(add("Reshape", values, add("Concat", add.integers(0, axis.blocks * axis.outputs), width, axis=0)))


def _two_parts(add: Scope, weights: str, axis: int) -> str:
    """Whole weights as two float32 parts side by side, scaled so that the sum of the first is in grey levels."""
    high = add("Floor", add("Add", add("Mul", weights, add.double([2.0**-LOW_BITS])), add.double([0.5])))
    low = add("Sub", weights, add("Mul", high, add.double([2.0**LOW_BITS])))
    high = add("Mul", high, add.double([2.0 ** (LOW_BITS - WEIGHT_BITS)]))
    low = add("Mul", low, add.double([2.0**-LOW_BITS]))
    return str(add("Cast", add("Concat", high, low, axis=axis), to=TensorProto.FLOAT))


def _rounded(add: Scope, matmuls: str, axis: int) -> str:
    """The two parts' sums together, rounded half up to whole numbers from 0 to 255; each step is exact in float32."""
    high, low = add("Split", matmuls, outputs=2, axis=axis, num_outputs=2)
    low = add("Mul", add("Floor", low), add.single(2.0 ** (LOW_BITS - WEIGHT_BITS)))
    total = add("Add", add("Add", high, low), add.single(0.5))
    return str(add("Clip", add("Floor", total), add.single(0.0), add.single(255.0)))
