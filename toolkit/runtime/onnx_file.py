"""What an ONNX file says of its inputs and its data, read from its bytes: the onnx package is no part of the runtime.

The file is walked in protobuf's wire format (protobuf.dev, Encoding) along the fields of onnx.proto that
lead to tensors. Whatever else it holds is stepped over, so that a graph of any size takes milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterator

MESSAGES: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "subgraph", 2: "subgraph"},
    "graph": {1: "node", 5: "initializer", 15: "sparse"},
    "subgraph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "subgraph", 10: "tensor", 11: "subgraph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "initializer": {13: "entry of an initializer"},
    "tensor": {13: "entry"},
}
"""Fields of each message that lead to a tensor's ``external_data``, and the message that each holds.

``graph`` is the main one, and ``initializer`` one of its own; all other tensors are ``tensor``.
"""
KEY, VALUE = 1, 2
VARINT, FIXED_64, BYTES, FIXED_32 = 0, 1, 2, 5
LARGEST_FIELD = 2**29 - 1


def external_files(graph: bytes) -> set[str]:
    """Locations of all data that a graph keeps outside of its file, as the file has them.

    Raises:
        ValueError: the bytes are no ONNX file, or a damaged one.
    """
    return {location for location, _ in _locations(graph)}


def files_of_inner_tensors(graph: bytes) -> set[str]:
    """The locations that something else than an initializer of the main graph names.

    Raises:
        ValueError: the bytes are no ONNX file, or a damaged one.
    """
    return {location for location, entry in _locations(graph) if entry != "entry of an initializer"}


def versions(graph: bytes) -> tuple[int, dict[str, int]]:
    """The version of the format (IR) and of each operator set by domain; that of the standard ones is empty.

    Raises:
        ValueError: the bytes are no ONNX file, or a damaged one.
    """
    model = memoryview(graph)
    opsets = {}
    for opset in _inside(model, (8,)):  # opset_import
        domain = next((bytes(content).decode() for number, content in _fields(opset) if number == 1), "")
        opsets[domain] = next((version for number, version in _numbers(opset) if number == 2), 0)
    return next((version for number, version in _numbers(model) if number == 1), 0), opsets


def input_shapes(graph: bytes) -> dict[str, list[int | None]]:
    """The sides of each input of the main graph, None for one of any length.

    Raises:
        ValueError: the bytes are no ONNX file, or a damaged one.
    """
    return _shapes(graph, 11)


def output_shapes(graph: bytes) -> dict[str, list[int | None]]:
    """The sides of each output of the main graph, None for one of any length.

    Raises:
        ValueError: the bytes are no ONNX file, or a damaged one.
    """
    return _shapes(graph, 12)


def inputs(graph: bytes) -> dict[str, tuple[int, tuple[int | str | None, ...]]]:
    """Element type and shape of each input of the main graph; an axis of any length has its name, if it has one.

    Raises:
        ValueError: the bytes are no ONNX file, or a damaged one.
    """
    return _values(graph, 11)


def outputs(graph: bytes) -> dict[str, tuple[int, tuple[int | str | None, ...]]]:
    """The same of each output.

    Raises:
        ValueError: the bytes are no ONNX file, or a damaged one.
    """
    return _values(graph, 12)


def _values(graph: bytes, field: int) -> dict[str, tuple[int, tuple[int | str | None, ...]]]:
    """Element type and shape by name of the values that a field of the main graph lists."""
    values = {}
    for value in _inside(memoryview(graph), (7, field)):
        name = next((bytes(content).decode() for content in _inside(value, (1,))), "")
        kinds = [number for tensor in _inside(value, (2, 1)) for field, number in _numbers(tensor) if field == 1]
        values[name] = next(iter(kinds), 0), tuple(map(_side, _inside(value, (2, 1, 2, 1))))
    return values


def _side(dimension: memoryview) -> int | str | None:
    """Length of an axis, or its name."""
    length = next((length for number, length in _numbers(dimension) if number == 1), None)
    names = (bytes(content).decode() for number, content in _fields(dimension) if number == 2)
    return next(names, None) if length is None else length


def _shapes(graph: bytes, field: int) -> dict[str, list[int | None]]:
    """Sides by name of the values that a field of the main graph lists."""
    shapes = {}
    for value in _inside(memoryview(graph), (7, field)):
        name = next((bytes(content).decode() for content in _inside(value, (1,))), "")
        shapes[name] = [
            next((length for number, length in _numbers(side) if number == 1), None)
            for side in _inside(value, (2, 1, 2, 1))  # type, tensor_type, shape, dim
        ]
    return shapes


def metadata(graph: bytes) -> dict[str, str]:
    """The graph's own key-value pairs (``metadata_props``).

    Raises:
        ValueError: the bytes are no ONNX file, or a damaged one.
    """
    pairs = [dict(_fields(entry)) for entry in _inside(memoryview(graph), (14,))]
    return {bytes(pair.get(KEY, b"")).decode(): bytes(pair.get(VALUE, b"")).decode() for pair in pairs}


def operators(graph: bytes) -> set[tuple[str, str]]:
    """Domain and type of every node, those of subgraphs and functions too; the domain of standard ones is empty.

    Raises:
        ValueError: the bytes are no ONNX file, or a damaged one.
    """
    found = set()
    for kind, message in _messages(graph):
        if kind == "node":
            fields = {number: bytes(content).decode() for number, content in _fields(message) if number in (4, 7)}
            found.add((fields.get(7, ""), fields.get(4, "")))
    return found


def _inside(message: memoryview, path: tuple[int, ...]) -> list[memoryview]:
    """The messages that a path of field numbers leads to."""
    found = [message]
    for wanted in path:
        found = [content for outer in found for number, content in _fields(outer) if number == wanted]
    return found


def _locations(graph: bytes) -> Iterator[tuple[str, str]]:
    """Each location with the kind of its entry, whatever the tensor's ``data_location`` says."""
    for kind, message in _messages(graph):
        if kind not in MESSAGES:
            entry = dict(_fields(message))  # protobuf takes the last of a field that stands there twice
            if bytes(entry.get(KEY, b"")) == b"location":
                yield bytes(entry.get(VALUE, b"")).decode(), kind


