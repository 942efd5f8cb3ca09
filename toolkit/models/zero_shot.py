"""Zero-shot classification: a class is the mean embedding of the texts that describe it.

Source: Radford et al., "Learning Transferable Visual Models From Natural Language Supervision" (2021),
sections 3.1.2 and 3.1.4.
"""

# C classes, N prompts, P width of the embedding

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from toolkit.models.examine import family_at
from toolkit.models.head import CosineHead
from toolkit.models.hub import hub_once
from toolkit.models.load import in_words, source_of
from toolkit.models.text_encoder import TextEncoder, has_texts, load_text_encoder
from toolkit.recipe.prompts import TEMPLATES, prompts_of


def zero_shot_task(source: str, revision: str | None = None) -> str:
    """The task of a zero-shot classifier: what makes probabilities of the scores its encoder was trained for.

    Raises:
        ToolkitError: no encoder of a family there.
    """
    place = source_of(source, revision)
    with in_words(place), hub_once(place):
        return family_at(place).zero_shot_task


def class_embeddings(
    encoder: TextEncoder,
    labels: Sequence[str],
    templates: Sequence[str] = TEMPLATES,
    texts: Mapping[str, str] | None = None,
) -> Tensor:
    """Unit-length embeddings [C, P] of classes, each the mean over the templates.

    Args:
        encoder: embeds the prompts.
        labels: the classes.
        templates: texts with ``{}`` where the class stands.
        texts: what prompts say in place of a label.

    Raises:
        ToolkitError: a prompt is longer than the encoder's context.
    """
    said = texts or {}
    prompts = [prompt for label in labels for prompt in prompts_of(said.get(label, label), templates)]
    embeddings = encoder.embeddings(prompts).unflatten(0, (len(labels), len(templates)))
    return torch.nn.functional.normalize(embeddings.mean(dim=1), dim=-1)


def optional_text_head(
    source: str,
    labels: Sequence[str],
    templates: Sequence[str] = TEMPLATES,
    texts: Mapping[str, str] | None = None,
    revision: str | None = None,
) -> CosineHead | None:
    """Zero-shot's head of an encoder; None for one without a text tower.

    Raises:
        ToolkitError: a prompt is longer than the encoder's context, or a text tower that can't be used.
    """
    if not has_texts(source, revision):
        return None
    encoder = load_text_encoder(source, revision)
    return text_head(encoder, class_embeddings(encoder, labels, templates, texts)).requires_grad_(False)


def text_head(encoder: TextEncoder, embeddings: Tensor) -> CosineHead:
    """A head that gives ``logits_per_image`` of classes with these unit-length embeddings [C, P]."""
    head = CosineHead(embeddings.shape[1], len(embeddings))
    with torch.no_grad():
        head.weight.copy_(embeddings)
        head.logit_scale.fill_(encoder.logit_scale)
        head.bias.fill_(encoder.logit_bias)
    return head
