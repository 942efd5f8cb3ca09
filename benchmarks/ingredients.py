"""What each ingredient of the recipes brings: digits and elpv, five seeds, the plain recipe against one change.

    python -m benchmarks.ingredients --jobs 2

A seed draws the split of the data set as well as the head's weights, the order and the dropout;
an ingredient is compared with the plain recipe on the same seed. What won is chosen by
validation accuracy alone, put together as "best together", and figured on the test split like
the rest. Writes benchmarks/results/ingredients.json and prints the table of docs/accuracy.md;
about an hour on two cores. Runs that are done are kept in --work, so that it can be stopped and
started again.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import statistics
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from scipy.stats import t

from recipes.finetune import finetune
from toolkit.data.digits import write_digits
from toolkit.data.elpv import write_elpv
from toolkit.files import write_json
from toolkit.recipe.reading import load_recipe
from toolkit.runtime.machine import describe_machine

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "ingredients.json"
SEEDS = range(5)
WRITERS = {"digits": write_digits, "elpv": write_elpv}
NO_INGREDIENT = [
    "data.augment=[]",
    "model.head.type=mlp",
    "training.boundary_cache.views=1",
    *("training.label_smoothing=0", "training.mixup=0", "training.mix_at=images", "training.wise_ft=false"),
]
"""What takes the winners out of the shipped recipes again."""
PLAIN = {
    "digits": ["training.epochs=12", "training.batch_size=16", "training.learning_rate=1e-3"],
    "elpv": [
        "training.epochs=20",
        "training.batch_size=32",
        "training.learning_rate=5e-4",
        "training.weight_decay=0.05",
    ],
}
"""The plain recipe: two layers and an mlp head, no augmentation, no ingredient."""
INGREDIENTS: dict[str, list[str]] = {
    "layer decay 0.7": ["training.layer_decay=0.7"],
    "EMA 0.99": ["training.ema_decay=0.99"],
    "WiSE-FT": ["training.wise_ft=true"],
    "label smoothing 0.1": ["training.label_smoothing=0.1"],
    "mixup 0.2 at the boundary": ["training.mixup=0.2", "training.mix_at=boundary"],
    "class weights": ["training.class_weights=balanced"],
    "linear head": ["model.head.type=linear"],
}
AUGMENTATION = {
    "digits": {"augmentation: crop": ["data.augment=[crop]", "training.boundary_cache.views=4"]},
    "elpv": {
        "augmentation: flips": ["data.augment=[flip_horizontal, flip_vertical]", "training.boundary_cache.views=4"]
    },
}
PLAIN_NAME, BEST_NAME = "plain", "best together"
Job = tuple[str, int, str, list[str]]
"""Data set, seed, name of the ingredient, its overrides."""
FIGURES = ("accuracy", "balanced_accuracy", "macro_f1", "auroc", "nll", "expected_calibration_error")


def overrides_of(data_set: str, seed: int, changes: list[str], work: Path) -> list[str]:
    """Everything a run is given beside the recipe's file."""
    return [
        f"data.path={work / f'{data_set}-{seed}'}",
        *NO_INGREDIENT,
        *PLAIN[data_set],
        "training.boundary_cache.enabled=true",
        f"training.boundary_cache.dir={work / 'cache'}",
        f"training.seed={seed}",
        "tracking.trackers=[]",
        "tracking.plots=false",
        *changes,
    ]


def run_once(job: Job, work: Path) -> dict[str, Any]:
    """Fine-tune, or read what an earlier call left; the metrics that are kept."""
    data_set, seed, name, changes = job
    out = work / "runs" / f"{data_set}-{seed}-{''.join(c if c.isalnum() else '_' for c in name)}"
    if not (out / "summary.json").is_file():
        recipe = load_recipe(ROOT / f"recipes/configs/{data_set}.yaml", overrides_of(data_set, seed, changes, work))
        finetune(recipe, out, force=True)
    summary = json.loads((out / "summary.json").read_text())
    kept = {split: {figure: summary[split][figure] for figure in FIGURES} for split in ("validation", "test")}
    print(f"{data_set} {seed} {name}: test accuracy {kept['test']['accuracy']:.4f}", file=sys.stderr, flush=True)
    return kept | {
        "uncalibrated_test": {figure: summary["uncalibrated"]["test"][figure] for figure in FIGURES[4:]},
        "temperature": summary["temperature"],
        "wise_ft": summary["wise_ft"],
    }


def run_all(jobs: list[Job], work: Path, cores: list[int]) -> list[dict[str, Any]]:
    """All runs, each on a core of its own; in order."""
    spawn = multiprocessing.get_context("spawn")
    free = spawn.Queue()
    for core in cores:
        free.put(core)
    with ProcessPoolExecutor(len(cores), spawn, _take_core, (free,)) as pool:
        return list(pool.map(run_once, jobs, [work] * len(jobs)))


def _take_core(free: Any) -> None:
    os.sched_setaffinity(0, {free.get()})


