"""Every method with every number of shots and every seed, on embeddings that are computed once."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student

from toolkit.progress import SILENT, Progress
from toolkit.runs.few_shot_file import MethodResult, SeedResult
from toolkit.training.few_shot.features import Features
from toolkit.training.few_shot.method import Fitted, Method, accuracy
from toolkit.training.few_shot.shots import draw

LEVEL = 0.95


@dataclass(frozen=True)
class Best:
    """What is worth shipping."""

    method: Method
    shots: int
    seed: int
    fitted: Fitted


@dataclass(frozen=True)
class Study:
    """What was found."""

    results: list[MethodResult]
    best: Best


def run_study(
    features: Features,
    methods: Sequence[Method],
    shots: Sequence[int],
    seeds: int,
    progress: Progress = SILENT,
) -> Study:
    """Fit every method on every draw; validation alone says which is the best.

    Args:
        features: of the encoder and the data.
        methods: each with what it needs.
        shots: images a class.
        seeds: how many draws of them.
        progress: told how it goes on.
    """
    labels, classes = features.labels, len(features.data.classes)
    results: list[MethodResult] = []
    best: Best | None = None
    best_score = -1.0
    for done, (method, count) in enumerate((method, count) for method in methods for count in shots):
        progress.stage(f"{method.name}, {count} shots")
        progress.done(done, len(methods) * len(shots))
        started, found = time.perf_counter(), []
        candidate: tuple[float, Best] | None = None
        for seed in range(seeds):
            fitted = method.fit(features, draw(labels["train"], classes, count, seed))
            scores = {split: accuracy(fitted.logits[split], labels[split]) for split in ("validation", "test")}
            found.append(
                SeedResult(
                    seed=seed,
                    accuracy=scores["test"],
                    validation_accuracy=scores["validation"],
                    chosen=fitted.chosen,
                )
            )
            if candidate is None or scores["validation"] > candidate[0]:
                candidate = scores["validation"], Best(method, count, seed, fitted)
        result = _summary(method, count, found, time.perf_counter() - started)
        results.append(result)
        if candidate is not None and result.validation_accuracy > best_score:
            best_score, best = result.validation_accuracy, candidate[1]
    assert best is not None
    return Study(results, best)


def _summary(method: Method, shots: int, found: list[SeedResult], seconds: float) -> MethodResult:
    values = np.array([each.accuracy for each in found])
    interval = None
    if len(values) > 1:
        reach = float(student.ppf((1 + LEVEL) / 2, len(values) - 1)) * values.std(ddof=1) / len(values) ** 0.5
        interval = max(0.0, float(values.mean() - reach)), min(1.0, float(values.mean() + reach))
    return MethodResult(
        method=method.name,
        shots=shots,
        accuracy=float(values.mean()),
        interval=interval,
        validation_accuracy=float(np.mean([each.validation_accuracy for each in found])),
        seconds=seconds,
        seeds=found,
    )
