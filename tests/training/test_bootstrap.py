from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn import metrics as sk

from toolkit.training.bootstrap import _figures, intervals
from toolkit.training.metrics import split_metrics


def predictions(images: int = 301, classes: int = 3, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (images,), generator=generator)
    logits = torch.randn(images, classes, generator=generator) + 1.5 * torch.nn.functional.one_hot(labels, classes)
    return logits.round(decimals=1), labels  # rounded, so that some scores are equal


def test_with_weights_of_one_every_figure_is_the_splits_own() -> None:
    logits, labels = predictions()
    scores = logits.double().softmax(-1).numpy()
    got = _figures(np.ones((1, 301)), scores, labels.numpy(), logits.argmax(-1).numpy())
    expected = split_metrics(logits, labels)
    assert {name: value[0] for name, value in got.items()} == pytest.approx(
        {name: expected[name] for name in got}, abs=1e-6
    )


def test_a_weight_is_a_repeated_image() -> None:
    logits, labels = predictions(classes=2)
    scores, truth = logits.double().softmax(-1).numpy(), labels.numpy()
    weights = np.random.default_rng(0).multinomial(301, np.full(301, 1 / 301), size=3)
    got = _figures(weights.astype(float), scores, truth, logits.argmax(-1).numpy())
    for row, counts in enumerate(weights):
        again = np.repeat(np.arange(301), counts)
        predicted = logits.argmax(-1).numpy()[again]
        assert got["accuracy"][row] == pytest.approx(sk.accuracy_score(truth[again], predicted))
        assert got["balanced_accuracy"][row] == pytest.approx(sk.balanced_accuracy_score(truth[again], predicted))
        assert got["macro_f1"][row] == pytest.approx(sk.f1_score(truth[again], predicted, average="macro"))
        assert got["auroc"][row] == pytest.approx(sk.roc_auc_score(truth[again], scores[again, 1]))
        averages = [sk.average_precision_score(truth[again] == c, scores[again, c]) for c in (0, 1)]
        assert got["average_precision"][row] == pytest.approx(np.mean(averages))


def test_an_interval_holds_the_figure_and_narrows_with_the_images() -> None:
    widths = []
    for images in (100, 1600):
        logits, labels = predictions(images)
        figures, bounds = split_metrics(logits, labels), intervals(logits, labels, resamples=400)
        for name in ("accuracy", "balanced_accuracy", "macro_f1", "auroc", "average_precision", "nll"):
            low, high = bounds[name]
            assert low <= figures[name] <= high, name
        widths.append(bounds["accuracy"][1] - bounds["accuracy"][0])
    assert widths[1] == pytest.approx(widths[0] / 4, rel=0.3)  # the root of sixteen


def test_the_interval_of_an_accuracy_is_that_of_a_share() -> None:
    logits, labels = predictions(1000)
    accuracy = split_metrics(logits, labels)["accuracy"]
    low, high = intervals(logits, labels)["accuracy"]
    assert (high - low) / 2 == pytest.approx(1.96 * (accuracy * (1 - accuracy) / 1000) ** 0.5, rel=0.06)


def test_groups_that_stand_together_widen_it() -> None:
    logits, labels = predictions(100)
    logits, labels = logits.repeat(8, 1), labels.repeat(8)
    groups = [str(index % 100) for index in range(800)]
    alone, together = (intervals(logits, labels, groups=g, resamples=400)["accuracy"] for g in (None, groups))
    assert together[1] - together[0] > 2 * (alone[1] - alone[0])


def test_a_class_that_no_draw_and_no_claim_holds_is_left_out_as_in_the_splits_figures() -> None:
    logits, labels = predictions()
    logits[:, 2] = logits.min() - 1  # never claimed
    weights = (labels != 2).double().numpy()[None]
    scores, truth, predicted = logits.double().softmax(-1).numpy(), labels.numpy(), logits.argmax(-1).numpy()
    got = _figures(weights, scores, truth, predicted)
    rest = labels != 2
    expected = split_metrics(logits[rest], labels[rest])
    for name in ("accuracy", "balanced_accuracy", "macro_f1"):
        assert got[name][0] == pytest.approx(expected[name], abs=1e-6), name
