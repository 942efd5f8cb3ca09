"""Bytes that processes exchange a training step, by how many layers learn: DDP as here on CPUs and as on GPUs, FSDP 2.

    python -m benchmarks.communication [--small]

Each case runs in processes of its own under torchrun over gloo, on random images of a small batch: what is exchanged
depends on neither, nor on how busy the machine is. Two counts: ``payload``, the bytes of the tensors that each process
hands to each collective, as torch dispatches them; and ``sent``, the bytes that its TCP connections carried, as the
kernel counted them (Linux). Beside them what arithmetic expects, and from that the share of a step that is left for
computing on 8 and 64 GPUs, for the bandwidths and step times that ASSUMED names. Writes
benchmarks/results/communication.json; about ten minutes and 6 GB on two cores.

ring all-reduce, reduce-scatter and all-gather: P. Patarasuk and X. Yuan, Bandwidth optimal all-reduce algorithms for
clusters of workstations, 2009.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import os
import socket
import stat
import struct
import subprocess
import sys
import tempfile
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch.distributed.fsdp import fully_shard
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.training_engine import write_encoder
from toolkit.files import write_json
from toolkit.models.build import build_classifier
from toolkit.models.classifier import Classifier
from toolkit.models.load import EMBEDDED, resolve
from toolkit.models.processing import preprocess_from
from toolkit.recipe.recipe import Recipe
from toolkit.training.optimizer import build_optimizer
from toolkit.training.ordered_sum import sum_in_order
from toolkit.training.setup import build_accelerator

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "communication.json"
KINDS = ("ddp, summed in order", "ddp, all-reduce", "fsdp2", "fsdp2, cached")
"""How gradients and weights go round. The first is what runs on CPUs here, the second what runs on GPUs."""
CASES: tuple[tuple[str, int, tuple[int | None, ...]], ...] = (
    ("tiny", 2, (0, 1, None)),
    ("tiny", 4, (0, 1, None)),
    ("vit-b-32", 2, (0, 1, 2, 4, None)),
)
"""Encoder, processes, and layers that learn (None for everything)."""
CLASSES = [f"class {number:02d}" for number in range(10)]
WARM, COUNTED = 2, 2
"""Steps: DDP forms its buckets anew after the first."""
BYTES_SENT = 200
"""Where Linux has ``tcpi_bytes_sent``, 64 bits, in ``struct tcp_info`` (include/uapi/linux/tcp.h)."""
ASSUMED: dict[str, Any] = {
    "GB_per_second": {
        "8 GPUs, NVLink 4": [8, 225.0],
        "8 GPUs, PCIe 4.0 x16": [8, 16.0],
        "64 GPUs, 8 machines, 400 Gb/s a GPU": [64, 200.0],
        "64 GPUs, 8 machines, 100 Gb/s a machine": [64, 6.25],
    },
    "seconds_a_hop": 10e-6,
    "step_seconds": [0.02, 0.05, 0.1, 0.2],
}
"""GPUs and bus bandwidth: half of what the slowest link of a machine has one way by its data sheet, all cards together;
latency of each of a ring's hops; seconds a step takes on one GPU, whatever it computes."""


class Collectives(TorchDispatchMode):
    """Counts bytes of the tensors that collectives take, by their names."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.namespace == "c10d":
            name = function._opname.strip("_")
            place = 1 if name.startswith(("allgather", "_allgather", "reduce_scatter", "_reduce_scatter")) else 0
            tensors = [leaf for leaf in tree_leaves(args[place]) if isinstance(leaf, torch.Tensor)]
            self.bytes[name] += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
            self.calls[name] += 1
        return function(*args, **(kwargs or {}))


def sent() -> int:
    """Bytes that this process's TCP connections have carried away since they were opened."""
    total = 0
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - numbers
        try:
            if not stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                continue
            with socket.socket(fileno=os.dup(int(name))) as connection:
                if connection.family in {socket.AF_INET, socket.AF_INET6}:
                    about = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, BYTES_SENT + 8)
                    total += struct.unpack_from("=Q", about, BYTES_SENT)[0]
        except OSError:  # closed meanwhile, or listening
            continue
    return total


def shard(classifier: Classifier) -> None:
    """Shard as Accelerate's FSDP 2 does: each layer a unit, the rest at the root."""
    for module in classifier.modules():
        if type(module).__name__ in classifier._no_split_modules:
            fully_shard(module)
    fully_shard(classifier)


def sizes(classifier: Classifier) -> dict[str, int]:
    """Parameters: all, those that learn, and those of the layers, FSDP's units, that are frozen and that learn."""
    found = Counter({"all": 0, "learning": 0, "frozen_layers": 0, "learning_layers": 0})
    for parameter in classifier.parameters():
        found["all"] += parameter.numel()
        found["learning"] += parameter.numel() * parameter.requires_grad
    for module in classifier.modules():
        if type(module).__name__ in classifier._no_split_modules:
            learns = any(parameter.requires_grad for parameter in module.parameters())
            found["learning_layers" if learns else "frozen_layers"] += sum(p.numel() for p in module.parameters())
    return dict(found)


