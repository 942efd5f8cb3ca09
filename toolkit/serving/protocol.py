"""The Open Inference Protocol, version 2, as far as both REST and gRPC speak it: tensors in, tensors out.

Source: https://github.com/open-inference/open-inference-protocol, with the extensions for binary tensors and for
classification that Triton defines (https://github.com/triton-inference-server/server/tree/main/docs/protocol).
"""

# B images

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from toolkit.runtime.examples import ImageText
from toolkit.runtime.inputs import TEXT, Array
from toolkit.runtime.label_thresholds import DECISIONS
from toolkit.runtime.session import Outputs
from toolkit.serving.predictor import Decided
from toolkit.serving.refusal import Refused, bad_request
from toolkit.serving.served_model import Example, ServedModel

EXTENSIONS = ("binary_tensor_data", "classification", "model_repository")
DATATYPES: dict[str, np.dtype[Any]] = {
    "UINT8": np.dtype(np.uint8),
    "FP32": np.dtype("<f4"),
}
"""Of the protocol's types those that a graph takes, beside BYTES."""
GIVEN = DATATYPES | {"BOOL": np.dtype(np.bool_)}
"""And those that it gives."""
LABEL = "label"
"""An output beside the graph's: the label that is decided for each image."""
OF_CLASSES = ("logits", "probabilities", DECISIONS)
"""Outputs with a value a class."""
MICROSECONDS = 1e6
MOST_AXES = 8


@dataclass(frozen=True)
class Tensor:
    """A named tensor of a request or an answer."""

    name: str
    datatype: str
    """The protocol's name, such as ``FP32``."""
    shape: tuple[int, ...]
    values: Array | list[bytes]
    """An array of this shape, or for BYTES its elements in row-major order."""


@dataclass(frozen=True)
class WantedOutput:
    """An output that a request asks for."""

    name: str
    binary: bool = False
    """Whether REST gives it as bytes behind the JSON."""
    classes: int = 0
    """Give the so many largest as ``value:place:label`` in place of the values; 0 for the values."""


@dataclass(frozen=True)
class InferRequest:
    """What a client asks of a model."""

    inputs: Sequence[Tensor]
    outputs: Sequence[WantedOutput] = ()
    """All that the graph gives if empty."""
    id: str = ""
    timeout: float | None = None
    """Seconds that the client waits at most."""
    binary: bool = False
    """Whether REST gives outputs that are not named as bytes behind the JSON."""


def elements_of(shape: Sequence[Any], name: str) -> int:
    """Elements of a tensor.

    Raises:
        Refused: a shape that is none.
    """
    whole = all(isinstance(side, int) and not isinstance(side, bool) and side >= 0 for side in shape)
    if not whole or len(shape) > MOST_AXES:
        raise bad_request(f"input {name}: the shape must be up to {MOST_AXES} whole numbers from 0")
    return math.prod(shape)


def array_of(content: bytes, datatype: str, shape: tuple[int, ...], name: str) -> Array:
    """A tensor from its little-endian bytes.

    Raises:
        Refused: a type that no graph takes, or another number of bytes than type and shape make.
    """
    if datatype not in DATATYPES:
        raise bad_request(f"input {name}: the datatype {datatype!r} is none of BYTES, {', '.join(DATATYPES)}")
    dtype, wanted = DATATYPES[datatype], elements_of(shape, name)
    if len(content) != wanted * dtype.itemsize:
        what = f"input {name}: {len(content)} bytes, where {datatype} {list(shape)} takes {wanted * dtype.itemsize}"
        raise bad_request(what)
    values: npt.NDArray[Any] = np.frombuffer(content, dtype).reshape(shape)
    return values


def split_bytes(content: bytes, shape: tuple[int, ...], name: str) -> list[bytes]:
    """The elements of a BYTES tensor, each behind its length in four little-endian bytes.

    Raises:
        Refused: lengths that don't fit the content, or another number of elements than the shape's.
    """
    found, place, wanted = list[bytes](), 0, elements_of(shape, name)
    while place < len(content) and len(found) < wanted:
        length = int.from_bytes(content[place : place + 4], "little")
        end = place + 4 + length
        if place + 4 > len(content) or end > len(content):
            raise bad_request(f"input {name}: element {len(found)} is longer than what is there")
        found.append(content[place + 4 : end])
        place = end
    if len(found) != wanted or place != len(content):
        raise bad_request(f"input {name}: its bytes hold other elements than the {wanted} of its shape")
    return found