def interval(values: list[float]) -> dict[str, float]:
    """Mean and 95 % interval of the mean, by Student's t."""
    mean = statistics.mean(values)
    half = float(t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
    return {"mean": mean, "low": mean - half, "high": mean + half}


def compared(runs: list[dict[str, Any]], plain: list[dict[str, Any]]) -> dict[str, Any]:
    """Metrics of an ingredient over the seeds, and their differences to the plain recipe seed by seed."""
    return {
        split: {
            figure: {
                **interval([run[split][figure] for run in runs]),
                "gain": interval(
                    [run[split][figure] - base[split][figure] for run, base in zip(runs, plain, strict=True)]
                ),
            }
            for figure in FIGURES
        }
        for split in ("validation", "test")
    }


def winners(table: dict[str, Any]) -> list[str]:
    """Ingredients whose mean gain in validation accuracy is above zero."""
    return [name for name in table if table[name]["validation"]["accuracy"]["gain"]["mean"] > 0]


def spread(row: dict[str, float], digits: int = 4) -> str:
    """A mean with its interval."""
    return f"{row['mean']:.{digits}f} ({row['low']:.{digits}f} to {row['high']:.{digits}f})"


def markdown(found: dict[str, Any]) -> str:
    """The tables of docs/accuracy.md."""
    lines = []
    for name, each in found.items():
        lines += [f"## {name}", ""]
        lines += ["| ingredient | validation gain | test accuracy | test gain (95 %) | test AUROC | test NLL | won |"]
        lines += ["|" + " --- |" * 7]
        for title, row in each["table"].items():
            test, gain = row["test"], row["test"]["accuracy"]["gain"]
            ahead = row["validation"]["accuracy"]["gain"]["mean"]
            cells = [title, "", spread(test["accuracy"]), "", f"{test['auroc']['mean']:.4f}"]
            cells += [f"{test['nll']['mean']:.4f}", ""]
            if title != PLAIN_NAME:
                cells[1] = f"{100 * ahead:+.2f}"
                cells[3] = f"{100 * gain['mean']:+.2f} ({100 * gain['low']:+.2f} to {100 * gain['high']:+.2f})"
                cells[6] = "" if title == BEST_NAME else "yes" if title in each["won_on_validation"] else "no"
            lines.append(f"| {' | '.join(cells)} |")
        lines += ["", f"Best together is {', '.join(each['won_on_validation'])}.", ""]
    lines += ["| recipe | ECE before temperature scaling | after | NLL before | after | temperatures |"]
    lines += ["|" + " --- |" * 6]
    for name, each in found.items():
        for title in (PLAIN_NAME, BEST_NAME):
            runs = each["runs"][title]
            cells = [f"{name}, {title}"]
            for figure in ("expected_calibration_error", "nll"):
                for split in ("uncalibrated_test", "test"):
                    cells.append(spread(interval([run[split][figure] for run in runs])))
            temperatures = sorted(run["temperature"] for run in runs)
            cells.append(f"{temperatures[0]:.2f} to {temperatures[-1]:.2f}")
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Run everything, choose, run the best together, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="runs at a time, one a core")
    parser.add_argument("--work", type=Path, default=Path("runs/ingredients"), help="where runs are kept")
    parser.add_argument("--data-sets", default="digits,elpv")
    arguments = parser.parse_args()
    work, cores = arguments.work.absolute(), sorted(os.sched_getaffinity(0))[: arguments.jobs]
    names = arguments.data_sets.split(",")
    for name in names:
        for seed in SEEDS:
            if not (work / f"{name}-{seed}").exists():
                WRITERS[name](work / f"{name}-{seed}", seed=seed)
    found = {}
    for name in names:
        ingredients = INGREDIENTS | AUGMENTATION[name]
        jobs = [
            (name, seed, title, changes) for title, changes in {PLAIN_NAME: [], **ingredients}.items() for seed in SEEDS
        ]
        runs: dict[str, list[dict[str, Any]]] = {}
        for (_, _, title, _), result in zip(jobs, run_all(jobs, work, cores), strict=True):
            runs.setdefault(title, []).append(result)
        table = {title: compared(results, runs[PLAIN_NAME]) for title, results in runs.items()}
        won = winners(table)
        together = [change for title in won for change in ingredients[title]]
        runs[BEST_NAME] = run_all([(name, seed, BEST_NAME, together) for seed in SEEDS], work, cores)
        table[BEST_NAME] = compared(runs[BEST_NAME], runs[PLAIN_NAME])
        found[name] = {
            "plain": overrides_of(name, 0, [], Path("WORK"))[1:],
            "changes": ingredients | {BEST_NAME: together},
            "won_on_validation": won,
            "table": table,
            "runs": runs,
        }
    write_json(RESULTS, {"seeds": len(SEEDS), "data_sets": found, "machine": describe_machine()})
    print(markdown(found))


if __name__ == "__main__":
    main()
