"""Decisions of every shipped form beside PyTorch in fp32, on more than 2,000 real images.

    python -m benchmarks.agreement [--encoders tiny-clip,ViT-B/32]

All 2,624 photographs of solar cells (elpv), of which the classifier learned some: whether two engines decide alike does
not depend on that. tiny-clip learned its last layer, ViT-B/32 (of random weights) its last two. Of each precision on
each runtime that is installed: the share of equal decisions with its interval, and the margins of those that differ.
``most_frequent_decision`` is the share of images that get the label most given: near 1, agreement says nothing.
Writes benchmarks/results/agreement.json; about 5 minutes for tiny-clip and 30 for ViT-B/32 on two cores.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import toolkit
from benchmarks.cpu_engines import ENCODERS, THREADS, add_encoder, write_encoder
from export.bundle import ExportOptions, export_bundle
from export.prove_bundle import prove_again
from recipes.finetune import finetune
from toolkit.data.elpv import write_elpv
from toolkit.recipe.recipe import Recipe
from toolkit.runs.finished_run import Run
from toolkit.runtime.bundle import Bundle
from toolkit.runtime.machine import describe_machine

RESULTS = Path(__file__).parent / "results" / "agreement.json"
FORMS = {"cpu": ("fp32", "fp16", "int8"), "openvino": ("fp32", "bf16", "int8")}
KEPT = (
    "images",
    "top1_agreement",
    "top1_agreement_at_least",
    "flips",
    "largest_flip_margin",
    "max_abs_logit",
    "tolerance",
    "passed",
)


TRAINING: dict[str, dict[str, Any]] = {
    "tiny-clip": {"epochs": 3, "learning_rate": 1e-3},
    "ViT-B/32": {"epochs": 6, "learning_rate": 3e-4, "head_learning_rate": 1e-2, "class_weights": "balanced"},
}
LEARNING_LAYERS = {"tiny-clip": 1, "ViT-B/32": 2}


def make_run(name: str, work: Path) -> Run:
    """The encoder's last layers and a head, trained on the cells."""
    write_elpv(work / "elpv")
    recipe = {
        "data": {"path": work / "elpv"},
        "model": {"encoder": encoder_of(name, work), "unfreeze_last": LEARNING_LAYERS[name]},
        "training": TRAINING[name] | {"boundary_cache": {"enabled": True}},
        "tracking": {"trackers": [], "plots": False},
    }
    finetune(Recipe.model_validate(recipe), work / "run")
    return Run(work / "run")


def encoder_of(name: str, work: Path) -> str:
    """The embedded encoder, or one of that size with random weights."""
    if name == "tiny-clip":
        return name
    write_encoder(work / "encoder", ENCODERS[name])
    return str(work / "encoder")


def most_frequent(bundle: Path, images: Sequence[Path]) -> float:
    """Share of images that get the label that is given most."""
    with toolkit.load(bundle, provider="cpu", precision="fp32", threads=THREADS) as classifier:
        labels = Counter(prediction.label for prediction in classifier.stream(images))
    return labels.most_common(1)[0][1] / len(images)


def agreement(name: str) -> dict[str, Any]:
    """Every form of one encoder."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        run = make_run(name, work)
        write_elpv(work / "all")
        for provider, precisions in FORMS.items():
            if provider == "openvino" and not find_spec("openvino"):
                continue
            path = work / f"bundle-{provider}"
            kind = "pixel_values" if provider == "openvino" else "image"
            wanted = ExportOptions(kind, precisions, images=32)
            export_bundle(run, path, wanted, provider=provider, threads=THREADS)
            if provider == "cpu":
                found["most_frequent_decision"] = most_frequent(path, sorted((work / "all").rglob("*.png")))
            parity = prove_again(Bundle(path), run, provider=provider, threads=THREADS, folder=work / "all")
            for precision in precisions:
                entry = parity["results"][precision][provider]
                row = {key: entry.get(key) for key in KEPT}
                row["flips"] = [
                    each | {"image": str(Path(each["image"]).relative_to(work / "all"))} for each in row["flips"]
                ]
                print(json.dumps({f"{name}, {precision} on {provider}": row}), flush=True)
                found[f"{precision} on {provider}"] = row
    return found


def main() -> None:
    """Compare, print and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoders", default="tiny-clip,ViT-B/32", help="comma-separated")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    for name in given.encoders.split(","):
        add_encoder(given.out, name, agreement(name) | {"machine": describe_machine()})


if __name__ == "__main__":
    main()
