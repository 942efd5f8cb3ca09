from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn import metrics as sk
from torch import Tensor

from toolkit.models.temperature import fit_temperature
from toolkit.training.metrics import class_metrics, score_by, split_metrics


def predictions(classes: int, kind: str) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(classes)
    labels = torch.randint(classes, (301,), generator=generator)
    logits = torch.randn(301, classes, generator=generator) + torch.nn.functional.one_hot(labels, classes)
    if kind == "ties":
        logits = logits.round()
    if kind == "never predicted":
        logits[:, 0] -= 10
    if kind == "sure":
        logits = logits * 4  # beyond, scikit-learn clips probabilities
    return logits, labels


KINDS = pytest.mark.parametrize("kind", ["plain", "ties", "never predicted", "sure"])


@KINDS
@pytest.mark.parametrize("classes", [2, 3, 10])
def test_figures_equal_scikit_learn(classes: int, kind: str) -> None:
    logits, labels = predictions(classes, kind)
    figures = split_metrics(logits, labels)
    probabilities, truth, predicted = logits.double().softmax(-1).numpy(), labels.numpy(), logits.argmax(-1).numpy()
    scores = probabilities[:, 1] if classes == 2 else probabilities
    by_class = [sk.average_precision_score(truth == index, probabilities[:, index]) for index in range(classes)]
    expected = {
        "accuracy": sk.accuracy_score(truth, predicted),
        "balanced_accuracy": sk.balanced_accuracy_score(truth, predicted),
        "macro_f1": sk.f1_score(truth, predicted, average="macro"),
        "auroc": sk.roc_auc_score(truth, scores, multi_class="ovr"),
        "average_precision": np.mean(by_class),
        "loss": sk.log_loss(truth, probabilities),
        "nll": sk.log_loss(truth, probabilities),
        "majority_class_accuracy": np.bincount(truth).max() / len(truth),
    }
    assert {name: figures[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    assert set(figures) == {*expected, "expected_calibration_error", "images"}


@KINDS
@pytest.mark.parametrize("classes", [2, 3, 10])
def test_figures_a_class_equal_scikit_learn(classes: int, kind: str) -> None:
    logits, labels = predictions(classes, kind)
    names = [f"class {index}" for index in range(classes)]
    columns = sk.precision_recall_fscore_support(labels.numpy(), logits.argmax(-1).numpy(), zero_division=0)
    figures = class_metrics(logits, labels, names)
    for index, name in enumerate(names):
        expected = dict(
            zip(("precision", "recall", "f1", "images"), (column[index] for column in columns), strict=True)
        )
        assert figures[name] == pytest.approx(expected, abs=1e-6)


@KINDS
@pytest.mark.parametrize("classes", [2, 3, 10])
def test_the_calibration_error_is_the_mean_gap_of_fifteen_bins(classes: int, kind: str) -> None:
    logits, labels = predictions(classes, kind)
    confidence, predicted = logits.double().softmax(-1).max(-1)
    right = (predicted == labels).double()
    gap = 0.0
    for low in range(15):
        inside = (confidence > low / 15) & (confidence <= (low + 1) / 15)
        if inside.any():
            gap += float(inside.double().mean() * (right[inside].mean() - confidence[inside].mean()).abs())
    assert split_metrics(logits, labels)["expected_calibration_error"] == pytest.approx(gap, abs=1e-6)


def test_a_better_score_is_the_chosen_figure_and_of_equals_the_smaller_loss() -> None:
    assert score_by("accuracy", {"accuracy": 0.9, "loss": 2}) > score_by("accuracy", {"accuracy": 0.8, "loss": 1})
    assert score_by("auroc", {"auroc": 0.9, "loss": 1}) > score_by("auroc", {"auroc": 0.9, "loss": 2})
    assert score_by("loss", {"accuracy": 0.8, "loss": 1}) > score_by("loss", {"accuracy": 0.9, "loss": 2})


@pytest.mark.parametrize("true_temperature", [0.4, 1.0, 3.0])
def test_temperature_recovers_the_factor_that_spoiled_calibrated_logits(true_temperature: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(20_000, 4, generator=generator) * 2
    labels = torch.multinomial(logits.softmax(-1), 1, generator=generator).squeeze(1)
    assert fit_temperature(logits * true_temperature, labels) == pytest.approx(true_temperature, rel=0.05)


def test_temperature_never_raises_the_loss_it_was_fitted_on() -> None:
    generator = torch.Generator().manual_seed(1)
    logits, labels = torch.randn(50, 3, generator=generator) * 5, torch.randint(3, (50,), generator=generator)
    fitted = split_metrics(logits, labels, fit_temperature(logits, labels))
    plain = split_metrics(logits, labels)
    assert fitted["loss"] <= plain["loss"]
    assert fitted["accuracy"] == plain["accuracy"]
