"""What a family's file says; most of it has a default."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers import PretrainedConfig
from transformers.models.auto.modeling_auto import MODEL_MAPPING

from toolkit.models.families.tower import TextTower, Tower
from toolkit.recipe.model import Embedding


class Family(ABC):
    """The transformers classes of some encoders, and what their towers consist of."""

    name: str
    model_types: frozenset[str]
    """``model_type`` of the configurations that belong to the family."""
    text_model_types: frozenset[str] = frozenset()
    """``model_type`` of the text towers beside them, which hold no image encoder."""
    text_model_class: Any = None
    """The transformers class of the text tower with what makes its embedding, where there is one."""
    text_tower_name = "text_model"
    """Module that a whole model keeps its text tower in."""
    zero_shot_task = "single-label"
    """What makes probabilities of scores of images and texts."""
    pads_texts = False
    """Whether the text tower was trained on texts padded to its context, whose padding it reads."""
    model_arguments: Mapping[str, Any] = {}
    """What the transformers class of the encoder takes beside its configuration."""
    processor_class: Any
    processors_read: frozenset[str] = frozenset()
    """Other classes whose files state the same, for ``processor_class`` to read; see :meth:`processor_settings`."""
    usual_processor: Mapping[str, Any] = {}
    """What the image processors of the published checkpoints have in common, as fields of ``Preprocess``."""
    tower_name = ""
    """Module that a whole model keeps its vision tower in; a checkpoint of the tower alone may leave it out."""
    projection_name = ""
    """Module that makes the embedding of what is pooled, and that a checkpoint may lack; empty if there is none."""
    classifiers: Mapping[str, Embedding] = {}
    """Classes of transformers that put one linear layer on an embedding of the family's, by their names."""
    mark: str
    """Tensor of the tower, without ``tower_name``, that no other family has."""
    example: str
    """A hub identifier of the family."""
    unread: tuple[str, ...] = ()
    """Parameters that no forward pass reads, such as those of pre-training alone; an encoder has none of them."""
    any_size = False
    """Whether positions are interpolated to the size of the image."""
    square_only = False
    """With ``any_size``, whether the images have to be square."""
    oldest_transformers = "5.17"
    """The first version whose modules are those that :meth:`tower` describes."""

    @abstractmethod
    def tower(self, model: Any) -> Tower | None:
        """What the model consists of; None for one that is traced as a whole."""

    @abstractmethod
    def embed(self, model: Any, pixel_values: Tensor) -> Tensor:
        """The embedding [B, P] by transformers' own forward pass, the reference of every check."""

    def embed_tokens(self, model: Any, pixel_values: Tensor) -> Tensor:
        """All tokens [B, T, D] behind the post norm by transformers' own forward pass; only of families with texts.

        Raises:
            NotImplementedError: the family has no texts.
        """
        raise NotImplementedError(f"{self.name} has no text tower")

    def forward_arguments(self, model: Any, pixel_values: Tensor) -> dict[str, Tensor]:
        """What transformers' classes of the family take for ``pixel_values`` [B, 3, height, width]."""
        return {"pixel_values": pixel_values}

    def text_tower(self, model: Any) -> TextTower | None:
        """What a model of ``text_model_class`` consists of; None for a family without texts."""
        return None

    def text_config(self, config: PretrainedConfig) -> PretrainedConfig | None:
        """The text tower's part of a whole model's configuration; None where there is none."""
        return getattr(config, "text_config", None)

    def embed_text(self, model: Any, input_ids: Tensor) -> Tensor:
        """The embedding [B, P] of texts by transformers' own forward pass.

        Raises:
            NotImplementedError: the family has no texts.
        """
        raise NotImplementedError(f"{self.name} has no text tower")

    def processor_settings(self, settings: dict[str, Any]) -> dict[str, Any]:
        """What ``processor_class`` takes, from the settings of one of ``processors_read``."""
        return settings

    def vision_config(self, config: PretrainedConfig, embedding: Embedding) -> PretrainedConfig:
        """The vision tower's part of a configuration, for a model that gives the embedding."""
        return config

    def model_class(self, config: PretrainedConfig, embedding: Embedding) -> Any:
        """The transformers class that gives the embedding, for a vision tower's configuration."""
        return MODEL_MAPPING[type(config)]

    def embedding_size(self, model: Any) -> int:
        """Width P of the embedding that the encoder gives."""
        return model.config.hidden_size
