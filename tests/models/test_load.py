"""All families, projected and pooled: the ordered groups compute what transformers' own forward pass computes."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from transformers import CLIPModel, SiglipVisionModel

from toolkit.errors import ToolkitError
from toolkit.models.encoder import Encoder
from toolkit.models.load import load_encoder, load_processor

BOTH = [
    (family, embedding)
    for family in ("clip", "laion", "siglip", "siglip2", "blip")
    for embedding in ("projected", "pooled")
]
POOLED = [(family, "pooled") for family in ("dinov2", "dinov2_with_registers", "vit", "dinov3_vit", "dinov3_vit_gated")]


@pytest.fixture(params=BOTH + POOLED, ids="-".join)
def encoder(request: pytest.FixtureRequest, encoders: dict[str, Path]) -> Encoder:
    family, embedding = request.param
    encoder = load_encoder(str(encoders[family]), embedding).eval()
    assert encoder.embedding == embedding
    return encoder


def test_pooled_is_what_transformers_pools(encoders: dict[str, Path]) -> None:
    """CLIP's class token behind the post norm; the mean that SiglipForImageClassification classifies."""
    pixel_values = torch.randn(2, 3, 32, 32)
    clip, siglip = (load_encoder(str(encoders[family]), "pooled").eval() for family in ("clip", "siglip"))
    with torch.inference_mode():
        whole = CLIPModel.from_pretrained(encoders["clip"]).vision_model(pixel_values).pooler_output
        tokens = SiglipVisionModel.from_pretrained(encoders["siglip"])(pixel_values).last_hidden_state
        torch.testing.assert_close(clip(pixel_values), whole)
        torch.testing.assert_close(siglip(pixel_values), tokens.mean(dim=1))
    assert (clip.embedding_size, siglip.embedding_size) == (32, 32)


def test_groups_in_order_compute_what_transformers_computes(encoder: Encoder) -> None:
    """In float64, where only a difference of formula could reach 1e-12; gradients too.

    transformers resizes SigLIP 2's positions in float32, an image at a time, which its gradients' sums show.
    """
    encoder = encoder.double().requires_grad_(True)
    pixel_values = torch.randn(3, 3, 32, 32, dtype=torch.float64)
    ours, theirs = encoder(pixel_values), encoder.family.embed(encoder.model, pixel_values)
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-12)
    parameters = list(encoder.parameters())
    gradients = [torch.autograd.grad(embedding.pow(2).sum(), parameters) for embedding in (ours, theirs)]
    tolerance = 1e-6 if encoder.family.name == "siglip2" else 1e-10
    for mine, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, expected, atol=tolerance, rtol=tolerance)


def test_clips_last_layer_computes_the_class_token_alone(encoders: dict[str, Path]) -> None:
    clip = load_encoder(str(encoders["clip"])).eval()
    tokens = clip(torch.randn(2, 3, 32, 32), stop=3)
    assert (tokens.shape, clip(tokens, start=3, stop=4).shape) == ((2, 17, 32), (2, 1, 32))


def test_layers_that_recompute_give_the_same_gradients_and_keep_less(encoder: Encoder) -> None:
    pixel_values = torch.randn(2, 3, 32, 32)
    gradients, kept = [], []
    for recompute in (False, True):
        encoder.recompute_layers = recompute
        saved: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, saved=saved: (saved.append(t.nbytes), t)[1], lambda t: t
        ):
            loss = encoder(pixel_values).pow(2).sum()
        gradients.append(torch.autograd.grad(loss, list(encoder.parameters())))
        kept.append(sum(saved))
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    assert kept[1] < 0.5 * kept[0]


@torch.inference_mode()
def test_starting_at_any_group_with_the_activations_before_it_gives_the_same_embedding(encoder: Encoder) -> None:
    pixel_values = torch.randn(2, 3, 32, 32)
    whole, hidden = encoder(pixel_values), pixel_values
    for start, group in enumerate(encoder.groups):
        assert torch.equal(encoder(hidden, start=start), whole)
        hidden = group.run(hidden)
    assert hidden.shape == (2, encoder.embedding_size)


def test_group_names_are_the_documented_ones(encoder: Encoder) -> None:
    names = ["embeddings", "layers.0", "layers.1", "layers.2", "post_norm", "projection"]
    assert encoder.group_names == (names if encoder.embedding == "projected" else names[:-1])


def test_every_parameter_belongs_to_exactly_one_group(encoder: Encoder) -> None:
    grouped = [parameter for group in encoder.groups for parameter in group.parameters()]
    assert len(grouped) == len({id(parameter) for parameter in grouped})
    assert {id(parameter) for parameter in grouped} == {id(parameter) for parameter in encoder.parameters()}


def test_every_parameter_gets_a_gradient(encoder: Encoder) -> None:
    encoder.requires_grad_(True)
    encoder(torch.randn(2, 3, 32, 32)).pow(2).sum().backward()
    assert [name for name, parameter in encoder.named_parameters() if parameter.grad is None] == []


def test_a_copied_encoder_runs_its_own_modules(encoder: Encoder) -> None:
    pixel_values = torch.randn(1, 3, 32, 32)
    before = encoder(pixel_values)
    other = copy.deepcopy(encoder)
    for parameter in other.parameters():
        torch.nn.init.zeros_(parameter)
    assert not torch.equal(other(pixel_values), before)
    assert torch.equal(encoder(pixel_values), before)


def test_weights_are_loaded_in_float32(encoder: Encoder) -> None:
    assert {parameter.dtype for parameter in encoder.parameters()} == {torch.float32}


def test_the_embedded_encoder_loads_with_its_processor() -> None:
    encoder = load_encoder("tiny-clip")
    processor = load_processor("tiny-clip", encoder.family)
    assert encoder.embedding_size == 64
    assert processor.crop_size["height"] == 64


@pytest.mark.parametrize("source", ["/no/such/folder", "./nowhere", "no-user/no-model-of-this-name"])
def test_an_encoder_that_is_not_there_is_said_in_one_line(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # else it retries for half a minute
    with pytest.raises(ToolkitError) as caught:
        load_encoder(source)
    assert source in caught.value.as_line()
    assert "tiny-clip" in caught.value.fix


def test_a_family_without_support_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ToolkitError, match="bert"):
        load_encoder(str(tmp_path))
