"""int8 on this machine: speed beside optimum's fp32 graph, agreement on real images, size, filling of the cache.

    python -m benchmarks.reduced_precision --optimum ENV/bin/python

ENV is an environment of its own with optimum-onnx, as for benchmarks/fused_graph.py; both graphs run in
this environment's ONNX Runtime, two threads, in alternating re-warmed blocks. ViT-B/32 of random weights:
honest for speed and size, no model of the accuracy that real weights lose. ``products`` sets the time of
the integer matmuls alone beside everything else, node by node, and beside what float32 products take, so
that it shows how far the processor lets int8 go. Writes benchmarks/results/reduced_precision.json; takes
about fifteen minutes on two cores that do nothing else.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from PIL import Image
from transformers import CLIPImageProcessorPil

from benchmarks.fused_graph import OPTIMUM_MODEL, alternate, jpegs, make_run, open_session
from export.graph.classifier_graph import build_graph
from export.graph.config import FUSED, GraphConfig
from export.graph.external_data import save_graph
from export.parity.agreement import agreement
from export.precision.trunk import measure_trunk, open_trunk
from export.selection.search import PrecisionSearch
from toolkit.files import write_json
from toolkit.models.processing import preprocess_from
from toolkit.models.selection import freeze_all_but
from toolkit.runs.finished_run import Run
from toolkit.runtime.decode import decode
from toolkit.runtime.machine import describe_machine
from toolkit.runtime.session import Session

RESULTS = Path(__file__).parent / "results" / "reduced_precision.json"
PARTS = ("latency", "products", "agreement", "cache")
THREADS = 2
FILL_BATCH = 32


def forms_of(run: Run) -> dict[str, GraphConfig]:
    """What is measured."""
    static, *_, dynamic, _ = PrecisionSearch(run, provider="cpu", threads=THREADS).configs.int8()
    return {"fp32": FUSED, "int8 static": static, "int8 dynamic": dynamic}


def graphs(run: Run, forms: dict[str, GraphConfig], work: Path) -> dict[str, Any]:
    """Each form with both inputs, on disk, and its size."""
    preprocess = preprocess_from(run.processor)
    sizes = {}
    for name, form in forms.items():
        for kind in ("image", "pixel_values"):
            path = work / f"{name}-{kind}.onnx"
            save_graph(build_graph(run.classifier, preprocess, {}, kind, form), path)  # type: ignore[arg-type]
        sizes[name] = (work / f"{name}-image.onnx").stat().st_size
    return {"bytes": sizes, "ratio_to_fp32": {name: size / sizes["fp32"] for name, size in sizes.items()}}


def latency(run: Run, forms: dict[str, GraphConfig], work: Path) -> dict[str, Any]:
    """The network alone at batch 1 and 8, and from a 480x640 JPEG to probabilities."""
    theirs, processor = open_session(work / "optimum" / "model.onnx"), CLIPImageProcessorPil()
    (entry,) = (value.name for value in theirs.get_inputs())
    ours = {name: Session(work / f"{name}-pixel_values.onnx", threads=THREADS) for name in forms}
    rng, rows = np.random.default_rng(0), {}
    for batch, runs in ((1, 20), (8, 5)):
        x = rng.normal(size=(batch, 3, 224, 224)).astype(np.float32)
        engines: dict[str, Callable[[], object]] = {name: partial(session.run, x) for name, session in ours.items()}
        engines["optimum"] = partial(theirs.run, None, {entry: x})
        rows[f"network, batch {batch}"] = alternate(engines, runs)
    by_image = {name: Session(work / f"{name}-image.onnx", threads=THREADS) for name in forms}
    files = jpegs(work / "elpv", 32)
    turn = dict.fromkeys([*forms, "optimum"], 0)

    def next_file(name: str) -> bytes:
        turn[name] += 1
        return files[turn[name] % len(files)]

    def one_graph(name: str, session: Session) -> object:
        return session.run({"image": np.asarray(decode(next_file(name)))[None]})

    def processor_and_graph() -> object:
        with Image.open(io.BytesIO(next_file("optimum"))) as image:
            pixel_values = processor(images=image.convert("RGB"), return_tensors="np")["pixel_values"]
        return theirs.run(None, {entry: pixel_values})

    engines = {name: partial(one_graph, name, session) for name, session in by_image.items()}
    rows["480x640 JPEG to probabilities"] = alternate(engines | {"optimum": processor_and_graph}, 20)
    return rows


def matmuls(forms: dict[str, GraphConfig], work: Path) -> dict[str, Any]:
    """Where the milliseconds of the int8 and the fp32 graph go, by operator, from a JPEG's pixels on."""
    with Image.open(io.BytesIO(jpegs(work / "elpv", 1)[0])) as image:
        pixels = np.asarray(image)[None]
    rows = {}
    for name in ("fp32", "int8 static"):
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = THREADS, 1
        options.enable_profiling, options.profile_file_prefix = True, str(work / "profile")
        session = ort.InferenceSession(str(work / f"{name}-image.onnx"), options, providers=["CPUExecutionProvider"])
        for _ in range(40):
            session.run(None, {"image": pixels})
        times: dict[tuple[str, str], list[float]] = defaultdict(list)
        for event in json.loads(Path(session.end_profiling()).read_bytes()):
            if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
                times[event["args"]["op_name"], event["name"]].append(event["dur"] / 1000)
        by_operator: dict[str, float] = defaultdict(float)
        for (operator, _), durations in times.items():
            by_operator[operator] += statistics.median(durations)
        ranked = sorted(by_operator.items(), key=lambda pair: -pair[1])
        rows[name] = {"ms_by_operator": dict(ranked[:12]), "ms": sum(by_operator.values())}
    return rows


