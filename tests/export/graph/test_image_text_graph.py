"""Two towers and their fusion as one graph: named inputs, any batch, any length of texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from export.graph.classifier_graph import build_graph
from export.graph.config import GraphConfig
from tests.models.test_multimodal import FUSIONS, built, inputs_of
from toolkit.models.processing import preprocess_from
from toolkit.runtime.session import Session


def session_of(encoder: Path, fusion: dict[str, Any], config: GraphConfig) -> tuple[Session, Any]:
    classifier, _, processor = built(encoder, fusion)
    model = build_graph(classifier, preprocess_from(processor), {}, "pixel_values", config)
    return Session(model.SerializeToString(), threads=1), classifier


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("family", ["clip", "siglip"])
@pytest.mark.parametrize(
    "config", [GraphConfig(), GraphConfig(standard_ops_only=True, fuse_skip_layernorm=False)], ids=["fused", "standard"]
)
@torch.no_grad()
def test_the_graph_gives_what_pytorch_gives(
    family: str, fusion: str, config: GraphConfig, text_encoders: dict[str, Path]
) -> None:
    session, classifier = session_of(text_encoders[family], {"type": fusion}, config)
    assert list(session.inputs) == ["pixel_values", "input_ids", "attention_mask"]
    inputs = inputs_of(classifier)
    expected = classifier.reference_logits(inputs).numpy()
    feed = {name: values.numpy() for name, values in inputs.items()}
    given = session.run(feed)["logits"]
    assert np.abs(given - expected).max() <= 2e-5 * np.abs(expected).max()
    if family == "clip":  # whose texts may be shorter than the context
        length = int(inputs["attention_mask"].sum(1).max())
        short = {name: values[:, :length] if values.ndim == 2 else values for name, values in feed.items()}
        assert np.abs(session.run(short)["logits"] - expected).max() <= 2e-5 * np.abs(expected).max()


@pytest.mark.parametrize("fusion", FUSIONS)
@torch.no_grad()
def test_what_is_missing_is_missing_in_the_graph_too(fusion: str, text_encoders: dict[str, Path]) -> None:
    session, classifier = session_of(text_encoders["clip"], {"type": fusion, "modality_dropout": 0.3}, GraphConfig())
    assert list(session.inputs) == ["pixel_values", "input_ids", "attention_mask", "image_mask"]
    inputs = inputs_of(classifier) | {"image_mask": torch.tensor([1, 0, 1])}
    inputs["attention_mask"][2] = 0
    expected = classifier.reference_logits(inputs).numpy()
    given = session.run({name: values.numpy() for name, values in inputs.items()})["logits"]
    assert np.abs(given - expected).max() <= 2e-5 * np.abs(expected).max()
