"""The main job's metrics: accuracy on digits and elpv, one process and two, repeatability, start-up times.

    python -m benchmarks.main_job

Launches the recipes as a user does and writes benchmarks/results/main_job.json. Takes about
ten minutes on two cores; measure on a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from toolkit.data.digits import write_digits
from toolkit.data.elpv import write_elpv
from toolkit.files import sha256_of, write_json
from toolkit.runtime.machine import describe_machine

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "main_job.json"
BIN = Path(sys.executable).parent
FIGURES = ("accuracy", "balanced_accuracy", "auroc", "expected_calibration_error", "majority_class_accuracy", "images")


def train(recipe: str, data: Path, out: Path, *overrides: str, processes: int = 1) -> dict[str, Any]:
    """Launch a recipe; return its metrics, wall time and the hash of what it saved."""
    options = ["--config_file", str(ROOT / "recipes/accelerate/cpu_2_processes.yaml")] if processes == 2 else []
    script = [str(ROOT / "recipes/finetune.py"), "--config", str(ROOT / f"recipes/configs/{recipe}.yaml")]
    command = [str(BIN / "accelerate"), "launch", *options, *script, "--out", str(out), f"data.path={data}", *overrides]
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    summary = json.loads((out / "summary.json").read_text())
    metrics = {split: {name: summary[split][name] for name in FIGURES} for split in ("validation", "test")}
    return metrics | {
        "recipe": recipe,
        "overrides": list(overrides),
        "processes": summary["processes"],
        "trainable_parameters": summary["trainable_parameters"],
        "wall_seconds": time.perf_counter() - started,
        "peak_memory_bytes": summary["peak_memory_bytes"],
        "best_sha256": sha256_of(out / "best" / "model.safetensors"),
    }


def start_up(*command: str, runs: int = 11) -> dict[str, float]:
    """Wall time of a short command, whole process."""
    times = []
    for _ in range(runs):
        started = time.perf_counter()
        subprocess.run(
            [str(BIN / "toolkit"), *command], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        times.append(time.perf_counter() - started)
    return {"median_seconds": statistics.median(times), "max_seconds": max(times), "runs": runs}


def main() -> None:
    """Run everything and write the results."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        write_digits(work / "digits")
        write_elpv(work / "elpv")
        runs = {
            "digits, two layers and head": train("digits", work / "digits", work / "two-layers"),
            "digits, two layers and head, again": train("digits", work / "digits", work / "again"),
            "digits, head alone": train("digits", work / "digits", work / "head", "model.unfreeze_last=0"),
            "digits, two processes": train("digits", work / "digits", work / "two-processes", processes=2),
            "elpv, two layers and head": train("elpv", work / "elpv", work / "elpv-run"),
        }
        first, again = (runs[name]["best_sha256"] for name in list(runs)[:2])
        bundle = work / "bundle"
        export = [str(BIN / "toolkit"), "export", "--onnx", str(work / "two-layers"), "--out", str(bundle), "--json"]
        parity = json.loads(subprocess.run(export, check=True, capture_output=True, text=True).stdout)["parity"]
        outcome = {
            "machine": describe_machine(),
            "runs": runs,
            "two_runs_give_the_same_bytes": first == again,
            "parity": parity["results"],
            "start_up": {"toolkit --help": start_up("--help"), "toolkit verify": start_up("verify", str(bundle))},
        }
    write_json(RESULTS, outcome)
    for name, run in runs.items():
        test = run["test"]
        metrics = ", ".join(f"{name} {test[name]:.4f}" for name in FIGURES[:3] + FIGURES[4:5])
        print(f"{name}: {metrics}, {run['wall_seconds']:.0f} s")
    print(json.dumps({key: outcome[key] for key in ("two_runs_give_the_same_bytes", "parity", "start_up")}, indent=2))


if __name__ == "__main__":
    main()
