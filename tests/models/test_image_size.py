"""Encoders at other image sizes: what transformers interpolates at every pass is interpolated once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BlipVisionModel, CLIPImageProcessorPil, CLIPVisionModel, SiglipVisionModel, ViTModel

from toolkit.errors import ToolkitError
from toolkit.models.build import build_classifier, load_classifier, open_encoder, save_classifier
from toolkit.models.image_size import at_output_size
from toolkit.models.processing import preprocess_from
from toolkit.recipe.model import HeadConfig, ModelConfig

LEARNED = ["clip", "siglip", "vit", "blip"]
INTERPOLATED = (CLIPVisionModel, SiglipVisionModel, ViTModel, BlipVisionModel)


@pytest.mark.parametrize("side", [16, 48])
@pytest.mark.parametrize("family", LEARNED)
@torch.inference_mode()
def test_it_is_what_transformers_interpolates(family: str, side: int, encoders: dict[str, Path]) -> None:
    config = ModelConfig(encoder=str(encoders[family]), embedding="pooled", unfreeze_last=0)
    native, (resized, processor) = open_encoder(config)[0], open_encoder(config.model_copy(update={"image_size": side}))
    (tower,) = (module for module in native.model.modules() if isinstance(module, INTERPOLATED))
    pixel_values = torch.randn(2, 3, side, side)
    output = tower.eval()(pixel_values, interpolate_pos_encoding=True)
    tokens = output.last_hidden_state
    pooled = {"clip": output.pooler_output, "siglip": tokens.mean(dim=1)}
    expected = pooled.get(family, tokens[:, 0])
    torch.testing.assert_close(resized.eval()(pixel_values), expected, atol=1e-6, rtol=1e-6)
    assert preprocess_from(processor).output_size == (side, side)
    assert resized.notes == (f"positions for 32 x 32 pixels are interpolated to {side} x {side}",)


@pytest.mark.parametrize("family", LEARNED)
def test_a_saved_classifier_is_read_without_interpolating_again(
    family: str, encoders: dict[str, Path], tmp_path: Path
) -> None:
    config = ModelConfig(encoder=str(encoders[family]), unfreeze_last=0, embedding="pooled", image_size=48)
    classifier, processor = build_classifier(config, ["a", "b"], seed=0)
    save_classifier(tmp_path, classifier, HeadConfig(), processor)
    again, same = load_classifier(tmp_path)
    assert all(torch.equal(tensor, classifier.state_dict()[name]) for name, tensor in again.state_dict().items())
    assert preprocess_from(same) == preprocess_from(processor)


def test_an_encoder_of_any_size_changes_its_processor_alone(encoders: dict[str, Path]) -> None:
    config = ModelConfig(encoder=str(encoders["dinov2"]), unfreeze_last=0, image_size=64)
    encoder, processor = open_encoder(config)
    assert encoder.notes == ()
    assert (processor.size["shortest_edge"], preprocess_from(processor).output_size) == (72, (64, 64))


def test_a_crop_stays_the_same_share() -> None:
    sizes: dict[str, Any] = {"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}}
    processor = at_output_size(CLIPImageProcessorPil(**sizes), 448)
    assert (processor.size["shortest_edge"], processor.crop_size["height"]) == (512, 448)


def test_a_processor_that_does_not_resize_has_no_other_size() -> None:
    with pytest.raises(ToolkitError, match="does not resize"):
        at_output_size(CLIPImageProcessorPil(do_resize=False), 448)


@pytest.mark.parametrize(("side", "fix"), [(44, "use 40 or 48"), (7, "use 8")])
@pytest.mark.parametrize("family", ["clip", "dinov2"])
def test_a_size_that_patches_do_not_cover_is_refused(
    family: str, side: int, fix: str, encoders: dict[str, Path]
) -> None:
    with pytest.raises(
        ToolkitError, match=f"{side} pixels are no multiple of the encoder's patches of 8 x 8"
    ) as caught:
        open_encoder(ModelConfig(encoder=str(encoders[family]), unfreeze_last=0, image_size=side))
    assert (caught.value.where, caught.value.fix) == ("model.image_size", fix)
