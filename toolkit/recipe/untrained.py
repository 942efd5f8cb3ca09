"""What made a run that the training loop did not: zero-shot, few-shot, or an imported classifier."""

from __future__ import annotations

from typing import Any, Literal

import yaml
from pydantic import Field

from toolkit.recipe.data import DataConfig
from toolkit.recipe.model import ModelConfig
from toolkit.recipe.section import Section

Method = Literal["zero-shot", "few-shot", "import"]


class UntrainedRecipe(Section):
    """``recipe.yaml`` of such a run; ``method`` tells it from a :class:`~toolkit.recipe.recipe.Recipe`."""

    method: Method
    data: DataConfig | None = Field(None, description="Labelled images that it was calibrated and evaluated on.")
    model: ModelConfig
    settings: dict[str, Any] = Field({}, description="Of the method, such as its shots and seed.")

    def as_yaml(self) -> str:
        """The recipe, every key written out."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)
