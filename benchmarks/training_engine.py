"""The training engine beside the plain Accelerate loop: epoch times, memory, processes.

    python -m benchmarks.training_engine [--patch 32] [--images 192] [--rounds 2] [--mixed-precision no]

An encoder of ViT-B's width with random weights (speed doesn't depend on their values) on real
images of elpv. The plain loop and the recipe run in turns, each in a process of its own, and
the second epoch of each is compared, the fastest over the rounds. Writes benchmarks/results/training_engine.json
and .png; takes about forty minutes on two cores that do nothing else.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from matplotlib import rc_context
from matplotlib.figure import Figure
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

from toolkit.data.elpv import write_elpv
from toolkit.files import write_json
from toolkit.reporting.plots import BLUE, LOOK, ORANGE
from toolkit.runtime.machine import describe_machine, usable_cores

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
DEPTHS: tuple[int | None, ...] = (0, 1, 2, 4, 8, None)
"""Layers that learn; None is everything, the embeddings too."""
HELD_OUT = 32


def write_encoder(folder: Path, patch: int) -> Path:
    """A CLIP of ViT-B's width (768, 12 layers) with random weights."""
    torch.manual_seed(0)
    model = CLIPModel(CLIPConfig(vision_config={"patch_size": patch}, text_config={"num_hidden_layers": 1}))
    model.save_pretrained(folder)
    CLIPImageProcessorPil().save_pretrained(folder)
    return folder


