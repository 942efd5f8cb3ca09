"""Is a contract that the search keeps on validation images kept on images that it never saw?

    python -m benchmarks.quantisation_contract [--pairs tiny-clip/digits,...] [--max-accuracy-drop 0.5] [--max-flips 1]

For each pair of encoder and data a run is trained (the images dealt anew: a quarter to train on, three eighths each for
validation and test, so that they can show 1 %), and the fastest config within the contract is searched. Then each that
validation said keeps it, chosen or not, is run on the test split beside PyTorch (fp32 only where it is chosen).
All but the embedded model have random weights of which the head and a layer learn: honest for what rounding does
to decisions that stand close together, and no model of what a trained one of that size loses.

A pair takes a minute or two at the tiny encoders' size, and about ten at ViT-B/32's, on two cores. Each is
written when it is done and skipped when it is there; ``--again`` measures it again. Writes
benchmarks/results/quantisation_contract.json.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    BitImageProcessorPil,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    Dinov2Config,
    Dinov2Model,
    SiglipImageProcessorPil,
    SiglipVisionConfig,
    SiglipVisionModel,
    ViTConfig,
    ViTImageProcessorPil,
    ViTModel,
)

from export.bundle import tokenizer_of
from export.graph.classifier_graph import build_graph
from export.graph.config import GraphConfig
from export.graph.subgraph import open_model
from export.selection.contract import Contract
from export.selection.contract_search import fastest_within_contract
from export.selection.held_out import HeldOut
from export.selection.measurements import in_words
from export.selection.search import PrecisionSearch
from recipes.finetune import finetune
from toolkit.data.captioned import MANIFEST, write_captioned
from toolkit.data.digits import write_digits
from toolkit.data.elpv import write_elpv
from toolkit.data.shapes import write_shapes
from toolkit.data.textile import write_textile
from toolkit.errors import CheckFailed
from toolkit.files import write_json
from toolkit.models.processing import preprocess_from
from toolkit.recipe.recipe import Recipe
from toolkit.runs.finished_run import Run
from toolkit.runtime.machine import describe_machine

RESULTS = Path(__file__).parent / "results" / "quantisation_contract.json"
HELD_OUT_SHARE = 0.375
"""Of all images, for validation and for test each."""
SMALL: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4}
SMALL |= {"image_size": 64, "patch_size": 8}
EMBEDDED = "tiny-clip"


def _siglip(folder: Path) -> None:
    SiglipVisionModel(SiglipVisionConfig(**SMALL)).save_pretrained(folder)
    SiglipImageProcessorPil(size={"height": 64, "width": 64}).save_pretrained(folder)


def _dinov2(folder: Path) -> None:
    sizes = {name: value for name, value in SMALL.items() if name != "intermediate_size"}
    Dinov2Model(Dinov2Config(**sizes, mlp_ratio=4, layerscale_value=0.5)).save_pretrained(folder)
    crop: dict[str, Any] = {"size": {"shortest_edge": 72}, "crop_size": {"height": 64, "width": 64}}
    BitImageProcessorPil(**crop).save_pretrained(folder)


def _vit(folder: Path) -> None:
    ViTModel(ViTConfig(**SMALL)).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 64, "width": 64}).save_pretrained(folder)


def _vit_b32(folder: Path) -> None:
    CLIPModel(CLIPConfig(text_config={"num_hidden_layers": 1})).save_pretrained(folder)
    CLIPImageProcessorPil().save_pretrained(folder)


ENCODERS: dict[str, Callable[[Path], None]] = {
    "siglip-64": _siglip,
    "dinov2-64": _dinov2,
    "vit-64": _vit,
    "vit-b-32": _vit_b32,
}
DATA: dict[str, Callable[[Path], Any]] = {
    "digits": write_digits,
    "elpv": write_elpv,
    "textile": write_textile,
    "shapes": write_shapes,
    "captioned": write_captioned,
}
IN_FOLDERS = ("digits", "elpv", "textile")
PAIRS = (
    *("tiny-clip/digits", "tiny-clip/elpv", "tiny-clip/textile", "tiny-clip/shapes", "tiny-clip/captioned"),
    *("siglip-64/digits", "siglip-64/textile", "dinov2-64/digits", "dinov2-64/elpv", "vit-64/digits", "vit-64/textile"),
    *("vit-b-32/digits", "vit-b-32/elpv", "vit-b-32/textile"),
)


def data_of(name: str, work: Path) -> dict[str, Any]:
    """The section ``data`` of a recipe: all images, dealt anew."""
    folder = work / name
    DATA[name](folder)
    if name in IN_FOLDERS:
        for split in ("train", "val", "test"):
            for path in sorted((folder / split).rglob("*.*")):
                label = work / f"{name}-all" / path.parent.name
                label.mkdir(parents=True, exist_ok=True)
                path.rename(label / path.name)
        return {"path": work / f"{name}-all", "validation_share": HELD_OUT_SHARE, "test_share": HELD_OUT_SHARE}
    manifest = folder / (MANIFEST if name == "captioned" else "manifest.csv")
    with manifest.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    order, held = np.random.default_rng(0).permutation(len(rows)), round(HELD_OUT_SHARE * len(rows))
    for turn, place in enumerate(order.tolist()):
        rows[place]["split"] = "validation" if turn < held else "test" if turn < 2 * held else "train"
    with (folder / "dealt.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    columns = {"text": "caption"} if name == "captioned" else {"labels": "labels"}
    return {"path": folder / "dealt.csv", "columns": columns}


def make_run(encoder: str, data: str, work: Path) -> Run:
    """A run of a pair: a head and the last layer learn, two of the embedded model."""
    torch.manual_seed(0)
    wide = encoder == "vit-b-32"
    if encoder != EMBEDDED:
        ENCODERS[encoder](work / "encoder")
    model: dict[str, Any] = {"encoder": EMBEDDED if encoder == EMBEDDED else str(work / "encoder")}
    model |= {"unfreeze_last": 2 if encoder == EMBEDDED else 1}
    model |= {"inputs": ["image", "text"]} if data == "captioned" else {}
    model |= {"task": "multi-label"} if data == "shapes" else {}
    recipe = {
        "data": data_of(data, work),
        "model": model,
        "training": {
            "epochs": 4 if wide else 12,
            "batch_size": 32,
            "learning_rate": 1e-4 if wide else 1e-3,
            "head_learning_rate": 1e-3 if wide else 2e-3,
            "boundary_cache": {"enabled": True},
        },
        "tracking": {"trackers": [], "plots": False},
    }
    finetune(Recipe.model_validate(recipe), work / "run")
    return Run(work / "run")


def measure(encoder: str, data: str, contract: Contract, work: Path) -> dict[str, Any]:
    """A row: what the search found on validation, and what test images say of every config that keeps the contract."""
    run = make_run(encoder, data, work)
    started = time.perf_counter()
    search = PrecisionSearch(run, provider="cpu", threads=None, validation_images=contract.images)
    row: dict[str, Any] = {"encoder": encoder, "data": data, "contract": contract.as_json()}
    row["test_accuracy"] = run.summary["test"].get("accuracy") or run.summary["test"].get("macro_f1")
    chosen: GraphConfig | None = None
    try:
        kept = fastest_within_contract([search], "image", contract)
        chosen = kept.config
        row |= {"ships": kept.report["form"], "latency": kept.report["latency"]}
        row["float"] = [each["matmul"] for each in kept.report["sensitivity"] if each["float"]]
    except CheckFailed as refusal:
        row |= {"ships": None, "refused": str(refusal)}
    row["search_seconds"] = time.perf_counter() - started
    row["tried"] = [
        {name: each[name] for name in ("form", "flips", "flips_at_most", "accuracy_drop_at_most", "verdict", "p50_ms")}
        for each in search.measured.tried
    ]
    images = HeldOut(run, search.validation.reference, preprocess_from(run.processor), tokenizer_of(run))
    row["most_frequent_decision"] = _most_frequent(run, search.validation.expected)
    row["configs"] = []
    for config, found in zip(search.measured.configs, search.measured.tried, strict=True):
        if found["verdict"] != "kept" or (config.precision == "fp32" and config != chosen):
            continue
        settings = images.tokenizer.settings if images.tokenizer else None
        model = build_graph(
            run.classifier, images.preprocess, {}, "image", config, tokenizer=settings, thresholds=run.thresholds
        )
        loss = images.loss(open_model(model, provider="cpu", threads=None))
        row["configs"].append(
            {
                "form": in_words(config),
                "chosen": config == chosen,
                "validation": search.measured.loss(config).as_json(),
                "test": loss.as_json(),
                "kept_on_test": contract.verdict(config.precision, loss) != "over",
                "verdict_on_test": contract.verdict(config.precision, loss),
            }
        )
    return row


def _most_frequent(run: Run, logits: Any) -> float:
    """Share of validation images that PyTorch decides as most: near 1, agreement says nothing."""
    counts = np.unique(run.decision.decide(logits), axis=0, return_counts=True)[1]
    return float(counts.max() / counts.sum())


def summary_of(rows: dict[str, Any]) -> dict[str, Any]:
    """How many pairs and configs keep on test images what validation said."""
    configs = [each for row in rows.values() for each in row["configs"]]
    chosen = [each for each in configs if each["chosen"]]
    return {
        "pairs": len(rows),
        "pairs_decided_in_several_ways": sum(row["most_frequent_decision"] < 0.9 for row in rows.values()),
        "ships": len(chosen),
        "ships_and_kept_on_test": sum(each["kept_on_test"] for each in chosen),
        "refused_by_the_search": sum(row["ships"] is None for row in rows.values()),
        "in_integers": sum(each["form"].startswith("int8") for each in chosen),
        "configs_kept_on_validation": len(configs),
        "of_them_kept_on_test": sum(each["kept_on_test"] for each in configs),
    }


def main() -> None:
    """Measure the pairs that are not there yet; write each when it is done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", default=",".join(PAIRS))
    parser.add_argument("--max-accuracy-drop", type=float, default=0.5)
    parser.add_argument("--max-flips", type=float, default=1.0)
    parser.add_argument("--min-speedup", type=float)
    parser.add_argument("--again", action="store_true", help="measure pairs that are there already")
    given = parser.parse_args()
    contract = Contract(given.max_accuracy_drop, given.max_flips, given.min_speedup)
    contract.check()
    found: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"rows": {}}
    for pair in given.pairs.split(","):
        encoder, _, data = pair.partition("/")
        key = f"{pair}, {contract.in_words()}"
        if key in found["rows"] and not given.again:
            continue
        with tempfile.TemporaryDirectory() as name:
            row = measure(encoder, data, contract, Path(name))
        found["rows"][key] = row
        found |= {"summary": summary_of(found["rows"]), "machine": describe_machine()}
        write_json(RESULTS, found)
        print(key, json.dumps({**row, "tried": len(row["tried"])}), file=sys.stderr, flush=True)
    print(json.dumps(found["summary"]))


if __name__ == "__main__":
    main()
