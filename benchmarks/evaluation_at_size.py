"""The end of a run at size: seconds and peak memory by stage, and the files it leaves, beside another checkout's.

    python -m benchmarks.evaluation_at_size --before CHECKOUT

Two data sets of noise with a grey level a class: 1,000 classes of 6 images (4 to train on, 1 and 1), and 100,000 test
images of 10 classes beside 20,000 to train on. Each run is a process of its own, the checkouts in turns. Writes
benchmarks/results/evaluation_at_size.json; about half an hour on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from toolkit.files import write_json
from toolkit.runtime.machine import describe_machine

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "evaluation_at_size.json"
DATA = {
    "1,000 classes x 6": (1000, {"train": 4, "val": 1, "test": 1}, 10),
    "100,000 test images": (10, {"train": 2000, "val": 200, "test": 10_000}, 5),
}
"""Classes, images a class and split, epochs."""


def write_data(root: Path, classes: int, counts: dict[str, int]) -> None:
    """Write images of 16x16 pixels whose rows and columns tell their class."""
    rng = np.random.default_rng(0)
    for index in range(classes):
        pattern = np.zeros((16, 16))
        pattern[index % 16], pattern[:, index // 16 % 16] = 120, 60 + index // 256 * 40
        for split, count in counts.items():
            folder = root / split / f"class{index:04d}"
            folder.mkdir(parents=True)
            for image in range(count):
                pixels = np.clip(pattern + rng.normal(60, 25, (16, 16)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{image:05d}.png")


def run(checkout: Path, data: Path, out: Path, epochs: int) -> dict[str, Any]:
    """Train with a checkout's recipe; what its summary, its process and its folder say."""
    command = [sys.executable, str(checkout / "recipes/finetune.py"), "--force"]
    command += ["--config", str(checkout / "recipes/configs/digits.yaml"), "--out", str(out), f"data.path={data}"]
    command += [f"training.epochs={epochs}", "training.boundary_cache.enabled=false", "data.augment=[]"]
    command += ["training.batch_size=32", "training.mixup=0", "training.mix_at=images", "tracking.trackers=[]"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wall = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    summary = json.loads((out / "summary.json").read_text())
    seconds = summary["seconds"]
    return {
        "seconds": {**seconds, "process": wall, "reading_and_plots": wall - seconds["total"]},
        "evaluation_to_training": seconds["evaluation"] / seconds["training"],
        "peak_bytes_until_the_summary": summary["peak_memory_bytes"],
        "cpu_seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "files": {
            path.relative_to(out).as_posix(): path.stat().st_size
            for path in sorted(out.rglob("*"))
            if path.is_file() and path.suffix in (".json", ".csv", ".png")
        },
        "test_accuracy": summary["test"]["accuracy"],
    }


def main() -> None:
    """Write the data, run both checkouts and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="another checkout of this repository")
    parser.add_argument("--work", type=Path, default=Path("runs/evaluation_at_size"))
    arguments = parser.parse_args()
    checkouts = {"after": ROOT} | ({"before": arguments.before.resolve()} if arguments.before else {})
    work, found = arguments.work.absolute(), {}
    for name, (classes, counts, epochs) in DATA.items():
        data = work / f"data-{classes}"
        if not data.exists():
            write_data(data, classes, counts)
        found[name] = {
            which: run(checkout, data, work / f"run-{classes}-{which}", epochs) for which, checkout in checkouts.items()
        }
        print(json.dumps(found[name], indent=1), flush=True)
    write_json(RESULTS, {"data": found, "machine": describe_machine()})


if __name__ == "__main__":
    main()
