"""Several labels an image, or none: each is a question of its own."""

# B batch, N images, C labels

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from toolkit.errors import ToolkitError
from toolkit.recipe.data import TargetKind
from toolkit.recipe.training import TrainingConfig
from toolkit.runtime.decision import EachLabel
from toolkit.tasks.label_set_loss import LabelSetLoss, positive_weights
from toolkit.tasks.task import Activation, Task, Temperature
from toolkit.tasks.temperature import fit_temperature, temperature_interval, temperature_note

FOLDS = 5
"""Parts of validation, each of which judges the temperatures that the others fit."""


class MultiLabel(Task):
    """Sigmoids, and a label is said where its logit reaches its cut."""

    decision = EachLabel()
    activation: Activation = "sigmoid"
    target: TargetKind = "labels"

    def loss(self, config: TrainingConfig, classes: Sequence[str], labels: Tensor, device: torch.device) -> nn.Module:
        """Binary cross-entropy, weighted or asymmetric; see :class:`toolkit.tasks.label_set_loss.LabelSetLoss`.

        Raises:
            ToolkitError: smoothing, the softmax's focusing or balanced sampling, which are for one class an image.
        """
        asked = [key for key in ("label_smoothing", "focal_gamma") if getattr(config, key)]
        asked += ["sampling: balanced"] if config.sampling == "balanced" else []
        if asked:
            what = f"model.task {self.name} takes no {' and no '.join(asked)}"
            fix = "leave it out; class_weights, positive_gamma and negative_gamma are for rare labels"
            raise ToolkitError(what, where=f"training.{asked[0].partition(':')[0]}", fix=fix)
        return LabelSetLoss(config, positive_weights(config.class_weights, classes, labels, device))

    def example_labels(self, images: int, classes: int, device: torch.device) -> Tensor:
        """Labels [images, classes] of images that there are not: every second label."""
        places = torch.arange(images * classes, device=device).reshape(images, classes)
        return (places + torch.arange(images, device=device)[:, None]) % 2

    def initial_temperature(self, classes: int) -> Tensor:
        """One for each label."""
        return torch.ones(classes)

    def temperature(self, logits: Tensor, labels: Tensor, prior: Temperature = 1.0) -> list[float]:
        """A temperature for each label [C]: one of its own, or the same for all.

        Labels differ in how rare they are, so that a common temperature fits none of them; but a rare label has few
        images to fit one of its own on. So its own is drawn towards the common one as
        :func:`toolkit.tasks.temperature.fit_temperature` draws that towards 1, and labels have their own only if that
        makes images likelier which had no say in it: each of ``FOLDS`` parts of the split judges a fit on the others.
        """
        scale = torch.as_tensor(prior, dtype=torch.float64).expand(logits.shape[1])
        scaled = logits.double() / scale
        own = all_own = 0.0
        for fold in range(FOLDS):
            held = torch.arange(len(labels)) % FOLDS == fold
            if not held.any() or held.all():
                continue
            common = _common(scaled[~held], labels[~held])
            own += _nll(scaled[held], labels[held], _own(scaled[~held], labels[~held], common))
            all_own += _nll(scaled[held], labels[held], torch.full_like(scale, common))
        common = _common(scaled, labels)
        fitted = _own(scaled, labels, common) if own < all_own else torch.full_like(scale, common)
        found: list[float] = (scale * fitted).tolist()
        return found

    def temperature_interval(self, logits: Tensor, labels: Tensor) -> tuple[float, float]:
        """The 95 % interval of the temperature that all labels have in common."""
        return temperature_interval(*_yes_or_no(logits, labels))

    def calibration(self, temperature: Temperature, logits: Tensor, labels: Tensor) -> dict[str, Any]:
        """The temperatures, the interval of the common one, and a sentence where validation says little about it."""
        interval, common = self.temperature_interval(logits, labels), _common(logits.double(), labels)
        errors = int(((logits >= 0) != (labels > 0)).sum())
        return {
            "temperature": temperature,
            "temperature_interval": list(interval),
            "temperature_note": temperature_note(common, interval, errors, len(labels)),
        }

    def right(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Whether exactly the labels with a probability of a half and more are the image's."""
        return ((logits >= 0) == (labels > 0)).all(-1)


def _yes_or_no(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """[N, C] twice -> logits [N * C, 2] of no and yes, and which of them is right [N * C]."""
    yes = logits.flatten()
    return torch.stack([torch.zeros_like(yes), yes], dim=1), (labels > 0).long().flatten()


def _common(logits: Tensor, labels: Tensor) -> float:
    return fit_temperature(*_yes_or_no(logits, labels))


def _own(logits: Tensor, labels: Tensor, common: float) -> Tensor:
    """A temperature for each label [C], drawn towards the common one."""
    fitted = [
        fit_temperature(*_yes_or_no(logits[:, [place]], labels[:, [place]]), common) for place in range(logits.shape[1])
    ]
    return torch.tensor(fitted, dtype=torch.float64)


def _nll(logits: Tensor, labels: Tensor, temperature: Tensor) -> float:
    """Negative log-likelihood of all answers."""
    scaled = (logits / temperature).numpy()
    return float(np.logaddexp(0.0, np.where(labels.numpy() > 0, -scaled, scaled)).sum())
