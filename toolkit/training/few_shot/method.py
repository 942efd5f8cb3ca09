"""What every few-shot method is given and gives."""

# N images, C classes

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from toolkit.errors import ToolkitError
from toolkit.models.encoder import Encoder
from toolkit.models.head import CosineHead
from toolkit.recipe.model import HeadConfig
from toolkit.training.few_shot.features import Features
from toolkit.training.few_shot.shots import Shots

Choice = TypeVar("Choice")


@dataclass(frozen=True)
class Fitted:
    """What a method made of a few images a class."""

    logits: dict[str, Tensor]
    """Of validation and test [N, C]."""
    chosen: dict[str, Any]
    """Hyperparameters that validation chose; those that a rule fixes stand in the method."""
    head_config: HeadConfig
    head: nn.Module
    encoder: Encoder
    """The one that was given, or a changed copy."""


class Method(ABC):
    """From a few embeddings with labels to a head, and maybe a changed encoder."""

    name: str
    source: str
    """Paper or book that describes it."""
    rule: str
    """How its hyperparameters are fixed or chosen, in words."""
    needs_text = True
    """Whether it starts from zero-shot's head."""
    changes_layers = False
    """Whether it changes more of the encoder than the projection."""

    @abstractmethod
    def fit(self, features: Features, shots: Shots) -> Fitted:
        """Fit on the images that a seed drew; test images are run, and choose nothing."""

    def require(self, encoder: Encoder, text_head: CosineHead | None) -> None:
        """Refuse an encoder that lacks what the method needs.

        Raises:
            ToolkitError: it does; with what it is.
        """
        if self.needs_text and text_head is None:
            what = f"{self.name} starts from the labels' text embeddings, and the encoder has no text tower"
            raise ToolkitError(what, where="--methods", fix="use linear-probe, or an encoder with both towers")


def text_head_of(features: Features) -> CosineHead:
    """Zero-shot's head."""
    assert features.text_head is not None  # Method.require
    return features.text_head


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Share of images whose largest logit is the label's."""
    return float((logits.argmax(-1) == labels).double().mean())


def best_on_validation(
    choices: Iterable[Choice], logits_of: Callable[[Choice], Tensor], labels: Tensor
) -> tuple[Choice, Tensor]:
    """The choice with the highest validation accuracy, of equals the one with the smaller cross-entropy.

    Args:
        choices: in the order of preference among equals.
        logits_of: validation logits [N, C] of a choice.
        labels: of validation [N].

    Returns:
        The choice and its logits.
    """
    best: tuple[tuple[float, float], Choice, Tensor] | None = None
    for choice in choices:
        logits = logits_of(choice)
        score = accuracy(logits, labels), -float(nn.functional.cross_entropy(logits.double(), labels))
        if best is None or score > best[0]:
            best = score, choice, logits
    assert best is not None
    return best[1], best[2]


def minimise(parameters: list[Tensor], loss: Callable[[], Tensor], iterations: int = 100) -> None:
    """Minimise a smooth loss by L-BFGS with a line search, from where the parameters are; the same on every call.

    Source: Nocedal and Wright, "Numerical Optimization" (2006), algorithm 7.5 and section 3.1.
    """
    optimizer = torch.optim.LBFGS(
        parameters, max_iter=iterations, history_size=10, tolerance_grad=1e-6, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    optimizer.step(closure)
