from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from toolkit.models.build import build_classifier
from toolkit.recipe.model import ModelConfig
from toolkit.recipe.recipe import Recipe
from toolkit.recipe.training import TrainingConfig
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


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_rates_decay_below_the_last_layer_and_weights_of_layers_alone_decay(
    encoders: dict[str, Path], family: str
) -> None:
    model = ModelConfig(encoder=str(encoders[family]), unfreeze=["all"])
    classifier, _ = build_classifier(model, ["a", "b"], 0)
    config = TrainingConfig(epochs=1, learning_rate=1.0, head_learning_rate=5.0, layer_decay=0.5, weight_decay=0.1)
    groups = build_optimizer(classifier.groups, config).param_groups
    rates = {group["name"]: group["lr"] for group in groups}
    peak = {"head": 5.0, "projection": 1.0, "post_norm": 1.0}
    assert rates == peak | {"layers.2": 1.0, "layers.1": 0.5, "layers.0": 0.25, "embeddings": 0.125}
    names = {parameter: name for name, parameter in classifier.named_parameters()}
    decays = {names[p]: group["weight_decay"] for group in groups for p in group["params"]}
    assert set(decays) == set(names.values())
    for name, decay in decays.items():
        spared = name.endswith("bias") or "norm" in name or "layrnorm" in name
        spared |= any(part in name for part in ("class_embedding", "position_embedding", "probe"))
        assert decay == (0.0 if spared else 0.1), name


def test_decay_counts_from_the_last_layer_that_learns(encoders: dict[str, Path]) -> None:
    model = ModelConfig(encoder=str(encoders["clip"]), unfreeze=["layers.0", "layers.1"])
    classifier, _ = build_classifier(model, ["a", "b"], 0)
    config = TrainingConfig(epochs=1, learning_rate=1.0, layer_decay=0.5)
    rates = {group["name"]: group["lr"] for group in build_optimizer(classifier.groups, config).param_groups}
    assert rates == {"layers.0": 0.5, "layers.1": 1.0, "head": 1.0}


def test_frozen_parameters_are_not_optimised(make_recipe: Callable[..., Recipe]) -> None:
    recipe = make_recipe()
    classifier, _ = build_classifier(recipe.model, ["a", "b"], 0)
    groups = build_optimizer(classifier.groups, recipe.training).param_groups
    assert {group["name"] for group in groups} == {"layers.2", "post_norm", "head"}
