"""Linear probe: logistic regression on embeddings."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from toolkit.models.head import build_head
from toolkit.recipe.model import HeadConfig
from toolkit.training.few_shot.features import Features
from toolkit.training.few_shot.method import Fitted, Method, best_on_validation
from toolkit.training.few_shot.shots import Shots

STRENGTHS = tuple(10.0**power for power in range(-3, 4))
"""What scikit-learn calls C: the inverse of the regularisation."""
HEAD = HeadConfig(type="linear", dropout=0)


class LinearProbe(Method):
    """L-BFGS on cross-entropy with an L2 penalty; embeddings are divided by their mean length."""

    name = "linear-probe"
    source = "Radford et al., Learning Transferable Visual Models From Natural Language Supervision (2021), A.3"
    rule = "the penalty's inverse C from 1e-3 to 1e3 on validation"
    needs_text = False

    def fit(self, features: Features, shots: Shots) -> Fitted:
        """Fit each penalty, and keep the one that is best on validation."""
        embeddings, labels = features.embeddings, features.labels
        drawn = embeddings["train"][shots.places]
        unit = float(drawn.norm(dim=-1).mean())
        classes = len(features.data.classes)
        heads = {
            strength: linear_head(drawn / unit, labels["train"][shots.places], classes, strength, unit)
            for strength in STRENGTHS
        }
        chosen, logits = best_on_validation(
            heads, lambda strength: heads[strength](embeddings["validation"]), labels["validation"]
        )
        head = heads[chosen]
        test = head(embeddings["test"])
        return Fitted({"validation": logits, "test": test}, {"C": chosen}, HEAD, head, features.encoder)


@torch.no_grad()
def linear_head(embeddings: Tensor, labels: Tensor, classes: int, strength: float, unit: float) -> nn.Module:
    """A linear head for embeddings that are ``unit`` times as long.

    Args:
        embeddings: of images of all classes [N, P].
        labels: of these [N].
        classes: how many there are.
        strength: the penalty's inverse.
        unit: length that the embeddings were divided by.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # where the penalty is all but none, there is no end
        fitted = LogisticRegression(C=strength, max_iter=1000).fit(embeddings.double().numpy(), labels.numpy())
    weight, bias = fitted.coef_, fitted.intercept_
    if classes == 2:  # scikit-learn gives the difference of the two
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    head = copy.deepcopy(build_head(HEAD, embeddings.shape[1], classes)).eval().requires_grad_(False)
    linear = next(module for module in head.modules() if isinstance(module, nn.Linear))
    linear.weight.copy_(torch.from_numpy(weight / unit))
    linear.bias.copy_(torch.from_numpy(bias))
    return head