def expected(kind: str, parameters: dict[str, int], processes: int) -> float:
    """Bytes that a process sends a step, fp32, by arithmetic.

    FSDP gathers each unit before it runs forward, a layer that learns again before it runs backward, the rest, its
    root, once; it spreads the gradients' sums. With the cache no frozen layer runs.
    """
    gradients, others = 4 * parameters["learning"], processes - 1
    if kind == "ddp, summed in order":
        return others * gradients
    if kind == "ddp, all-reduce":
        return 2 * others / processes * gradients
    layers = parameters["frozen_layers"] + parameters["learning_layers"]
    gathered = parameters["all"] - layers + 2 * parameters["learning_layers"]
    gathered += 0 if kind == "fsdp2, cached" else parameters["frozen_layers"]
    return others / processes * (4 * gathered + gradients)


def expected_on_gloo(kind: str, parameters: dict[str, int], processes: int) -> float:
    """The same over gloo, which makes a reduce-scatter of an all-reduce."""
    twice = 4 * parameters["learning"] * (processes - 1) / processes if kind.startswith("fsdp2") else 0
    return expected(kind, parameters, processes) + twice


def count(encoder: str, last: int | None, kind: str) -> dict[str, Any]:
    """What this process exchanges in a step."""
    chosen = {"unfreeze": "all"} if last is None else {"unfreeze_last": last}
    model = {"encoder": encoder, "head": {"dropout": 0.0}} | chosen
    recipe = Recipe.model_validate(
        {"data": {"path": "."}, "model": model, "training": {"epochs": 1}, "tracking": {"trackers": []}}
    )
    accelerator = build_accelerator(recipe, Path())
    classifier, processor = build_classifier(recipe.model, CLASSES, 0)
    parameters = sizes(classifier)
    prepared: Any = classifier
    if kind.startswith("fsdp2"):
        shard(classifier)
        optimizer = build_optimizer(classifier.groups, recipe.training)
    else:
        prepared, optimizer = accelerator.prepare(classifier, build_optimizer(classifier.groups, recipe.training))
        if kind == "ddp, summed in order":
            sum_in_order(prepared)
    size = preprocess_from(processor).output_size
    assert size is not None
    pixel_values = torch.randn(2, 3, size[1], size[0])
    with torch.no_grad():
        cached = classifier(pixel_values, stop=classifier.boundary)

    def step() -> None:
        hidden = cached
        if kind != "fsdp2, cached":  # which a cache changes nothing for elsewhere
            with torch.no_grad():
                hidden = prepared(pixel_values, stop=classifier.boundary)
        prepared(hidden, start=classifier.boundary).logsumexp(-1).mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    for _ in range(WARM):
        step()
    torch.distributed.barrier()
    before, collectives = sent(), Collectives()
    with collectives:
        for _ in range(COUNTED):
            step()
    carried = sent() - before
    torch.distributed.barrier()
    return {
        "parameters": parameters,
        "payload": {name: total // COUNTED for name, total in sorted(collectives.bytes.items())},
        "calls": {name: total / COUNTED for name, total in sorted(collectives.calls.items())},
        "sent": carried // COUNTED,
    }


def count_all(encoder: str, depths: list[int | None]) -> None:
    """In each of the processes: every kind and depth; the first prints a JSON object a line."""
    for last, kind in itertools.product(depths, KINDS):
        found = count(encoder, last, kind)
        if os.environ["RANK"] == "0":
            print(json.dumps({"kind": kind, "unfreeze_last": last} | found), flush=True)
        gc.collect()
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def counted(encoder: Path, processes: int, depths: tuple[int | None, ...]) -> list[dict[str, Any]]:
    """What a step of each kind and depth exchanges, beside what is expected."""
    command = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command += ["-m", "benchmarks.communication", "--encoder", str(encoder), "--depths", json.dumps(depths)]
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return [row | beside(row, processes) for row in rows]


def beside(row: dict[str, Any], processes: int) -> dict[str, int]:
    """What arithmetic says of a row."""
    of = row["kind"], row["parameters"], processes
    return {"expected": round(expected(*of)), "expected_on_gloo": round(expected_on_gloo(*of))}


def scaling(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Share of a step that computes where none of DDP's all-reduce of ViT-B/32 hides behind it, as ASSUMED says."""
    found = []
    for row in rows:
        if row["encoder"] == "vit-b-32" and row["kind"] == "ddp, all-reduce":
            for name, (gpus, speed) in ASSUMED["GB_per_second"].items():
                seconds = expected(row["kind"], row["parameters"], gpus) / (speed * 1e9)
                seconds += 2 * (gpus - 1) * ASSUMED["seconds_a_hop"]
                shares = {str(step): round(step / (step + seconds), 3) for step in ASSUMED["step_seconds"]}
                about = {"unfreeze_last": row["unfreeze_last"], "gpus": name, "milliseconds": round(seconds * 1e3, 2)}
                found.append(about | {"computing": shares})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="the tiny encoder alone; prints, writes nothing")
    parser.add_argument("--encoder", help=argparse.SUPPRESS)
    parser.add_argument("--depths", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.encoder:
        count_all(asked.encoder, json.loads(asked.depths))
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        encoders = {"tiny": Path(resolve(EMBEDDED))}
        if not asked.small:
            encoders["vit-b-32"] = write_encoder(Path(folder) / "vit-b-32", 32)
        for encoder, processes, depths in CASES:
            if encoder in encoders:
                about = {"encoder": encoder, "processes": processes}
                rows += [about | row for row in counted(encoders[encoder], processes, depths)]
    content = {
        "rows": rows,
        "assumed": ASSUMED,
        "scaling": scaling(rows),
        "libraries": {name: version(name) for name in ("torch", "transformers", "accelerate")},
    }
    if not asked.small:
        write_json(RESULTS, content)
    print(json.dumps(content, indent=2))


if __name__ == "__main__":
    main()
