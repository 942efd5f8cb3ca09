"""The section ``model``: encoder, head, and what learns."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import (
    Field,
    field_validator,
    model_validator,
)

from toolkit.recipe.section import Section, Share

Embedding = Literal["projected", "pooled"]


class HeadConfig(Section):
    """What turns an embedding into logits."""

    type: Literal["mlp", "linear"] = Field("mlp", description="One hidden layer with GELU, or a single linear layer.")
    hidden_size: int = Field(256, ge=1, description="Width of the hidden layer of an mlp head.")
    dropout: Share = Field(0.1, description="Dropout in the head, while training.")


class ModelConfig(Section):
    """Encoder, what of it learns, and the head."""

    encoder: str = Field("tiny-clip", description="tiny-clip, a folder, or a hub identifier of a CLIP or SigLIP model.")
    embedding: Embedding = Field(
        "projected",
        description="What the head takes: projected, behind CLIP's projection or SigLIP's attention pooling; or "
        "pooled, for an encoder without one: CLIP's class token or the mean of SigLIP's tokens, behind the post norm.",
    )
    task: str = Field("single-label", description="What is predicted: single-label, one class an image.")
    unfreeze_last: int | None = Field(
        None, ge=0, description="Train the last K layers, the post norm and the head; 0 trains the head alone."
    )
    unfreeze: list[str] | None = Field(
        None, min_length=1, description="Instead of unfreeze_last: names or patterns of groups, or all."
    )
    head: HeadConfig = HeadConfig()

    @field_validator("unfreeze", mode="before")
    @classmethod
    def _one_name_is_a_list(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_selection(self) -> ModelConfig:
        if (self.unfreeze_last is None) == (self.unfreeze is None):
            raise ValueError("give exactly one of unfreeze_last and unfreeze")
        return self
