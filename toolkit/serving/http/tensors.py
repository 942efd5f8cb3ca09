"""Requests and answers of the Open Inference Protocol as JSON, with tensors as bytes behind it."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from toolkit.runtime.inputs import Array
from toolkit.serving.protocol import (
    DATATYPES,
    MICROSECONDS,
    InferRequest,
    Tensor,
    WantedOutput,
    array_of,
    elements_of,
    raw_bytes,
    split_bytes,
)
from toolkit.serving.refusal import bad_request

HEADER_LENGTH = "Inference-Header-Content-Length"


def parse_json(content: bytes) -> dict[str, Any]:
    """A JSON object.

    Raises:
        Refused: no JSON, none that the standard allows, or no object.
    """
    try:
        found = _DECODER.decode(content.decode())
    except (ValueError, RecursionError) as error:
        what = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise bad_request(f"the body is no JSON: {what}") from error
    if not isinstance(found, dict):
        raise bad_request("the body must be a JSON object")
    return found


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


_DECODER = json.JSONDecoder(parse_constant=_no_number)
_ENCODER = json.JSONEncoder(allow_nan=False)


def parse_request(body: bytes, header_length: str | None) -> InferRequest:
    """An inference request.

    Args:
        body: JSON, and behind it the tensors that are given as bytes.
        header_length: bytes of the JSON, where tensors follow.

    Raises:
        Refused: what is malformed, by its name.
    """
    length = len(body)
    if header_length is not None:
        if not (header_length.isascii() and header_length.isdecimal()) or int(header_length) > len(body):
            raise bad_request(f"{HEADER_LENGTH} is {header_length!r}, of a body of {len(body)} bytes")
        length = int(header_length)
    content = parse_json(body[:length])
    parameters = _object(content, "parameters", "the request")
    tensors, rest = [], body[length:]
    for entry in _list(content, "inputs"):
        tensor, rest = _tensor(entry, rest)
        tensors.append(tensor)
    if rest:
        raise bad_request(f"{len(rest)} bytes behind the last input")
    binary = _flag(parameters, "binary_data_output")
    return InferRequest(
        inputs=tensors,
        outputs=[_wanted(entry, binary=binary) for entry in _list(content, "outputs", optional=True)],
        id=_text(content, "id", ""),
        timeout=_timeout(parameters),
        binary=binary,
    )


def _tensor(entry: Any, rest: bytes) -> tuple[Tensor, bytes]:
    """An input, and the bytes of those behind it."""
    if not isinstance(entry, dict):
        raise bad_request("each of inputs must be an object")
    name, datatype = _text(entry, "name"), _text(entry, "datatype")
    shape = tuple(_list(entry, "shape"))
    elements = elements_of(shape, name)
    size = _object(entry, "parameters", f"input {name}").get("binary_data_size")
    if size is not None:
        if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= len(rest):
            raise bad_request(f"input {name}: binary_data_size is {size!r}, of {len(rest)} bytes that follow")
        if "data" in entry:
            raise bad_request(f"input {name}: give data or binary_data_size")
        content, rest = rest[:size], rest[size:]
        if datatype == "BYTES":
            return Tensor(name, datatype, shape, split_bytes(content, shape, name)), rest
        return Tensor(name, datatype, shape, array_of(content, datatype, shape, name)), rest
    data = _list(entry, "data")
    if datatype == "BYTES":
        values = [_decoded(element, name) for element in _flat(data, name)]
        if len(values) != elements:
            raise bad_request(f"input {name}: {len(values)} elements, where its shape takes {elements}")
        return Tensor(name, datatype, shape, values), rest
    return Tensor(name, datatype, shape, _array(data, datatype, shape, name)), rest


def _array(data: list[Any], datatype: str, shape: tuple[int, ...], name: str) -> Array:
    """A tensor from numbers in JSON, flat or nested."""
    if datatype not in DATATYPES:
        raise bad_request(f"input {name}: the datatype {datatype!r} is none of BYTES, {', '.join(DATATYPES)}")
    elements = elements_of(shape, name)
    try:
        given = np.array(data)
    except (ValueError, OverflowError, RecursionError) as error:
        raise bad_request(f"input {name}: data is ragged or no numbers") from error
    dtype = DATATYPES[datatype]
    if given.size and given.dtype.kind not in ("iu" if dtype.kind == "u" else "iuf"):
        raise bad_request(f"input {name}: data must be {'whole ' if dtype.kind == 'u' else ''}numbers")
    if given.size != elements or given.shape not in (shape, (elements,)):
        raise bad_request(f"input {name}: {given.size} elements {list(given.shape)}, where its shape is {list(shape)}")
    if dtype.kind == "u" and given.size and (given.min() < 0 or given.max() > np.iinfo(dtype).max):
        raise bad_request(f"input {name}: {datatype} is from 0 to {np.iinfo(dtype).max}")
    return given.reshape(shape).astype(dtype)


def _flat(data: list[Any], name: str) -> list[Any]:
    """The elements of data that is flat or has one axis more."""
    if all(isinstance(element, list) for element in data):
        return [inner for element in data for inner in element]
    if any(isinstance(element, list) for element in data):
        raise bad_request(f"input {name}: data is ragged")
    return data


def _decoded(element: Any, name: str) -> bytes:
    """An element of BYTES in JSON, which holds no bytes: base64."""
    if not isinstance(element, str):
        raise bad_request(f"input {name}: BYTES in JSON are strings of base64")
    return from_base64(element, f"input {name}")


def from_base64(text: str, where: str) -> bytes:
    """Bytes from base64.

    Raises:
        Refused: it is none.
    """
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise bad_request(f"{where}: no base64 ({error})") from error


def _wanted(entry: Any, *, binary: bool) -> WantedOutput:
    if not isinstance(entry, dict):
        raise bad_request("each of outputs must be an object")
    name = _text(entry, "name")
    parameters = _object(entry, "parameters", f"output {name}")
    classes = parameters.get("classification", 0)
    if not isinstance(classes, int) or isinstance(classes, bool) or classes < 0:
        raise bad_request(f"output {name}: classification must be a number of classes")
    return WantedOutput(name, _flag(parameters, "binary_data", otherwise=binary), classes)


def _timeout(parameters: dict[str, Any]) -> float | None:
    """Seconds, from Triton's ``timeout`` in microseconds."""
    timeout = parameters.get("timeout")
    if timeout is None:
        return None
    if not isinstance(timeout, int) or isinstance(timeout, bool) or timeout <= 0:
        raise bad_request("timeout must be a whole number of microseconds above 0")
    return timeout / MICROSECONDS


