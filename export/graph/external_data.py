"""An ONNX graph on disk: one file, or, past protobuf's limit, a graph and one data file beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import EncodeError
from onnx.external_data_helper import uses_external_data

from toolkit.errors import ToolkitError

MAX_PROTOBUF_BYTES = 2**31 - 1
SMALLEST_OUTSIDE = 1024
"""Bytes from which on a tensor goes to the data file; shapes and axes, which shape inference reads, are smaller."""
PAGE = 4096
"""Tensors in the data file start at its multiples, so that a reader may map them (ONNX, External Data)."""


def save_graph(model: onnx.ModelProto, path: Path, *, largest: int = MAX_PROTOBUF_BYTES) -> None:
    """Write a graph as one file, or as ``NAME.onnx`` and ``NAME.onnx.data`` if it is too large for one.

    Only initializers of the main graph go to the data file: ONNX Runtime takes no others from memory.
    ``onnx.save(save_as_external_data=True)`` would empty the caller's tensors, and append to a data
    file that is there already.

    What was written is checked by onnx before it counts as written.

    Args:
        model: with all of its data in memory; it stays as it is.
        path: the file to write; the same model gives the same bytes.
        largest: bytes of the largest single file.

    Raises:
        ToolkitError: the graph is too large even without its initializers.
    """
    if any(map(uses_external_data, model.graph.initializer)):
        raise ValueError("the model's data is not in memory")
    data_file = path.with_name(f"{path.name}.data")
    data_file.unlink(missing_ok=True)  # of a larger graph of this name
    content = _serialized(model)
    if content is None or len(content) > largest:
        content = _serialized(_outsourced(model, data_file))
    if content is None:
        what = "the graph is too large for an ONNX file even without its initializers"
        raise ToolkitError(what, where=path.name, fix="use a smaller encoder")
    path.write_bytes(content)
    onnx.checker.check_model(path)


def _outsourced(model: onnx.ModelProto, data_file: Path) -> onnx.ModelProto:
    """Write the large initializers into a file; return a copy of the model that points there."""
    shell = _without_initializers(model)
    with data_file.open("wb") as file:
        for tensor in model.graph.initializer:
            data = tensor.raw_data  # a copy each time it is asked for
            if len(data) < SMALLEST_OUTSIDE:
                shell.graph.initializer.append(tensor)
                continue
            file.write(bytes(-file.tell() % PAGE))
            outside = shell.graph.initializer.add()
            _copy_fields(tensor, outside, but={"raw_data"})
            outside.data_location = onnx.TensorProto.EXTERNAL
            entries = {"location": data_file.name, "offset": file.tell(), "length": file.write(data)}
            for key, value in entries.items():
                outside.external_data.add(key=key, value=str(value))
    return shell


def _without_initializers(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy that never holds the weights a second time."""
    shell = onnx.ModelProto()
    _copy_fields(model, shell, but={"graph"})
    _copy_fields(model.graph, shell.graph, but={"initializer"})
    return shell


def _copy_fields(message: Any, copy: Any, *, but: set[str]) -> None:
    for field, value in message.ListFields():
        if field.name in but:
            continue
        if hasattr(value, "extend"):
            getattr(copy, field.name).extend(value)
        elif hasattr(value, "CopyFrom"):
            getattr(copy, field.name).CopyFrom(value)
        else:
            setattr(copy, field.name, value)


def _serialized(message: onnx.ModelProto) -> bytes | None:
    """The file's content; None if protobuf can't hold it."""
    try:
        content: bytes = message.SerializeToString(deterministic=True)
    except EncodeError:
        return None
    return content
