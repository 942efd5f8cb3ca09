"""A text tower's nodes give what transformers' own forward pass gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper
from transformers import CLIPTextConfig, SiglipTextConfig

from export.graph.builder import IR_VERSION, MICROSOFT, OPSET, GraphBuilder
from export.graph.config import GraphConfig
from export.graph.tensor_names import TensorNames
from export.graph.text import TextBuilder
from export.graph.text_inputs import INPUT_IDS
from toolkit.models.families.clip import Clip
from toolkit.models.families.family import Family
from toolkit.models.families.siglip import Siglip

SIZES: dict[str, Any] = {
    "vocab_size": 99,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 16,
}
END = 98
TOWERS: dict[str, tuple[Family, Any]] = {
    "clip": (Clip(), CLIPTextConfig(**SIZES, projection_dim=24, eos_token_id=END, bos_token_id=97)),
    "clip, its end token given as 2": (Clip(), CLIPTextConfig(**SIZES, projection_dim=24, eos_token_id=2)),
    "clip with GELU": (Clip(), CLIPTextConfig(**SIZES, projection_dim=40, eos_token_id=END, hidden_act="gelu")),
    "siglip": (Siglip(), SiglipTextConfig(**SIZES, projection_size=24)),
}


def texts(length: int) -> np.ndarray[Any, Any]:
    """Ids of five texts, each with an end and what stands for padding behind it."""
    rng = np.random.default_rng(length)
    ids = rng.integers(3, END - 1, (5, length))
    for row, end in zip(ids, rng.integers(0, length, 5), strict=True):
        row[end:] = END
    return ids


@pytest.mark.parametrize("length", [1, 7, 16])
@pytest.mark.parametrize(
    "config",
    [
        GraphConfig(),
        GraphConfig(standard_ops_only=True, fuse_skip_layernorm=False),
        GraphConfig(fuse_skip_layernorm=False),
    ],
    ids=["fused", "standard", "sums apart"],
)
@pytest.mark.parametrize("name", TOWERS)
def test_the_graph_of_a_text_tower_gives_what_pytorch_gives(name: str, config: GraphConfig, length: int) -> None:
    family, sizes = TOWERS[name]
    torch.manual_seed(0)
    model = family.text_model_class(sizes).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    tower = family.text_tower(model)
    assert tower is not None
    assert tower.context_length == 16
    builder = GraphBuilder()
    to = TextBuilder(builder, TensorNames(model, tower), config).tower(tower, INPUT_IDS)
    entry = helper.make_tensor_value_info(INPUT_IDS, TensorProto.INT64, ["batch", "sequence"])
    result = helper.make_tensor_value_info(to, TensorProto.FLOAT, ["batch", None])
    graph = helper.make_graph(builder.nodes, "text", [entry], [result], list(builder.initializers.values()))
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)]
    onnx_model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
    ids = texts(length)
    (given,) = ort.InferenceSession(onnx_model.SerializeToString()).run(None, {INPUT_IDS: ids})
    with torch.inference_mode():
        expected = family.embed_text(model, torch.from_numpy(ids)).numpy()
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(given, expected, rtol=0, atol=2e-5 * np.abs(expected).max())
    if config.standard_ops_only:
        assert {node.domain for node in builder.nodes} <= {"", "ai.onnx"}
