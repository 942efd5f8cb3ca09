"""The section ``data``: where images come from, how they are divided and varied."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    field_validator,
    model_validator,
)

from toolkit.labels import label_text
from toolkit.recipe.section import Range, Section, Share, ValueRange, absolute_path, is_none

Augmentation = Literal["crop", "random_resized_crop", "flip_horizontal", "flip_vertical", "rand_augment"]
DataFormat = Literal["auto", "folder", "manifest", "datasets", "webdataset"]
MissingText = Literal["error", "allow"]


def is_error(value: Any) -> bool:
    """Whether it is what a recipe that says nothing of missing texts means."""
    return bool(value == "error")


TargetKind = Literal["class", "labels", "number"]
"""What is known of an image: its class, several labels, or a number."""


def is_pipe(value: Any) -> bool:
    """Whether it is the separator that is meant where a recipe says none."""
    return bool(value == "|")


class ColumnsConfig(Section):
    """What the columns of a table are called."""

    path: str | None = Field(
        "path",
        min_length=1,
        description="Of a manifest: the image's file, from the manifest's folder; null for texts without images.",
    )
    image: str | None = Field(
        "image",
        min_length=1,
        description="Of a Hugging Face data set: the image; null for texts without images.",
    )
    text: str | None = Field(
        None,
        min_length=1,
        exclude_if=is_none,
        description="The text beside the image; of shards a field of the sample's JSON, or the extension of a member. "
        "Without texts if left out.",
    )
    label: str = Field("label", min_length=1, description="The class: a name or a number.")
    labels: Annotated[str, Field(min_length=1)] | Annotated[list[str], Field(min_length=2)] | None = Field(
        None,
        exclude_if=is_none,
        description="In place of label, for several labels an image: the column that holds them (a list, a JSON list, "
        "or names with separator between them), or a list of columns that hold 0 or 1, one a label.",
    )
    separator: str = Field(
        "|", min_length=1, exclude_if=is_pipe, description="What stands between the names in a column of labels."
    )
    number: str | None = Field(
        None, min_length=1, exclude_if=is_none, description="In place of label, for a number an image: its column."
    )
    split: str = Field("split", min_length=1, description="Of a manifest: train, validation or test; may be missing.")
    group: str = Field(
        "group", min_length=1, description="What no split may divide, such as the patient; may be missing."
    )

    @model_validator(mode="after")
    def _text_is_a_column_of_its_own(self) -> ColumnsConfig:
        if self.text is not None:
            same = [role for role in type(self).model_fields if role != "text" and getattr(self, role) == self.text]
            if same:
                raise ValueError(f"text and {same[0]} are one column, {self.text!r}")
        elif self.path is None or self.image is None:
            raise ValueError("samples without images need texts: name their column, text=NAME")
        return self

    @field_validator("labels")
    @classmethod
    def _columns_differ(cls, value: str | list[str] | None) -> str | list[str] | None:
        if isinstance(value, list):
            names = [label_text(name) for name in value]
            if not all(names) or len(set(names)) < len(names):
                raise ValueError("each column of labels has a name of its own")
        return value

    @model_validator(mode="after")
    def _one_target(self) -> ColumnsConfig:
        if self.labels is not None and self.number is not None:
            raise ValueError("give either labels or number: an image has several labels, or a number")
        return self

    def names(self) -> set[str]:
        """All columns that are read where they are there."""
        named = (self.path, self.image, self.label, self.split, self.group, self.text)
        return {name for name in named if name is not None}


class DataConfig(Section):
    """Where the images come from."""

    path: Path = Field(
        description="Image folder (train/ val/ test/ of one folder a class, or class folders alone), CSV or Parquet "
        "manifest, Hugging Face data set on disk, or folder of WebDataset shards."
    )
    store: str | None = Field(
        None,
        exclude_if=is_none,
        description="URL of a folder of WebDataset shards in an object store (fsspec: s3://, gs://, hf://); they are "
        "copied to path before they are read, each once.",
    )
    format: DataFormat = Field("auto", description="How the images are stored; auto tells it from the path.")
    columns: ColumnsConfig = ColumnsConfig()
    group_pattern: str | None = Field(
        None,
        description="Regular expression that is searched in an image's file name; its first group that matches is what "
        "no split may divide, such as (person\\d+)_ for a patient. Images without a match are groups of their own.",
    )
    classes: list[str] | None = Field(
        None, min_length=2, description="All classes in the order of the logits; those that occur, sorted, if left out."
    )
    on_bad_image: Literal["error", "skip"] = Field(
        "error", description="What an unreadable image does: stop before training, or be left out and counted."
    )
    missing_text: MissingText = Field(
        "error",
        exclude_if=is_error,
        description="With columns.text, what a row without a text does: stop, or stand for an image alone.",
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

    @field_validator("store")
    @classmethod
    def _is_a_url(cls, value: str | None) -> str | None:
        if value is not None and not re.match(r"[a-z][a-z0-9+.-]+://.", value):
            raise ValueError(f"no URL such as s3://bucket/folder: {value!r}; a folder on this machine goes into path")
        return value

    @model_validator(mode="after")
    def _stores_hold_shards(self) -> DataConfig:
        if self.store is not None and self.format not in {"auto", "webdataset"}:
            raise ValueError(f"a store holds WebDataset shards, and format is {self.format}")
        return self

    @field_validator("path")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return absolute_path(value)

    @field_validator("group_pattern")
    @classmethod
    def _has_a_group(cls, value: str | None) -> str | None:
        if value is None:
            return None
        try:
            groups = re.compile(value).groups
        except re.error as error:
            raise ValueError(f"no regular expression: {error}") from error
        if not groups:
            raise ValueError("put what names the group into parentheses, such as (person\\d+)_")
        return value

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
