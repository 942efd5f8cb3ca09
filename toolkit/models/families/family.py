"""What a family's file says."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor
from transformers import PretrainedConfig

from toolkit.models.families.tower import Tower
from toolkit.recipe.schema import Embedding


class Family(Protocol):
    """The transformers classes of some encoders, and what their towers consist of."""

    name: str
    model_types: frozenset[str]
    """``model_type`` of the configurations that belong to the family."""
    text_model_types: frozenset[str]
    """``model_type`` of the text towers beside them, which hold no image encoder."""
    processor_class: Any
    tower_name: str
    """Module that a whole model keeps its vision tower in; a checkpoint of the tower alone may leave it out."""
    projection_name: str
    """Module that makes the embedding of what is pooled, and that a checkpoint may lack; empty if there is none."""
    mark: str
    """Tensor of the tower, without ``tower_name``, that no other family has."""
    example: str
    """A hub identifier of the family."""
    any_size: bool
    """Whether positions are interpolated to the size of the image."""

    def vision_config(self, config: PretrainedConfig, embedding: Embedding) -> PretrainedConfig:
        """The vision tower's part of a configuration, for a model that gives the embedding."""

    def model_class(self, config: PretrainedConfig, embedding: Embedding) -> Any:
        """The transformers class that gives the embedding, for a vision tower's configuration."""

    def config_class(self, model_type: str) -> Any:
        """The class of the vision tower's configuration."""

    def tower(self, model: Any) -> Tower:
        """What the model consists of."""

    def embed(self, model: Any, pixel_values: Tensor) -> Tensor:
        """The embedding [B, P] by transformers' own forward pass, the reference of every check."""

    def embedding_size(self, model: Any) -> int:
        """P."""
