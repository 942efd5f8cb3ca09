"""A data set of a million tiny images: seconds and memory of listing, checking, starting, and starting again.

    python -m benchmarks.million [--rows 10000,100000,1000000]

Images of 8x8 pixels, all different, lie in tar shards of 50,000 with an index beside each. Every step runs in a process
of its own, whose largest resident memory is read. "cold" begins with nothing remembered, "warm" is the same step again,
as a second start or --resume does it; "first batch" is a start up to the first batch of 64 images, decoded and
preprocessed; "plan" all micro-batches of an epoch, "order" the hash of the order, which checkpoints and the boundary
cache name. Writes benchmarks/results/million.json; about 30 minutes.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from toolkit.data.remembered import SETTLED
from toolkit.data.shard_index import INDEX
from toolkit.files import write_json
from toolkit.runtime.machine import describe_machine

RESULTS = Path(__file__).parent / "results" / "million.json"
SHARD, CLASSES, SIDE = 50_000, 10, 8
STEP = """
import json, sys, time
from pathlib import Path
started = time.perf_counter()
from toolkit.recipe.data import DataConfig
step, path = sys.argv[1], Path(sys.argv[2])
config = DataConfig(path=path)
marks = {}
if step == "list":
    from toolkit.data.formats import list_data
    marks["images"] = len(list_data(config).items)
elif step == "check":
    from toolkit.data.check import check_data
    marks["images"] = check_data(config)["images"]
else:
    from toolkit.data.source import open_data
    data = open_data(config)
    marks["images"] = sum(map(len, data.splits.values()))
    marks["opened"] = time.perf_counter() - started
    if step == "first batch":
        import numpy as np, torch
        from toolkit.data.dataset import ImageDataset, Loader
        from toolkit.runtime.preprocess import Preprocess
        from toolkit.training.batch_schedule import BatchSchedule
        plan = BatchSchedule(images=len(data.splits["train"]), batch_size=64, batches_per_step=1, seed=0)
        before = time.perf_counter()
        steps = plan.steps(1, 0)
        (batch,) = next(iter(steps))
        marks["first step"] = time.perf_counter() - before
        marks["steps of the epoch"] = 1 + sum(1 for _ in steps)
        marks["plan"] = time.perf_counter() - before
        before = time.perf_counter()
        data.order("train")
        marks["order"] = time.perf_counter() - before
        from transformers import CLIPImageProcessorPil
        from toolkit.models.processing import preprocess_from
        loader = Loader(ImageDataset(data.splits["train"], preprocess_from(CLIPImageProcessorPil())), workers=0)
        next(loader.read([[(1, index) for index in batch.indices]]))
from toolkit.runtime.memory import peak_resident_mib
print(json.dumps(marks | {"seconds": time.perf_counter() - started, "peak_resident_mib": peak_resident_mib()}))
"""


def write_shards(root: Path, rows: int) -> None:
    """Tar shards of tiny images with their labels, and indexes."""
    root.mkdir()
    rng = np.random.default_rng(0)
    for first in range(0, rows, SHARD):
        with tarfile.open(root / f"{first // SHARD:04d}.tar", "w") as tar:
            for number in range(first, min(first + SHARD, rows)):
                content = io.BytesIO()
                Image.fromarray(rng.integers(0, 256, (SIDE, SIDE), np.uint8)).save(content, "PNG", compress_level=0)
                _add(tar, f"{number:08d}.png", content.getvalue())
                _add(tar, f"{number:08d}.cls", f"class {number % CLASSES}".encode())
    subprocess.run([sys.executable, "-m", "toolkit", "data", "index", str(root)], check=True, capture_output=True)
    assert list(root.glob(f"*{INDEX}"))


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def step(name: str, root: Path, cache: Path) -> dict[str, Any]:
    """One step in a process of its own."""
    environment = os.environ | {"CLIP_TOOLKIT_CACHE": str(cache)}
    command = [sys.executable, "-c", STEP, name, str(root)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Measure, print and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="10000,100000,1000000", help="comma-separated")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    for rows in map(int, given.rows.split(",")):
        known = json.loads(given.out.read_bytes()) if given.out.is_file() else {"rows": {}}
        with tempfile.TemporaryDirectory() as folder:
            root, cache = Path(folder) / "shards", Path(folder) / "cache"
            write_shards(root, rows)
            time.sleep(SETTLED + 1)
            found: dict[str, Any] = {"list": step("list", root, cache)}
            found["first batch, cold"] = step("first batch", root, cache)
            found["first batch, warm"] = step("first batch", root, cache)
            found["check, cold"] = step("check", root, Path(folder) / "cache of check")
            found["check, warm"] = step("check", root, Path(folder) / "cache of check")
            found["remembered_mib"] = sum(path.stat().st_size for path in cache.rglob("*.sqlite")) / 2**20
        print(json.dumps({rows: found}), flush=True)
        write_json(given.out, {"rows": known["rows"] | {str(rows): found}, "machine": describe_machine()})


if __name__ == "__main__":
    main()
