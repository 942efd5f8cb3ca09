"""What int8 costs in accuracy: quantised after training, and trained on the trunk that production runs.

    python -m benchmarks.deployment_aware [--data digits,elpv,elpv-vitb32] [--seeds 5]

For each data set and seed the shipped recipe is trained on the fp32 trunk, on the int8 trunk, and on
a trunk with 4-bit weights, a harsher precision. Every model is then evaluated on the whole test split
as a graph in ONNX Runtime. ``elpv-vitb32`` is a ViT-B/32 of random weights of which one layer and the
head learn: honest for speed, and no model of what real weights lose. Differences are in percentage
points, paired by seed, with 95 % intervals (Student's t over seeds). Writes
benchmarks/results/deployment_aware.json; each data set in the file is replaced when it is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import t
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

import export.precision.trunk
from export.graph.classifier_graph import build_graph
from export.graph.config import GraphConfig
from export.graph.subgraph import open_model
from export.precision.trunk import measure_trunk
from export.selection.search import PrecisionSearch
from recipes.finetune import finetune
from toolkit.data.digits import write_digits
from toolkit.data.elpv import write_elpv
from toolkit.files import write_json
from toolkit.models.processing import preprocess_from
from toolkit.models.selection import freeze_all_but
from toolkit.recipe.reading import load_recipe
from toolkit.recipe.recipe import Recipe
from toolkit.runs.finished_run import Run
from toolkit.runtime.machine import describe_machine

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "deployment_aware.json"
BATCH_SIZE = 32
SEARCHED = {"digits", "elpv"}
"""Data sets where the export's own search is run too; at ViT-B/32's width it takes minutes a seed."""


def recipe_of(data: str, seed: int, work: Path) -> Recipe:
    """The shipped recipe, or a short one at ViT-B/32's width."""
    overrides = [f"training.seed={seed}", "tracking.trackers=[]", f"training.boundary_cache.dir={work / 'cache'}"]
    if data == "elpv-vitb32":
        overrides += [
            f"data.path={work / 'elpv'}",
            "data.augment=[]",
            f"model.encoder={work / 'vitb32'}",
            "model.unfreeze_last=1",
            "training.epochs=4",
            "training.boundary_cache.views=1",
        ]
        return load_recipe(ROOT / "recipes" / "configs" / "elpv.yaml", overrides)
    return load_recipe(ROOT / "recipes" / "configs" / f"{data}.yaml", [f"data.path={work / data}", *overrides])


def accuracy(run: Run, form: GraphConfig) -> float:
    """Of the whole test split, by the graph."""
    preprocess = preprocess_from(run.processor)
    model = build_graph(run.classifier, preprocess, {}, "pixel_values", form)
    session = open_model(model, provider="cpu", threads=torch.get_num_threads())
    examples, right = run.data.splits["test"], 0
    for first in range(0, len(examples), BATCH_SIZE):
        part = examples[first : first + BATCH_SIZE]
        logits = session.run({"pixel_values": np.stack([preprocess(example.decode()) for example in part])})["logits"]
        right += int((logits.argmax(-1) == [example.label for example in part]).sum())
    return right / len(examples)


def one(data: str, seed: int, work: Path) -> dict[str, Any]:
    """Accuracies of all variants for one seed."""
    recipe, runs, metrics = recipe_of(data, seed, work), work / f"{data}-{seed}", {}
    started = time.perf_counter()
    finetune(recipe, runs / "fp32")
    run, candidates = opened(runs / "fp32")
    fp32, whole, *_ = candidates.configs.base()
    metrics["fp32"], metrics["int8 afterwards"] = accuracy(run, fp32), accuracy(run, whole)
    if data in SEARCHED:
        metrics["int8 afterwards, as exported"] = accuracy(run, candidates.form("int8"))
    freeze_all_but(run.classifier.groups, run.classifier, run.summary["trainable_groups"])
    harsh = partial(measure_trunk, weight_bits=4)
    content = harsh(run.classifier, preprocess_from(run.processor), run.data, "int8")
    metrics["4-bit trunk afterwards"] = accuracy(run, GraphConfig.model_validate(content["form"]))
    aware = recipe.model_copy(update={"training": recipe.training.model_copy(update={"trunk_precision": "int8"})})
    finetune(aware, runs / "int8")
    run, candidates = opened(runs / "int8")
    whole, float_behind = candidates.configs.base()
    metrics["int8 deployment-aware"] = accuracy(run, whole)
    metrics["int8 deployment-aware, float behind the trunk"] = accuracy(run, float_behind)
    if data in SEARCHED:
        metrics["int8 deployment-aware, as exported"] = accuracy(run, candidates.form("int8"))
    export.precision.trunk.measure_trunk = harsh  # what the recipe asks for the trunk's rounding
    finetune(aware, runs / "4bit")
    export.precision.trunk.measure_trunk = measure_trunk
    run, _ = opened(runs / "4bit")
    assert run.trunk is not None
    metrics["4-bit trunk deployment-aware"] = accuracy(run, GraphConfig.model_validate(run.trunk["form"]))
    return {"seed": seed, "accuracy": metrics, "seconds": time.perf_counter() - started}


def opened(path: Path) -> tuple[Run, PrecisionSearch]:
    """A finished run, and the forms it could ship in."""
    run = Run(path)
    return run, PrecisionSearch(run, provider="cpu", threads=torch.get_num_threads())


def prepare(names: list[str], work: Path) -> None:
    """Write the data sets, and the encoder of random weights."""
    if "digits" in names:
        write_digits(work / "digits")
    if {"elpv", "elpv-vitb32"} & set(names):
        write_elpv(work / "elpv")
    if "elpv-vitb32" in names:
        torch.manual_seed(0)
        CLIPModel(CLIPConfig(text_config={"num_hidden_layers": 1})).save_pretrained(work / "vitb32")
        CLIPImageProcessorPil().save_pretrained(work / "vitb32")


def as_process(data: str, seed: int, work: Path, threads: int) -> dict[str, Any]:
    """:func:`one` in a process of its own."""
    command = [sys.executable, __file__, "--one", data, str(seed), "--work", str(work)]
    environment = {"OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(
        ["taskset", "-c", str(seed % 2), *command] if threads == 1 else command,
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
        env=os.environ | environment,
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(data, json.dumps(row), file=sys.stderr, flush=True)
    return row


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Means, and paired differences with their intervals."""
    means = {name: statistics.mean(row["accuracy"][name] for row in rows) for name in rows[0]["accuracy"]}
    lost = {}
    for name in means:
        points = [100 * (row["accuracy"]["fp32"] - row["accuracy"][name]) for row in rows]
        if name == "fp32" or len(points) < 2:
            continue
        half = float(t.ppf(0.975, len(points) - 1)) * statistics.stdev(points) / len(points) ** 0.5
        middle = statistics.mean(points)
        lost[name] = {"points_lost": middle, "interval": [middle - half, middle + half]}
    return {"mean_accuracy": means, "against_fp32": lost, "rows": rows}


def main() -> None:
    """Train, evaluate, print and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits,elpv,elpv-vitb32")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--one", nargs=2, metavar=("DATA", "SEED"), help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(one(given.one[0], int(given.one[1]), given.work)))
        return
    names = given.data.split(",")
    found: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        prepare(names, work)
        for name in names:
            with ThreadPoolExecutor(2) as pool:  # two processes of one thread each, as the cores are
                rows = list(pool.map(lambda seed, name=name: as_process(name, seed, work, 1), range(given.seeds)))
            found[name] = summary(rows)
            write_json(RESULTS, found | {"machine": describe_machine()})


if __name__ == "__main__":
    main()
