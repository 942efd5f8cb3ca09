"""Graphs of every family and kind of input in OpenVINO, beside transformers' own modules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from export.graph.classifier_graph import build_graph
from export.graph.config import GraphConfig
from export.graph.grey_levels import affine_of
from export.graph.openvino_check import INTEGERS, MATMULS
from export.graph.quantization import Quantization
from export.precision.fake_quant import quantized_classifier
from tests.models.test_multimodal import FUSIONS, built, inputs_of
from toolkit.models.build import build_classifier
from toolkit.models.processing import preprocess_from
from toolkit.recipe.model import ModelConfig
from toolkit.runtime.open_session import open_session
from toolkit.runtime.session import Session

pytest.importorskip("openvino")
STANDARD = GraphConfig(standard_ops_only=True, fuse_skip_layernorm=False)
FAMILIES = ["clip", "siglip", "laion", "dinov2", "dinov2_with_registers", "vit", "blip", "dinov3_vit", "siglip2"]


@pytest.mark.parametrize("family", [*FAMILIES, "dinov3_vit_gated", "ijepa"])
@torch.inference_mode()
def test_the_graph_gives_what_transformers_gives(family: str, encoders: dict[str, Path]) -> None:
    """Within what PyTorch itself differs from float64, ten times over; of a traced encoder too."""
    wanted = ModelConfig(encoder=str(encoders[family]), unfreeze_last=0)
    classifier, processor = build_classifier(wanted, ["a", "b", "c"], seed=0)
    model = build_graph(classifier.eval(), preprocess_from(processor), {}, "pixel_values", STANDARD)
    session = open_session(model.SerializeToString(), provider="openvino", threads=1)
    pixel_values = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    expected = classifier.reference_logits(pixel_values)
    exact = classifier.double().reference_logits(pixel_values.double())
    floor = max(float((expected - exact).abs().max()), float(np.finfo(np.float32).eps * exact.abs().max()))
    for count in (3, 1):
        (logits,) = session.compute(["logits"], {"pixel_values": pixel_values[:count].numpy()})
        assert np.abs(logits - exact[:count].numpy()).max() <= 10 * floor


@torch.inference_mode()
def test_patches_are_rounded_without_rounding_a_pixel(encoders: dict[str, Path]) -> None:
    """OpenVINO multiplies grey levels by integers; PyTorch with the same weights gives the same."""
    classifier, processor = build_classifier(
        ModelConfig(encoder=str(encoders["clip"]), unfreeze_last=0), ["a", "b"], seed=0
    )
    preprocess = preprocess_from(processor)
    (name,) = (name for name, module in classifier.named_modules() if isinstance(module, torch.nn.Conv2d))
    quantization = Quantization(matmuls=(name,))
    config = STANDARD.model_copy(update={"precision": "int8", "quantization": quantization})
    model = build_graph(classifier.eval(), preprocess, {}, "pixel_values", config)
    session = open_session(model.SerializeToString(), provider="openvino", threads=1)
    scale, offset = affine_of(preprocess)
    levels = np.random.default_rng(0).integers(0, 256, (3, 3, 32, 32))
    feed = {"pixel_values": (levels * scale + offset).astype(np.float32)}
    expected = quantized_classifier(classifier, preprocess, quantization)(torch.from_numpy(feed["pixel_values"]))
    given = session.compute(["logits"], feed)[0]
    assert np.abs(given - expected.numpy()).max() <= 2e-5 * np.abs(expected.numpy()).max()
    matmuls = [node for node in session.executed_nodes(feed) if node.operator in MATMULS]
    assert len([node for node in matmuls if node.element in INTEGERS]) == 1
    assert "Convolution" not in {node.operator for node in matmuls}


def session_of(encoder: Path, fusion: dict[str, Any]) -> tuple[Session, Any]:
    classifier, _, processor = built(encoder, fusion)
    model = build_graph(classifier, preprocess_from(processor), {}, "pixel_values", STANDARD)
    return open_session(model.SerializeToString(), provider="openvino", threads=1), classifier


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("family", ["clip", "siglip"])
@torch.no_grad()
def test_texts_of_any_length_stand_beside_images(family: str, fusion: str, text_encoders: dict[str, Path]) -> None:
    session, classifier = session_of(text_encoders[family], {"type": fusion})
    assert [str(spec) for spec in session.inputs.values()][1:] == [
        "input_ids: int64 [batch, sequence]",
        "attention_mask: int64 [batch, sequence]",
    ]
    inputs = inputs_of(classifier)
    expected = classifier.reference_logits(inputs).numpy()
    feed = {name: values.numpy() for name, values in inputs.items()}
    assert np.abs(session.run(feed)["logits"] - expected).max() <= 2e-5 * np.abs(expected).max()
    if family == "clip":  # whose texts may be shorter than the context
        length = int(inputs["attention_mask"].sum(1).max())
        short = {name: values[:, :length] if values.ndim == 2 else values for name, values in feed.items()}
        assert np.abs(session.run(short)["logits"] - expected).max() <= 2e-5 * np.abs(expected).max()


@torch.no_grad()
def test_what_is_missing_is_missing_in_the_graph_too(text_encoders: dict[str, Path]) -> None:
    session, classifier = session_of(text_encoders["clip"], {"type": "gated", "modality_dropout": 0.3})
    inputs = inputs_of(classifier) | {"image_mask": torch.tensor([1, 0, 1])}
    inputs["attention_mask"][2] = 0
    expected = classifier.reference_logits(inputs).numpy()
    given = session.run({name: values.numpy() for name, values in inputs.items()})["logits"]
    assert np.abs(given - expected).max() <= 2e-5 * np.abs(expected).max()