def take(source: Path, dest: Path, images: int) -> Path:
    """The first images of each class of elpv, repeated under other names where there are too few."""
    for split, count in (("train", images), ("val", HELD_OUT), ("test", HELD_OUT)):
        classes = sorted(folder.name for folder in (source / split).iterdir())
        for name in classes:
            files = sorted((source / split / name).iterdir())
            (dest / split / name).mkdir(parents=True)
            for index in range(count // len(classes)):
                shutil.copy(files[index % len(files)], dest / split / name / f"{index:05d}.png")
    return dest


def launch(processes: int, *command: str) -> None:
    """Run a script with torchrun's processes, or alone."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    subprocess.run([sys.executable, *launcher, *command], check=True, capture_output=True, cwd=ROOT)


class Bench:
    """The encoder, the data and the settings that every measurement shares."""

    def __init__(self, work: Path, patch: int, images: int, precision: str) -> None:
        self.work, self.images, self.precision, self.count = work, images, precision, 0
        self.encoder = write_encoder(work / "encoder", patch)
        write_elpv(work / "elpv")
        self.data = take(work / "elpv", work / "few", images)

    def plain(self, depth: int | None) -> dict[str, list[float]]:
        """Seconds of two epochs of the plain loop, and of validating after each."""
        chosen = [] if depth is None else [f"--unfreeze-last={depth}"]
        threads = [] if torch.cuda.is_available() else [f"--threads={usable_cores()}"]
        script = str(Path(__file__).parent / "plain_loop.py")
        command = [sys.executable, script, str(self.encoder), str(self.data), *chosen, *threads]
        command.append(f"--mixed-precision={self.precision}")
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        return dict(json.loads(done.stdout.splitlines()[-1]))

    def ours(
        self,
        depth: int | None,
        *,
        cached: bool,
        data: Path | None = None,
        epochs: int = 2,
        processes: int = 1,
        batch_size: int = 32,
        accumulation: int = 1,
    ) -> dict[str, Any]:
        """Run the recipe; its training epochs, the seconds that filling the cache took, memory, metrics."""
        self.count += 1
        out = self.work / f"run-{self.count}"
        chosen: dict[str, Any] = {"unfreeze": ["all"]} if depth is None else {"unfreeze_last": depth}
        recipe = {
            "data": {"path": str(data or self.data)},
            "model": {"encoder": str(self.encoder)} | chosen,
            "training": {
                "epochs": epochs,
                "batch_size": batch_size,
                "gradient_accumulation": accumulation,
                "learning_rate": 1e-4,
                "mixed_precision": self.precision,
                "boundary_cache": {"enabled": cached},
            },
            "tracking": {"trackers": []},
        }
        config = out.with_suffix(".yaml")
        config.write_text(yaml.safe_dump(recipe))
        launch(processes, str(ROOT / "recipes" / "finetune.py"), "--config", str(config), "--out", str(out))
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        summary = json.loads((out / "summary.json").read_text())
        train, validation = (
            [line for line in lines if line["split"] == split and "epoch_seconds" in line]
            for split in ("train", "validation")
        )
        return {
            "epoch_seconds": [line["epoch_seconds"] for line in train],
            "validation_seconds": [line["epoch_seconds"] for line in validation],
            "images_per_second": [line["images_per_second"] for line in train],
            "time_shares": train[-1]["time_shares"],
            "data_wait_share": train[-1]["data_wait_share"],
            "losses": [line["loss"] for line in lines if "epoch_seconds" in line],
            "caching_seconds": summary["seconds"]["caching"],
            "peak_memory_bytes": summary["peak_memory_bytes"],
            "test": {name: summary["test"][name] for name in ("accuracy", "loss", "images")},
        }


def epoch_times(bench: Bench, rounds: int) -> list[dict[str, Any]]:
    """For each depth: the plain loop and the recipe in turns."""
    rows = []
    for depth in DEPTHS:
        plain, ours = [], []
        for _ in range(rounds):
            plain.append(bench.plain(depth))
            ours.append(bench.ours(depth, cached=depth is not None))
        first_plain = min(run["epoch_seconds"][0] + run["validation_seconds"][0] for run in plain)
        first = min(run["caching_seconds"] + run["epoch_seconds"][0] + run["validation_seconds"][0] for run in ours)
        fastest, past_first = (min(run["epoch_seconds"][1] for run in runs) for runs in (plain, ours))
        rows.append(
            {
                "unfreeze_last": "all" if depth is None else depth,
                "cached": depth is not None,
                "plain_epoch_seconds": fastest,
                "epoch_seconds": past_first,
                "ratio": past_first / fastest,
                "plain_first_epoch_with_validation_seconds": first_plain,
                "first_epoch_with_filling_and_validation_seconds": first,
                "first_epoch_ratio": first / first_plain,
                "time_shares": ours[-1]["time_shares"],
                "all": {"plain": plain, "ours": ours},
            }
        )
        shown = {key: value for key, value in rows[-1].items() if key not in ("all", "time_shares")}
        print(json.dumps(shown), flush=True)
    return rows


def memory(bench: Bench, source: Path) -> dict[str, Any]:
    """Peak resident memory with the cache on, and with ten times the images."""
    sizes = (bench.images // 2, bench.images * 5)
    peaks = {}
    for images in sizes:
        data = take(source, bench.work / f"images-{images}", images)
        peaks[images] = bench.ours(2, cached=True, data=data, epochs=2)["peak_memory_bytes"]
    return {"peak_memory_bytes": peaks, "ratio": peaks[sizes[1]] / peaks[sizes[0]]}


def processes(bench: Bench, rounds: int) -> dict[str, Any]:
    """Images a second of the uncached epoch in one process and in two, with the same threads in all.

    Steps of 32 images: one process accumulates two batches of 16, or takes one of 32; two take 16 each.
    The first and the last are the same run, so their metrics on test must be equal.
    """
    settings = {
        "1 process, 2 x 16 accumulated": {"batch_size": 16, "accumulation": 2},
        "1 process, 32": {"batch_size": 32},
        "2 processes, 16 each": {"batch_size": 16, "processes": 2},
    }
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in settings}
    for _ in range(rounds):
        for name, mine in runs.items():
            mine.append(bench.ours(2, cached=False, epochs=2, **settings[name]))  # type: ignore[arg-type]
    best = {name: max(speed for run in mine for speed in run["images_per_second"]) for name, mine in runs.items()}
    accumulated, large, two = settings
    return {
        "images_per_second": best,
        "ratio": best[two] / best[accumulated],
        "ratio_to_one_large_batch": best[two] / best[large],
        "test": {name: mine[0]["test"] for name, mine in runs.items()},
        "all": runs,
    }


def plot(rows: list[dict[str, Any]], path: Path, title: str) -> None:
    """Epoch time against the number of layers that learn."""
    with rc_context(LOOK):
        figure = Figure(figsize=(7.5, 4.2), layout="constrained")
        axes = figure.subplots()
        places = range(len(rows))
        for key, color, label, above in (
            ("plain_epoch_seconds", ORANGE, "plain Accelerate loop", 7),
            ("epoch_seconds", BLUE, "recipe, past the first epoch (cache on, but for all)", -16),
        ):
            values = [row[key] for row in rows]
            axes.plot(places, values, marker="o", color=color, label=label)
            for place, value in zip(places, values, strict=True):
                axes.annotate(
                    f"{value:.3g}", (place, value), xytext=(0, above), textcoords="offset points", ha="center"
                )
        axes.set_yscale("log")
        axes.set_xticks(list(places), [str(row["unfreeze_last"]) for row in rows])
        axes.set_xlabel("last layers that learn (0: the head alone)")
        axes.set_ylabel("seconds an epoch")
        axes.set_title(title)
        axes.margins(y=0.15)
        axes.legend(loc="lower right")
        figure.savefig(path, metadata={"Software": None})


def main() -> None:
    """Measure everything and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--patch", type=int, default=32)
    parser.add_argument("--images", type=int, default=192)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--mixed-precision", default="no")
    parser.add_argument(
        "--parts", nargs="+", default=["epochs", "processes", "memory"], help="the others stay as they are"
    )
    arguments = parser.parse_args()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    suffix = "" if device == "cpu" else f"-{device.split()[1].lower()}"
    path = RESULTS / f"training_engine{suffix}{'' if arguments.patch == 32 else f'-b{arguments.patch}'}.json"
    outcome: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), arguments.patch, arguments.images, arguments.mixed_precision)
        about = {
            "machine": describe_machine(),
            "device": device,
            "torch": torch.__version__,
            "encoder": f"ViT-B/{arguments.patch}, random weights",
            "images": arguments.images,
            "mixed_precision": arguments.mixed_precision,
        }
        parts: dict[str, Callable[[], Any]] = {
            "epochs": lambda: epoch_times(bench, arguments.rounds),
            "processes": lambda: processes(bench, arguments.rounds),
            "memory": lambda: memory(bench, Path(folder) / "elpv"),
        }
        for part in arguments.parts:
            outcome[part] = {"measured_on": about, "figures": parts[part]()}
            write_json(path, outcome)
    plot(
        outcome["epochs"]["figures"],
        path.with_suffix(".png"),
        f"ViT-B/{arguments.patch}, batch 32, {arguments.images} images of elpv",
    )


if __name__ == "__main__":
    main()
