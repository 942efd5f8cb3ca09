"""The graph: its form, and that it computes what the classifier computes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from export.graph.builder import MICROSOFT
from export.graph.classifier_graph import build_graph, check_input
from toolkit.errors import ToolkitError
from toolkit.models.build import build_classifier
from toolkit.models.classifier import Classifier
from toolkit.models.processing import preprocess_from
from toolkit.recipe.model import HeadConfig, ModelConfig
from toolkit.runtime.preprocess import Preprocess
from toolkit.runtime.session import Session

LAYERS = 3


def made(folder: Path, head: str = "mlp") -> tuple[Classifier, Preprocess]:
    model_config = ModelConfig(encoder=str(folder), unfreeze_last=1, head=HeadConfig(type=head))  # type: ignore[arg-type]
    classifier, processor = build_classifier(model_config, ["a", "b", "c"], seed=0)
    classifier.temperature.fill_(1.7)
    return classifier.eval(), preprocess_from(processor)


@pytest.mark.parametrize("head", ["mlp", "linear"])
@pytest.mark.parametrize("family", ["clip", "siglip"])
@torch.inference_mode()
def test_the_graph_gives_what_transformers_gives(family: str, head: str, encoders: dict[str, Path]) -> None:
    """Within what PyTorch itself differs from float64, ten times over."""
    classifier, preprocess = made(encoders[family], head)
    session = Session(build_graph(classifier, preprocess, {}, "pixel_values").SerializeToString())
    pixel_values = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    expected = classifier.reference_logits(pixel_values)
    exact = classifier.double().reference_logits(pixel_values.double())
    classifier.float()
    floor = max(float((expected - exact).abs().max()), float(np.finfo(np.float32).eps * exact.abs().max()))
    logits, probabilities = session.run({"pixel_values": pixel_values.numpy()}).values()
    assert np.abs(logits - exact.numpy()).max() <= 10 * floor
    np.testing.assert_allclose(probabilities, torch.softmax(exact / 1.7, -1).numpy(), atol=1e-6)


@pytest.mark.parametrize(("family", "activation"), [("clip", "QuickGelu"), ("siglip", "Gelu")])
def test_blocks_are_said_in_the_fused_form(family: str, activation: str, encoders: dict[str, Path]) -> None:
    model = build_graph(*made(encoders[family], "linear"), {}, "pixel_values")
    counts = Counter(node.op_type for node in model.graph.node)
    pooling = family == "siglip"
    assert counts["Attention"] + counts["MultiHeadAttention"] == LAYERS + pooling
    assert counts[activation] == LAYERS + pooling
    assert counts["SkipLayerNormalization"] == 2 * LAYERS
    assert not {"Softmax", "Sigmoid", "Erf", "Gather", "Shape"} & set(counts) - {"Softmax", "Shape"}
    assert counts["Softmax"] == 1  # the probabilities'
    assert {node.domain for node in model.graph.node} <= {"", MICROSOFT}


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_tensors_and_weights_bear_the_names_of_modules(family: str, encoders: dict[str, Path]) -> None:
    classifier, preprocess = made(encoders[family])
    model = build_graph(classifier, preprocess, {})
    modules = dict(classifier.named_modules())
    tensors = {output for node in model.graph.node for output in node.output}
    for index in range(LAYERS):
        (layer,) = (name for name in modules if name.endswith(f"layers.{index}"))
        for part in ("", ".layer_norm1", ".layer_norm2", ".mlp.fc1", ".mlp.activation_fn"):
            assert layer + part in tensors
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    fc1 = next(name for name in modules if name.endswith("layers.1.mlp.fc1"))
    weight = numpy_helper.to_array(constants[f"{fc1}.weight^T"])
    assert np.array_equal(weight, modules[fc1].weight.detach().numpy().T)  # type: ignore[union-attr, operator]


@pytest.mark.parametrize("graph_input", ["image", "pixel_values"])
def test_the_same_classifier_gives_the_same_bytes(graph_input: str, encoders: dict[str, Path]) -> None:
    first, second = (
        build_graph(*made(encoders["clip"]), {"b": 1, "a": 2}, check_input(graph_input)).SerializeToString()
        for _ in range(2)
    )
    assert first == second


def test_every_node_and_tensor_has_one_name(encoders: dict[str, Path]) -> None:
    model = build_graph(*made(encoders["clip"]), {})

    def names(graph: onnx.GraphProto) -> list[str]:
        inner = [name for node in graph.node for a in node.attribute if a.HasField("g") for name in names(a.g)]
        return [node.name for node in graph.node] + inner

    assert len(set(names(model.graph))) == len(names(model.graph))


def test_an_input_that_is_none_is_refused() -> None:
    with pytest.raises(ToolkitError, match="'jpeg'") as caught:
        check_input("jpeg")
    assert caught.value.fix == "use image or pixel_values"


def test_an_activation_without_a_form_is_named(encoders: dict[str, Path]) -> None:
    classifier, preprocess = made(encoders["clip"])
    classifier.head[1] = torch.nn.Tanh()  # type: ignore[operator]
    with pytest.raises(ToolkitError, match="activation Tanh") as caught:
        build_graph(classifier, preprocess, {})
    assert caught.value.where == "head.1"
