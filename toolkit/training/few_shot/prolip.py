"""ProLIP: the projection alone is fine-tuned, drawn towards the original one; the text embeddings stay."""

from __future__ import annotations

import copy

import torch
from torch import nn

from toolkit.errors import ToolkitError
from toolkit.models.encoder import Encoder
from toolkit.models.head import CosineHead
from toolkit.recipe.model import HeadConfig
from toolkit.training.few_shot.features import Features
from toolkit.training.few_shot.method import Fitted, Method, minimise, text_head_of
from toolkit.training.few_shot.shots import Shots

HEAD = HeadConfig(type="cosine", init="text")


class ProLip(Method):
    """Cross-entropy of zero-shot's logits plus the squared distance of the projection to where it was."""

    name = "prolip"
    source = "Fahes et al., CLIP's Visual Embedding Projector is a Few-shot Cornucopia (2024), arXiv 2410.05270"
    rule = "the penalty is 1 / shots, as the paper sets it without validation; L-BFGS, 100 iterations"

    def require(self, encoder: Encoder, text_head: CosineHead | None) -> None:
        """Raise unless images and texts meet behind one matrix."""
        super().require(encoder, text_head)
        tower = encoder.tower
        if tower is None or tower.projection is None:
            what = f"{self.name} fine-tunes a linear projection, and {encoder.family.name} encoders have none"
            raise ToolkitError(what, where="--methods", fix="leave it out, or use a CLIP encoder")

    def fit(self, features: Features, shots: Shots) -> Fitted:
        """Fit the projection's weight."""
        head, labels = text_head_of(features), features.labels["train"][shots.places]
        encoder = copy.deepcopy(features.encoder).cpu()
        tower = encoder.tower
        assert tower is not None
        assert tower.projection is not None
        projection, pooled = tower.projection.requires_grad_(False), features.pooled["train"][shots.places]
        before, weight = projection.weight.clone(), projection.weight.requires_grad_(True)
        minimise(
            [weight],
            lambda: (
                nn.functional.cross_entropy(head(projection(pooled)), labels)
                + (weight - before).square().sum() / shots.count
            ),
        )
        projection.requires_grad_(False)
        with torch.inference_mode():
            logits = {split: head(projection(features.pooled[split])) for split in ("validation", "test")}
        return Fitted(logits, {}, HEAD, head, encoder)
