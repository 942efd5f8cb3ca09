"""ViT-B/32 with its text tower at full width: export, parity, and a request beside both towers in torch.

    python -m benchmarks.image_with_text

The weights are random, since speed doesn't depend on their values, and the head learns for an epoch on drawings with
captions. Then the bundle's graph, from the decoded image and the tokens on, is measured in blocks that alternate with
the two towers in torch, which are given ``pixel_values`` and tokens: texts as long as they are, as the runtime gives
them, and padded to the context, as a tokenizer with ``padding="max_length"`` does. Writes
benchmarks/results/image_with_text.json; about 10 minutes on two cores that do nothing else.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

from export.bundle import ExportOptions, export_bundle
from export.graph.given import given
from export.latency.measure import MinSamples, alternate
from export.latency.pool import find_pool
from export.latency.runner import Runner, onnxruntime_engine
from recipes.finetune import finetune
from toolkit.data.captioned import MANIFEST, write_captioned
from toolkit.files import write_json
from toolkit.models.modalities import image_tower_of, text_tower_of
from toolkit.models.text_inputs import context_of
from toolkit.recipe.recipe import Recipe
from toolkit.runs.finished_run import Run
from toolkit.runtime.bundle import Bundle
from toolkit.runtime.inputs import Feed
from toolkit.runtime.machine import describe_machine, usable_cores
from toolkit.runtime.session import TEXT_INPUTS

RESULTS = Path(__file__).parent / "results" / "image_with_text.json"
SAMPLES = {"train": 64, "validation": 32, "test": 128}
FUSION = "gated"
PARITY = ("images", "max_abs_logit", "tolerance", "top1_agreement", "largest_flip_margin", "passed")


def make_run(work: Path) -> Path:
    """A run with both towers of ViT-B/32, whose head learned for an epoch."""
    torch.manual_seed(0)
    source = Path(__file__).parents[1] / "toolkit" / "assets" / "tiny-clip"
    tokenizer = CLIPTokenizer.from_pretrained(source)
    special = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    CLIPModel(CLIPConfig(text_config=special)).save_pretrained(work / "encoder")  # the defaults are ViT-B/32's
    CLIPImageProcessorPil().save_pretrained(work / "encoder")
    tokenizer.save_pretrained(work / "encoder")
    write_captioned(work / "captioned")
    few(work / "captioned" / MANIFEST, work / "captioned" / "few.csv")
    recipe = {
        "data": {"path": work / "captioned" / "few.csv", "columns": {"text": "caption"}},
        "model": {
            "encoder": str(work / "encoder"),
            "inputs": ["image", "text"],
            "fusion": {"type": FUSION},
            "unfreeze_last": 0,
        },
        "training": {"epochs": 1, "batch_size": 16, "boundary_cache": {"enabled": True}},
        "tracking": {"trackers": [], "plots": False},
    }
    finetune(Recipe.model_validate(recipe), work / "run")
    return work / "run"


def few(manifest: Path, to: Path) -> None:
    """The first rows of each split."""
    with manifest.open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    counts, kept = Counter[str](), []
    for row in rows:
        split = row[header.index("split")]
        if counts[split] < SAMPLES[split]:
            counts[split] += 1
            kept.append(row)
    with to.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *kept])


def towers(run: Run, batches: Sequence[Feed], threads: int) -> list[Runner]:
    """Each tower in torch, given what it takes of the batches; made outside the clock."""
    encoder = run.classifier.encoder
    image, text = image_tower_of(encoder), text_tower_of(encoder)
    assert image is not None
    assert text is not None
    torch.set_num_threads(threads)
    prepared: dict[int, dict[str, torch.Tensor]] = {}
    for batch in batches:
        pixels = run.processor(images=list(batch["image"]), return_tensors="np")["pixel_values"]
        feed = {"pixel_values": pixels, **{name: batch[name] for name in TEXT_INPUTS}}
        made: dict[str, torch.Tensor] = given(run.classifier, feed)
        ids = made["input_ids"]
        padded = torch.full((len(ids), context_of(text)), int(text.tokenizer.pad_token_id))
        padded[:, : ids.shape[1]] = ids
        prepared[id(batch)] = made | {"padded": padded}

    def runner(name: str, compute: Callable[[dict[str, torch.Tensor]], torch.Tensor]) -> Runner:
        @torch.inference_mode()
        def run_it(batch: Feed) -> Any:
            return compute(prepared[id(batch)]).numpy()

        return Runner(name, "fp32", "cpu", threads, run_it)

    return [
        runner("torch image tower", lambda made: image.reference(made["pixel_values"])),
        runner("torch text tower", lambda made: text.family.embed_text(text.model, made["input_ids"])),
        runner("torch text tower, padded", lambda made: text.family.embed_text(text.model, made["padded"])),
    ]


def measured(bundle: Bundle, run: Run, batch_sizes: Sequence[int], least: MinSamples) -> list[dict[str, Any]]:
    """p50 of the graph in each precision and of the towers, and the ratios to the sum of both."""
    threads, rows = usable_cores(), list[dict[str, Any]]()
    engines = [
        onnxruntime_engine(bundle, provider="cpu", threads=threads, precision=precision)
        for precision in bundle.precisions
    ]
    pool = find_pool(bundle, engines[0].input, run, None)
    for batch_size in batch_sizes:
        batches = pool.batches(batch_size)
        counted = alternate([*engines, *towers(run, batches, threads)], batches, least)
        found = {
            (samples.engine.name if samples.engine.name != "onnxruntime" else samples.engine.precision): samples.row(
                batch_size
            )["p50_ms"]
            for samples in counted
        }
        image, own, padded = (found[f"torch {tower}"] for tower in ("image tower", "text tower", "text tower, padded"))
        rows.append(
            {
                "batch_size": batch_size,
                "tokens": sorted({batch["input_ids"].shape[1] for batch in batches}),
                "p50_ms": found,
                "to_towers": {each: found[each] / (image + own) for each in bundle.precisions},
                "to_towers_padded": {each: found[each] / (image + padded) for each in bundle.precisions},
            }
        )
        print(json.dumps(rows[-1]), flush=True)
    return rows


def main() -> None:
    """Make, prove, measure, and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = Run(make_run(Path(folder)))
        wanted = ExportOptions(precisions=("fp32", "int8"))
        parity = export_bundle(run, Path(folder) / "bundle", wanted, threads=usable_cores())
        bundle = Bundle(Path(folder) / "bundle")
        found = {
            "fusion": FUSION,
            "parity": {
                precision: {key: entry["cpu"][key] for key in PARITY} for precision, entry in parity["results"].items()
            },
            "graph_mib": {
                each: np.round(bundle.manifest.files[bundle.graph_name(each)].size / 2**20, 1)
                for each in bundle.precisions
            },
            "rows": measured(bundle, run, (1, 8), MinSamples(asked.runs, asked.seconds)),
            "machine": describe_machine(),
        }
        write_json(asked.out, found)


if __name__ == "__main__":
    main()
