from __future__ import annotations

import itertools
from typing import Literal

import pytest
import torch

from toolkit.recipe.training import BoundaryCacheConfig, TrainingConfig
from toolkit.training.stopwatch import STAGES, Stopwatch, advice

DEVICES = [
    "cpu",
    pytest.param(
        "cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
    ),
]
LITTLE = dict.fromkeys(("data_wait", "preprocessing", "trunk", "optimizer", "other"), 0.02)


def config(*, cached: bool = False, dtype: Literal["fp32", "fp16"] = "fp32") -> TrainingConfig:
    return TrainingConfig(epochs=1, boundary_cache=BoundaryCacheConfig(enabled=cached, dtype=dtype))


def shares(**most: float) -> dict[str, float]:
    """Time shares that sum to one; what isn't named is little, and the rest goes to the groups that learn."""
    named = LITTLE | most
    return named | {"trainable": 1 - sum(named.values())}


@pytest.mark.parametrize("device", DEVICES)
def test_the_stages_and_what_is_left_make_the_whole(device: str) -> None:
    watch = Stopwatch(torch.device(device))
    matrix = torch.ones(64, 64, device=device)
    for _ in range(3):
        for stage in ("trunk", "trainable", "optimizer"):
            with watch.on_device(stage):
                matrix = (matrix @ matrix).tanh()
    watch.images = 48
    metrics = watch.metrics()
    assert set(metrics["time_shares"]) == {*STAGES, "other"}
    assert sum(metrics["time_shares"].values()) == pytest.approx(1)
    assert min(metrics["time_shares"][stage] for stage in ("trunk", "trainable", "optimizer")) > 0
    assert metrics["images_per_second"] * metrics["epoch_seconds"] == pytest.approx(48)


def test_time_that_was_measured_elsewhere_counts_as_waiting_for_data() -> None:
    watch = Stopwatch(torch.device("cpu"))
    watch.started -= 10
    watch.add("data_wait", 2)
    watch.add("preprocessing", 3)
    watch.add("preprocessing", 1)
    metrics = watch.metrics()
    assert metrics["time_shares"]["preprocessing"] == pytest.approx(2 * metrics["time_shares"]["data_wait"])
    assert metrics["data_wait_share"] * metrics["epoch_seconds"] == pytest.approx(6)
    assert sum(metrics["time_shares"].values()) == pytest.approx(1)


@pytest.mark.parametrize("most", [{"trunk": 0.6}, {"data_wait": 0.6}, {"preprocessing": 0.3, "trunk": 0.3}])
def test_the_cache_is_advised_where_images_and_trunk_take_the_time(most: dict[str, float]) -> None:
    given = advice(shares(**most), config(), cacheable=True, workers=0, cores=8, on_gpu=False)
    assert "training.boundary_cache.enabled=true" in given


@pytest.mark.parametrize(
    ("most", "trained", "workers", "on_gpu", "expected"),
    [
        ({"data_wait": 0.5}, config(cached=True), 2, True, "training.boundary_cache.dtype=fp16"),
        ({"data_wait": 0.5}, config(cached=True, dtype="fp16"), 2, True, "cache: training.boundary_cache.dir"),
        ({"data_wait": 0.5}, config(), 2, True, "training.loader_workers=7"),
        ({"data_wait": 0.5}, config(), 0, True, "training.loader_workers=7"),
        ({"data_wait": 0.5}, config(), 7, True, "more cores"),
        ({"preprocessing": 0.5}, config(), 0, False, "more cores"),
        ({"other": 0.6}, config(cached=True), 0, False, "larger training.batch_size"),
        ({"optimizer": 0.3, "other": 0.3}, config(), 0, False, "larger training.batch_size"),
        ({}, config(cached=True), 0, False, "mixed_precision"),
    ],
)
def test_what_takes_the_time_is_what_is_advised_against(
    most: dict[str, float], trained: TrainingConfig, workers: int, on_gpu: bool, expected: str
) -> None:
    cacheable = trained.boundary_cache.enabled
    given = advice(shares(**most), trained, cacheable=cacheable, workers=workers, cores=8, on_gpu=on_gpu)
    assert expected in given


def every_advice(*, cached: tuple[bool, ...], cacheable: tuple[bool, ...]) -> set[str]:
    stages = (*STAGES, "other")
    mixes = [
        {stage: quarters.count(stage) / 4 for stage in stages}
        for quarters in itertools.combinations_with_replacement(stages, 4)
    ]
    machines = [(0, 1, False), (0, 8, False), (2, 3, True), (2, 8, True), (8, 8, True)]
    return {
        advice(mix, config(cached=on), cacheable=possible, workers=workers, cores=cores, on_gpu=on_gpu)
        for mix, on, possible, (workers, cores, on_gpu) in itertools.product(mixes, cached, cacheable, machines)
    }


def test_advice_is_always_one_sentence() -> None:
    given = every_advice(cached=(False, True), cacheable=(False, True))
    assert all(text and "\n" not in text and ". " not in text and not text.endswith(".") for text in given)


def test_the_cache_is_never_advised_where_there_is_nothing_to_cache() -> None:
    assert not [text for text in every_advice(cached=(False,), cacheable=(False,)) if "cache" in text]


def test_a_cache_that_is_on_is_not_advised_again() -> None:
    assert not [text for text in every_advice(cached=(True,), cacheable=(True,)) if "enabled=true" in text]
