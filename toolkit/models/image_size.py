"""An encoder and its image processor at another image size than the checkpoint's."""

from __future__ import annotations

import copy
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.initialization import no_init_weights

from toolkit.errors import ToolkitError
from toolkit.models.families.family import Family


def check_image_size(config: Any, side: int) -> None:
    """Refuse a side that patches do not cover.

    Args:
        config: of the vision tower.
        side: of the square images, in pixels.

    Raises:
        ToolkitError: it is no multiple of the patch size; with the nearest two that are.
    """
    patch = getattr(config, "patch_size", None)
    if not isinstance(patch, int) or side % patch == 0:
        return
    below, above = side // patch * patch, (side // patch + 1) * patch
    raise ToolkitError(
        f"{side} pixels are no multiple of the encoder's patches of {patch} x {patch}",
        where="model.image_size",
        fix=f"use {below} or {above}" if below else f"use {above}",
    )


@torch.no_grad()
def at_image_size(model: PreTrainedModel, family: Family, side: int) -> PreTrainedModel:
    """The encoder for square images of another size, whose positions are interpolated once, as transformers does.

    The configuration says the new size, so that everything behind it sees an encoder that was made for it.

    Args:
        model: the encoder, with learned positions.
        family: its family.
        side: of the images, in pixels; a multiple of the patch size.
    """
    tower, config = family.tower(model), copy.deepcopy(model.config)
    assert tower is not None  # an encoder without a description takes any size
    config.image_size = side
    with no_init_weights():
        resized = type(model)(config, **family.model_arguments)
    embeddings: Any = tower.embeddings
    name = next(name for name, _ in embeddings.named_parameters() if name.startswith("position"))
    positions = embeddings.get_parameter(name)
    tokens = positions.new_empty(1, tower.prefix + (side // config.patch_size) ** 2, positions.shape[-1])
    rows = embeddings.interpolate_pos_encoding(tokens, side, side)
    inside = next(each for each, module in model.named_modules() if module is embeddings)
    weights = model.state_dict() | {f"{inside}.{name}": rows.reshape(*positions.shape[:-2], *rows.shape[-2:])}
    resized.load_state_dict(weights)
    return resized.eval()


def at_output_size(processor: Any, side: int) -> Any:
    """The image processor with an output of another size; what it crops stays the same share of what it resizes to.

    Raises:
        ToolkitError: it does not resize.
    """
    if not processor.do_resize:
        fix = "set do_resize and size in preprocessor_config.json, or leave model.image_size out"
        raise ToolkitError("the image processor does not resize", where="model.image_size", fix=fix)
    size = {key: value for key, value in dict(processor.size).items() if value is not None}
    square = {"height": side, "width": side}
    if not getattr(processor, "do_center_crop", None):
        return type(processor).from_dict(processor.to_dict() | {"size": square})
    crop = min(processor.crop_size["height"], processor.crop_size["width"])
    sizes = {"size": {key: round(value * side / crop) for key, value in size.items()}, "crop_size": square}
    return type(processor).from_dict(processor.to_dict() | sizes)
