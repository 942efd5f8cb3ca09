"""Attention rollout: the layers' own weights, their product a distribution, the encoder as it was."""

from __future__ import annotations

from pathlib import Path

import kinds
import pytest
import torch
from torch import Tensor

from toolkit.models.attention import attention_map, attentions_of, rollout
from toolkit.models.build import open_as_it_is
from toolkit.models.encoder import Encoder
from toolkit.models.load import load_encoder

FAMILIES = [
    *("clip", "laion", "siglip", "siglip2", "dinov2", "dinov2_with_registers", "dinov3_vit", "dinov3_vit_gated"),
    *("vit", "blip"),
]


@pytest.fixture(scope="module")
def image() -> Tensor:
    return torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def by_the_description(encoder: Encoder, image: Tensor) -> list[Tensor]:
    """Softmax of scaled dot products of what the description calls queries and keys, the mean over heads."""
    tower, found = encoder.tower, []
    assert tower is not None
    for place, block in enumerate(tower.blocks):
        attention, normed = block.attention, block.norm1(encoder(image, 0, 1 + place))
        query, key = (
            projection(normed).unflatten(-1, (attention.heads, -1)).transpose(1, 2)[0].double()
            for projection in (attention.query, attention.key)
        )
        found.append((query @ key.transpose(1, 2) * attention.scale).softmax(-1).mean(0))
    return found


@pytest.mark.parametrize("name", [name for name in FAMILIES if "dinov3" not in name])
def test_weights_are_those_of_the_description(name: str, encoders: dict[str, Path], image: Tensor) -> None:
    encoder, _ = open_as_it_is(str(encoders[name]))
    tower = encoder.tower
    assert tower is not None
    layers, _ = attentions_of(encoder, tower, image)
    for found, expected in zip(layers, by_the_description(encoder, image), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_map_is_a_distribution_and_the_encoder_stays(name: str, encoders: dict[str, Path], image: Tensor) -> None:
    encoder, _ = open_as_it_is(str(encoders[name]))
    before, implementation = encoder(image), encoder.model.config._attn_implementation
    found = attention_map(encoder, image)
    assert found.shares.shape == (4, 4)
    assert float(found.shares.min()) > 0
    without_prefix = name in ("siglip", "siglip2")
    assert found.on_patches == pytest.approx(1) if without_prefix else 0.4 < found.on_patches < 1
    assert found.query == ("the attention pooling's" if without_prefix else "the class token's")
    assert torch.equal(encoder(image), before)
    assert encoder.model.config._attn_implementation == implementation


@pytest.mark.parametrize("name", ["metaclip_2", "siglip2"])
def test_families_with_texts_too(name: str, text_encoders: dict[str, Path], image: Tensor) -> None:
    encoder, _ = open_as_it_is(str(text_encoders[name]))
    assert attention_map(encoder, image).shares.shape == (4, 4)


@pytest.mark.parametrize(("name", "embedding"), [("siglip", "pooled"), ("clip", "patch_mean")])
def test_a_mean_of_patches_has_the_mean_of_their_rows(
    name: str, embedding: str, encoders: dict[str, Path], image: Tensor
) -> None:
    encoder = load_encoder(str(encoders[name]), embedding)  # type: ignore[arg-type]
    found, tower = attention_map(encoder, image), encoder.tower
    assert tower is not None
    rolled = rollout(attentions_of(encoder, tower, image)[0])
    rows = rolled[tower.prefix :, tower.prefix :]
    torch.testing.assert_close(found.shares.flatten(), rows.mean(dim=0))


def test_images_that_are_no_squares_have_their_own_grid(encoders: dict[str, Path]) -> None:
    encoder, _ = open_as_it_is(str(encoders["dinov2"]))
    assert attention_map(encoder, torch.randn(1, 3, 24, 48)).shares.shape == (3, 6)


def test_even_attention_fades_by_half_a_layer() -> None:
    """With weights of 1 / T, n layers leave 2^-n of a token where it was, and spread the rest evenly."""
    tokens, layers = 5, 3
    even = torch.full((tokens, tokens), 1 / tokens, dtype=torch.float64)
    rolled = rollout([even] * layers)
    kept = 0.5**layers
    torch.testing.assert_close(rolled, kept * torch.eye(tokens).double() + (1 - kept) / tokens)


def test_layers_are_multiplied_from_the_last_to_the_first() -> None:
    first, last = torch.rand(4, 4).double(), torch.rand(4, 4).double()
    first, last = first / first.sum(-1, keepdim=True), last / last.sum(-1, keepdim=True)
    mixed = [(weights + torch.eye(4)) / 2 for weights in (first, last)]
    torch.testing.assert_close(rollout([first, last]), mixed[1] @ mixed[0])
    torch.testing.assert_close(rollout([first, last]).sum(-1), torch.ones(4).double())


def test_attention_to_one_place_is_seen_there(encoders: dict[str, Path], tmp_path: Path) -> None:
    """With large queries and keys a patch that stands out takes the class token's attention."""

    def louder(tensors: kinds.Tensors) -> kinds.Tensors:
        return {
            name: tensor * 200 if "q_proj.weight" in name and "vision" in name else tensor
            for name, tensor in tensors.items()
        }

    folder = kinds.copy_of(encoders["clip"], tmp_path / "loud", louder)
    encoder, _ = open_as_it_is(str(folder))
    image = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    calm, _ = open_as_it_is(str(encoders["clip"]))
    quiet, loud = (attention_map(each, image).shares for each in (calm, encoder))
    assert loud.max() / loud.mean() > 2 * quiet.max() / quiet.mean()
