from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn import metrics as sk

from toolkit.training.calibration import fit_temperature
from toolkit.training.metrics import split_metrics


@pytest.mark.parametrize("classes", [2, 5])
def test_figures_equal_scikit_learn(classes: int) -> None:
    generator = torch.Generator().manual_seed(classes)
    labels = torch.randint(classes, (301,), generator=generator)
    logits = torch.randn(301, classes, generator=generator) + torch.nn.functional.one_hot(labels, classes)
    figures = split_metrics(logits, labels)
    probabilities, truth, predicted = logits.double().softmax(-1).numpy(), labels.numpy(), logits.argmax(-1).numpy()
    scores = probabilities[:, 1] if classes == 2 else probabilities
    expected = {
        "accuracy": sk.accuracy_score(truth, predicted),
        "balanced_accuracy": sk.balanced_accuracy_score(truth, predicted),
        "macro_f1": sk.f1_score(truth, predicted, average="macro"),
        "auroc": sk.roc_auc_score(truth, scores, multi_class="ovr"),
        "loss": sk.log_loss(truth, probabilities),
        "majority_class_accuracy": np.bincount(truth).max() / len(truth),
    }
    assert {name: figures[name] for name in expected} == pytest.approx(expected, abs=1e-6)


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
