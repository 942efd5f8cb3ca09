"""How far the shipped graph is from the machine's limit: ViT-B/32 in fp32, two threads, batch 1 and 8.

    python -m benchmarks.limits

The graph takes ``pixel_values`` and has random weights, which speed does not depend on. Graph, ONNX Runtime's own
products at the model's shapes, and torch's take turns in re-warmed blocks of one run, so that the machine's drift
hits all alike. Asked: at least 0.85 of the runtime's products. Writes benchmarks/results/limits.json; takes about
five minutes on two cores that do nothing else, and 4 GB of memory.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx
import torch
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

from export.graph.classifier_graph import build_graph
from export.latency.measure import MinSamples
from export.latency.roofline.limits import measure_limits
from toolkit.files import write_json
from toolkit.models.build import build_classifier
from toolkit.models.processing import preprocess_from
from toolkit.recipe.model import HeadConfig, ModelConfig
from toolkit.runtime.machine import describe_machine
from toolkit.runtime.preprocess import Preprocess

RESULTS = Path(__file__).parent / "results" / "limits.json"
THREADS, BATCH_SIZES = 2, (1, 8)
ASKED = 0.85


def made(work: Path) -> tuple[onnx.ModelProto, Preprocess]:
    """ViT-B/32's graph from ``pixel_values`` on, of random weights, and its preprocessing."""
    torch.manual_seed(0)
    CLIPModel(CLIPConfig(text_config={"num_hidden_layers": 1})).save_pretrained(work)
    CLIPImageProcessorPil().save_pretrained(work)
    config = ModelConfig(encoder=str(work), unfreeze_last=0, head=HeadConfig(type="mlp"))
    classifier, processor = build_classifier(config, ["defective", "functional"], seed=0)
    preprocess = preprocess_from(processor)
    return build_graph(classifier.eval(), preprocess, {}, "pixel_values"), preprocess


def judged(found: dict[str, Any]) -> list[dict[str, Any]]:
    """What was attained beside what was asked, a line a batch size."""
    return [
        {
            "batch_size": row["batch_size"],
            "share_of_ceiling": row["share_of_ceiling"],
            "share_by_block": row["share_by_block"]["p50"],
            "share_of_best_ceiling": row["share_of_best_ceiling"],
            "asked": ASKED,
            "attained": row["share_of_ceiling"] >= ASKED,
        }
        for row in found["network"]
    ]


def main() -> None:
    """Measure, print and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=100, help="counted runs of each engine and batch size, at least")
    parser.add_argument("--seconds", type=float, default=15.0, help="counted seconds of each, at least")
    parser.add_argument("--batch-sizes", default=",".join(map(str, BATCH_SIZES)), help="images a run")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        model, preprocess = made(Path(name))
    batch_sizes = [int(size) for size in given.batch_sizes.split(",")]
    least = MinSamples(given.runs, given.seconds)
    found = measure_limits({"fp32": lambda: model}, preprocess, {"fp32": batch_sizes}, threads=THREADS, least=least)
    judgement = judged(found)
    for line in judgement:
        print(json.dumps(line), file=sys.stderr)
    libraries = {name: version(name) for name in ("torch", "onnx", "onnxruntime-gpu", "numpy")}
    machine = describe_machine() | {"versions": libraries}
    write_json(given.out, {"judged": judgement, "threads": THREADS} | found | {"machine": machine})


if __name__ == "__main__":
    main()
