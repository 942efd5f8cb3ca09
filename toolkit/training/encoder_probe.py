"""A linear probe on all training images; validation is measured, and chooses nothing."""

# N images, C classes

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from toolkit.training.few_shot.features import Features
from toolkit.training.few_shot.linear_probe import STRENGTHS, linear_head
from toolkit.training.few_shot.method import best_on_validation

SHARE, SEED = 0.2, 0
"""Of the training images of each class, what the penalty is chosen on, and how they are drawn."""
WITHOUT_CHOICE = 1.0
"""The penalty's inverse where the classes are too small to choose it."""
RULE = (
    "L-BFGS on cross-entropy with an L2 penalty, embeddings divided by their mean length; the penalty's inverse C from "
    "1e-3 to 1e3 is the best on a fifth of the training images, held out by class and by group; then all are fitted"
)


@dataclass(frozen=True)
class Probe:
    """What was fitted."""

    head: nn.Module
    strength: float
    """C: the inverse of the penalty."""
    logits: Tensor
    """Of validation [N, C]."""


def fit_probe(features: Features) -> Probe:
    """Choose the penalty inside the training split, fit on all of it, and run validation.

    Args:
        features: of the splits ``train`` and ``validation``.
    """
    embeddings, labels = features.embeddings["train"], features.labels["train"]
    classes, unit = len(features.data.classes), float(embeddings.norm(dim=-1).mean())
    held_out = inner_split(labels.tolist(), features.data.groups("train"))
    strength = WITHOUT_CHOICE
    if held_out.any():
        fitted, asked = torch.from_numpy(~held_out), torch.from_numpy(held_out)
        heads = {
            each: linear_head(embeddings[fitted] / unit, labels[fitted], classes, each, unit) for each in STRENGTHS
        }
        strength, _ = best_on_validation(heads, lambda each: heads[each](embeddings[asked]), labels[asked])
    head = linear_head(embeddings / unit, labels, classes, strength, unit)
    with torch.inference_mode():
        return Probe(head, strength, head(features.embeddings["validation"]).clone())


def inner_split(labels: Sequence[int], groups: Sequence[str] | None) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Which of the training images the penalty is chosen on [N]; the same for the same images.

    Groups stay together, no class gives more than its share, and none gives its last group.

    Args:
        labels: of each image.
        groups: of each image; None where each is one of its own.
    """
    of_group: dict[str | int, list[int]] = {}
    for place in range(len(labels)):
        of_group.setdefault(place if groups is None else groups[place], []).append(place)
    there, given = Counter(labels), Counter[int]()
    held_out = np.zeros(len(labels), np.bool_)
    units = list(of_group.values())
    for number in np.random.default_rng(SEED).permutation(len(units)):
        counts = Counter(labels[place] for place in units[number])
        most = {label: min(max(1, round(SHARE * there[label])), there[label] - 1) for label in counts}
        if all(given[label] + count <= most[label] for label, count in counts.items()):
            given += counts
            held_out[units[number]] = True
    return held_out
