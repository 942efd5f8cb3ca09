"""Zero-shot classification: a class is the text that describes it.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision"
(2021), section 3.1.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from transformers import CLIPModel, PreTrainedTokenizerBase


@torch.inference_mode()
def text_embeddings(model: CLIPModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str]) -> Tensor:
    """Unit-length embeddings [prompts, projection] of one prompt a class."""
    tokens = tokenizer(list(prompts), padding=True, return_tensors="pt").to(model.device)
    return torch.nn.functional.normalize(model.get_text_features(**tokens).pooler_output, dim=-1)


@torch.inference_mode()
def zero_shot_logits(model: CLIPModel, pixel_values: Tensor, class_embeddings: Tensor) -> Tensor:
    """Cosine similarities times CLIP's learned scale: [batch, classes].

    Args:
        model: both towers.
        pixel_values: [batch, 3, height, width], normalised.
        class_embeddings: [classes, projection], unit length, from :func:`text_embeddings`.
    """
    images = torch.nn.functional.normalize(model.get_image_features(pixel_values).pooler_output, dim=-1)
    return model.logit_scale.exp() * images @ class_embeddings.T


def zero_shot_accuracy(model: CLIPModel, class_embeddings: Tensor, batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Share of images whose likeliest class is the labelled one.

    Args:
        model: both towers.
        class_embeddings: [classes, projection], from :func:`text_embeddings`.
        batches: pairs of ``pixel_values`` [batch, 3, height, width] and labels [batch].
    """
    right = seen = 0
    for pixel_values, labels in batches:
        predicted = zero_shot_logits(model, pixel_values, class_embeddings).argmax(-1)
        right += int((predicted == labels).sum())
        seen += len(labels)
    return right / seen
