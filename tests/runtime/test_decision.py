"""A decision at an operating point says what its probabilities say, and its margin is what it takes to change it."""

from __future__ import annotations

import numpy as np
import pytest

from toolkit.errors import ToolkitError
from toolkit.runtime.decision import DECISIONS, AtThreshold, Decision, at_point
from toolkit.runtime.operating_point import OperatingPoint

LABELS = ["a", "b", "c"]
WITH_ODDS = [name for name, each in DECISIONS.items() if type(each).log_odds is not Decision.log_odds]
"""Tasks with a probability that a threshold can be set on."""


def probabilities(task: str, logits: np.ndarray, temperature: float) -> np.ndarray:
    scaled = logits.astype(np.float64) / temperature
    if task == "sigmoid-scores":
        return 1 / (1 + np.exp(-scaled))
    return np.exp(scaled) / np.exp(scaled).sum(-1, keepdims=True)


def drawn(classes: int) -> np.ndarray:
    return np.random.default_rng(classes).normal(0, 3, (2000, classes)).astype(np.float32)


@pytest.mark.parametrize("task", WITH_ODDS)
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("threshold", [0.02, 0.5, 0.97])
@pytest.mark.parametrize("place", [0, 1])
def test_the_class_is_said_from_its_threshold_on_and_the_likeliest_other_below(
    task: str, classes: int, threshold: float, place: int
) -> None:
    logits, labels = drawn(classes), LABELS[:classes]
    point = OperatingPoint(label=labels[place], threshold=threshold, temperature=1.7)
    decided = at_point(DECISIONS[task], point, labels).decide(logits)
    shares = probabilities(task, logits, 1.7)
    assert np.array_equal(decided == place, shares[:, place] >= threshold)
    others = shares.copy()
    others[:, place] = -1
    assert np.array_equal(decided[decided != place], others.argmax(-1)[decided != place])


@pytest.mark.parametrize("task", WITH_ODDS)
@pytest.mark.parametrize("classes", [2, 3])
def test_logits_that_move_by_less_than_half_a_margin_never_change_the_decision(task: str, classes: int) -> None:
    """Half, since the class and the others may move apart."""
    logits = drawn(classes)
    decision = at_point(DECISIONS[task], OperatingPoint(label="b", threshold=0.8, temperature=0.6), LABELS[:classes])
    decided, margins = decision.decide(logits), decision.margins(logits)
    assert (margins >= 0).all()
    rng = np.random.default_rng(1)
    for _ in range(20):
        sides = rng.choice([-1.0, 1.0], logits.shape)
        moved = logits + (0.4999 * sides * margins[:, None]).astype(np.float32)
        sure = margins > 1e-4  # fp32 resolves no less
        assert np.array_equal(decision.decide(moved)[sure], decided[sure])


def test_in_two_classes_a_threshold_of_one_half_is_the_likeliest_class() -> None:
    logits, plain = drawn(2), DECISIONS["single-label"]
    decision = at_point(plain, OperatingPoint(label="a", threshold=0.5, temperature=2.0), LABELS[:2])
    assert np.array_equal(decision.decide(logits), plain.decide(logits))
    np.testing.assert_allclose(decision.margins(logits), plain.margins(logits), rtol=1e-4, atol=1e-5)


def test_without_a_point_nothing_changes_and_a_class_that_is_none_is_refused() -> None:
    plain = DECISIONS["single-label"]
    assert at_point(plain, None, LABELS) is plain
    with pytest.raises(ValueError, match="'z', which is no class"):
        at_point(plain, OperatingPoint(label="z", threshold=0.5, temperature=1.0), LABELS)


def test_a_task_without_such_probabilities_refuses_a_threshold() -> None:
    class Smallest(Decision):
        name = "smallest"
        decide = staticmethod(lambda logits: logits.argmin(-1))
        margins = staticmethod(lambda logits: np.ptp(logits, axis=-1))

    decision = AtThreshold(Smallest(), OperatingPoint(label="a", threshold=0.5, temperature=1.0), 0)
    with pytest.raises(ToolkitError, match="'smallest' has no probability") as caught:
        decision.decide(drawn(2))
    assert caught.value.where == "training.operating_point"
