"""MetaCLIP 2: CLIP's modules under other names, with texts in many languages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from transformers import (
    MetaClip2TextModelWithProjection,
    MetaClip2VisionConfig,
    MetaClip2VisionModel,
    MetaClip2VisionModelWithProjection,
)

from toolkit.models.families.clip import Clip
from toolkit.models.families.tower import TextPooling, TextTower
from toolkit.recipe.model import Embedding


class MetaClip2(Clip):
    """Meta's MetaCLIP 2; the end of a text is the id that the configuration names, without exception."""

    name = "metaclip_2"
    model_types = frozenset({"metaclip_2", "metaclip_2_vision_model"})
    text_model_types = frozenset({"metaclip_2_text_model"})
    text_model_class = MetaClip2TextModelWithProjection
    vision_config_class = MetaClip2VisionConfig
    vision_model_class = MetaClip2VisionModel
    projected_model_class = MetaClip2VisionModelWithProjection
    classifiers: Mapping[str, Embedding] = {"MetaClip2ForImageClassification": "patch_mean"}
    example = "facebook/metaclip-2-worldwide-huge-quickgelu"

    def text_tower(self, model: Any) -> TextTower:
        """CLIP's, with its own end of texts."""
        return replace(super().text_tower(model), pooling=TextPooling("end", model.config.eos_token_id))
