"""A classifier from a recipe's ``model`` section, and the same classifier to and from a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers.initialization import no_init_weights

from toolkit.config import HeadConfig, ModelConfig
from toolkit.errors import ToolkitError
from toolkit.files import write_json
from toolkit.models.classifier import Classifier
from toolkit.models.encoder import Encoder
from toolkit.models.families import FAMILIES, load_encoder, load_processor, quiet_transformers
from toolkit.models.head import build_head
from toolkit.models.selection import freeze_all_but, select_groups
from toolkit.models.tensor_files import load_tensors, save_tensors
from toolkit.runtime.value_range import Range

WEIGHTS, CONFIG, LABELS = "model.safetensors", "config.json", "labels.json"


def build_classifier(
    config: ModelConfig, labels: list[str], seed: int, value_range: Range | None = None
) -> tuple[Classifier, Any]:
    """Load the encoder, add a head seeded with ``seed``, freeze what does not learn.

    Args:
        config: the recipe's section.
        labels: the classes.
        seed: of the head.
        value_range: what black and white are in images of more than 8 bits. The processor carries it, so that
            ``preprocessor_config.json`` says all of what lies between a file and ``pixel_values``.

    Returns:
        The classifier, in training form, and the family's image processor.
    """
    encoder = load_encoder(config.encoder)
    processor = load_processor(config.encoder, encoder.family)
    processor.value_range = value_range
    torch.manual_seed(seed)
    head = build_head(config.head, encoder.embedding_size, len(labels))
    classifier = Classifier(encoder, head, labels)
    groups = classifier.groups
    names = [group.name for group in groups]
    freeze_all_but(groups, classifier, select_groups(names, last=config.unfreeze_last, named=config.unfreeze))
    return classifier, processor


def trainable_groups(classifier: Classifier) -> list[str]:
    """Names of the groups that learn."""
    return [group.name for group in classifier.groups if any(p.requires_grad for p in group.parameters())]


def save_classifier(
    folder: Path, classifier: Classifier, head: HeadConfig, processor: Any, weights: dict[str, Tensor] | None = None
) -> None:
    """Write weights, configuration, processor and labels into an existing folder.

    Args:
        folder: where to.
        classifier: what is saved.
        head: its head's configuration.
        processor: its image processor.
        weights: the whole state, where the classifier itself holds but a shard of it.
    """
    save_tensors(folder / WEIGHTS, classifier.state_dict() if weights is None else weights)
    config = {
        "format": 1,
        "family": classifier.encoder.family.name,
        "encoder": classifier.encoder.model.config.to_dict(),
        "head": head.model_dump(mode="json"),
        "trainable_groups": trainable_groups(classifier),
    }
    write_json(folder / CONFIG, config)
    write_json(folder / LABELS, classifier.labels)
    processor.save_pretrained(folder)


def load_classifier(folder: Path) -> tuple[Classifier, Any]:
    """Read what :func:`save_classifier` wrote: a classifier in evaluation form and its processor.

    Raises:
        ToolkitError: no checkpoint there, or one that is damaged.
    """
    missing = [name for name in (WEIGHTS, CONFIG, LABELS) if not (folder / name).is_file()]
    if missing:
        what = f"no trained classifier: {', '.join(missing)} missing"
        raise ToolkitError(what, where=folder, fix="give a run folder that recipes/finetune.py finished")
    try:
        config = json.loads((folder / CONFIG).read_text())
        labels = json.loads((folder / LABELS).read_text())
        family = FAMILIES[config["family"]]
        vision_config = family.model_class.config_class.from_dict(config["encoder"])
        with quiet_transformers(), no_init_weights():  # all of them are loaded below
            encoder = Encoder(family, family.model_class(vision_config))
            processor = family.processor_class.from_pretrained(folder)
        head = build_head(HeadConfig(**config["head"]), encoder.embedding_size, len(labels))
        classifier = Classifier(encoder, head, labels)
        classifier.load_state_dict(load_tensors(folder / WEIGHTS))
    except (KeyError, ValueError, TypeError, AttributeError, OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ToolkitError(
            f"damaged checkpoint: {reason}", where=folder, fix="train again, or copy it again"
        ) from error
    return classifier.eval(), processor
