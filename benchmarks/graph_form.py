"""Which operators say a float network so that ONNX Runtime runs it fastest on this processor.

    python -m benchmarks.graph_form [--encoders tiny-clip,ViT-B/32,ViT-B/16]

The form is made of two choices: attention and activation as ONNX Runtime's own operators or in ONNX's standard ones
(which the runtime fuses by itself where it can), and the residual sum joined with the norm after it or apart. All four
in one alternating run on two threads, batch 1 and 8, weights random: speed does not depend on them. Writes
benchmarks/results/graph_form.json, an entry for each processor's vector instructions; about 3 minutes an encoder, 11
for ViT-B/16.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModelWithProjection

from benchmarks.cpu_engines import ENCODERS, THREADS
from export.graph.classifier_graph import build_graph
from export.graph.config import GraphConfig
from export.graph.subgraph import open_model
from export.latency.measure import MinSamples, alternate
from export.latency.runner import Runner
from toolkit.files import write_json
from toolkit.models.build import build_classifier
from toolkit.models.processing import preprocess_from
from toolkit.recipe.model import ModelConfig
from toolkit.runtime.machine import describe_machine

RESULTS = Path(__file__).parent / "results" / "graph_form.json"
TINY = "tiny-clip"
FORMS = {
    "ONNX Runtime's operators, norms joined": GraphConfig(),
    "ONNX Runtime's operators, norms apart": GraphConfig(fuse_skip_layernorm=False),
    "standard operators, norms joined": GraphConfig(standard_ops_only=True),
    "standard operators, norms apart": GraphConfig(standard_ops_only=True, fuse_skip_layernorm=False),
}


def measured(name: str, least: MinSamples) -> list[dict[str, Any]]:
    """Milliseconds of each form, a row a form and batch size."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        encoder = TINY
        if name != TINY:
            encoder = folder
            config = CLIPVisionConfig(patch_size=ENCODERS[name], projection_dim=512)
            CLIPVisionModelWithProjection(config).save_pretrained(folder)
            CLIPImageProcessorPil().save_pretrained(folder)
        built = build_classifier(ModelConfig(encoder=encoder, unfreeze_last=0), ["a", "b"], seed=0)
    classifier, preprocess = built[0].eval(), preprocess_from(built[1])
    height, width = preprocess.output_size or (0, 0)
    engines = []
    for form, config in FORMS.items():
        session = open_model(
            build_graph(classifier, preprocess, {}, "pixel_values", config), provider="cpu", threads=THREADS
        )
        engines.append(Runner(form, "fp32", "cpu", THREADS, session.run))
    rows = []
    for batch_size in (1, 8):
        rng = np.random.default_rng(0)
        feeds = [{"pixel_values": rng.standard_normal((batch_size, 3, height, width), np.float32)} for _ in range(4)]
        for samples in alternate(engines, feeds, least, blocks=20):
            row = samples.row(batch_size)
            rows.append({"form": samples.engine.name} | {key: row[key] for key in ("batch_size", "p50_ms", "p90_ms")})
            print(json.dumps({"encoder": name} | rows[-1]), flush=True)
    return rows


def main() -> None:
    """Measure, print and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoders", default=",".join((TINY, *ENCODERS)), help="comma-separated")
    parser.add_argument("--runs", type=int, default=60)
    parser.add_argument("--seconds", type=float, default=8.0)
    given = parser.parse_args()
    machine = describe_machine() | {"threads": THREADS}
    key = " ".join(machine["instructions"])
    for name in given.encoders.split(","):
        entry = measured(name, MinSamples(given.runs, given.seconds))
        known = json.loads(RESULTS.read_bytes()) if RESULTS.is_file() else {"processors": {}}
        there = known["processors"].get(key, {"encoders": {}})
        there = {"machine": machine, "encoders": there["encoders"] | {name: entry}}
        write_json(RESULTS, {"processors": known["processors"] | {key: there}})


if __name__ == "__main__":
    main()
