"""Metrics of images with several labels equal scikit-learn's, and their intervals hold what they promise."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy.special import expit
from sklearn import metrics as sklearn

from toolkit.metrics.intervals import exact_interval
from toolkit.metrics.label_sets import LabelSetScores
from toolkit.metrics.label_thresholds import choose_cut, lower_bounds

Array = npt.NDArray[Any]
NAMES = ["a", "b", "c", "d"]


def drawn(seed: int, images: int = 300, ties: bool = False) -> tuple[Array, Array]:
    """Logits [images, 4] and labels that follow them, one of them rare."""
    rng = np.random.default_rng(seed)
    logits = rng.normal([-3.0, -1.0, 0.0, 0.5], 2, (images, 4)).astype(np.float32)
    if ties:
        logits = np.round(logits)
    labels = (rng.random((images, 4)) < expit(0.8 * logits)).astype(np.int64)
    labels[0] = 1  # of each label at least one
    return logits, labels


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("ties", [False, True])
def test_they_equal_scikit_learns(seed: int, ties: bool) -> None:
    logits, labels = drawn(seed, ties=ties)
    cuts, temperature = np.array([0.5, 0.0, -0.25, 1.0], np.float32), np.array([0.8, 1.0, 1.5, 2.0])
    scores = LabelSetScores(logits, labels, temperature, cuts=cuts)
    said, probabilities = logits >= cuts, expit(logits.astype(np.float64) / temperature)
    found = scores.metrics()
    expected = {
        "accuracy": sklearn.accuracy_score(labels, said),
        "macro_f1": sklearn.f1_score(labels, said, average="macro", zero_division=0),
        "micro_f1": sklearn.f1_score(labels, said, average="micro"),
        "average_precision": sklearn.average_precision_score(labels, probabilities, average="macro"),
        "auroc": sklearn.roc_auc_score(labels, probabilities, average="macro"),
        "balanced_accuracy": np.mean([sklearn.balanced_accuracy_score(labels[:, c], said[:, c]) for c in range(4)]),
        "nll": sum(sklearn.log_loss(labels[:, c], probabilities[:, c]) for c in range(4)),
        "images": 300,
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    assert found["loss"] == found["nll"]
    precision, recall, f1, images = sklearn.precision_recall_fscore_support(labels, said, zero_division=0)
    for place, (name, each) in enumerate(scores.class_metrics(NAMES).items()):
        assert name == NAMES[place]
        assert each["images"] == images[place]
        assert each["said"] == said[:, place].sum()
        assert each["precision"] == pytest.approx(precision[place], abs=1e-6)
        assert each["recall"] == pytest.approx(recall[place], abs=1e-6)
        assert each["f1"] == pytest.approx(f1[place], abs=1e-6)
        average = sklearn.average_precision_score(labels[:, place], probabilities[:, place])
        assert each["average_precision"] == pytest.approx(average, abs=1e-6)
        for metric, (low, high) in each["intervals"].items():
            assert 0 <= low <= each[metric] <= high <= 1


def test_an_interval_of_a_share_is_the_exact_one() -> None:
    logits, labels = drawn(0)
    scores = LabelSetScores(logits, labels)
    right = ((logits >= 0) == (labels > 0)).all(-1)
    assert scores.intervals(["accuracy"])["accuracy"] == pytest.approx(exact_interval(right.mean(), 300))
    said = logits[:, 2] >= 0
    each = scores.class_metrics(NAMES)["c"]
    assert each["intervals"]["precision"] == pytest.approx(exact_interval(each["precision"], said.sum()))


@pytest.mark.parametrize("name", ["balanced_accuracy", "macro_f1", "micro_f1", "auroc", "average_precision"])
def test_the_interval_holds_the_true_value_in_about_95_of_100_splits(name: str) -> None:
    truth = LabelSetScores(*drawn(10_000, images=60_000)).metrics([name])[name]
    held = []
    for seed in range(200):
        low, high = LabelSetScores(*drawn(seed, images=250)).intervals([name])[name]
        held.append(low <= truth <= high)
    assert np.mean(held) >= 0.9


def test_influences_are_what_a_weight_changes() -> None:
    """N times the derivative by an image's weight: an image that is there twice counts twice."""
    logits, labels = drawn(3, images=400)
    scores = LabelSetScores(logits, labels)
    again = 17
    doubled = LabelSetScores(np.vstack([logits, logits[[again]]]), np.vstack([labels, labels[[again]]]))
    for name in ("balanced_accuracy", "macro_f1", "micro_f1", "auroc", "average_precision"):
        influence, _, _ = scores._influence(name)
        change = doubled.metrics([name])[name] - scores.metrics([name])[name]
        assert influence.mean() == pytest.approx(0, abs=1e-9)
        assert change == pytest.approx(influence[again] / 400, abs=2e-4)


