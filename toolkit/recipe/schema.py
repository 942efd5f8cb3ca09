"""The recipe schema: one model a section, unknown keys refused, every problem named at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from toolkit.errors import ToolkitError
from toolkit.labels import label_text
from toolkit.recipe.key_hints import meant
from toolkit.recipe.origins import Origins
from toolkit.regular_files import read_settings
from toolkit.strict_yaml import read_yaml
from toolkit.user_paths import remote

Augmentation = Literal["crop", "random_resized_crop", "flip_horizontal", "flip_vertical", "rand_augment"]
DataFormat = Literal["auto", "folder", "manifest", "datasets", "webdataset"]
Embedding = Literal["projected", "pooled"]
SelectBy = Literal["accuracy", "balanced_accuracy", "macro_f1", "auroc", "average_precision", "loss"]
Share = Annotated[float, Field(ge=0, lt=1)]


def _absolute_path(value: Path) -> Path:
    """The path from the root: a run outlives the folder it was started in."""
    reason = remote(value)
    if reason and not value.exists():
        raise ValueError(reason)
    try:
        return value.expanduser().absolute()
    except RuntimeError as error:  # ~nobody-of-this-name
        raise ValueError(str(error)) from error


class Section(BaseModel):
    """A part of a recipe; immutable, without unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _ordered(value: tuple[float, float]) -> tuple[float, float]:
    if value[0] > value[1]:
        raise ValueError(f"the smaller of {value[0]:g} and {value[1]:g} comes first")
    return value


Range = Annotated[tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]], AfterValidator(_ordered)]
"""Two positive numbers, the smaller one first."""


def _black_and_white(value: Any) -> tuple[float, float]:
    try:
        black, white = map(float, value)
    except (TypeError, ValueError):
        black = white = 0.0
    if isinstance(value, str) or not -math.inf < black < white < math.inf:
        raise ValueError("black and then white, two finite numbers, such as [0, 4095]")
    return black, white


ValueRange = Annotated[tuple[float, float], BeforeValidator(_black_and_white)]
"""Black and white."""


class ColumnsConfig(Section):
    """What the columns of a table are called."""

    path: str = Field("path", min_length=1, description="Of a manifest: the image's file, from the manifest's folder.")
    image: str = Field("image", min_length=1, description="Of a Hugging Face data set: the image.")
    label: str = Field("label", min_length=1, description="The class: a name or a number.")
    split: str = Field("split", min_length=1, description="Of a manifest: train, validation or test; may be missing.")
    group: str = Field(
        "group", min_length=1, description="What no split may divide, such as the patient; may be missing."
    )


