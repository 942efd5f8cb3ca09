"""An encoder as ``torch.onnx.export`` traces it, for those that no family describes."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Iterator

import onnx
import torch
from onnx import numpy_helper, version_converter
from onnx.inliner import inline_local_functions

from export.graph.builder import OPSET, GraphBuilder
from export.graph.tensor_names import POOLED
from toolkit.errors import ToolkitError
from toolkit.models.encoder import Encoder

PREFIX = "encoder"
EXAMPLES = 2
"""Images of the example batch: the exporter takes a batch of one for a constant."""


class _Embedding(torch.nn.Module):
    """transformers' own forward pass, which parity compares with."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """[B, 3, height, width] -> [B, P]."""
        return self.encoder.family.embed(self.encoder.model, pixel_values)


def add_traced(builder: GraphBuilder, encoder: Encoder, pixel_values: str, size: tuple[int, int]) -> str:
    """Add the nodes that the exporter gives an encoder; the embedding is named ``head/input``.

    Args:
        builder: of the graph.
        encoder: in eval mode, float32, on the CPU.
        pixel_values: the tensor that it takes.
        size: height and width of it.

    Raises:
        ToolkitError: the exporter can't trace the encoder, or not for a batch of any size.
    """
    traced = trace(encoder, size)
    (given,), (result,) = traced.graph.input, traced.graph.output
    names = {given.name: pixel_values, result.name: POOLED, "": ""}

    def named(tensor: str) -> str:
        return names.setdefault(tensor, f"{PREFIX}/{tensor}")

    for weight in traced.graph.initializer:
        builder.constant(numpy_helper.to_array(weight), name=named(weight.name))
    for number, node in enumerate(traced.graph.node):
        if node.op_type == "Constant":
            builder.constant(numpy_helper.to_array(node.attribute[0].t), name=named(node.output[0]))
            continue
        copied = onnx.NodeProto()
        copied.CopyFrom(node)
        copied.name = f"{PREFIX}/{node.name or node.op_type}.{number}"
        del copied.metadata_props[:]
        for tensors in (copied.input, copied.output):
            for place, tensor in enumerate(tensors):
                tensors[place] = named(tensor)
        builder.nodes.append(copied)
    return POOLED


def trace(encoder: Encoder, size: tuple[int, int]) -> onnx.ModelProto:
    """The exporter's graph from ``pixel_values`` [batch, 3, *size] to the embedding [batch, P]."""
    module = _Embedding(copy.deepcopy(encoder).cpu().eval())
    batch = torch.export.Dim("batch")
    try:
        with quiet_exporter(), torch.inference_mode():
            program = torch.onnx.export(
                module,
                (torch.rand(EXAMPLES, 3, *size),),
                input_names=["pixel_values"],
                dynamic_shapes=({0: batch},),
                opset_version=OPSET,
                dynamo=True,
            )
    except (torch.onnx.errors.OnnxExporterError, RuntimeError, ValueError, TypeError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        fix = "use an encoder of a family that is described: toolkit encoders list"
        raise ToolkitError(f"torch.onnx can't trace it: {reason}", where=encoder.family.name, fix=fix) from error
    assert program is not None
    model = program.model_proto
    if model.opset_import[0].version != OPSET:
        model = version_converter.convert_version(model, OPSET)
    shape = model.graph.input[0].type.tensor_type.shape.dim
    if not shape[0].dim_param:
        what = f"torch.onnx froze the batch at {shape[0].dim_value}"
        raise ToolkitError(what, where=encoder.family.name, fix="use an encoder of a family that is described")
    return inline_local_functions(model)


@contextlib.contextmanager
def quiet_exporter() -> Iterator[None]:
    """Keep what libraries print on a good run from the user; what fails raises."""
    from transformers.utils import logging as of_transformers

    before = of_transformers.get_verbosity()
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    of_transformers.set_verbosity(logging.CRITICAL)
    exporter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        of_transformers.set_verbosity(before)
        exporter.setLevel(level)