def _messages(graph: bytes) -> Iterator[tuple[str, memoryview]]:
    """Every message that ``MESSAGES`` leads to, with its kind."""
    pending = [("model", memoryview(graph))]
    while pending:  # no recursion: a hostile file nests as deep as it likes
        kind, message = pending.pop()
        yield kind, message
        inner = MESSAGES.get(kind, {})
        pending += (
            [(inner[number], content) for number, content in _fields(message) if number in inner] if inner else []
        )


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Number and content of each field of a message that is made of bytes."""
    return ((number, content) for number, content in entries(message) if isinstance(content, memoryview))


def _numbers(message: memoryview) -> Iterator[tuple[int, int]]:
    """Number and value of each field of a message that is a number of variable length."""
    return ((number, value) for number, value in entries(message) if isinstance(value, int))


def entries(message: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """Number and content of each field of a message; those of a fixed length are stepped over."""
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        number, kind = tag >> 3, tag & 7
        if not 0 < number <= LARGEST_FIELD:
            raise ValueError(f"no ONNX file: a field has the number {number}")
        if kind == VARINT:
            value, position = _varint(message, position)
            yield number, value
            continue
        if kind == BYTES:
            length, position = _varint(message, position)
        elif kind in (FIXED_32, FIXED_64):
            length = 4 if kind == FIXED_32 else 8
        else:
            raise ValueError(f"no ONNX file: a field has the type {kind}")
        if length > len(message) - position:
            raise ValueError("the ONNX file is cut off or damaged")
        if kind == BYTES:
            yield number, message[position : position + length]
        position += length


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    """A number of up to ten bytes, seven bits each, and the position after it."""
    value = 0
    for shift, byte in enumerate(message[position : position + 10]):
        value |= (byte & 0x7F) << 7 * shift
        if byte < 0x80:
            return value, position + shift + 1
    raise ValueError("the ONNX file is cut off or damaged")
