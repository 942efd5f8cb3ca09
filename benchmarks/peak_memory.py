"""Memory of the processes that benchmarks start; by itself, the peak of an export and of what runs its bundle.

    python -m benchmarks.peak_memory [--widths ViT-B/16,ViT-L/14-336,ViT-H/14]

Encoders have random weights and full width. Each is exported with parity on 16 generated images, verified, and
predicted with, each in a process of its own, whose peak counts above that of a process which imports the same and
does nothing. Asked: an export of at most 4 times the weights. Writes benchmarks/results/peak_memory.json, an entry a
width, and keeps the other entries that are there. On two cores that do nothing else ViT-B/16 takes some minutes;
ViT-H/14 takes 10 GB of disk besides.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "peak_memory.json"
ASKED = 4.0
IMAGES = 16
WIDTHS: dict[str, dict[str, int]] = {
    "ViT-B/16": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "patch_size": 16},
    "ViT-L/14-336": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "patch_size": 14}
    | {"image_size": 336, "projection_dim": 768},
    "ViT-H/14": {"hidden_size": 1280, "num_hidden_layers": 32, "num_attention_heads": 16, "patch_size": 14}
    | {"projection_dim": 1024},
}
"""Settings of CLIP's vision tower by name; the MLP is four times as wide as the tower."""
MAKE = """
import sys
from benchmarks.peak_memory import WIDTHS, Path, make_run
make_run(WIDTHS[sys.argv[1]], Path(sys.argv[2]))
"""
IMPORTS = """
import sys
from pathlib import Path
from transformers import CLIPImageProcessorPil, CLIPVisionModelWithProjection
from export.bundle import ExportOptions, export_bundle
from toolkit.runs.finished_run import Run
from toolkit.runtime.bundle import Bundle
from toolkit.runtime.verify import verify
"""
EXPORT = f"export_bundle(Run(Path(sys.argv[1])), Path(sys.argv[2]), ExportOptions(images={IMAGES}))"
VERIFY = """
report = verify(Path(sys.argv[2]))
assert report["passed"], report["problems"]
"""
PREDICT = """
from toolkit.serving.classifier import Classifier
golden = sorted((Path(sys.argv[2]) / "golden").glob("*.png"))
assert all("label" in entry for entry in Classifier.open(Path(sys.argv[2])).entries(golden))
"""


def high_water(process: int) -> int:
    """Largest resident size of a running process so far (not ru_maxrss, which begins with its parent's)."""
    try:
        status = Path(f"/proc/{process}/status").read_text(encoding="utf-8")
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM")), 0)


def peak_of(script: str, *arguments: str) -> tuple[int, float]:
    """Peak bytes and seconds of a Python script in a process of its own."""
    started, peak = time.perf_counter(), 0
    child = subprocess.Popen([sys.executable, "-c", script, *arguments])
    while child.poll() is None:
        peak = max(peak, high_water(child.pid))
        time.sleep(0.01)
    if child.returncode:
        sys.exit(f"{script.strip().splitlines()[-1]}: exit code {child.returncode}")
    return peak, time.perf_counter() - started


def make_run(settings: dict[str, int], out: Path) -> None:
    """Write the run of a classifier of random weights."""
    import torch
    from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModelWithProjection

    from toolkit.models.classifier import Classifier
    from toolkit.models.encoder import Encoder
    from toolkit.models.families.clip import Clip
    from toolkit.models.head import build_head
    from toolkit.recipe.model import HeadConfig, ModelConfig
    from toolkit.recipe.untrained import UntrainedRecipe
    from toolkit.training.ready_run import write_ready_run

    torch.manual_seed(0)
    config = CLIPVisionConfig(**settings, intermediate_size=4 * settings["hidden_size"])
    head = HeadConfig(type="linear", dropout=0)
    encoder = Encoder(Clip(), CLIPVisionModelWithProjection(config))
    classifier = Classifier(encoder, build_head(head, encoder.embedding_size, 2), ["defective", "functional"]).eval()
    side = config.image_size
    processor = CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    recipe = UntrainedRecipe(
        method="import", data=None, model=ModelConfig(encoder="random", unfreeze_last=0, head=head)
    )
    write_ready_run(out, recipe, classifier, processor, None)


def measured(width: str) -> dict[str, Any]:
    """Peaks of one width."""
    with tempfile.TemporaryDirectory() as name:
        run, bundle = str(Path(name) / "run"), str(Path(name) / "bundle")
        peak_of(MAKE, width, run)
        weights = (Path(run) / "best" / "model.safetensors").stat().st_size
        imports, _ = peak_of(IMPORTS)
        found: dict[str, Any] = {"settings": WIDTHS[width], "weights_bytes": weights, "import_bytes": imports}
        for verb, script in (("export", EXPORT), ("verify", VERIFY), ("predict", PREDICT)):
            peak, seconds = peak_of(IMPORTS + script, run, bundle)
            times = round((peak - imports) / weights, 2)
            found[verb] = {"peak_bytes": peak, "times_weights": times, "seconds": round(seconds, 1)}
            print(json.dumps({verb: found[verb]}), file=sys.stderr, flush=True)
        found["external_data"] = (Path(bundle) / "model.onnx.data").is_file()
    return found | {"asked": ASKED, "attained": found["export"]["times_weights"] <= ASKED}


def main() -> None:
    """Measure, print and write the JSON."""
    from toolkit.files import write_json
    from toolkit.runtime.machine import describe_machine

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", default=",".join(WIDTHS), help="comma-separated")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    libraries = {name: version(name) for name in ("torch", "transformers", "onnx", "onnxruntime-gpu")}
    machine = describe_machine() | {"versions": libraries}
    for name in given.widths.split(","):
        known = json.loads(given.out.read_bytes()) if given.out.is_file() else {"widths": {}}
        entry = measured(name) | {"images": IMAGES, "machine": machine}
        write_json(given.out, {"widths": known["widths"] | {name: entry}})


if __name__ == "__main__":
    main()