class DataConfig(Section):
    """Where the images come from."""

    path: Path = Field(
        description="Image folder (train/ val/ test/ of one folder a class, or class folders alone), CSV or Parquet "
        "manifest, Hugging Face data set on disk, or folder of WebDataset shards."
    )
    format: DataFormat = Field("auto", description="How the images are stored; auto tells it from the path.")
    columns: ColumnsConfig = ColumnsConfig()
    classes: list[str] | None = Field(
        None, min_length=2, description="All classes in the order of the logits; those that occur, sorted, if left out."
    )
    on_bad_image: Literal["error", "skip"] = Field(
        "error", description="What an unreadable image does: stop before training, or be left out and counted."
    )
    augment: list[Augmentation] = Field(
        [],
        description="Random changes of training images: crop (80-100 % of the sides), random_resized_crop, "
        "flip_horizontal, flip_vertical, rand_augment.",
    )
    crop_area: Range = Field(
        (0.5, 1.0), description="With random_resized_crop: smallest and largest share of the area."
    )
    crop_ratio: Range = Field(
        (0.75, 1.3333333333333333), description="With random_resized_crop: smallest and largest width to height ratio."
    )
    rand_augment_operations: int = Field(2, ge=1, le=14, description="With rand_augment: operations an image.")
    rand_augment_magnitude: float = Field(9.0, ge=0, le=30, description="With rand_augment: strength, from 0 to 30.")
    validation_share: Share = Field(
        0.15, gt=0, description="Share of the images held out for validation, where the source makes none."
    )
    test_share: Share = Field(
        0.2, gt=0, description="Share of the images held out for the test, where the source makes none."
    )
    value_range: ValueRange | None = Field(
        None,
        description="What black and white are in images of more than 8 bits, such as [0, 4095] or [-1000, 400]; values "
        "outside saturate. Left out, what the files say, or the rule of docs/images.md.",
    )
    split_seed: int = Field(
        0, ge=0, description="Seed of the splits that are made: with it each image's content, or its group, decides."
    )

    @model_validator(mode="after")
    def _something_is_left_to_train_on(self) -> DataConfig:
        if self.validation_share + self.test_share >= 1:
            raise ValueError(
                f"validation_share {self.validation_share:g} and test_share {self.test_share:g} leave nothing to "
                "train on; together they must be below 1"
            )
        return self

    @field_validator("path")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return _absolute_path(value)

    @field_validator("classes", mode="before")
    @classmethod
    def _read_as_labels(cls, value: Any) -> Any:
        if not isinstance(value, list):
            return value
        names = [label_text(name) for name in value]
        empty = [str(place) for place, name in enumerate(names, 1) if not name]
        if empty:
            raise ValueError(f"an empty name, null, NaN and 'nan' are no class (entry {', '.join(empty)})")
        return names

    @field_validator("classes")
    @classmethod
    def _classes_differ(cls, value: list[str] | None) -> list[str] | None:
        if value is not None and len(set(value)) < len(value):
            twice = next(name for name in value if value.count(name) > 1)
            raise ValueError(f"the same class stands there twice: {twice!r}")
        return value


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

    @field_validator("dir")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        return None if value is None else _absolute_path(value)


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
        None, description="Weights of the losses: balanced for the inverse of each class's count, or a weight a class."
    )
    focal_gamma: float = Field(0.0, ge=0, description="Focal loss: how much images that are right already count less.")
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
    select_by: SelectBy = Field("accuracy", description="Validation figure that decides which epoch is kept.")
    early_stopping: int | None = Field(
        None, ge=1, description="Stop after this many epochs without a better validation figure."
    )
    max_gradient_norm: float = Field(1.0, gt=0, description="Gradients are scaled down to this norm.")
    gradient_accumulation: int = Field(1, ge=1, description="Batches of each process that make one optimiser step.")
    mixed_precision: Literal["no", "bf16", "fp16", "fp8"] = Field(
        "no", description="Precision of the products; weights stay fp32. fp16 and fp8 need a GPU that has it."
    )
    gradient_checkpointing: bool = Field(
        False, description="Layers compute their activations again in the backward pass: less memory, more time."
    )
    compile: bool = Field(False, description="Compile the model with torch.compile.")
    boundary_cache: BoundaryCacheConfig = BoundaryCacheConfig()
    trunk_precision: Literal["fp32", "fp16", "int8"] = Field(
        "fp32",
        description="Precision of the frozen trunk, in training and in all figures; fp16 and int8 run in ONNX Runtime, "
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


class TrackingConfig(Section):
    """What is written down on the way."""

    trackers: list[Literal["tensorboard", "csv", "wandb", "mlflow"]] = Field(
        ["tensorboard"], description="Where figures go beside metrics.jsonl; wandb and mlflow are installed apart."
    )
    project: str = Field("clip-toolkit", min_length=1, description="Project (wandb) or experiment (mlflow) of the run.")
    log_every: int = Field(10, ge=1, description="Optimiser steps between two logged steps.")
    plots: bool = Field(True, description="Draw the finished run's plots, which takes seconds a run.")


class Recipe(Section):
    """Everything that determines a run."""

    data: DataConfig
    model: ModelConfig
    training: TrainingConfig
    tracking: TrackingConfig = TrackingConfig()

    @model_validator(mode="after")
    def _mixing_is_possible(self) -> Recipe:
        training = self.training
        if training.mix_at == "boundary" and training.cutmix:
            raise ValueError("training.cutmix cuts images; with training.mix_at: boundary, use training.mixup alone")
        if (
            training.mix_at == "images"
            and (training.mixup or training.cutmix)
            and training.boundary_cache.enabled is True
        ):
            raise ValueError(
                "training.boundary_cache holds images that are not mixed; set training.mix_at: boundary to mix them "
                "behind the cache (mixup alone), or switch the cache off"
            )
        return self

    @model_validator(mode="after")
    def _views_differ(self) -> Recipe:
        cache = self.training.boundary_cache
        if cache.enabled and cache.views > 1 and not self.data.augment:
            raise ValueError(
                f"training.boundary_cache.views is {cache.views}, but without data.augment all views are equal"
            )
        return self

    def as_yaml(self) -> str:
        """The resolved recipe, every key written out."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)

    def equals(self, resolved: Any) -> bool:
        """Whether a resolved recipe, as it was written, says the same; keys that are newer than it count as default."""
        try:
            return Recipe.model_validate(resolved) == self
        except ValidationError:
            return False


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe and apply ``section.key=value`` overrides; values are read as YAML.

    Raises:
        ToolkitError: no such file, no YAML, or any number of problems in it, all in one message.
    """
    return trace_recipe(path, overrides)[0]


def trace_recipe(path: Path, overrides: Sequence[str] = ()) -> tuple[Recipe, dict[str, str]]:
    """:func:`load_recipe`, and where each key's value comes from: ``recipe``, ``override`` or ``default``."""
    content = _read(path)
    written = deepcopy(content)
    for override in overrides:
        _apply(content, override)
    try:
        recipe = Recipe.model_validate(content)
    except ValidationError as error:
        problems = _problems(error, Origins(path.read_bytes(), overrides))
        raise ToolkitError(problems, where=path, fix="mend the keys that are named") from error
    asked = [override.partition("=")[0] for override in overrides]
    origins = {}
    for key in leaves(recipe):
        if any(f"{key}.".startswith(f"{name}.") or name.startswith(f"{key}.") for name in asked):
            origins[key] = "override"
        else:
            origins[key] = "recipe" if _stands_in(written, key) and _stands_in(content, key) else "default"
    return recipe, origins


def leaves(section: Section, prefix: str = "") -> dict[str, Any]:
    """Every key of a section and of those in it, by its dotted name, with its value."""
    found: dict[str, Any] = {}
    for name in type(section).model_fields:
        value = getattr(section, name)
        found |= leaves(value, f"{prefix}{name}.") if isinstance(value, Section) else {f"{prefix}{name}": value}
    return found


def _stands_in(content: dict[str, Any], key: str) -> bool:
    node: Any = content
    for part in key.split("."):
        if not isinstance(node, dict) or part not in node:
            return False
        node = node[part]
    return True


def _read(path: Path) -> dict[str, Any]:
    try:
        content = read_yaml(read_settings(path))
    except OSError as error:
        raise ToolkitError(
            f"can't read the recipe: {error.strerror}", where=path, fix="toolkit recipes list shows what ships"
        ) from error
    except ValueError as error:
        raise ToolkitError(
            f"the recipe is no YAML: {_one_line(error)}", where=path, fix="mend the line that is named"
        ) from error
    if not isinstance(content, dict):
        raise ToolkitError("the recipe holds no sections", where=path, fix=f"give it {', '.join(Recipe.model_fields)}")
    return content


def load_data_config(path: Path, settings: Sequence[str] = ()) -> DataConfig:
    """The section ``data`` of a recipe for a path, with ``key=value`` settings such as ``columns.label=finding``.

    A setting may have ``data.`` before it, as in a recipe's overrides.

    Raises:
        ToolkitError: any number of problems in it, all in one message.
    """
    content: dict[str, Any] = {"data": {"path": str(path)}}
    for setting in settings:
        _apply(content, f"data.{setting.removeprefix('data.')}")
    try:
        return DataConfig.model_validate(content["data"])
    except ValidationError as error:
        problems = _problems(error, Origins(b"", settings, "data."), ("data",))
        raise ToolkitError(problems, where="settings", fix="mend the keys that are named") from error


def _apply(content: dict[str, Any], override: str) -> None:
    name, separator, value = override.partition("=")
    *sections, key = name.split(".")
    if not separator or not sections or not all([*sections, key]):
        known = meant(name, all_keys()) if name and not sections else None
        fix = f"write {known}={value or 'value'}" if known else "write section.key=value, such as training.epochs=3"
        raise ToolkitError(f"{override!r} is no override", where="command line", fix=fix)
    node = content
    for section in sections:
        node = node.setdefault(section, {})
        if not isinstance(node, dict):
            raise ToolkitError(f"{section!r} holds no keys", where=override, fix="write section.key=value")
    try:
        node[key] = read_yaml(value)
    except ValueError as error:
        raise ToolkitError(f"the value is no YAML: {_one_line(error)}", where=override, fix="quote it") from error
    if key == "unfreeze":
        node.pop("unfreeze_last", None)
    if key == "unfreeze_last":
        node.pop("unfreeze", None)


def all_keys(model: type[BaseModel] | None = None, prefix: str = "") -> list[str]:
    """The dotted names of all sections and keys, those of a section before those of the sections in it."""
    found, below = [], []
    for name, field in (model or Recipe).model_fields.items():
        found.append(f"{prefix}{name}")
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            below += all_keys(kind, f"{prefix}{name}.")
    return found + below


def _problems(error: ValidationError, origins: Origins, sections: tuple[str, ...] = ()) -> str:
    """All problems in words, each with the place where the value was written.

    Args:
        error: of the model that stands at ``sections`` in a recipe.
        origins: of the recipe.
        sections: see there.
    """
    described = []
    for problem in error.errors():
        place = [*sections, *(part for part in problem["loc"] if "[" not in str(part))]
        if isinstance(problem["input"], dict) and problem["type"] == "value_error":
            origin = origins.of_mentioned(problem["msg"], all_keys(), ".".join(map(str, place)))
        else:
            origin = None if problem["type"] == "missing" else origins.of(place)
        described.append(_describe(problem, sections) + (f" ({origin})" if origin else ""))
    return "; ".join(described)


def _describe(problem: Any, sections: tuple[str, ...] = ()) -> str:
    """One problem in words: where it is, what is wrong and, for an unknown key, the nearest valid one.

    Args:
        problem: an entry of pydantic's errors.
        sections: where in a recipe the model stands that was checked.
    """
    path = [part for part in problem["loc"] if isinstance(part, str)]
    place = ".".join(str(part) for part in problem["loc"] if "[" not in str(part))  # dict[str,float]: one of two kinds
    if problem["type"] == "extra_forbidden":
        section = ".".join([*sections, *path[:-1]])
        known = meant(".".join([*sections, *path]), all_keys())
        if known is None:
            hint = f"valid keys: {', '.join(_keys_of([*sections, *path[:-1]]))}"
        else:
            inside = known.removeprefix(f"{section}.")
            hint = f"did you mean {(known if '.' in inside else inside)!r}?"
        return f"unknown key {place!r}, {hint}"
    if problem["type"] == "missing":
        return f"{place} is missing"
    message = problem["msg"].removeprefix("Value error, ")
    return (
        f"{place}: {message[0].lower()}{message[1:]} (got {_short(repr(problem['input']))})"
        if not isinstance(problem["input"], dict)
        else ": ".join(filter(None, (place, message)))
    )


def _keys_of(path: Sequence[str]) -> list[str]:
    model: type[BaseModel] = Recipe
    for part in path:
        model = model.model_fields[part].annotation  # type: ignore[assignment]
    return list(model.model_fields)


def _short(text: str, most: int = 200) -> str:
    """A text cut to so many characters."""
    return text if len(text) <= most else f"{text[:most]}..."


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
