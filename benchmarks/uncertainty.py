"""Do temperature, intervals and calibration error keep what they promise? By simulation, beside what stood before.

    python -m benchmarks.uncertainty

Before: the likeliest temperature between 0.05 and 20, percentile bootstraps, and the calibration error of 15 bins of
equal width. Writes benchmarks/results/uncertainty.json; about ten minutes on two cores.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import stats
from scipy.optimize import minimize_scalar
from torch import Tensor

from toolkit.files import write_json
from toolkit.metrics.calibration import calibration_error
from toolkit.metrics.intervals import exact_interval, paired_drop
from toolkit.metrics.split import SplitScores
from toolkit.runtime.machine import describe_machine
from toolkit.tasks.temperature import fit_temperature

RESULTS = Path(__file__).parent / "results" / "uncertainty.json"
WORLDS = [(2, 1.5), (2, 8.0), (2, 20.0), (10, 2.0), (10, 6.0), (10, 15.0), (100, 2.0), (100, 12.0)]
"""Classes, and standard deviation of the true logits: from a third of the images right to 98 %."""
METRICS = ("accuracy", "balanced_accuracy", "macro_f1", "auroc", "average_precision", "loss")
Array = npt.NDArray[np.float64]


def likeliest_temperature(logits: Tensor, labels: Tensor) -> float:
    """Before: the maximum of the likelihood alone."""

    def loss(log_temperature: float) -> float:
        return float(torch.nn.functional.cross_entropy(logits.double() / math.exp(log_temperature), labels))

    bounds = (math.log(0.05), math.log(20))
    return math.exp(float(minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-4}).x))


def drawn(classes: int, scale: float, images: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """True logits and labels that follow their softmax."""
    logits = scale * torch.randn(images, classes, generator=generator)
    return logits, torch.multinomial(logits.softmax(-1), 1, generator=generator).squeeze(1)


def temperature(repeats: int) -> list[dict[str, Any]]:
    """Mean change of the NLL of other images by scaling with what few images gave."""
    rows = []
    for classes, scale in WORLDS:
        generator = torch.Generator().manual_seed(classes)
        test, _ = drawn(classes, scale, 20_000, generator)
        truth = test.double().softmax(-1)

        def nll(factor: float, test: Tensor = test, truth: Tensor = truth) -> float:
            return float(-(truth * (test.double() * factor).log_softmax(-1)).sum(-1).mean())

        for true in (1.0, 0.4, 3.0):
            for images in (50, 150, 500):
                changes: dict[str, list[float]] = {"before": [], "after": []}
                for _ in range(repeats):
                    logits, labels = drawn(classes, scale, images, generator)
                    fits = {"before": likeliest_temperature, "after": fit_temperature}
                    for name, fit in fits.items():
                        changes[name].append(nll(true / fit(logits * true, labels)) - nll(true))
                rows.append(
                    {
                        "classes": classes,
                        "accuracy": float(truth.amax(-1).mean()),
                        "true_temperature": true,
                        "images": images,
                        "best_possible": nll(1.0) - nll(true),
                        **{name: float(np.mean(each)) for name, each in changes.items()},
                    }
                )
                print(rows[-1], flush=True)
    return rows


def coverage_of_accuracy() -> list[dict[str, Any]]:
    """How often the interval of an accuracy holds the true one, and its mean width; exact sums, no simulation."""
    rows = []
    for images in (50, 300, 3000):
        rights = np.arange(images + 1)
        ours = np.array([exact_interval(right / images, images) for right in rights])
        percentile = stats.binom.ppf([[0.025], [0.975]], images, rights / images).T / images
        for share in (0.5, 0.8, 0.9, 0.95, 0.99, 0.998):
            weights = stats.binom.pmf(rights, images, share)
            row: dict[str, Any] = {"images": images, "accuracy": share}
            for name, ends in (("before", percentile), ("after", ours)):
                held = (ends[:, 0] <= share) & (share <= ends[:, 1])
                row[name] = {
                    "coverage": float(weights[held].sum()),
                    "width": float(weights @ (ends[:, 1] - ends[:, 0])),
                }
            row["width_to_exact"] = row["after"]["width"] / float(weights @ (ours[:, 1] - ours[:, 0]))
            rows.append(row)
    return rows


def percentile_interval(values: Callable[[npt.NDArray[np.int64]], Array], images: int, rng: Any) -> Array:
    """Before: ends of the middle 95 % over resampled images."""
    found = [values(rng.integers(0, images, images)) for _ in range(200)]
    return np.nanquantile(np.array(found), [0.025, 0.975], axis=0)


def coverage_of_metrics(repeats: int) -> list[dict[str, Any]]:
    """The same for the other metrics, whose true value is that of 200,000 images."""
    rows = []
    for classes, scale in ((2, 1.5), (2, 8.0), (10, 6.0), (10, 15.0)):
        generator, rng = torch.Generator().manual_seed(classes), np.random.default_rng(classes)
        whole = SplitScores(*drawn(classes, scale, 200_000, generator)).metrics(METRICS)
        for images in (50, 300, 3000):
            held: dict[str, list[list[bool]]] = {"before": [], "after": []}
            widths: dict[str, list[Array]] = {"before": [], "after": []}
            for repeat in range(repeats):
                logits, labels = drawn(classes, scale, images, generator)
                ends = np.array(list(SplitScores(logits, labels).intervals(METRICS).values())).T
                found = {"after": ends}
                if images <= 300 and repeat < repeats // 2:  # a bootstrap of everything takes its time

                    def values(places: Any, logits: Tensor = logits, labels: Tensor = labels) -> Array:
                        part = torch.from_numpy(places)
                        return np.array(list(SplitScores(logits[part], labels[part]).metrics(METRICS).values()))

                    found["before"] = percentile_interval(values, images, rng)
                for name, (low, high) in found.items():
                    held[name].append([a <= whole[key] <= b for key, a, b in zip(METRICS, low, high, strict=True)])
                    widths[name].append(high - low)
            row: dict[str, Any] = {"classes": classes, "images": images, "true": whole}
            for name, each in held.items():
                if each:
                    row[name] = {
                        "coverage": dict(zip(METRICS, np.mean(each, axis=0).tolist(), strict=True)),
                        "width": dict(zip(METRICS, np.mean(widths[name], axis=0).tolist(), strict=True)),
                    }
            rows.append(row)
            print(row, flush=True)
    return rows


def coverage_with_groups(repeats: int) -> list[dict[str, Any]]:
    """Accuracy of images in groups of ten whose own accuracies scatter around the true one."""
    rows = []
    for share, spread in ((0.9, 10.0), (0.98, 20.0), (0.98, 5.0)):
        for groups in (10, 30, 100):
            rng = np.random.default_rng(groups)
            names = [str(index // 10) for index in range(10 * groups)]
            held: dict[str, list[bool]] = {"before": [], "after": []}
            for _ in range(repeats):
                hits = rng.random(10 * groups) < np.repeat(rng.beta(share * spread, (1 - share) * spread, groups), 10)
                means = hits.reshape(groups, 10).mean(1)
                drawn_again = means[rng.integers(0, groups, (500, groups))].mean(1)
                logits = torch.from_numpy(np.stack([~hits, hits], 1).astype(np.float32))
                scores = SplitScores(logits, torch.ones(10 * groups, dtype=torch.int64), groups=names)
                ends = {
                    "before": np.quantile(drawn_again, [0.025, 0.975]),
                    "after": scores.intervals(["accuracy"])["accuracy"],
                }
                for name, (low, high) in ends.items():
                    held[name].append(bool(low <= share <= high))
            coverage = {name: float(np.mean(each)) for name, each in held.items()}
            rows.append({"accuracy": share, "groups": groups, "beta_sum": spread} | coverage)
    return rows


def drops(repeats: int) -> list[dict[str, Any]]:
    """How often the bound of what a second classifier loses on the same images holds."""
    rows = []
    for images in (50, 256, 1500):
        for lose, win in ((0.002, 0.0), (0.01, 0.0), (0.02, 0.01), (0.05, 0.05)):
            rng = np.random.default_rng(images)
            held: dict[str, list[bool]] = {"before": [], "after": []}
            for _ in range(repeats):
                kinds = rng.random(images)
                before, after = ~((kinds >= lose) & (kinds < lose + win)), ~(kinds < lose)
                lost = before.astype(float) - after
                again = lost[rng.integers(0, images, (500, images))].mean(1)
                held["before"].append(bool(np.quantile(again, 0.95) >= lose - win - 1e-12))
                held["after"].append(paired_drop(before, after, None).at_most >= lose - win)
            coverage = {name: float(np.mean(each)) for name, each in held.items()}
            rows.append({"images": images, "lost": lose, "won": win} | coverage)
    return rows


def equal_width_error(confidence: Array, right: npt.NDArray[np.bool_]) -> float:
    """Before: the mean gap over 15 bins of equal width."""
    bins = np.minimum((confidence * 15).astype(int), 14)
    return float(np.abs(np.bincount(bins, right - confidence, 15)).sum() / len(right))


def calibration(repeats: int) -> list[dict[str, Any]]:
    """Mean of the calibration error that is told, and how often its interval holds the true one and itself."""
    rows = []
    for shift in (0.0, 0.03, 0.1):
        for images in (50, 300, 3000):
            rng = np.random.default_rng(images)
            told: dict[str, list[float]] = {"before": [], "after": []}
            held: dict[str, list[bool]] = {"before": [], "after": []}
            inside: dict[str, list[bool]] = {"before": [], "after": []}
            for _ in range(repeats):
                confidence = rng.uniform(0.5, 1.0 - shift, images) ** 0.5
                right = rng.random(images) < confidence - shift
                found = calibration_error(confidence, right)
                point = equal_width_error(confidence, right)
                places = rng.integers(0, images, (200, images))
                again = [equal_width_error(confidence[each], right[each]) for each in places]
                for name, value, (low, high) in (
                    ("before", point, np.quantile(again, [0.025, 0.975])),
                    ("after", found.value, found.interval),
                ):
                    told[name].append(value)
                    held[name].append(bool(low <= shift <= high))
                    inside[name].append(bool(low <= value <= high))
            row: dict[str, Any] = {"true": shift, "images": images}
            for name, values in told.items():
                row[name] = {
                    "mean": float(np.mean(values)),
                    "coverage": float(np.mean(held[name])),
                    "holds_its_point": float(np.mean(inside[name])),
                }
            rows.append(row)
            print(row, flush=True)
    return rows


def main() -> None:
    """Run all simulations and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=200)
    repeats = parser.parse_args().repeats
    found = {
        "repeats": repeats,
        "coverage_of_accuracy": coverage_of_accuracy(),
        "coverage_with_groups": coverage_with_groups(2 * repeats),
        "drops": drops(2 * repeats),
        "calibration_error": calibration(repeats),
        "coverage_of_metrics": coverage_of_metrics(repeats),
        "temperature": temperature(repeats),
    }
    worst = max(row["after"] for row in found["temperature"])
    least = min(row["after"]["coverage"] for row in found["coverage_of_accuracy"])
    print(f"temperature: at worst {worst:+.4f} nats on average; accuracy: least coverage {least:.3f}")
    write_json(RESULTS, found | {"machine": describe_machine()})


if __name__ == "__main__":
    main()
