"""The section ``model``: encoder, head, and what learns."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import (
    Field,
    field_validator,
    model_validator,
)

from toolkit.recipe.prompts import Template, one_template_is_a_list
from toolkit.recipe.section import Section, Share

Embedding = Literal["projected", "pooled", "patch_mean"]
Modality = Literal["image", "text"]


class HeadConfig(Section):
    """What turns an embedding into logits."""

    type: Literal["mlp", "linear", "cosine", "tip-adapter"] = Field(
        "mlp",
        description="mlp: one hidden layer with GELU; linear: a single layer; cosine: the cosine between embedding and "
        "a vector a class, times a scale that is learned, as CLIP compares images with texts; tip-adapter: what "
        "toolkit few-shot makes.",
    )
    init: Literal["random", "text"] = Field(
        "random",
        description="text: a cosine head starts as the text embeddings of the classes, so that step 0 is zero-shot; "
        "with training.wise_ft its weights are mixed with these too.",
    )
    templates: list[Template] | None = Field(
        None,
        min_length=1,
        description="With init: text, the prompts whose embeddings are averaged, with {} where the class stands; a set "
        "for photographs if left out.",
    )
    texts: dict[str, str] = Field(
        {}, description="With init: text, what prompts say in place of a class's name, such as {'0': zero}."
    )
    cached: int = Field(0, ge=0, description="Images that a tip-adapter head has cached.")
    hidden_size: int = Field(256, ge=1, description="Width of the hidden layer of an mlp head.")
    dropout: Share = Field(0.1, description="Dropout in the head, while training.")

    @field_validator("templates", mode="before")
    @classmethod
    def _one_template_is_a_list(cls, value: Any) -> Any:
        return one_template_is_a_list(value)

    @model_validator(mode="after")
    def _text_is_compared_by_cosine(self) -> HeadConfig:
        if self.init == "text" and self.type != "cosine":
            raise ValueError(f"init: text needs type: cosine, not {self.type}")
        if self.init != "text" and (self.templates or self.texts):
            raise ValueError("templates and texts are for init: text")
        return self


class FusionConfig(Section):
    """What makes one vector of an image's embedding and a text's."""

    type: Literal["concat", "product", "gated", "cross-attention"] = Field(
        "concat",
        description="concat: side by side; product: number by number, whose sum is the cosine; gated: a weighted sum, "
        "whose weights both decide on; cross-attention: a transformer block in which the text asks the image's tokens.",
    )
    modality_dropout: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share of the training samples that lose their image or their text, so that either may be missing "
        "in production; 0 where both are always there.",
    )


class ModelConfig(Section):
    """Encoder, what of it learns, and the head."""

    encoder: str = Field("tiny-clip", description="tiny-clip, a folder, or a hub identifier of an encoder.")
    revision: str | None = Field(
        None, min_length=1, description="Of a hub identifier: a commit, tag or branch; the newest if left out."
    )
    image_size: int | None = Field(
        None,
        ge=1,
        description="Side of the square images that the encoder gets, in pixels, a multiple of its patch size; "
        "positions are interpolated to it, and the image processor's sizes scaled. The checkpoint's own if left out.",
    )
    embedding: Embedding = Field(
        "projected",
        description="What the head takes: projected, behind CLIP's projection or SigLIP's attention pooling; or "
        "pooled, for an encoder without one: the class token or the mean of SigLIP's tokens, behind the post norm; "
        "or patch_mean, as transformers' CLIPForImageClassification has it: the mean of CLIP's patch tokens before it.",
    )
    inputs: list[Modality] = Field(
        ["image"],
        description="What is classified: [image]; or [image, text], a text beside each image in data.columns.text, by "
        "the text tower beside the encoder; or [text], a text alone.",
    )
    fusion: FusionConfig = FusionConfig()
    long_texts: Literal["truncate", "refuse"] = Field(
        "truncate", description="What a text longer than the text tower's context does: lose its end, counted; or stop."
    )
    task: str = Field(
        "single-label",
        description="What is predicted: single-label, one class an image; sigmoid-scores, one class an image with "
        "a probability of its own for each class, as SigLIP was trained; multi-label, any number of labels an image; "
        "ordinal, one of classes that have an order, that of data.classes; regression, a number (data.columns.number).",
    )
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

    @field_validator("inputs")
    @classmethod
    def _known_inputs(cls, value: list[Modality]) -> list[Modality]:
        if sorted(value) not in (["image"], ["image", "text"], ["text"]):
            raise ValueError("inputs are [image], [image, text] or [text]")
        return sorted(value)

    @model_validator(mode="after")
    def _texts_are_taken(self) -> ModelConfig:
        if len(self.inputs) == 1 and self.fusion != FusionConfig():
            raise ValueError("fusion is for inputs: [image, text]")
        if "text" not in self.inputs and self.long_texts != "truncate":
            raise ValueError("long_texts is for inputs: [image, text] or [text]")
        if "text" in self.inputs and self.head.init == "text":
            raise ValueError("head.init: text starts from the classes' names and is for inputs: [image]")
        if self.inputs == ["text"] and (self.image_size is not None or self.embedding != "projected"):
            raise ValueError("image_size and embedding are of the image tower, which inputs: [text] leaves out")
        return self

    @model_validator(mode="after")
    def _one_selection(self) -> ModelConfig:
        if (self.unfreeze_last is None) == (self.unfreeze is None):
            raise ValueError("give exactly one of unfreeze_last and unfreeze")
        return self