def agreements(run: Run, forms: dict[str, GraphConfig]) -> dict[str, Any]:
    """Top-1 agreement with PyTorch in fp32 on all held-out images."""
    candidates = PrecisionSearch(run, provider="cpu", threads=THREADS)
    examples = run.held_out(10_000)
    pixel_values = np.stack([candidates.validation.preprocess(example.decode()) for example in examples])
    feed = {"pixel_values": pixel_values}
    expected, rows = candidates.validation.reference.logits(feed), {}
    for name, form in forms.items():
        logits = candidates.measured.session(form).run_batches(feed, FILL_BATCH)["logits"]
        decisions = agreement(candidates.run.decision, expected, logits, [str(example.path) for example in examples])
        keys = ("top1_agreement", "top1_agreement_at_least", "largest_flip_margin", "flip_count")
        rows[name] = {key: decisions[key] for key in keys} | {"images": len(examples)}
    return rows


def cache(run: Run) -> dict[str, Any]:
    """The frozen trunk on a batch of 32, as a boundary cache is filled: torch beside the int8 trunk."""
    rows = {}
    for last in (0, 1, 2):
        classifier, preprocess = run.classifier, preprocess_from(run.processor)
        names = [group.name for group in classifier.groups]
        freeze_all_but(classifier.groups, classifier, names[-1:] if not last else names[-3 - last :])
        trunk = open_trunk(
            classifier, preprocess, measure_trunk(classifier, preprocess, run.data, "int8"), threads=THREADS
        )
        pixel_values = torch.from_numpy(
            np.stack([preprocess(example.decode()) for example in run.held_out(FILL_BATCH)])
        )
        stop = classifier.boundary
        engines: dict[str, Callable[[], object]] = {
            "int8": partial(trunk, pixel_values),
            "torch": partial(torch.no_grad()(classifier.forward), pixel_values, stop=stop),
        }
        rows[f"K={last}"] = alternate(engines, 2, beside="torch") | {"boundary": names[stop]}
    return rows


def main() -> None:
    """Measure all, print and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--optimum", type=Path, required=True, help="python of an environment with optimum-onnx")
    parser.add_argument("--parts", default=",".join(PARTS), help="which to measure; the others stay as they were")
    given = parser.parse_args()
    optimum = given.optimum.absolute()
    torch.set_num_threads(THREADS)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        run = Run(make_run(work))
        subprocess.run([optimum, "-c", OPTIMUM_MODEL, work / "optimum-model"], check=True, capture_output=True)
        command = [optimum.parent / "optimum-cli", "export", "onnx", "--no-post-process"]
        command += ["--task", "image-classification", "--model", work / "optimum-model", work / "optimum"]
        subprocess.run(command, check=True, capture_output=True)
        forms = forms_of(run)
        found: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        found["size"] = graphs(run, forms, work)
        measures: dict[str, Callable[[], Any]] = {
            "latency": lambda: latency(run, forms, work),
            "products": lambda: matmuls(forms, work),
            "agreement": lambda: agreements(run, forms),
            "cache": lambda: cache(run),
        }
        for part in given.parts.split(","):
            started = time.perf_counter()
            found[part] = measures[part]()
            print(part, f"{time.perf_counter() - started:.0f} s", json.dumps(found[part]), file=sys.stderr, flush=True)
    libraries = {name: version(name) for name in ("torch", "transformers", "onnx", "onnxruntime-gpu", "pillow")}
    write_json(RESULTS, found | {"threads": THREADS, "machine": describe_machine() | {"versions": libraries}})


if __name__ == "__main__":
    main()