def raw_bytes(tensor: Tensor) -> bytes:
    """A tensor as the protocol's bytes: little-endian, BYTES behind their lengths."""
    if isinstance(tensor.values, list):
        return b"".join(len(value).to_bytes(4, "little") + value for value in tensor.values)
    return np.ascontiguousarray(tensor.values).astype(GIVEN[tensor.datatype]).tobytes()


def examples_of(model: ServedModel, request: InferRequest) -> list[Example]:
    """A request's images.

    ``image`` holds encoded images (BYTES [B] or [B, 1]) or RGB pixels (UINT8 [B, height, width, 3]), whichever input
    the graph has; ``pixel_values`` (FP32 [B, 3, height, width]) is for a graph of images alone that takes it. ``text``
    (BYTES [B] of UTF-8) goes beside ``image`` where the graph takes texts, or stands alone where it takes nothing else.

    Raises:
        Refused: another input, type or shape.
    """
    if not model.takes_image:
        if len(request.inputs) != 1 or request.inputs[0].name != TEXT:
            raise bad_request(f"the model takes texts alone: give one input, {TEXT}")
        return [ImageText(None, text) for text in _texts_of(request.inputs[0])]
    texts = [tensor for tensor in request.inputs if tensor.name == TEXT] if model.takes_text else []
    others = [tensor for tensor in request.inputs if tensor not in texts]
    if len(texts) > 1 or len(others) != 1:
        taken = " or ".join(_input_names(model))
        taken = f"two are taken: {taken}, and {TEXT}" if model.takes_text else f"one is taken: {taken}"
        raise bad_request(f"{len(request.inputs)} inputs, where {taken}")
    images = _images_of(model, others[0])
    if not texts:
        return images
    said = _texts_of(texts[0])
    if len(said) != len(images):
        raise bad_request(f"{len(said)} texts beside {len(images)} images")
    for image in images:
        if not isinstance(image, (bytes, np.ndarray)):
            raise bad_request(f"input {TEXT} goes with image, not with {others[0].name}")
    return [ImageText(image, text) for image, text in zip(images, said, strict=True)]  # type: ignore[arg-type]


def _texts_of(tensor: Tensor) -> list[str]:
    """The texts of a request."""
    if not isinstance(tensor.values, list) or tensor.shape[1:] not in ((), (1,)):
        raise bad_request(f"input {TEXT}: texts are BYTES [batch] of UTF-8, not {tensor.datatype} {list(tensor.shape)}")
    if not tensor.values:
        raise bad_request(f"input {TEXT}: a batch of no text")
    try:
        return [value.decode() for value in tensor.values]
    except UnicodeDecodeError as error:
        raise bad_request(f"input {TEXT}: no UTF-8") from error


def _images_of(model: ServedModel, tensor: Tensor) -> list[Example]:
    """The images of a request; see :func:`examples_of`."""
    if tensor.name not in _input_names(model):
        raise bad_request(f"the model takes no input {tensor.name!r}; give {' or '.join(_input_names(model))}")
    if tensor.shape and tensor.shape[0] == 0:
        raise bad_request(f"input {tensor.name}: a batch of no image")
    if tensor.name == "image" and isinstance(tensor.values, list):
        if len(tensor.shape) not in (1, 2) or tensor.shape[1:] not in ((), (1,)):
            raise bad_request(f"input image: encoded images are BYTES [batch], not {list(tensor.shape)}")
        return list(tensor.values)
    spec = model.batcher.pool.sessions[0].inputs[model.inputs]
    if isinstance(tensor.values, list):
        raise bad_request(f"input {tensor.name}: BYTES are for image; give {spec}")
    if tensor.name != "image":
        if not spec.fits(tensor.values):
            raise bad_request(f"input {tensor.name} must be {spec}, not {tensor.datatype} {list(tensor.shape)}")
        if not np.isfinite(tensor.values).all():
            raise bad_request(f"input {tensor.name} holds values that are no numbers")
        return [{tensor.name: values} for values in tensor.values]
    if tensor.datatype != "UINT8" or len(tensor.shape) != 4 or tensor.shape[3] != 3 or 0 in tensor.shape:
        what = f"input image must be UINT8 [batch, height, width, 3] or BYTES [batch], not {tensor.datatype}"
        raise bad_request(f"{what} {list(tensor.shape)}")
    height, width = tensor.shape[1:3]
    if height * width > model.limits.pixels:
        raise bad_request(f"input image: {width}x{height} pixels, over the limit of {model.limits.pixels:,}")
    return list(tensor.values)


