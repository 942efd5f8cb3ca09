"""Facts of encoders against the modules themselves, and against figures that their authors published."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from toolkit.models.known_encoders import KNOWN
from toolkit.models.load import EMBEDDED, load_encoder
from toolkit.models.tower_facts import facts_of, multiply_accumulates


@pytest.mark.parametrize("name", ["clip", "siglip", "siglip2", "blip", "vit", "dinov2", "dinov3_vit"])
def test_multiply_accumulates_are_those_that_torch_counts(name: str, encoders: dict[str, Path]) -> None:
    encoder = load_encoder(str(encoders[name]))
    side = 2 * encoder.tower.patch_side if encoder.family.any_size else encoder.model.config.image_size
    image = torch.zeros(1, 3, side, side)
    encoder.model.set_attn_implementation("eager")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        encoder.family.embed(encoder.model, image)
    assert multiply_accumulates(encoder.tower, side) * 2 == pytest.approx(counter.get_total_flops(), rel=0.02)


def test_the_embedded_encoder_is_what_its_line_says() -> None:
    line = KNOWN[EMBEDDED]
    assert facts_of(load_encoder(EMBEDDED), line.image_size) == line.facts()


@pytest.mark.parametrize(
    ("name", "millions", "gflops"),
    [
        ("openai/clip-vit-base-patch32", 87.85, 8.82),
        ("openai/clip-vit-large-patch14-336", 304.29, 381.92),
        ("laion/CLIP-ViT-H-14-laion2B-s32B-b79K", 632.08, 334.59),
        ("google/siglip-base-patch16-224", 92.88, 35.42),
        ("google/siglip-so400m-patch14-384", 428.23, 670.35),
    ],
)
def test_open_clip_counts_the_same(name: str, millions: float, gflops: float) -> None:
    """The image towers' columns of OpenCLIP's docs/model_profile.csv, which has two decimals."""
    facts = KNOWN[name].facts()
    assert facts.parameters / 1e6 == pytest.approx(millions, abs=0.01)
    assert facts.gflops == pytest.approx(gflops, abs=0.01)


@pytest.mark.parametrize("name", KNOWN)
def test_every_line_makes_an_encoder(name: str) -> None:
    facts = KNOWN[name].facts()
    assert facts.layers
    assert facts.embedding_size
