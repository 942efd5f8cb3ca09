"""The temperature of the probabilities, and what a validation split can say of it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from toolkit.metrics.split import split_metrics
from toolkit.tasks.temperature import fit_temperature, temperature_interval, temperature_note


def sampled(images: int, spoiled: float = 1.0, seed: int = 0, scale: float = 2.0) -> tuple[Tensor, Tensor]:
    """Logits times a factor that spoils their calibration, and labels drawn from the true probabilities."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(images, 4, generator=generator) * scale
    labels = torch.multinomial(logits.softmax(-1), 1, generator=generator).squeeze(1)
    return logits * spoiled, labels


@pytest.mark.parametrize("true_temperature", [0.05, 0.4, 1.0, 3.0, 30.0])
def test_many_images_recover_the_factor_that_spoiled_the_logits(true_temperature: float) -> None:
    logits, labels = sampled(20_000, true_temperature)
    low, high = temperature_interval(logits, labels)
    assert fit_temperature(logits, labels) == pytest.approx(true_temperature, rel=0.05)
    assert low < true_temperature < high
    assert high / low < 1.1


@pytest.mark.parametrize("images", [10, 50, 150, 500])
@pytest.mark.parametrize("sharpness", [1.0, 4.0, 30.0])
def test_a_split_that_is_all_right_does_not_collapse_it(images: int, sharpness: float) -> None:
    labels = torch.arange(images) % 3
    logits = sharpness * torch.nn.functional.one_hot(labels, 3).float()
    temperature = fit_temperature(logits, labels)
    low, high = temperature_interval(logits, labels)
    assert 0.2 < temperature < 1  # the images say less than 1; the prior says how much less is to be believed
    assert low < temperature < high
    note = temperature_note(temperature, (low, high), 0, images)
    assert note.startswith(f"{images} validation images with no error tell little about confidence")


def test_on_average_other_images_lose_nothing_where_the_logits_were_calibrated() -> None:
    test, answers = sampled(20_000, seed=10_000, scale=8.0)
    gains = []
    for seed in range(60):
        temperature = fit_temperature(*sampled(50, seed=seed, scale=8.0))
        gains.append(split_metrics(test, answers, temperature)["loss"] - split_metrics(test, answers)["loss"])
    assert sum(gains) / len(gains) < 0.005


@pytest.mark.parametrize("spoiled", [0.4, 3.0])
def test_on_average_other_images_gain_where_confidence_was_wrong(spoiled: float) -> None:
    test, answers = sampled(20_000, spoiled, seed=10_000)
    before = split_metrics(test, answers)["loss"]
    best = split_metrics(test, answers, spoiled)["loss"]
    after = [split_metrics(test, answers, fit_temperature(*sampled(150, spoiled, seed)))["loss"] for seed in range(20)]
    assert sum(after) / len(after) < before + 0.8 * (best - before)


def test_a_prior_moves_with_the_logits() -> None:
    logits, labels = sampled(80)
    assert fit_temperature(logits * 5, labels, prior=5.0) == pytest.approx(
        5 * fit_temperature(logits, labels), rel=1e-4
    )


def test_it_is_the_most_likely_one_given_the_priors_and_never_changes_a_decision() -> None:
    logits, labels = sampled(50, 5.0)
    fitted = fit_temperature(logits, labels)
    assert split_metrics(logits, labels, fitted)["loss"] < split_metrics(logits, labels)["loss"]
    assert split_metrics(logits, labels, fitted)["accuracy"] == split_metrics(logits, labels)["accuracy"]
    assert math.isfinite(fitted)


def test_a_large_split_is_read_at_even_places(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, labels = sampled(4000)
    monkeypatch.setattr("toolkit.tasks.temperature.CELLS", 4 * 1000)
    assert fit_temperature(logits, labels) == fit_temperature(logits[::4], labels[::4])


def test_nothing_is_said_where_validation_says_enough() -> None:
    logits, labels = sampled(500)
    interval = temperature_interval(logits, labels)
    assert temperature_note(fit_temperature(logits, labels), interval, 120, 500) == ""
