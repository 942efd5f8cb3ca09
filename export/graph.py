"""One ONNX graph of encoder, head and calibrated softmax."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from toolkit.errors import ToolkitError
from toolkit.models.classifier import Classifier
from toolkit.runtime.preprocess import Preprocess

OPSET = 20
MAX_PROTOBUF_BYTES = 2**31 - 1


class FusedClassifier(nn.Module):
    """What the graph computes: ``pixel_values`` [B, 3, H, W] -> ``logits``, ``probabilities`` [B, classes]."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and calibrated probabilities."""
        logits = self.classifier(pixel_values)
        return logits, self.classifier.probabilities(logits)


def export_graph(classifier: Classifier, preprocess: Preprocess, provenance: dict[str, Any], path: Path) -> None:
    """Write the graph with a dynamic batch and everything needed to serve it alone in its metadata.

    Args:
        classifier: in evaluation form, float32, on the CPU.
        preprocess: stored in ``metadata_props`` under ``preprocess``.
        provenance: stored there too.
        path: the file to write.

    Raises:
        ToolkitError: the graph is too large for one file, or its batch came out fixed.
    """
    size = sum(tensor.numel() * tensor.element_size() for tensor in classifier.state_dict().values())
    if size > MAX_PROTOBUF_BYTES:
        what = f"{size / 2**30:.1f} GiB of weights don't fit into one ONNX file of 2 GiB"
        raise ToolkitError(what, where=path.name, fix="use a smaller encoder")
    assert preprocess.output_size is not None
    example = torch.zeros(2, 3, *preprocess.output_size)  # a batch of one would be frozen in (0/1 specialisation)
    with quiet_exporter():
        program = torch.onnx.export(
            FusedClassifier(classifier).eval(),
            (example,),
            input_names=["pixel_values"],
            output_names=["logits", "probabilities"],
            dynamic_shapes={"pixel_values": {0: torch.export.Dim("batch", min=1)}},
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    model.producer_name, model.producer_version = "clip-toolkit", ""
    metadata = {
        "labels": json.dumps(classifier.labels, ensure_ascii=False),
        "preprocess": preprocess.model_dump_json(),
        "provenance": json.dumps(provenance, ensure_ascii=False, sort_keys=True),
    }
    onnx.helper.set_model_props(model, metadata)
    onnx.checker.check_model(model, full_check=True)
    _require_dynamic_batch(model, path)
    onnx.save(model, path)


@contextmanager
def quiet_exporter() -> Iterator[None]:
    """Keep the exporter's remarks on a good export off the user's terminal."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _require_dynamic_batch(model: onnx.ModelProto, path: Path) -> None:
    for value in (*model.graph.input, *model.graph.output):
        if not value.type.tensor_type.shape.dim[0].dim_param:
            raise ToolkitError(
                f"the exporter froze the batch of {value.name!r}",
                where=path.name,
                fix="report the encoder and the torch version",
            )
