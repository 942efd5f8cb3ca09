"""Ordered classes beside plain ones: the four grades of elpv, five seeds, the same recipe but for its task.

    python -m benchmarks.ordinal

A seed draws the split as well as the head's weights, the order and the dropout. Both tasks keep the epoch with the
smallest validation loss, which both have, so that neither is chosen by its own measure. Each one's logits are decided
both ways, by the median class and by the likeliest one, so that what the loss brings is told from what the decision
brings. Means over the seeds with 95 % intervals (Student's t); differences seed by seed. Writes
benchmarks/results/ordinal.json and prints the table of docs/tasks.md. Runs that are done are kept in --work.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t

from recipes.finetune import finetune
from toolkit.data.elpv import GRADES, write_elpv
from toolkit.files import write_json
from toolkit.metrics.ordered import quadratic_kappa, spearman
from toolkit.ordered import median_of
from toolkit.recipe.reading import load_recipe
from toolkit.runtime.machine import describe_machine

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "ordinal.json"
SEEDS = range(5)
CHEAPER = ("model.unfreeze_last=1", "training.epochs=12")
"""Of the recipe's two layers and 20 epochs, so that all ten runs take under ten minutes on one core."""
TASKS = ("single-label", "ordinal")
DECISIONS = {"likeliest": lambda logits: logits.argmax(-1), "median": median_of}
SHIPPED = {"single-label": "likeliest", "ordinal": "median"}
"""The decision that each task makes."""


def overrides_of(task: str, seed: int, work: Path) -> list[str]:
    """Everything a run is given beside the recipe's file."""
    return [
        f"data.path={work / f'elpv-{seed}'}",
        f"model.task={task}",
        *CHEAPER,
        "training.select_by=loss",
        f"training.seed={seed}",
        f"training.boundary_cache.dir={work / 'cache'}",
        "tracking.trackers=[]",
        "tracking.plots=false",
    ]


def run_once(task: str, seed: int, work: Path) -> dict[str, Any]:
    """Fine-tune, or read what an earlier call left; the metrics of both decisions on the test split."""
    data, out = work / f"elpv-{seed}", work / "runs" / f"{task}-{seed}"
    if not data.exists():
        write_elpv(data, seed=seed, grades=True)
    started = time.perf_counter()
    if not (out / "summary.json").is_file():
        recipe = load_recipe(ROOT / "recipes" / "configs" / "elpv_ordinal.yaml", overrides_of(task, seed, work))
        finetune(recipe, out, force=True)
    summary = json.loads((out / "summary.json").read_text())
    with (out / "test_predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    labels = np.array([GRADES.index(row["label"]) for row in rows])
    logits = np.array([[float(row[f"logit:{name}"]) for name in GRADES] for row in rows])
    found = {name: measured(labels, decide(logits)) for name, decide in DECISIONS.items()}
    print(f"{task} {seed}: {found[SHIPPED[task]]}", file=sys.stderr, flush=True)
    return {
        "decisions": found,
        "nll": summary["test"]["nll"],
        "expected_calibration_error": summary["test"]["expected_calibration_error"],
        "temperature": summary["temperature"],
        "best_epoch": summary["best_epoch"],
        "seconds": time.perf_counter() - started,
    }


def measured(labels: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Metrics of decisions."""
    return {
        "accuracy": float((labels == predicted).mean()),
        "mae": float(np.abs(labels - predicted).mean()),
        "off_by_two_or_more": float((np.abs(labels - predicted) > 1).mean()),
        "quadratic_kappa": quadratic_kappa(labels, predicted).value,
        "spearman": spearman(labels, predicted).value,
    }


def interval(values: list[float]) -> dict[str, float]:
    """Mean and 95 % interval of the mean, by Student's t."""
    mean = statistics.mean(values)
    half = float(t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
    return {"mean": mean, "low": mean - half, "high": mean + half}


def compared(runs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Each task and decision over the seeds, and its differences to plain classes as they ship, seed by seed."""
    plain = [run["decisions"]["likeliest"] for run in runs["single-label"]]
    table: dict[str, Any] = {}
    for task in TASKS:
        for decision in DECISIONS:
            mine = [run["decisions"][decision] for run in runs[task]]
            table[f"{task}, {decision}"] = {
                metric: interval([each[metric] for each in mine])
                | {"difference": interval([a[metric] - b[metric] for a, b in zip(mine, plain, strict=True)])}
                for metric in plain[0]
            }
    return table


def markdown(table: dict[str, Any]) -> str:
    """The table of docs/tasks.md."""
    metrics = list(next(iter(table.values())))
    lines = [f"| task, decision | {' | '.join(metrics)} |", "|" + " --- |" * (len(metrics) + 1)]
    for name, row in table.items():
        cells = [
            f"{each['mean']:.3f} ({each['difference']['mean']:+.3f}: {each['difference']['low']:+.3f} to "
            f"{each['difference']['high']:+.3f})"
            for each in row.values()
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Run both tasks on every seed and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/ordinal"), help="where runs are kept")
    work = parser.parse_args().work.absolute()
    runs: dict[str, list[dict[str, Any]]] = {task: [] for task in TASKS}
    for seed in SEEDS:
        for task in TASKS:
            runs[task].append(run_once(task, seed, work))
    table = compared(runs)
    others = {
        task: {name: interval([run[name] for run in each]) for name in ("nll", "expected_calibration_error")}
        for task, each in runs.items()
    }
    content = {
        "data": "elpv, four grades",
        "recipe": "recipes/configs/elpv_ordinal.yaml",
        "overrides": overrides_of("TASK", 0, Path("WORK")),
        "seeds": len(SEEDS),
        "shipped_decision": SHIPPED,
        "table": table,
        "probabilities": others,
        "runs": runs,
        "machine": describe_machine(),
    }
    write_json(RESULTS, content)
    print(markdown(table))


if __name__ == "__main__":
    main()
