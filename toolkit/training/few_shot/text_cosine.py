"""A cosine head that starts as the labels' text embeddings and is drawn towards them."""

from __future__ import annotations

import copy

import torch
from torch import nn

from toolkit.models.head import CosineHead
from toolkit.recipe.model import HeadConfig
from toolkit.training.few_shot.features import Features
from toolkit.training.few_shot.method import Fitted, Method, best_on_validation, minimise, text_head_of
from toolkit.training.few_shot.shots import Shots

PENALTIES = (100.0, 10.0, 1.0, 0.1, 0.01)
"""Of the squared distance to the text embeddings, the strongest first."""
HEAD = HeadConfig(type="cosine", init="text")


class TextCosine(Method):
    """Cross-entropy plus a penalty on the distance to zero-shot's head, which is among the choices itself."""

    name = "text-cosine"
    source = "Lin et al., Multimodality Helps Unimodality (2023), section 3; head as in the toolkit's fine-tuning"
    rule = "the penalty from 100 to 0.01, or zero-shot's own head, on validation"

    def fit(self, features: Features, shots: Shots) -> Fitted:
        """Fit each penalty, and keep the one that is best on validation."""
        start, embeddings, labels = text_head_of(features), features.embeddings, features.labels
        heads: dict[float | None, CosineHead] = {None: start}
        for penalty in PENALTIES:
            heads[penalty] = _fitted(start, embeddings["train"][shots.places], labels["train"][shots.places], penalty)
        with torch.inference_mode():
            chosen, logits = best_on_validation(
                heads, lambda penalty: heads[penalty](embeddings["validation"]), labels["validation"]
            )
            test = heads[chosen](embeddings["test"])
        chosen_words = {"penalty": "zero-shot" if chosen is None else chosen}
        return Fitted({"validation": logits, "test": test}, chosen_words, HEAD, heads[chosen], features.encoder)


def _fitted(start: CosineHead, embeddings: torch.Tensor, labels: torch.Tensor, penalty: float) -> CosineHead:
    head, before = copy.deepcopy(start), start.weight.detach()
    head.requires_grad_(False)
    head.weight.requires_grad_(True)
    minimise(
        [head.weight],
        lambda: (
            nn.functional.cross_entropy(head(embeddings), labels)
            + penalty / len(labels) * (head.weight - before).square().sum()
        ),
    )
    return head.requires_grad_(False)
