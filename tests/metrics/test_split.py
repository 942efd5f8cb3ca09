from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn import metrics as sk
from torch import Tensor

from toolkit.metrics.by_task import SCORES
from toolkit.metrics.split import METRICS, WITH_INTERVAL, SplitScores, score_by, split_metrics
from toolkit.runtime.decision import DECISIONS
from toolkit.tasks.registry import TASKS


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
def test_metrics_equal_scikit_learn(classes: int, kind: str) -> None:
    logits, labels = predictions(classes, kind)
    metrics = split_metrics(logits, labels)
    probabilities, truth, predicted = logits.double().softmax(-1).numpy(), labels.numpy(), logits.argmax(-1).numpy()
    if kind == "ties":
        probabilities = np.exp(np.round(np.log(probabilities), 12))  # equal but for the last bits of a sum
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
    assert {name: metrics[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    assert set(metrics) == {*expected, "expected_calibration_error", "images"}


@KINDS
@pytest.mark.parametrize("classes", [2, 3, 10])
def test_metrics_of_a_class_equal_scikit_learn(classes: int, kind: str) -> None:
    logits, labels = predictions(classes, kind)
    names = [f"class {index}" for index in range(classes)]
    columns = sk.precision_recall_fscore_support(labels.numpy(), logits.argmax(-1).numpy(), zero_division=0)
    metrics = SplitScores(logits, labels).class_metrics(names)
    for index, name in enumerate(names):
        expected = dict(
            zip(("precision", "recall", "f1", "images"), (column[index] for column in columns), strict=True)
        )
        assert metrics[name] == pytest.approx(expected, abs=1e-6)


def test_a_better_score_is_the_chosen_figure_and_of_equals_the_smaller_loss() -> None:
    assert score_by("accuracy", {"accuracy": 0.9, "loss": 2}) > score_by("accuracy", {"accuracy": 0.8, "loss": 1})
    assert score_by("auroc", {"auroc": 0.9, "loss": 1}) > score_by("auroc", {"auroc": 0.9, "loss": 2})
    assert score_by("loss", {"accuracy": 0.8, "loss": 1}) > score_by("loss", {"accuracy": 0.9, "loss": 2})


@KINDS
@pytest.mark.parametrize("classes", [2, 3, 10])
def test_every_interval_holds_its_metric_and_lies_where_the_metric_can(classes: int, kind: str) -> None:
    scores = SplitScores(*predictions(classes, kind))
    metrics, bounds = scores.metrics(), scores.intervals()
    assert set(bounds) == set(WITH_INTERVAL)
    for name, (low, high) in bounds.items():
        assert 0 <= low <= metrics[name] <= high, name
        assert high <= 1 or name in ("loss", "nll")


def test_only_what_is_asked_for_is_computed() -> None:
    scores = SplitScores(*predictions(3, "plain"))
    scores.metrics(("loss", "accuracy"))
    assert "ranking" not in vars(scores)
    assert "calibration" not in vars(scores)
    scores.metrics(METRICS)
    assert {"ranking", "calibration"} <= set(vars(scores))


def test_intervals_narrow_with_the_root_of_the_images_and_widen_with_groups() -> None:
    logits, labels = predictions(3, "plain")
    widths = {}
    for repeats in (1, 16):
        bounds = SplitScores(logits.repeat(repeats, 1), labels.repeat(repeats)).intervals()
        widths[repeats] = {name: high - low for name, (low, high) in bounds.items()}
    groups = [str(index % 301) for index in range(16 * 301)]
    grouped = SplitScores(logits.repeat(16, 1), labels.repeat(16), groups=groups).intervals()
    for name in ("accuracy", "balanced_accuracy", "macro_f1", "auroc", "average_precision", "loss"):
        assert widths[16][name] == pytest.approx(widths[1][name] / 4, rel=0.1), name
        low, high = grouped[name]
        assert high - low == pytest.approx(widths[1][name], rel=0.1), name  # copies in one group say nothing new


@pytest.mark.parametrize("name", ["accuracy", "balanced_accuracy", "macro_f1", "auroc", "average_precision"])
def test_where_nothing_is_wrong_an_interval_keeps_its_width(name: str) -> None:
    labels = torch.arange(60) % 3
    low, high = SplitScores(10 * torch.nn.functional.one_hot(labels, 3).float(), labels).intervals([name])[name]
    assert high == 1
    assert low == pytest.approx(0.025 ** (1 / 60))  # the exact interval of 60 images


def test_a_class_without_images_is_left_out_of_the_means() -> None:
    logits, labels = predictions(3, "plain")
    rest = labels != 2
    logits, labels = logits[rest], labels[rest]
    logits[:, 2] -= 100  # never predicted either
    three, two = SplitScores(logits, labels), SplitScores(logits[:, :2], labels)
    for name in ("accuracy", "balanced_accuracy", "macro_f1", "auroc", "average_precision"):
        assert three.metrics([name])[name] == pytest.approx(two.metrics([name])[name], abs=1e-9), name


def test_a_large_split_is_ranked_by_evenly_spread_images(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, labels = predictions(3, "plain")
    exact = SplitScores(logits, labels).metrics(["auroc"])["auroc"]
    monkeypatch.setattr("toolkit.metrics.split.RANKED", 3 * 200)
    scores = SplitScores(logits, labels)
    assert len(scores.ranking.places) == 200
    low, high = scores.intervals(["auroc"])["auroc"]
    assert low < exact < high


def test_the_likeliest_classes_come_first_with_their_probabilities() -> None:
    logits, labels = predictions(10, "plain")
    classes, shares = SplitScores(logits, labels, 1.7).likeliest(3)
    probabilities = (logits.double() / 1.7).softmax(-1)
    assert classes[:, 0].tolist() == logits.argmax(-1).tolist()
    np.testing.assert_allclose(shares, probabilities.gather(1, torch.tensor(classes)).numpy(), rtol=1e-12)
    assert (np.diff(shares, axis=1) <= 0).all()


@KINDS
@pytest.mark.parametrize("classes", [2, 3, 10])
def test_numpy_gives_what_torch_gives_in_double_precision(classes: int, kind: str) -> None:
    logits, labels = predictions(classes, kind)
    scaled, target = logits.double() / 1.7, torch.nn.functional.one_hot(labels, classes).double()
    binary = torch.nn.functional.binary_cross_entropy_with_logits(scaled, target, reduction="none").sum(-1)
    for task, losses, log_p in (
        ("single-label", -scaled.log_softmax(-1)[target.bool()], scaled.log_softmax(-1)),
        ("sigmoid-scores", binary, torch.nn.functional.logsigmoid(scaled)),
    ):
        scores = SCORES[task](logits, labels, 1.7)
        assert scores.predicted.tolist() == logits.argmax(-1).tolist()
        np.testing.assert_allclose(scores.losses, losses.numpy(), rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(scores.confidence, log_p.exp().amax(-1).numpy(), rtol=1e-12)
        np.testing.assert_allclose(scores.likeliest(2)[1], log_p.exp().topk(2).values.numpy(), rtol=1e-12)


def test_logits_of_many_images_are_taken_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, labels = predictions(10, "ties")
    whole = SplitScores(logits, labels)
    monkeypatch.setattr("toolkit.metrics.split.CHUNK", 10 * 7)  # the last part is smaller
    parts = SplitScores(logits, labels)
    assert parts.losses.tolist() == whole.losses.tolist()
    for mine, other in zip(parts.likeliest(4), whole.likeliest(4), strict=True):
        assert mine.tolist() == other.tolist()


@pytest.mark.parametrize("task", [name for name in SCORES if TASKS[name].target != "number"])
def test_logits_of_any_size_have_finite_losses(task: str) -> None:
    logits = np.array([[1e4, -1e4, 0], [-3e3, -1e4, 2e4]], np.float32)
    labels = np.array([[1, 0, 0], [0, 1, 0]]) if TASKS[task].target == "labels" else np.array([0, 1])
    losses = SCORES[task](logits, labels).losses
    assert np.isfinite(losses).all()
    assert losses[0] <= 1 < losses[1]


def test_every_task_has_its_scores() -> None:
    assert set(SCORES) == set(TASKS) == set(DECISIONS)
