"""An ONNX graph on disk: one file, or, past protobuf's limit, a graph and one data file beside it.

Weights go from memory to disk and back one tensor at a time: a whole graph in one buffer, or read by
onnx, would be there two or three times.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import EncodeError
from onnx.external_data_helper import uses_external_data

from toolkit.errors import ToolkitError
from toolkit.runtime.onnx_file import BYTES, VARINT, entries

MAX_PROTOBUF_BYTES = 2**31 - 1
SMALLEST_OUTSIDE = 1024
"""Bytes from which on a tensor goes to the data file; shapes and axes, which shape inference reads, are smaller."""
PAGE = 4096
"""Tensors in the data file start at its multiples, so that a reader may map them (ONNX, External Data)."""
GRAPH, INITIALIZER, RAW_DATA = 7, 5, 9
"""Fields of a model, a graph and a tensor (onnx.proto)."""


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
    try:
        size, chunks = _serialized(model)
        if size > largest:
            size, chunks = _serialized(_outsourced(model, data_file))
    except EncodeError:
        size = MAX_PROTOBUF_BYTES + 1
    if size > MAX_PROTOBUF_BYTES:
        what = "the graph is too large for an ONNX file even without its initializers"
        raise ToolkitError(what, where=path.name, fix="use a smaller encoder")
    with path.open("wb") as file:
        file.writelines(chunks)
    _check(path)


def read_shell(path: Path) -> onnx.ModelProto:
    """A graph on disk without the values of its large tensors, each of which names its place on disk instead.

    Args:
        path: what :func:`save_graph` wrote; what is inside of this very file is named as if in a data file.

    Raises:
        ValueError: the bytes are no ONNX file, or a damaged one.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return _shell_of(memoryview(content), path.name)


def _shell_of(content: memoryview, location: str) -> onnx.ModelProto:
    start = _address(content)

    def shell(number: int, field: memoryview | int) -> bytes:
        if number != INITIALIZER or isinstance(field, int):
            return encoded(number, field)
        kept, raw = bytearray(), None
        for inner, value in entries(field):
            if inner == RAW_DATA and isinstance(value, memoryview) and len(value) >= SMALLEST_OUTSIDE:
                raw = value
            else:
                kept += encoded(inner, value)
        if raw is None:
            return encoded(number, field)
        tensor = onnx.TensorProto.FromString(bytes(kept))
        _point_outside(tensor, location, _address(raw) - start, len(raw))
        return encoded(number, tensor.SerializeToString())

    written = bytearray()
    for number, field in entries(content):
        if number == GRAPH and isinstance(field, memoryview):
            written += encoded(number, b"".join(shell(*each) for each in entries(field)))
        else:
            written += encoded(number, field)
    model: onnx.ModelProto = onnx.ModelProto.FromString(bytes(written))
    return model


def _check(path: Path) -> None:
    """Have onnx check a file, without the values that it would read into memory twice."""
    checked = path.with_name(f"{path.name}.shell")
    try:
        checked.write_bytes(read_shell(path).SerializeToString())
        onnx.checker.check_model(checked)
    finally:
        checked.unlink(missing_ok=True)


def _serialized(model: onnx.ModelProto) -> tuple[int, Iterator[bytes]]:
    """Length and pieces of what ``SerializeToString(deterministic=True)`` gives.

    Raises:
        EncodeError: protobuf can't hold what is left without the initializers.
    """
    first, last = _part(model, lambda number: number < GRAPH), _part(model, lambda number: number > GRAPH)
    before = _part(model.graph, lambda number: number < INITIALIZER)
    behind = _part(model.graph, lambda number: number > INITIALIZER)
    heads = [_head(INITIALIZER, tensor.ByteSize()) for tensor in model.graph.initializer]
    weights = sum(tensor.ByteSize() for tensor in model.graph.initializer) + sum(map(len, heads))
    opening = first + _head(GRAPH, len(before) + weights + len(behind)) + before

    def chunks() -> Iterator[bytes]:
        yield opening
        for head, tensor in zip(heads, model.graph.initializer, strict=True):
            yield head
            yield tensor.SerializeToString(deterministic=True)
        yield behind + last

    return len(opening) + weights + len(behind) + len(last), chunks()


def _outsourced(model: onnx.ModelProto, data_file: Path) -> onnx.ModelProto:
    """Write the large initializers into a file; return a copy of the model that points there."""
    shell = onnx.ModelProto()
    _copy_fields(model, shell, lambda number: number != GRAPH)
    _copy_fields(model.graph, shell.graph, lambda number: number != INITIALIZER)
    with data_file.open("wb") as file:
        for tensor in model.graph.initializer:
            data = tensor.raw_data  # a copy each time it is asked for
            if len(data) < SMALLEST_OUTSIDE:
                shell.graph.initializer.append(tensor)
                continue
            file.write(bytes(-file.tell() % PAGE))
            outside = shell.graph.initializer.add()
            _copy_fields(tensor, outside, lambda number: number != RAW_DATA)
            _point_outside(outside, data_file.name, file.tell(), file.write(data))
    return shell


def _point_outside(tensor: onnx.TensorProto, location: str, offset: int, length: int) -> None:
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": offset, "length": length}.items():
        tensor.external_data.add(key=key, value=str(value))


def _part(message: Any, wanted: Callable[[int], bool]) -> bytes:
    """The bytes of some fields of a message."""
    part = type(message)()
    _copy_fields(message, part, wanted)
    content: bytes = part.SerializeToString(deterministic=True)
    return content


def _copy_fields(message: Any, copy: Any, wanted: Callable[[int], bool]) -> None:
    for field, value in message.ListFields():
        if not wanted(field.number):
            continue
        if hasattr(value, "extend"):
            getattr(copy, field.name).extend(value)
        elif hasattr(value, "CopyFrom"):
            getattr(copy, field.name).CopyFrom(value)
        else:
            setattr(copy, field.name, value)


def encoded(number: int, value: bytes | bytearray | memoryview | int) -> bytes:
    """A field in protobuf's wire format (protobuf.dev, Encoding)."""
    if isinstance(value, int):
        return _varint(number << 3 | VARINT) + _varint(value)
    return _head(number, len(value)) + bytes(value)


def _head(number: int, length: int) -> bytes:
    """What stands before the content of a field of some bytes."""
    return _varint(number << 3 | BYTES) + _varint(length)


def _varint(value: int) -> bytes:
    written = bytearray()
    while value > 0x7F:
        written.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*written, value])


def _address(view: memoryview) -> int:
    address: int = np.frombuffer(view, np.uint8).__array_interface__["data"][0]
    return address