def _input_names(model: ServedModel) -> list[str]:
    return list(dict.fromkeys(["image", model.inputs]))


def wanted_outputs(model: ServedModel, request: InferRequest) -> list[WantedOutput]:
    """The outputs that a request is answered with.

    Raises:
        Refused: a name that the model doesn't have, or a classification of what has no classes.
    """
    wanted = list(request.outputs) or [WantedOutput(name, request.binary) for name in model.outputs]
    for output in wanted:
        if output.name not in [*model.outputs, LABEL]:
            have = ", ".join([*model.outputs, LABEL])
            raise bad_request(f"the model gives no output {output.name!r}; choose from {have}")
        if output.classes and output.name not in ("logits", "probabilities"):
            raise bad_request(f"output {output.name} has no classes to rank; choose logits or probabilities")
    return wanted


def answer(
    model: ServedModel, wanted: Sequence[WantedOutput], outputs: Sequence[Outputs | Refused]
) -> tuple[list[Tensor], list[Decided]]:
    """The tensors of an answer, over a request's images, and what is decided of each.

    Raises:
        Refused: an image has no outputs; the first one's reason.
    """
    rows: list[Outputs] = []
    for place, each in enumerate(outputs):
        if isinstance(each, Refused):
            of = f"image {place}: " if len(outputs) > 1 else ""
            raise Refused(each.reason, f"{of}{each.what}", retry_after=each.retry_after)
        rows.append(each)
    decided = [model.decided(row) for row in rows]  # raises where probabilities are no numbers
    tensors = []
    for output in wanted:
        if output.name == LABEL:
            tensors.append(Tensor(LABEL, "BYTES", (len(rows),), [_said(each).encode() for each in decided]))
            continue
        values = np.stack([row[output.name] for row in rows])
        if output.classes:
            classes = min(output.classes, values.shape[1])
            named = [text for row in values for text in _ranked(row, classes, model.bundle.labels)]
            tensors.append(Tensor(output.name, "BYTES", (len(rows), classes), named))
        else:
            tensors.append(Tensor(output.name, _datatype(output.name), values.shape, values))
    return tensors, decided


def _datatype(output: str) -> str:
    return "BOOL" if output == DECISIONS else "FP32"


def _said(decided: Decided) -> str:
    return decided.label if decided.value is None else f"{decided.value:.9g}"


def _ranked(row: Array, classes: int, labels: Sequence[str]) -> list[bytes]:
    order = np.argsort(-row, kind="stable")[:classes]
    return [f"{row[place]:f}:{place}:{labels[place]}".encode() for place in order]


def server_metadata() -> dict[str, Any]:
    """What the server is."""
    from toolkit import __version__

    return {"name": "clip-toolkit", "version": __version__, "extensions": list(EXTENSIONS)}


def model_metadata(model: ServedModel, versions: Sequence[str]) -> dict[str, Any]:
    """A model's inputs and outputs; -1 stands for any length."""
    classes = len(model.bundle.labels)
    session = model.batcher.pool.sessions[0]
    inputs: list[dict[str, Any]] = []
    if model.inputs == "image":
        inputs = [{"name": "image", "datatype": "UINT8", "shape": [-1, -1, -1, 3]}]
    elif model.takes_image:
        inputs = [{"name": "image", "datatype": "BYTES", "shape": [-1]}]
    if model.takes_text:
        inputs.append({"name": TEXT, "datatype": "BYTES", "shape": [-1]})
    elif model.inputs != "image":
        shape = [side if isinstance(side, int) else -1 for side in session.inputs[model.inputs].shape]
        inputs.append({"name": model.inputs, "datatype": "FP32", "shape": shape})
    outputs: list[dict[str, Any]] = [
        {"name": name, "datatype": _datatype(name), "shape": [-1, classes if name in OF_CLASSES else -1]}
        for name in model.outputs
    ]
    outputs.append({"name": LABEL, "datatype": "BYTES", "shape": [-1]})
    return {
        "name": model.name,
        "versions": list(versions),
        "platform": "onnxruntime_onnx",
        "inputs": inputs,
        "outputs": outputs,
        "properties": {"image": "BYTES [-1] holds encoded images, UINT8 [-1, height, width, 3] RGB pixels"}
        if model.takes_image
        else {},
    }
