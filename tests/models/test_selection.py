from __future__ import annotations

from pathlib import Path

import pytest

from toolkit.errors import ToolkitError
from toolkit.models.build import build_classifier, trainable_groups
from toolkit.models.selection import select_groups
from toolkit.recipe.model import HeadConfig, ModelConfig

NAMES = ["embeddings", *(f"layers.{index}" for index in range(12)), "post_norm", "projection", "head"]


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"last": 0}, ["head"]),
        ({"last": 2}, ["layers.10", "layers.11", "post_norm", "head"]),
        ({"last": 12}, [*(f"layers.{index}" for index in range(12)), "post_norm", "head"]),
        ({"named": ["projection"]}, ["projection", "head"]),
        ({"named": ["layers.1?", "head"]}, ["layers.10", "layers.11", "head"]),
        ({"named": ["all"]}, NAMES),
    ],
)
def test_selection(choice: dict[str, object], expected: list[str]) -> None:
    assert select_groups(NAMES, **choice) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize("choice", [{"named": ["layer11"]}, {"named": ["layers.11", "encoder"]}, {"last": 13}])
def test_a_selection_that_matches_nothing_lists_the_groups(choice: dict[str, object]) -> None:
    with pytest.raises(ToolkitError) as caught:
        select_groups(NAMES, **choice)  # type: ignore[arg-type]
    assert all(name in caught.value.fix for name in NAMES)


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_exactly_the_selected_groups_learn(family: str, encoders: dict[str, Path]) -> None:
    config = ModelConfig(encoder=str(encoders[family]), unfreeze=["layers.2", "projection"])
    classifier, _ = build_classifier(config, ["a", "b"], seed=0)
    assert trainable_groups(classifier) == ["layers.2", "projection", "head"]
    for group in classifier.groups:
        learns = group.name in ("layers.2", "projection", "head")
        assert {parameter.requires_grad for parameter in group.parameters()} == {learns}


@pytest.mark.parametrize(("head", "parameters"), [("linear", 24 * 5 + 5), ("mlp", 24 * 16 + 16 + 16 * 5 + 5)])
def test_head_shapes(head: str, parameters: int, encoders: dict[str, Path]) -> None:
    config = ModelConfig(encoder=str(encoders["clip"]), unfreeze_last=0, head=HeadConfig(type=head, hidden_size=16))  # type: ignore[arg-type]
    classifier, _ = build_classifier(config, list("abcde"), seed=0)
    assert sum(p.numel() for p in classifier.parameters() if p.requires_grad) == parameters


def test_the_head_is_a_function_of_the_seed(encoders: dict[str, Path]) -> None:
    config = ModelConfig(encoder=str(encoders["clip"]), unfreeze_last=0)
    weights = [build_classifier(config, ["a", "b"], seed)[0].head.state_dict()["0.weight"] for seed in (1, 1, 2)]
    assert weights[0].equal(weights[1])
    assert not weights[0].equal(weights[2])
