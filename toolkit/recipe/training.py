"""The section ``training``: the optimiser, the loop, the boundary cache, and what decides."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    field_validator,
    model_validator,
)

from toolkit.labels import label_text
from toolkit.recipe.section import Section, Share, absolute_path, is_none

SelectBy = Literal[
    "accuracy",
    "balanced_accuracy",
    "macro_f1",
    "auroc",
    "average_precision",
    "loss",
    "mae",
    "quadratic_kappa",
    "spearman",
    "rmse",
    "r2",
]


class BoundaryCacheConfig(Section):
    """Activations between the frozen trunk and what learns, computed once and kept on disk."""

    enabled: Literal[True, False, "auto"] = Field(
        False,
        description="Compute the frozen trunk once an image and view, and start epochs there; auto: where the run "
        "stays the same (no augmentation, or views) and there is room, else a line says why not.",
    )
    views: int = Field(
        1, ge=1, description="Augmented versions kept of each training image; epoch e sees version (e - 1) mod views."
    )
    dtype: Literal["fp32", "fp16", "bf16"] = Field(
        "fp32", description="How activations are stored: fp32 exactly as computed, the others in half the space."
    )
    max_gb: float = Field(
        50.0, gt=0, description="Largest size in GB (10^9 bytes); more is refused before it is written."
    )
    dir: Path | None = Field(
        None,
        description="Folder that keeps the cache for other runs; left out, it lives and ends with the run.",
    )
    device_share: float = Field(
        0.5,
        ge=0,
        le=0.9,
        description="Share of a GPU's free memory that rows may take: a split that fits lies there as a whole, any "
        "other is read one batch ahead; training has the rest. 0 reads all of them. The run is the same.",
    )

    @field_validator("dir")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        return None if value is None else absolute_path(value)


class OperatingPointConfig(Section):
    """A class that is said where its probability reaches a threshold, which validation chooses."""

    label: str | None = Field(
        None,
        alias="class",
        description="The class, such as the finding that must not be missed; none for no threshold.",
    )
    specificity: Share | None = Field(
        None, gt=0, description="Least share of the other classes' images that shall not be taken for it."
    )
    sensitivity: Share | None = Field(
        None, gt=0, description="Or the least share of its own images that shall be found."
    )

    @field_validator("label", mode="before")
    @classmethod
    def _read_as_label(cls, value: Any) -> Any:
        if value is None:
            return None
        name = label_text(value)
        if not name:
            raise ValueError("an empty name, NaN and 'nan' are no class")
        return name

    @model_validator(mode="after")
    def _one_target(self) -> OperatingPointConfig:
        targets = [target for target in (self.specificity, self.sensitivity) if target is not None]
        if self.label is None and targets:
            raise ValueError("class is missing: whose probability the threshold is set on")
        if self.label is not None and len(targets) != 1:
            raise ValueError("give either specificity or sensitivity with the class")
        return self


class ThresholdsConfig(Section):
    """With several labels an image, what validation chooses the threshold of each label for."""

    precision: Share | None = Field(
        None,
        gt=0,
        description="Least precision of each label, with 95 % confidence, at the best recall; the best F1 if left out.",
    )
    unreachable: Literal["error", "never"] = Field(
        "error",
        description="What a label does that no threshold reaches it for: end the run with an error, or never be said.",
    )


def is_zero(value: object) -> bool:
    """Whether a key is left out of resolved recipes: what few tasks have, and is not asked for."""
    return value == 0


class TrainingConfig(Section):
    """The optimisation."""

    epochs: int = Field(ge=1, description="Passes over the training split.")
    batch_size: int = Field(32, ge=1, description="Images a step in each process.")
    learning_rate: float = Field(1e-4, gt=0, description="Peak learning rate of the encoder's trainable groups.")
    head_learning_rate: float | None = Field(
        None, gt=0, description="Peak learning rate of the head; learning_rate if left out."
    )
    layer_decay: float = Field(
        1.0, gt=0, le=1, description="Factor on the learning rate a layer below the last one that learns."
    )
    weight_decay: float = Field(
        0.01,
        ge=0,
        description="AdamW's decay of the layers' weights; biases, norms, class token and positions never decay.",
    )
    scheduler: Literal["cosine", "step", "constant"] = Field(
        "cosine", description="Course of the learning rate after warm-up."
    )
    warmup_share: Share = Field(0.1, description="Share of the optimiser steps in which the rate rises linearly.")
    step_epochs: int = Field(10, ge=1, description="With scheduler: step, epochs between two reductions.")
    step_factor: float = Field(
        0.1, gt=0, lt=1, description="With scheduler: step, what a reduction multiplies the rate by."
    )
    label_smoothing: Share = Field(0.0, description="Share of each label that is spread over all classes.")
    class_weights: Literal["balanced"] | dict[str, Annotated[float, Field(gt=0)]] | None = Field(
        None,
        description="Weights of the losses: balanced for the inverse of each class's count, or a weight a class; with "
        "several labels an image, of the images that show a label: balanced for as much weight as the others have.",
    )
    focal_gamma: float = Field(0.0, ge=0, description="Focal loss: how much images that are right already count less.")
    positive_gamma: float = Field(
        0.0,
        ge=0,
        exclude_if=is_zero,
        description="With several labels an image: how much labels that are there and said to be so count less.",
    )
    negative_gamma: float = Field(
        0.0,
        ge=0,
        exclude_if=is_zero,
        description="With several labels an image: how much labels that are not there and said to be so count less; "
        "above positive_gamma, the asymmetric loss, such as 4.",
    )
    negative_clip: Share = Field(
        0.0,
        exclude_if=is_zero,
        description="With several labels an image: probability up to which a label that is not there counts nothing, "
        "such as 0.05.",
    )
    sampling: Literal["shuffled", "balanced"] = Field(
        "shuffled",
        description="An epoch holds each image once, or as many images of each class (repeats the rare ones).",
    )
    mixup: float = Field(
        0.0, ge=0, description="Mix two images and labels by shares from Beta(mixup, mixup); 0 for none."
    )
    cutmix: float = Field(
        0.0, ge=0, description="Replace a window by another image's, its area from Beta(cutmix, cutmix); 0 for none."
    )
    mix_at: Literal["images", "boundary"] = Field(
        "images", description="Mix the images, or (mixup alone) what the frozen trunk made of them, cached or not."
    )
    ema_decay: float | None = Field(
        None, gt=0, lt=1, description="Validate and keep a moving average of the weights with this decay a step."
    )
    wise_ft: bool = Field(
        False,
        description="At the end mix fine-tuned and original weights of the encoder; validation chooses the share.",
    )
    huber_delta: float | None = Field(
        None,
        gt=0,
        exclude_if=is_none,
        description="Of a number: errors beyond this many standard deviations of the training numbers count linearly; "
        "all count squared if left out.",
    )
    select_by: SelectBy = Field(
        "accuracy",
        description="Validation metric that decides which epoch is kept; mae, quadratic_kappa, spearman, rmse "
        "and r2 are for ordered classes and numbers.",
    )
    operating_point: OperatingPointConfig = OperatingPointConfig()
    thresholds: ThresholdsConfig = Field(ThresholdsConfig(), exclude_if=lambda value: value == ThresholdsConfig())
    early_stopping: int | None = Field(
        None, ge=1, description="Stop after this many epochs without a better validation metric."
    )
    max_gradient_norm: float = Field(1.0, gt=0, description="Gradients are scaled down to this norm.")
    gradient_accumulation: int = Field(1, ge=1, description="Batches of each process that make one optimiser step.")
    mixed_precision: Literal["no", "bf16", "fp16", "fp8"] = Field(
        "no", description="Precision of the matmuls; weights stay fp32. fp16 and fp8 need a GPU that has it."
    )
    gradient_checkpointing: bool = Field(
        False, description="Layers compute their activations again in the backward pass: less memory, more time."
    )
    compile: bool = Field(False, description="Compile the model with torch.compile.")
    boundary_cache: BoundaryCacheConfig = BoundaryCacheConfig()
    trunk_precision: Literal["fp32", "fp16", "int8"] = Field(
        "fp32",
        description="Precision of the frozen trunk, in training and in all metrics; fp16 and int8 run in ONNX Runtime, "
        "as they will be deployed.",
    )
    loader_workers: int | None = Field(
        None, ge=0, description="Processes that read images; chosen from the machine if left out."
    )
    checkpoint_every: int | None = Field(
        None, ge=1, description="Optimiser steps between two checkpoints within an epoch; one always ends an epoch."
    )
    keep_last: int = Field(2, ge=1, description="Checkpoints that are kept; the best epoch's weights are kept apart.")
    seed: int = Field(0, ge=0, description="Seed of the head's weights, the order of the images and the dropout.")

    @field_validator("class_weights", mode="before")
    @classmethod
    def _keys_are_read_as_labels(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        names = [label_text(name) for name in value]
        if not all(names):
            raise ValueError("an empty name, null, NaN and 'nan' are no class")
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"the same class stands there twice: {twice!r}")
        return dict(zip(names, value.values(), strict=True))

    @field_validator("mixed_precision", mode="before")
    @classmethod
    def _yaml_reads_no_as_false(cls, value: Any) -> Any:
        return "no" if value is False else value
