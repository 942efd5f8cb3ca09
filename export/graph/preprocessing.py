"""Resize, crop, rescale and normalise as ONNX nodes: uint8 images in, ``pixel_values`` out, to the bit."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from export.graph.builder import GraphBuilder, Scope
from export.graph.resampling import FILTERS, Length, length, plan_axis, resample
from toolkit.errors import ToolkitError
from toolkit.runtime.preprocess import Preprocess

IMAGE, PIXEL_VALUES = "image", "pixel_values"
RESIZED, RESCALED = "preprocess.resized", "preprocess.rescaled"
"""Tensors between the stages: [batch, height, width, 3] in grey levels, [batch, 3, height, width] rescaled."""


def check_expressible(preprocess: Preprocess) -> None:
    """Raise unless the preprocessing can stand in a graph.

    Raises:
        ToolkitError: a filter that has no exact form here, named.
    """
    if preprocess.resize is not None and preprocess.resample not in FILTERS:
        raise ToolkitError(
            f"the image processor resizes with the filter {preprocess.resample}, which the graph can't express",
            where="preprocessor_config.json: resample",
            fix=f"export with --input pixel_values, or train with {' or '.join(FILTERS)}",
        )


def add_preprocessing(builder: GraphBuilder, preprocess: Preprocess) -> str:
    """Add everything between ``image`` uint8 [batch, height, width, 3] and ``pixel_values``.

    The result equals :class:`toolkit.runtime.preprocess.Preprocess`, and with it transformers'
    Pillow processors, in every bit.

    Raises:
        ToolkitError: see :func:`check_expressible`.
    """
    check_expressible(preprocess)
    assert preprocess.output_size is not None  # checked when it was built
    add = Scope(builder, "preprocess")
    height, width = (length(add, add("Shape", IMAGE, start=axis, end=axis + 1)) for axis in (1, 2))
    new_height, new_width = _resized(add, preprocess, height, width)
    filter_name = preprocess.resample if preprocess.resize is not None else "bilinear"  # same size: any filter is exact
    rows = plan_axis(Scope(builder, "preprocess/row_plan"), height, new_height, preprocess.output_size[0], filter_name)
    columns = plan_axis(
        Scope(builder, "preprocess/column_plan"), width, new_width, preprocess.output_size[1], filter_name
    )
    less_rows = add("Sub", height.integer, new_height.integer)
    less_columns = add("Sub", width.integer, new_width.integer)
    tall = add("Greater", less_rows, add("Max", add.integers(0), add("Mul", less_columns, add.integers(2))))
    pixels = resample(builder, IMAGE, columns, rows, tall, RESIZED)
    values = _rescaled(add, add("Transpose", pixels, perm=[0, 3, 1, 2]), preprocess.rescale_factor)
    if preprocess.mean is None or preprocess.std is None:
        return str(add("Identity", values, name=PIXEL_VALUES))
    mean, std = (add.single(np.reshape(value, (3, 1, 1))) for value in (preprocess.mean, preprocess.std))
    return str(add("Div", add("Sub", values, mean), std, name=PIXEL_VALUES))


def _resized(add: Scope, preprocess: Preprocess, height: Length, width: Length) -> tuple[Length, Length]:
    """Height and width after the resize alone."""
    if preprocess.resize is None:
        return height, width
    if preprocess.resize == "squash":
        new_height, new_width = (length(add, add.integers(side)) for side in preprocess.size)
        return new_height, new_width
    shorter, side = add("Min", height.integer, width.integer), add.integers(preprocess.size[0])
    new_height, new_width = (
        length(add, add("Div", add("Mul", side, axis.integer), shorter)) for axis in (height, width)
    )
    return new_height, new_width


def _rescaled(add: Scope, values: str, factor: float | None) -> str:
    """Multiply by the factor as numpy does it: in float64, rounded to float32 once."""
    levels: npt.NDArray[np.float64] = np.arange(256.0)
    if factor is None:
        return str(add("Identity", values, name=RESCALED))
    expected = (levels * factor).astype(np.float32)
    single = levels.astype(np.float32)
    if np.array_equal(single / np.float32(1 / factor), expected):  # such as 1/255
        return str(add("Div", values, add.single(1 / factor), name=RESCALED))
    if np.array_equal(single * np.float32(factor), expected):
        return str(add("Mul", values, add.single(factor), name=RESCALED))
    exact = add("Mul", add("Cast", values, to=TensorProto.DOUBLE), add.double(factor))
    return str(add("Cast", exact, to=TensorProto.FLOAT, name=RESCALED))
