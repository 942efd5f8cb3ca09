"""From nothing to the first answer, each in a fresh process; and the memory that such a process comes to hold."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from export.latency.gpu_monitor import device_used_mib
from toolkit.errors import ToolkitError

REPEATS = 3
CHILD = """
import time
started = time.monotonic()
import json, sys
from pathlib import Path
import numpy as np
from toolkit.runtime.bundle import Bundle
from toolkit.runtime.inputs import stacked
imported = time.monotonic()
asked = json.loads(sys.argv[1])
bundle = Bundle(Path(asked["bundle"]))
session = bundle.session(**asked["session"])
opened = time.monotonic()
texts = bundle.golden().texts if bundle.tokenizer else None
content, reader = bundle.read(asked["image"]), bundle.reader(session.input)
image = stacked([reader.of_content(content, texts[0] if texts else None)])
ready = time.monotonic()
session.run(image)
ran = time.monotonic()
session.run(image)
again = time.monotonic()
from toolkit.runtime.memory import peak_resident_mib, resident_mib
from export.latency.gpu_monitor import device_used_mib
def on_device():
    used = None if asked["device_used_mib"] is None else device_used_mib()
    return None if used is None else used - asked["device_used_mib"]
memory = []
for size in asked["batch_sizes"]:
    ones = {name: np.ones((size, *asked["input_shapes"][name]), image[name].dtype) for name in image}
    session.run(ones)
    resident = {"resident_mib": resident_mib(), "peak_resident_mib": peak_resident_mib()}
    memory.append({"batch_size": size, **resident, "peak_device_mib": on_device()})
stamps = {"started": started, "imported": imported, "opened": opened, "ready": ready, "ran": ran, "again": again}
print(json.dumps({"stamps": stamps, "memory": memory}))
"""


def cold_start(
    bundle: Path,
    image: str,
    *,
    provider: str,
    precision: str,
    threads: int | None,
    batch_sizes: Sequence[int],
    input_shapes: Mapping[str, Sequence[int]],
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Start processes that load a bundle, hashes and all, and answer once.

    Args:
        bundle: folder of it.
        image: an image among its files.
        provider: to run on.
        precision: of the graph.
        threads: of the session.
        batch_sizes: whose memory is read, in rising order.
        input_shapes: of the inputs of these batches by name, without the batch.

    Returns:
        A row with the medians of ``process_ms`` (until Python runs), ``import_ms``, ``session_ms`` (hashing the
        bundle, creating the session), ``first_run_ms``, ``total_ms``, and ``second_run_ms`` for comparison; then
        rows with ``batch_size``, ``peak_resident_mib`` of the whole process and ``peak_device_mib``, None on a CPU:
        what the device has in use beyond what it had before the process started.

    Raises:
        ToolkitError: such a process failed.
    """
    asked = {
        "bundle": str(bundle.absolute()),
        "image": image,
        "session": {
            "provider": provider,
            "precision": precision,
            "threads": threads,
            "batch_size": max(batch_sizes, default=1),
        },
        "batch_sizes": sorted(batch_sizes),
        "input_shapes": {name: list(shape) for name, shape in input_shapes.items()},
    }
    found = [_start(asked) for _ in range(REPEATS)]
    keys = found[0][0].keys()
    which = {"precision": precision, "provider": provider}
    row = which | {key: float(np.median([each[0][key] for each in found])) for key in keys} | {"repeats": REPEATS}
    return row, [which | each for each in found[-1][1]]


def _start(asked: dict[str, Any]) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Milliseconds of one process, and its memory."""
    asked = asked | {"device_used_mib": None if asked["session"]["provider"] == "cpu" else device_used_mib()}
    launched = time.monotonic()  # the same clock in every process of a machine
    child = subprocess.run(
        [sys.executable, "-c", CHILD, json.dumps(asked)],
        capture_output=True,
        encoding="utf-8",
        check=False,
        cwd=Path.cwd(),
    )
    if child.returncode:
        last = (child.stderr.strip().splitlines() or ["it printed nothing"])[-1]
        raise ToolkitError(f"a process that loads the bundle failed: {last}", where=asked["bundle"], fix="verify it")
    content = json.loads(child.stdout)
    at = content["stamps"]
    spans = {
        "process_ms": at["started"] - launched,
        "import_ms": at["imported"] - at["started"],
        "session_ms": at["opened"] - at["imported"],
        "first_run_ms": at["ran"] - at["ready"],
        "second_run_ms": at["again"] - at["ran"],
        "total_ms": at["ran"] - launched,
    }
    return {name: 1000 * seconds for name, seconds in spans.items()}, content["memory"]
