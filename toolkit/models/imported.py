"""A classifier that transformers trained: an encoder with one linear layer behind it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import transformers
from safetensors import safe_open
from torch import Tensor, nn

from toolkit.errors import ToolkitError
from toolkit.models.build import open_encoder
from toolkit.models.checkpoint import Source, tensors_in, weight_files
from toolkit.models.classifier import Classifier
from toolkit.models.examine import configuration, family_at
from toolkit.models.head import build_head
from toolkit.models.hub import hub_once
from toolkit.models.load import in_words, quiet_transformers, source_of
from toolkit.models.processing import preprocess_from
from toolkit.recipe.model import Embedding, HeadConfig, ModelConfig

WEIGHT, BIAS = "classifier.weight", "classifier.bias"
HEAD = HeadConfig(type="linear", dropout=0)
CLOSE = 64
"""Roundings of the largest logit that the classifier may differ by from transformers' own forward pass."""
IMAGES = 4


@dataclass(frozen=True)
class ImportedClassifier:
    """What was found in a checkpoint."""

    architecture: str
    """The class of transformers that it was saved by."""
    model: ModelConfig
    classifier: Classifier
    """In eval mode."""
    processor: Any
    largest_difference: float
    """To the logits of transformers' own class, on noise of the size that the processor gives."""


def import_classifier(source: str, revision: str | None = None) -> ImportedClassifier:
    """Load a classifier that one of transformers' ``...ForImageClassification`` saved.

    Args:
        source: a folder or a hub identifier.
        revision: of a hub identifier.

    Raises:
        ToolkitError: another architecture, no processor, labels that are not unique, or a head that gives other logits
            than transformers' own class.
    """
    place = replace(source_of(source, revision), key="")
    with quiet_transformers(), in_words(place), hub_once(place):
        content, family = configuration(place), family_at(place)
        tensors = tensors_in(weight_files(place), place)
    architecture, embedding = _architecture(content, family.classifiers, place)
    model = ModelConfig(encoder=source, revision=revision, embedding=embedding, unfreeze_last=0, head=HEAD)
    encoder, processor = open_encoder(model)
    labels = _labels(content, place)
    head = build_head(HEAD, encoder.embedding_size, len(labels))
    missing = [name for name in (WEIGHT, BIAS) if name not in tensors]
    if missing:
        fix = "give the checkpoint of a classifier; toolkit zero-shot and recipes/finetune.py make one of an encoder"
        raise ToolkitError(f"the checkpoint has no {' and no '.join(missing)}", where=place.where, fix=fix)
    values = {name: _tensor(tensors[name].file, name) for name in (WEIGHT, BIAS)}
    linear = next(module for module in head.modules() if isinstance(module, nn.Linear))
    for name, value in (("weight", values[WEIGHT]), ("bias", values[BIAS])):
        wanted = getattr(linear, name)
        if value.shape != wanted.shape:
            what = f"classifier.{name} is {list(value.shape)}, where {len(labels)} labels make it {list(wanted.shape)}"
            raise ToolkitError(what, where=place.where, fix="use the config.json that the checkpoint was saved with")
        if not bool(torch.isfinite(value).all()):
            what = f"classifier.{name} holds values that are not finite"
            raise ToolkitError(what, where=place.where, fix="give a checkpoint from before the training broke down")
        wanted.data.copy_(value)
    classifier = Classifier(encoder, head, labels).eval()
    difference = _require_equal(classifier, processor, architecture, place)
    return ImportedClassifier(architecture, model, classifier, processor, difference)


def _architecture(content: dict[str, Any], known: Mapping[str, Embedding], place: Source) -> tuple[str, Embedding]:
    """The class that a configuration names, and the embedding that its linear layer takes."""
    names = content.get("architectures")
    name = str(names[0]) if isinstance(names, list) and len(names) == 1 else ""
    if name in known:
        return name, known[name]
    what = f"the checkpoint is a {name}" if name else "config.json names no architecture"
    fix = f"give a checkpoint of {', '.join(known)}" if known else "transformers has no image classifier of this family"
    if name and not name.endswith("ForImageClassification"):
        fix += "; toolkit zero-shot and recipes/finetune.py make a classifier of an encoder"
    raise ToolkitError(what, where=place.where, fix=fix)


def _labels(content: dict[str, Any], place: Source) -> list[str]:
    """The names of the classes, in the order of the logits."""
    known = content.get("id2label")
    fix = 'write id2label into config.json: {"0": "cat", "1": "dog"}'
    if not isinstance(known, dict) or len(known) < 2:
        raise ToolkitError("config.json names no two labels (id2label)", where=place.where, fix=fix)
    if sorted(known) != sorted(str(place) for place in range(len(known))):
        raise ToolkitError("id2label does not count from 0", where=place.where, fix=fix)
    labels = [str(known[str(number)]) for number in range(len(known))]
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise ToolkitError(f"id2label holds the same label twice: {', '.join(twice)}", where=place.where, fix=fix)
    return labels


def _tensor(file: Any, name: str) -> Tensor:
    with safe_open(file, "pt") as opened:
        return opened.get_tensor(name).float()


@torch.inference_mode()
def _require_equal(classifier: Classifier, processor: Any, architecture: str, place: Source) -> float:
    """Hold the classifier against transformers' own class; the largest difference of logits.

    Raises:
        ToolkitError: they are not the same.
    """
    size = preprocess_from(processor).output_size
    assert size is not None  # checked when the preprocessing was built
    noise = np.random.default_rng(0).normal(0, 1, (IMAGES, 3, *size)).astype(np.float32)
    pixel_values = torch.from_numpy(noise)
    with quiet_transformers(), in_words(place):
        whole: nn.Module = getattr(transformers, architecture).from_pretrained(
            place.location,
            revision=place.revision or "main",
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
        )
    encoder = classifier.encoder
    theirs = whole.eval()(**encoder.family.forward_arguments(encoder.model, pixel_values)).logits
    ours = classifier.reference_logits(pixel_values)
    difference = float((ours - theirs).abs().max())
    tolerance = CLOSE * float(np.finfo(np.float32).eps) * max(1.0, float(theirs.abs().max()))
    if not difference <= tolerance:
        what = f"the imported classifier's logits differ by {difference:.2e} from {architecture}'s"
        fix = "save it anew by the version of transformers installed here"
        if encoder.tower is None:
            fix = f"{architecture} reads more than an embedding of its encoder; recipes/finetune.py trains a head anew"
        raise ToolkitError(what, where=place.where, fix=fix)
    return difference
