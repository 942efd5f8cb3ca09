"""Well-known encoders of the hub: sizes of their published configurations, and licences, which their pages decide."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from toolkit.models.encoder import Encoder
from toolkit.models.families.registry import family_of_type
from toolkit.models.load import EMBEDDED
from toolkit.models.tower_facts import TowerFacts, facts_of
from toolkit.recipe.model import Embedding

UNSURE = "see its page"
"""The licence of an encoder that this table does not state."""


@dataclass(frozen=True)
class KnownEncoder:
    """An encoder and the configuration of its vision tower, as transformers reads it."""

    name: str
    model_type: str
    """Of the vision tower."""
    image_size: int
    """Side in pixels of the square that its processor gives."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """Beside transformers' defaults."""
    licence: str = UNSURE

    @property
    def page(self) -> str | None:
        """Where the hub describes it; None for the embedded one."""
        return None if self.name == EMBEDDED else f"https://huggingface.co/{self.name}"

    @property
    def family(self) -> str:
        """Name of its family."""
        family = family_of_type(self.model_type)
        assert family is not None  # a test reads every line
        return family.name

    def encoder(self, embedding: Embedding = "projected") -> Encoder:
        """Its tower, built without values."""
        family = family_of_type(self.model_type)
        assert family is not None
        config = family.vision_config(CONFIG_MAPPING[self.model_type](**self.config), embedding)
        with torch.device("meta"):
            model = family.model_class(config, embedding)(config, **family.model_arguments)
        return Encoder(family, model)

    def facts(self) -> TowerFacts:
        """Computed from a tower that is built without values."""
        return facts_of(self.encoder(), self.image_size)


def _size(width: int, layers: int, heads: int, mlp: int, patch: int, image_size: int, **others: Any) -> dict[str, Any]:
    return {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": mlp,
        "patch_size": patch,
        "image_size": image_size,
        **others,
    }


def _clip(name: str, size: dict[str, Any], licence: str = UNSURE) -> KnownEncoder:
    return KnownEncoder(name, "clip_vision_model", size["image_size"], size, licence)


APACHE = "apache-2.0"
_BASE = (768, 12, 12, 3072)
_LARGE = (1024, 24, 16, 4096)
KNOWN: dict[str, KnownEncoder] = {
    known.name: known
    for known in (
        _clip(EMBEDDED, _size(128, 6, 2, 512, 8, 64, projection_dim=64), APACHE),
        _clip("openai/clip-vit-base-patch32", _size(*_BASE, 32, 224, projection_dim=512)),
        _clip("openai/clip-vit-base-patch16", _size(*_BASE, 16, 224, projection_dim=512)),
        _clip("openai/clip-vit-large-patch14", _size(*_LARGE, 14, 224, projection_dim=768)),
        _clip("openai/clip-vit-large-patch14-336", _size(*_LARGE, 14, 336, projection_dim=768)),
        _clip("laion/CLIP-ViT-B-32-laion2B-s34B-b79K", _size(*_BASE, 32, 224, projection_dim=512), "mit"),
        _clip("laion/CLIP-ViT-L-14-laion2B-s32B-b82K", _size(*_LARGE, 14, 224, projection_dim=768), "mit"),
        _clip("laion/CLIP-ViT-H-14-laion2B-s32B-b79K", _size(1280, 32, 16, 5120, 14, 224, projection_dim=1024), "mit"),
        KnownEncoder("google/siglip-base-patch16-224", "siglip_vision_model", 224, _size(*_BASE, 16, 224), APACHE),
        KnownEncoder(
            "google/siglip-so400m-patch14-384",
            "siglip_vision_model",
            384,
            _size(1152, 27, 16, 4304, 14, 384),
            APACHE,
        ),
        KnownEncoder("google/siglip2-base-patch16-224", "siglip_vision_model", 224, _size(*_BASE, 16, 224), APACHE),
        KnownEncoder("google/siglip2-base-patch16-naflex", "siglip2_vision_model", 256, licence=APACHE),
        KnownEncoder("facebook/dinov2-base", "dinov2", 224, {"patch_size": 14, "image_size": 518}, APACHE),
        KnownEncoder(
            "facebook/dinov2-with-registers-base",
            "dinov2_with_registers",
            224,
            {"patch_size": 14, "image_size": 518, "num_register_tokens": 4},
            APACHE,
        ),
        KnownEncoder(
            "facebook/dinov3-vitb16-pretrain-lvd1689m",
            "dinov3_vit",
            224,
            _size(*_BASE, 16, 224, num_register_tokens=4),
            "DINOv3 License",
        ),
        KnownEncoder("google/vit-base-patch16-224-in21k", "vit", 224, _size(*_BASE, 16, 224), APACHE),
        KnownEncoder(
            "Salesforce/blip-itm-base-coco",
            "blip_vision_model",
            384,
            _size(*_BASE, 16, 384, image_text_hidden_size=256),
            "bsd-3-clause",
        ),
    )
}
