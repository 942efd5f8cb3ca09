"""A whole recipe."""

from __future__ import annotations

from typing import Any

import yaml
from pydantic import (
    ValidationError,
    model_validator,
)

from toolkit.recipe.data import DataConfig
from toolkit.recipe.model import ModelConfig
from toolkit.recipe.section import Section
from toolkit.recipe.tracking import TrackingConfig
from toolkit.recipe.training import ThresholdsConfig, TrainingConfig

SELECT_BY = {"multi-label": "average_precision", "ordinal": "mae", "regression": "mae"}
"""What ``training.select_by`` is, unless the recipe says it, by tasks that accuracy doesn't suit."""


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

    @model_validator(mode="before")
    @classmethod
    def _tasks_select_by_their_own(cls, content: Any) -> Any:
        """The epoch that is kept, where the recipe doesn't say by what: not by accuracy in every task.

        With several labels an image accuracy means that all of them are right at a probability of a half, which few
        images of many labels are, and which the thresholds change afterwards; a number is never right.
        """
        try:
            own = SELECT_BY.get(content["model"]["task"])
            if own is None or "select_by" in content["training"]:
                return content
            return {**content, "training": {**content["training"], "select_by": own}}
        except (TypeError, KeyError):  # which the schema says
            return content

    @model_validator(mode="after")
    def _images_are_there(self) -> Recipe:
        columns = self.data.columns
        missing = [role for role in ("path", "image") if getattr(columns, role) is None]
        if missing and "image" in self.model.inputs:
            raise ValueError(f"data.columns.{missing[0]} is null, so the data has no images, which model.inputs takes")
        if self.data.augment and "image" not in self.model.inputs:
            raise ValueError("data.augment changes images, which model.inputs: [text] leaves out")
        return self

    def as_yaml(self) -> str:
        """The resolved recipe, every key written out but those of other tasks (``exclude_if``)."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)

    def equals(self, resolved: Any) -> bool:
        """Whether a resolved recipe, as it was written, trains the same; keys that are newer than it count as default.

        What thresholds of labels aim at is no part of that: they are chosen when training is over, so that a run whose
        aim can't be reached goes on with another one. Nor is it where rows of the boundary cache are read, so that a
        run whose device is out of memory goes on with fewer of them there.
        """
        try:
            return Recipe.model_validate(resolved)._trained() == self._trained()
        except ValidationError:
            return False

    def _trained(self) -> Recipe:
        cache = self.training.boundary_cache.model_copy(update={"device_share": 0.0})
        training = self.training.model_copy(update={"thresholds": ThresholdsConfig(), "boundary_cache": cache})
        return self.model_copy(update={"training": training})
