"""One ONNX graph of preprocessing, encoder, head and calibrated softmax."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any, Literal, get_args

import onnx
from onnx import TensorProto, helper, numpy_helper

from export.graph.builder import IR_VERSION, MICROSOFT, OPSET, GraphBuilder, model_of
from export.graph.config import FUSED, METADATA, GraphConfig
from export.graph.half import to_half
from export.graph.network import add_classifier, text_inputs
from export.graph.preprocessing import IMAGE, PIXEL_VALUES, add_preprocessing
from export.graph.subgraph import read_by
from export.graph.tensor_names import EMBEDDING, LOGITS
from toolkit.errors import ToolkitError
from toolkit.models.classifier import Classifier
from toolkit.models.modalities import image_tower_of
from toolkit.runtime.label_thresholds import DECISIONS, LabelThresholds
from toolkit.runtime.label_thresholds import METADATA as THRESHOLDS
from toolkit.runtime.openvino_library import FLOATS, OPENVINO
from toolkit.runtime.operating_point import METADATA as OPERATING_POINT
from toolkit.runtime.operating_point import OperatingPoint
from toolkit.runtime.precision import SPECS
from toolkit.runtime.preprocess import Preprocess
from toolkit.runtime.tokenizer import TOKENIZE, TokenizerSettings

GraphInput = Literal["image", "pixel_values"]


def check_input(name: str) -> GraphInput:
    """A name as one of the inputs that a graph may have.

    Raises:
        ToolkitError: it is none.
    """
    if name not in get_args(GraphInput):
        fix = f"use {' or '.join(get_args(GraphInput))}"
        raise ToolkitError(f"a graph can't take {name!r}", where="--input", fix=fix)
    return name  # type: ignore[return-value]


def input_on(provider: str, name: str | None) -> GraphInput:
    """What a graph for a provider takes: what is asked for, else ``image`` where the provider can resize to the bit.

    Raises:
        ToolkitError: there is no such input, or not on this provider.
    """
    if provider == OPENVINO and name == IMAGE:
        what = "OpenVINO has no float64, in which a graph that takes image computes the weights of its resize"
        raise ToolkitError(what, where="--input image", fix="use --input pixel_values, its default")
    return check_input(name or (PIXEL_VALUES if provider == OPENVINO else IMAGE))


def build_graph(
    classifier: Classifier,
    preprocess: Preprocess,
    provenance: dict[str, Any],
    graph_input: GraphInput = "image",
    config: GraphConfig = FUSED,
    *,
    embedding: bool = False,
    operating_point: OperatingPoint | None = None,
    tokenizer: TokenizerSettings | None = None,
    thresholds: LabelThresholds | None = None,
) -> onnx.ModelProto:
    """The whole classifier as one graph with a dynamic batch; the same arguments give the same bytes.

    Args:
        classifier: in eval mode, float32, on the CPU.
        preprocess: what stands between an image and ``pixel_values``.
        provenance: kept in ``metadata_props``, like labels and preprocessing, so that the file alone can be served.
        graph_input: ``image``, uint8 [batch, height, width, 3] of any size, or ``pixel_values``,
            float32 [batch, 3, height, width]; a classifier of texts alone has neither.
        config: in which operators, and which matmuls in integers.
        embedding: whether the graph also gives the embedding.
        operating_point: kept in ``metadata_props`` too, for whoever serves the file alone.
        tokenizer: kept there too, of a classifier that takes texts.
        thresholds: from which logit on each label is said; kept there as well.

    Returns:
        A model that gives ``logits`` and ``probabilities``, each float32 [batch, classes], or of a
        number ``logits`` and ``value``, both of them it, float32 [batch, 1]; where asked ``embedding``,
        float32 [batch, P], each of length one; and with thresholds ``decisions``, bool [batch, classes].

    Raises:
        ToolkitError: preprocessing that a graph can't express.
    """
    assert preprocess.output_size is not None  # checked when it was built
    builder = GraphBuilder()
    entries: list[onnx.ValueInfoProto] = []
    if image_tower_of(classifier.encoder) is None:
        pixel_values = ""
    elif graph_input == "image":
        entries = [helper.make_tensor_value_info(IMAGE, TensorProto.UINT8, ["batch", "height", "width", 3])]
        pixel_values = add_preprocessing(builder, preprocess)
    else:
        shape: list[str | int] = ["batch", 3, *preprocess.output_size]
        entries = [helper.make_tensor_value_info(PIXEL_VALUES, TensorProto.FLOAT, shape)]
        pixel_values = PIXEL_VALUES
    add_classifier(builder, classifier, pixel_values, config, preprocess, with_embedding=embedding)
    widths = dict.fromkeys(classifier.task.decision.outputs, len(classifier.labels))
    if embedding:
        widths[EMBEDDING] = classifier.encoder.embedding_size
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", width]) for name, width in widths.items()
    ]
    nodes, constants = needed(builder, widths)
    entries += text_inputs(classifier.encoder)
    graph = helper.make_graph(nodes, "classifier", entries, outputs)
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)]
    model = model_of(graph, constants, opset_imports=opsets, ir_version=IR_VERSION, producer_name="clip-toolkit")
    metadata = {
        "labels": json.dumps(classifier.labels, ensure_ascii=False),
        "preprocess": preprocess.model_dump_json(),
        "task": classifier.task.name,
        METADATA: config.model_dump_json(),
        "provenance": json.dumps(provenance, ensure_ascii=False, sort_keys=True),
    }
    if operating_point is not None:
        metadata[OPERATING_POINT] = operating_point.model_dump_json()
    if tokenizer is not None:
        metadata[TOKENIZE] = tokenizer.model_dump_json()
    if thresholds is not None:
        metadata[THRESHOLDS] = thresholds.model_dump_json()
    if config.floats != "fp32":
        metadata[FLOATS] = config.floats
    helper.set_model_props(model, metadata)
    if SPECS[config.precision].half:
        model = to_half(model, config.precision, config.keep_fp32)  # type: ignore[arg-type]
    if thresholds is not None:
        add_decisions(model, thresholds)
    return model


def add_decisions(model: onnx.ModelProto, thresholds: LabelThresholds) -> None:
    """Add the output ``decisions``: whether each logit, as the graph gives it, reaches its cut, in single precision."""
    cuts = thresholds.array()
    model.graph.initializer.append(numpy_helper.from_array(cuts, f"{DECISIONS}/cuts"))
    inputs = [LOGITS, f"{DECISIONS}/cuts"]
    model.graph.node.append(helper.make_node("GreaterOrEqual", inputs, [DECISIONS], name=DECISIONS))
    given = helper.make_tensor_value_info(DECISIONS, TensorProto.BOOL, ["batch", len(cuts)])
    model.graph.output.append(given)


def needed(builder: GraphBuilder, outputs: Iterable[str]) -> tuple[list[onnx.NodeProto], Iterator[onnx.TensorProto]]:
    """Nodes and constants that the outputs depend on; ONNX Runtime would run the others too.

    The builder loses each constant as it is taken.
    """
    wanted, nodes = set(outputs), []
    for node in reversed(builder.nodes):
        if wanted & set(node.output):
            wanted |= set(read_by(node))
            nodes.append(node)
    names = [name for name in builder.initializers if name in wanted]
    return nodes[::-1], (builder.initializers.pop(name) for name in names)
