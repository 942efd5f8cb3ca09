"""What a run reads of its data's texts: how long they are, and which are missing or cut."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from toolkit.data.source import DataSource
from toolkit.errors import ToolkitError
from toolkit.models.classifier import Classifier
from toolkit.models.modalities import image_tower_of, text_tower_of
from toolkit.models.text_inputs import TextInputs, context_of, text_inputs, tokens_of
from toolkit.recipe.recipe import Recipe

NO_TEXT = "name the column of the texts in data.columns.text, or leave text out of model.inputs"


@dataclass(frozen=True)
class Texts:
    """The texts of a data set as a classifier takes them."""

    inputs: TextInputs
    truncated: Mapping[str, int]
    """By split, texts that lost their end."""
    missing: Mapping[str, int]
    """By split, samples without a text."""

    def notes(self) -> list[str]:
        """What a user should know of them, in sentences."""
        told = (("lose their end: the text tower takes no more tokens", self.truncated), ("are missing", self.missing))
        return [
            f"texts that {what}: {', '.join(f'{count:,} {split}' for split, count in counts.items() if count)}"
            for what, counts in told
            if any(counts.values())
        ]


def texts_of(classifier: Classifier, data: DataSource, recipe: Recipe) -> Texts | None:
    """Look at every text; None for a classifier of images alone.

    Raises:
        ToolkitError: samples without a text that the recipe makes no place for, or texts that it refuses to cut.
    """
    tower = text_tower_of(classifier.encoder)
    if tower is None:
        return None
    if not data.has_texts:
        raise ToolkitError("the data has no texts", where=data.root, fix=NO_TEXT)
    training = recipe.training
    for key, asked in (("mixup", training.mixup), ("cutmix", training.cutmix)):
        if asked:
            fix = "leave it out, or use model.inputs: [image]"
            raise ToolkitError("texts can't be mixed as images are", where=f"training.{key}", fix=fix)
    if training.trunk_precision != "fp32":
        fix = "set it to fp32, or use model.inputs: [image]"
        raise ToolkitError("a text tower has no trunk in a graph of its own", where="training.trunk_precision", fix=fix)
    context, longest = context_of(tower), 1
    truncated, missing = dict[str, int](), dict[str, int]()
    for split, examples in data.splits.items():
        without = [example for example in examples if example.text is None]
        if len(without) == len(examples):
            raise ToolkitError("the data has no texts", where=data.root, fix=NO_TEXT)
        if without and not recipe.model.fusion.modality_dropout:
            what = f"{len(without):,} samples of the split {split} have no text"
            fix = "give each a text"
            if image_tower_of(classifier.encoder) is not None:
                fix += ", or train for missing ones with model.fusion.modality_dropout"
            raise ToolkitError(what, where=without[0].path, fix=fix)
        lengths = list(tokens_of(tower, (example.text or "" for example in examples)))
        too_long = [place for place, length in enumerate(lengths) if length > context]
        if too_long and recipe.model.long_texts == "refuse":
            what = f"a text of {lengths[too_long[0]]} tokens, where the text tower takes {context}"
            fix = f"shorten it and {len(too_long) - 1:,} others, or set model.long_texts=truncate"
            raise ToolkitError(what, where=examples[too_long[0]].path, fix=fix)
        truncated[split], missing[split] = len(too_long), len(without)
        longest = max([longest, *lengths])
    inputs = text_inputs(classifier.encoder, longest)
    assert inputs is not None  # it takes texts
    return Texts(inputs, truncated, missing)