def _text(content: dict[str, Any], key: str, otherwise: str | None = None) -> str:
    found = content.get(key, otherwise)
    if not isinstance(found, str):
        raise bad_request(f"{key} must be a string")
    return found


def _flag(content: dict[str, Any], key: str, *, otherwise: bool = False) -> bool:
    found = content.get(key, otherwise)
    if not isinstance(found, bool):
        raise bad_request(f"{key} must be true or false")
    return found


def _list(content: dict[str, Any], key: str, *, optional: bool = False) -> list[Any]:
    found = content.get(key, [] if optional else None)
    if not isinstance(found, list):
        raise bad_request(f"{key} must be a list")
    return found


def _object(content: dict[str, Any], key: str, where: str) -> dict[str, Any]:
    found = content.get(key, {})
    if not isinstance(found, dict):
        raise bad_request(f"{where}: {key} must be an object")
    return found


def answer_body(
    name: str, version: str, request: InferRequest, tensors: Sequence[Tensor], wanted: Sequence[WantedOutput]
) -> tuple[bytes, int | None]:
    """An answer: its bytes, and those of its JSON where tensors follow as bytes."""
    outputs, tail = [], []
    for tensor, output in zip(tensors, wanted, strict=True):
        entry: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
        if output.binary:
            tail.append(raw_bytes(tensor))
            entry["parameters"] = {"binary_data_size": len(tail[-1])}
        elif isinstance(tensor.values, list):
            entry["data"] = [value.decode() for value in tensor.values]
        else:
            entry["data"] = tensor.values.ravel().tolist()
        outputs.append(entry)
    content: dict[str, Any] = {"model_name": name, "model_version": version, "outputs": outputs}
    if request.id:
        content["id"] = request.id
    head = _ENCODER.encode(content).encode()
    return head + b"".join(tail), len(head) if tail else None
