from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from toolkit.errors import ToolkitError
from toolkit.recipe.training import TrainingConfig
from toolkit.tasks.loss import Loss, class_weights
from toolkit.training.mixing import Mix

LABELS = torch.tensor([0, 2, 1, 1, 0, 2, 2])
LOGITS = torch.randn(7, 3, generator=torch.Generator().manual_seed(0)) * 3


def loss_of(weights: torch.Tensor | None = None, **keys: float) -> Loss:
    return Loss(TrainingConfig(epochs=1, **keys), weights)  # type: ignore[arg-type]


def test_without_any_key_it_is_cross_entropy_to_the_bit() -> None:
    expected = functional.cross_entropy(LOGITS, LABELS, reduction="none")
    assert loss_of()(LOGITS, LABELS).equal(expected)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, torch.tensor([0.5, 2.0, 1.0])])
def test_the_focal_form_without_focus_is_torchs_cross_entropy(smoothing: float, weights: torch.Tensor | None) -> None:
    """Both branches are one formula; a gamma near zero takes the other one."""
    plain = loss_of(weights, label_smoothing=smoothing)(LOGITS, LABELS)
    focal = loss_of(weights, label_smoothing=smoothing, focal_gamma=1e-9)(LOGITS, LABELS)
    torch.testing.assert_close(focal, plain, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_focus_multiplies_by_the_chance_of_being_wrong(gamma: float) -> None:
    right = LOGITS.softmax(-1)[torch.arange(7), LABELS]
    expected = (1 - right) ** gamma * -right.log()
    torch.testing.assert_close(loss_of(focal_gamma=gamma)(LOGITS, LABELS), expected, atol=1e-5, rtol=1e-4)


def test_a_mixed_image_counts_for_both_labels_by_their_shares() -> None:
    partners = [3, 0, 1, 2, 6, 4, 5]
    loss = loss_of(label_smoothing=0.1)
    expected = 0.7 * loss(LOGITS, LABELS) + 0.3 * loss(LOGITS, LABELS[partners])
    torch.testing.assert_close(loss(LOGITS, LABELS, Mix(partners, 0.7)), expected)


def test_balanced_weights_give_every_class_the_same_sum_and_images_a_mean_of_one() -> None:
    labels = torch.tensor([0] * 10 + [1] * 30 + [2] * 60)
    weights = class_weights("balanced", ["a", "b", "c"], labels, torch.device("cpu"))
    assert weights is not None
    sums = weights * labels.bincount()
    torch.testing.assert_close(sums, sums[:1].expand(3))
    assert float(weights[labels].mean()) == pytest.approx(1)


def test_given_weights_keep_their_ratios_and_must_name_the_classes() -> None:
    weights = class_weights({"a": 1.0, "b": 4.0}, ["a", "b"], torch.tensor([0, 0, 1]), torch.device("cpu"))
    assert weights is not None
    assert float(weights[1] / weights[0]) == pytest.approx(4)
    with pytest.raises(ToolkitError, match="differ in: b, d"):
        class_weights({"a": 1.0, "d": 4.0}, ["a", "b"], torch.tensor([0, 0, 1]), torch.device("cpu"))


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_an_image_that_is_certain_has_a_finite_slope(gamma: float, smoothing: float) -> None:
    logits = torch.tensor([[60.0, 0.0, 0.0], [0.0, 60.0, 0.0]], requires_grad=True)
    loss = loss_of(focal_gamma=gamma, label_smoothing=smoothing)(logits, torch.tensor([0, 2]))
    loss.sum().backward()
    assert logits.grad is not None
    assert bool(torch.isfinite(loss).all())
    assert bool(torch.isfinite(logits.grad).all())
