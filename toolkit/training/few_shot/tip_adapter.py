"""Tip-Adapter: zero-shot's logits plus those of the nearest of the few images; training-free, or with trained keys."""

# n cached images, P width of the embedding, C classes

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor, nn

from toolkit.models.head import TipAdapterHead
from toolkit.recipe.model import HeadConfig
from toolkit.training.few_shot.features import Features
from toolkit.training.few_shot.method import Fitted, Method, best_on_validation, text_head_of
from toolkit.training.few_shot.shots import Shots

SHARES = (0.1, 0.3, 1.0, 3.0, 10.0)
"""What the cached images' part is multiplied with (alpha)."""
SHARPNESSES = (1.0, 3.0, 5.5, 10.0, 20.0)
"""How fast it falls with the distance (beta)."""
START = (1.0, 5.5)
"""Alpha and beta while keys are trained, the paper's own."""
STEPS, LEARNING_RATE = 100, 1e-3


class TipAdapter(Method):
    """A cache of the drawn images' embeddings as keys, with their labels as values."""

    name = "tip-adapter"
    source = "Zhang et al., Tip-Adapter: Training-free Adaption of CLIP (2022), section 3.1"
    rule = "alpha and beta on validation"
    trains = False

    def fit(self, features: Features, shots: Shots) -> Fitted:
        """Build the cache, train its keys where the method does, and choose alpha and beta."""
        embeddings, labels = features.embeddings, features.labels
        keys = nn.functional.normalize(embeddings["train"][shots.places], dim=-1)
        values = nn.functional.one_hot(labels["train"][shots.places], len(features.data.classes)).float()
        head = TipAdapterHead(text_head_of(features), keys, values, *START)
        if self.trains:
            _train_keys(head, embeddings["train"][shots.places], labels["train"][shots.places])
        head.requires_grad_(False)

        def logits_of(choice: tuple[float, float]) -> Tensor:
            head.alpha.fill_(choice[0])
            head.beta.fill_(choice[1])
            return head(embeddings["validation"])

        with torch.inference_mode():
            chosen, logits = best_on_validation(product(SHARES, SHARPNESSES), logits_of, labels["validation"])
            logits_of(chosen)
            test = head(embeddings["test"])
        alpha, beta = chosen
        config = HeadConfig(type="tip-adapter", cached=len(keys))
        return Fitted(
            {"validation": logits, "test": test}, {"alpha": alpha, "beta": beta}, config, head, features.encoder
        )


class TipAdapterF(TipAdapter):
    """The same with keys that are fine-tuned."""

    name = "tip-adapter-f"
    source = "Zhang et al., Tip-Adapter: Training-free Adaption of CLIP (2022), section 3.2"
    rule = "keys by 100 steps of AdamW at 1e-3 on all drawn images; alpha and beta on validation"
    trains = True


def _train_keys(head: TipAdapterHead, embeddings: Tensor, labels: Tensor) -> None:
    head.requires_grad_(False)
    head.keys.requires_grad_(True)
    optimizer = torch.optim.AdamW([head.keys], LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for _ in range(STEPS):
        optimizer.zero_grad()
        nn.functional.cross_entropy(head(embeddings), labels).backward()
        optimizer.step()
        schedule.step()
