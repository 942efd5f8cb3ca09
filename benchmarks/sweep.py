"""A sweep of digits whose trials share one boundary cache, beside the same without a cache.

    python -m benchmarks.sweep [--trials 20] [--unfreeze-last 0] [--epochs 12]

Both run the recipe digits with the embedded encoder over the same values, unpruned, each in a process of its own, the
one with the cache first. Asked: at least 3 times less time. Writes benchmarks/results/sweep.json on
the asked number of trials, else prints alone. With 20 trials some tens of minutes on two cores that do nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from toolkit.data.digits import write_digits
from toolkit.runs.sweep_file import read_sweep

RESULTS = Path(__file__).parent / "results" / "sweep.json"
ASKED, TRIALS = 3.0, 20
SEARCH = (
    "training.learning_rate=1e-4..1e-2:log",
    "training.head_learning_rate=1e-4..1e-2:log",
    "training.weight_decay=0.001..0.1:log",
    "training.mixup=0,0.2,0.4",
    "model.head.dropout=0..0.5",
)


def timed(data: Path, out: Path, *, cache: bool, asked: argparse.Namespace) -> dict[str, Any]:
    """Run a sweep in a process of its own; what it took and gave."""
    command = [sys.executable, "-m", "toolkit", "sweep", "digits", "--out", str(out), "--trials", str(asked.trials)]
    command += ["--sampler", "random", "--no-prune", *(part for each in SEARCH for part in ("--search", each))]
    command += [f"data.path={data}", f"training.boundary_cache.enabled={str(cache).lower()}", "tracking.trackers=[]"]
    command += [f"model.unfreeze_last={asked.unfreeze_last}", f"training.epochs={asked.epochs}"]
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    seconds, found = time.perf_counter() - started, read_sweep(out)
    return {
        "seconds": round(seconds, 1),
        "seconds_in_trials": [round(trial.seconds, 2) for trial in found.trials],
        "states": [trial.state for trial in found.trials],
        "values": [trial.value for trial in found.trials],
        "caches": [cache.model_dump(mode="json") for cache in found.boundary_caches],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=TRIALS)
    parser.add_argument("--unfreeze-last", type=int, default=0, help="layers that learn beside the head")
    parser.add_argument("--epochs", type=int, default=12)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        write_digits(place / "digits")
        shared = timed(place / "digits", place / "shared", cache=True, asked=asked)
        without = timed(place / "digits", place / "without", cache=False, asked=asked)
    factor = without["seconds"] / shared["seconds"]
    off = max(abs(a - b) for a, b in zip(shared["values"], without["values"], strict=True))
    content = {
        "recipe": "digits",
        "search": SEARCH,
        "trials": asked.trials,
        "unfreeze_last": asked.unfreeze_last,
        "epochs": asked.epochs,
        "shared_cache": shared,
        "without_cache": without,
        "times_less_time": round(factor, 2),
        "largest_difference_of_validation_accuracy": off,
        "asked": {"times_less_time": ASKED, "reached": factor >= ASKED},
        "cores": len(os.sched_getaffinity(0)),
        "libraries": {name: version(name) for name in ("torch", "transformers", "accelerate", "optuna")},
    }
    if asked.trials == TRIALS:
        RESULTS.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(content, indent=2))


if __name__ == "__main__":
    main()