def test_groups_make_intervals_wider_and_no_metric_other() -> None:
    logits, labels = (np.repeat(each, 4, axis=0) for each in drawn(1, images=80))
    groups = [str(place // 4) for place in range(320)]
    alone, grouped = LabelSetScores(logits, labels), LabelSetScores(logits, labels, groups=groups)
    assert alone.metrics() == pytest.approx(grouped.metrics(), nan_ok=True, abs=0.05)
    for name in ("accuracy", "macro_f1", "micro_f1", "average_precision"):
        low, high = grouped.intervals([name])[name]
        of_alone = alone.intervals([name])[name]
        assert high - low > of_alone[1] - of_alone[0]


def test_a_label_that_no_image_shows_is_left_out_of_means_and_said_to_have_none() -> None:
    logits, labels = drawn(2)
    labels[:, 1] = 0
    scores = LabelSetScores(logits, labels)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found, each = scores.metrics(), scores.class_metrics(NAMES)
        scores.intervals()
    others = [0, 2, 3]
    expected = sklearn.average_precision_score(labels[:, others], logits[:, others], average="macro")
    assert found["average_precision"] == pytest.approx(expected, abs=1e-6)
    assert (each["b"]["recall"], each["b"]["average_precision"], each["b"]["images"]) == (None, None, 0)
    assert each["b"]["intervals"]["recall"] == [None, None]
    assert each["a"]["recall"] is not None


def test_calibrated_probabilities_have_no_error_and_shifted_ones_have() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (4000, 3))
    labels = (rng.random((4000, 3)) < expit(logits)).astype(int)
    good, bad = (LabelSetScores(each, labels).calibration for each in (logits, 3 * logits))
    assert good.value < 0.01
    assert bad.value > 0.05
    assert LabelSetScores(3 * logits, labels, 3.0).calibration.value == pytest.approx(good.value, abs=1e-6)


@pytest.mark.parametrize("seed", range(10))
def test_no_cut_has_a_better_f1_than_the_one_that_is_chosen(seed: int) -> None:
    logits, labels = drawn(seed, images=80, ties=seed % 2 == 0)
    for place in range(4):
        positive = labels[:, place] > 0
        chosen = choose_cut(logits[:, place], positive, None)
        assert chosen.cut is not None
        best = max(
            sklearn.f1_score(positive, logits[:, place] >= cut, zero_division=0)
            for cut in [*np.unique(logits[:, place]), logits.max() + 1]
        )
        assert chosen.best == pytest.approx(best)
        assert sklearn.f1_score(positive, logits[:, place] >= np.float32(chosen.cut)) == pytest.approx(best)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("precision", [0.5, 0.7, 0.9])
def test_a_cut_for_a_precision_has_the_best_recall_of_those_whose_lower_bound_holds_it(
    seed: int, precision: float
) -> None:
    logits, labels = drawn(seed, images=200)
    positive = labels[:, 3] > 0
    chosen = choose_cut(logits[:, 3], positive, precision)
    recalls, bounds = [], []
    for cut in np.unique(logits[:, 3]):
        said = logits[:, 3] >= cut
        hits = positive[said].sum()
        bounds.append(exact_interval(hits / said.sum(), said.sum(), 0.9)[0])
        recalls.append(hits)
    holding = [recall for recall, bound in zip(recalls, bounds, strict=True) if bound >= precision]
    assert chosen.best == pytest.approx(max(bounds))
    if not holding:
        assert chosen.cut is None
        return
    assert chosen.cut is not None
    assert positive[logits[:, 3] >= np.float32(chosen.cut)].sum() == max(holding)


def test_a_precision_that_was_chosen_on_one_split_holds_on_another() -> None:
    kept = []
    for seed in range(100):
        logits, labels = drawn(seed, images=600)
        chosen = choose_cut(logits[:, 3], labels[:, 3] > 0, 0.75)
        assert chosen.cut is not None
        other, truth = drawn(1000 + seed, images=4000)
        said = other[:, 3] >= np.float32(chosen.cut)
        kept.append(truth[said, 3].mean() >= 0.75)
    assert np.mean(kept) >= 0.9


def test_of_copies_in_groups_a_precision_is_less_sure() -> None:
    logits, labels = (np.repeat(each, 10, axis=0) for each in drawn(5, images=40))
    groups = [str(place // 10) for place in range(400)]
    alone, grouped = (choose_cut(logits[:, 3], labels[:, 3] > 0, 0.6, of) for of in (None, groups))
    assert alone.best is not None
    assert grouped.best is not None
    assert grouped.best < alone.best


def test_a_label_without_an_image_has_no_cut_and_equal_logits_are_never_parted() -> None:
    assert choose_cut(np.zeros(5, np.float32), np.zeros(5, bool), None).cut is None
    near = np.array([1.0, np.nextafter(np.float32(1), np.float32(2))], np.float32)
    chosen = choose_cut(near, np.array([False, True]), None)
    assert chosen.cut is not None
    assert (near >= np.float32(chosen.cut)).tolist() == [False, True]
    assert lower_bounds(np.array([0, 5]), np.array([5, 5])) == pytest.approx([0, 0.05**0.2])
