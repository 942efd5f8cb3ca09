from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from toolkit.config import ModelConfig, Recipe, TrainingConfig
from toolkit.models.build import build_classifier
from toolkit.training.optimizer import build_optimizer, learning_rate_factor


@pytest.mark.parametrize("scheduler", ["cosine", "step", "constant"])
def test_the_rate_rises_over_the_warm_up_to_its_peak_and_never_past_it(scheduler: str) -> None:
    config = TrainingConfig(epochs=10, scheduler=scheduler, warmup_share=0.1)  # type: ignore[arg-type]
    factors = [learning_rate_factor(config, 10, step) for step in range(100)]
    assert factors[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert max(factors) == pytest.approx(1.0)
    assert min(factors) > 0


def test_cosine_falls_to_zero_and_is_half_in_the_middle() -> None:
    factor = partial(learning_rate_factor, TrainingConfig(epochs=10, warmup_share=0.0), 10)
    assert factor(0) == 1.0
    assert factor(50) == pytest.approx(0.5)
    assert factor(100) == pytest.approx(0.0)


def test_step_reduces_at_the_epochs_it_names() -> None:
    config = TrainingConfig(epochs=6, scheduler="step", step_epochs=2, step_factor=0.5, warmup_share=0.0)
    factor = partial(learning_rate_factor, config, 7)
    assert [factor(epoch * 7) for epoch in range(6)] == pytest.approx([1, 1, 0.5, 0.5, 0.25, 0.25])


def test_rates_decay_away_from_the_head_and_vectors_do_not_decay(encoders: dict[str, Path]) -> None:
    model = ModelConfig(encoder=str(encoders["clip"]), unfreeze=["all"])
    classifier, _ = build_classifier(model, ["a", "b"], 0)
    config = TrainingConfig(epochs=1, learning_rate=1.0, head_learning_rate=5.0, layer_decay=0.5, weight_decay=0.1)
    groups = build_optimizer(classifier.groups, config).param_groups
    rates = {group["name"]: group["lr"] for group in groups}
    names = ["projection", "post_norm", "layers.2", "layers.1", "layers.0", "embeddings"]
    assert [rates[name] for name in names] == [0.5**k for k in range(6)]
    assert rates["head"] == 5.0
    for group in groups:
        assert {p.ndim >= 2 for p in group["params"]} == {group["weight_decay"] > 0}
    optimised = {id(p) for group in groups for p in group["params"]}
    assert optimised == {id(p) for p in classifier.parameters()}


def test_frozen_parameters_are_not_optimised(make_recipe: Callable[..., Recipe]) -> None:
    recipe = make_recipe()
    classifier, _ = build_classifier(recipe.model, ["a", "b"], 0)
    groups = build_optimizer(classifier.groups, recipe.training).param_groups
    assert {group["name"] for group in groups} == {"layers.2", "post_norm", "head"}
