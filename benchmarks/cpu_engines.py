"""ViT-B/32 and ViT-B/16 on CPUs: our graphs on both runtimes beside what else an engineer would run.

    python -m benchmarks.cpu_engines [--optimum ENV/bin/python] [--encoders ViT-B/32,ViT-B/16]

Needs openvino and nncf beside the toolkit; ENV is an environment of its own with optimum-onnx and a version of
transformers that it takes. Weights are random: speed doesn't depend on their values. Every engine takes the same
``pixel_values`` of real images and gives the logits; two threads; blocks alternate in one run, and ratios are taken
block by block, since the rates of rented processors drift by a fifth within an hour.

- ours: fp32 and int8 of ONNX Runtime; fp32, bf16 and int8 of OpenVINO.
- beside them: optimum's graph in ONNX Runtime's default session with two threads; OpenVINO's own conversion of the
  torch module in fp32, in bf16 (its hint) and in int8 by NNCF, floats beside it in fp32 and in bf16, as OpenVINO does
  by itself; torch eager in bf16; torch.compile in fp32 and bf16.

Then a request: from a 480x640 JPEG to its label, by ``toolkit.load`` in each of our forms, and by transformers' image
processor with optimum's graph (which has no head).

Also the limits of the processor: the best rate of a large matrix product by torch (oneDNN) and OpenVINO, in fp32, bf16
and int8, and the rate at which memory that no cache holds is read. Of each of our graphs: its share of the peak, and
its share of the limit, the longer of the time that its products take at the peak and that its weights take to be
read, which is what bounds a batch of one. Writes benchmarks/results/cpu_engines.json; about 15 minutes an encoder
on two cores that do nothing else.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from PIL import Image
from scipy.stats import quantile_test
from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModelWithProjection

import toolkit
from benchmarks.fused_graph import jpegs
from export.bundle import ExportOptions, export_bundle
from export.latency.measure import MinSamples, Samples, alternate
from export.latency.roofline.work import count_work
from export.latency.runner import Runner
from recipes.finetune import finetune
from toolkit.data.elpv import write_elpv
from toolkit.files import write_json
from toolkit.recipe.recipe import Recipe
from toolkit.runs.finished_run import Run
from toolkit.runtime.bundle import Bundle
from toolkit.runtime.machine import describe_machine
from toolkit.sampling import evenly_spaced

RESULTS = Path(__file__).parent / "results" / "cpu_engines.json"
ENCODERS = {"ViT-B/32": 32, "ViT-B/16": 16}
"""Side of a patch."""
THREADS, SIDE, IMAGES, BLOCKS = 2, 224, 64, 20
SHIPPED = (("cpu", ("fp32", "int8")), ("openvino", ("fp32", "bf16", "int8")))
"""What our bundles are exported for."""
OPTIMUM = """
import sys
from optimum.exporters.onnx import main_export
main_export(sys.argv[1], output=sys.argv[2], task="feature-extraction", library_name="transformers",
            do_validation=False, opset=18)
"""
PRODUCT = 2048, 768, 3072
"""Of the matrix product that the peak is measured with: tokens, width, width of an MLP."""
KINDS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}
"""Precisions, and OpenVINO's word for what floats are computed in beside integers."""


def write_encoder(folder: Path, patch: int) -> None:
    """An encoder of full width with random weights."""
    torch.manual_seed(0)
    config = CLIPVisionConfig(patch_size=patch, projection_dim=512)
    CLIPVisionModelWithProjection(config).save_pretrained(folder)
    CLIPImageProcessorPil().save_pretrained(folder)


def make_run(work: Path, patch: int) -> Run:
    """A run of full width on elpv, whose head learned for an epoch on a few images."""
    write_encoder(work / "encoder", patch)
    write_elpv(work / "elpv")
    for split, kept in (("train", 32), ("val", 16), ("test", 32)):
        for folder in sorted((work / "elpv" / split).iterdir()):
            for path in sorted(folder.iterdir())[kept:]:
                path.unlink()
    recipe = {
        "data": {"path": work / "elpv"},
        "model": {"encoder": str(work / "encoder"), "unfreeze_last": 0},
        "training": {"epochs": 1, "batch_size": 16, "boundary_cache": {"enabled": True}},
        "tracking": {"trackers": [], "plots": False},
    }
    finetune(Recipe.model_validate(recipe), work / "run")
    return Run(work / "run")


def ours(run: Run, work: Path) -> tuple[list[Runner], dict[str, onnx.ModelProto]]:
    """The shipped graphs on both runtimes, and the graphs whose operations are counted."""
    engines, graphs = list[Runner](), dict[str, onnx.ModelProto]()
    for provider, precisions in SHIPPED:
        path = work / f"bundle-{provider}"
        wanted = ExportOptions("pixel_values", precisions, images=IMAGES, calibration_images=IMAGES)
        export_bundle(run, path, wanted, provider=provider, threads=THREADS)
        bundle = Bundle(path)
        for precision in precisions:
            session = bundle.session(provider=provider, precision=precision, threads=THREADS)
            name = called(precision, provider)
            engines.append(Runner(name, precision, provider, THREADS, session.run, "pixel_values"))
            graphs[name] = onnx.load(path / bundle.graph_name(precision))
    return engines, graphs


def called(precision: str, provider: str) -> str:
    """Name of one of our engines."""
    return f"ours, {precision} on {'ONNX Runtime' if provider == 'cpu' else 'OpenVINO'}"


def rivals(run: Run, work: Path, batches: Sequence[Mapping[str, Any]], optimum: str | None) -> list[Runner]:
    """What else an engineer would run; see the description above."""
    import nncf
    import openvino as ov

    torch.set_num_threads(THREADS)
    classifier = run.classifier.eval()

    class Logits(torch.nn.Module):
        def __init__(self, whole: torch.nn.Module) -> None:
            super().__init__()
            self.whole = whole

        def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.whole.reference_logits(pixel_values)  # type: ignore[operator]
            return logits

    module = Logits(classifier)
    half = Logits(Run(run.path).classifier.eval()).to(torch.bfloat16)

    def in_torch(name: str, precision: str, forward: Callable[[Any], Any]) -> Runner:
        kind = torch.bfloat16 if precision == "bf16" else torch.float32

        @torch.inference_mode()
        def compute(feed: Mapping[str, Any]) -> Any:
            return forward(torch.from_numpy(feed["pixel_values"]).to(kind)).float().numpy()

        return Runner(name, precision, "cpu", THREADS, compute, "pixel_values")

    engines = [
        in_torch("torch eager, bf16", "bf16", half),
        in_torch("torch.compile, fp32", "fp32", torch.compile(module, dynamic=False)),
        in_torch("torch.compile, bf16", "bf16", torch.compile(half, dynamic=False)),
    ]
    example = torch.from_numpy(batches[0]["pixel_values"])
    with torch.no_grad():
        converted = ov.convert_model(module, example_input=example)
    converted.reshape({0: ov.PartialShape([-1, 3, SIDE, SIDE])})
    images = nncf.Dataset([feed["pixel_values"] for feed in batches])
    rounded = nncf.quantize(
        converted, images, model_type=nncf.ModelType.TRANSFORMER, subset_size=len(batches), fast_bias_correction=True
    )
    for precision, model in (("fp32", converted), ("bf16", converted), ("int8", rounded)):
        engines.append(openvino_runner(f"OpenVINO's own conversion, {precision}", precision, model, KINDS[precision]))
    engines.append(openvino_runner("OpenVINO's own conversion, int8 with floats in bf16", "int8", rounded, "bf16"))
    if optimum:
        subprocess.run([optimum, "-c", OPTIMUM, str(work / "encoder"), str(work / "optimum")], check=True)
        options = ort.SessionOptions()
        options.intra_op_num_threads = THREADS
        session = ort.InferenceSession(
            str(work / "optimum" / "model.onnx"), options, providers=["CPUExecutionProvider"]
        )

        def compute(feed: Mapping[str, Any]) -> Any:
            return session.run(None, {"pixel_values": feed["pixel_values"]})

        engines.append(Runner("optimum's graph, fp32", "fp32", "cpu", THREADS, compute, "pixel_values"))
    return engines


def requests(work: Path, optimum: Runner, least: MinSamples) -> list[Samples]:
    """From the content of a JPEG to its label: our bundles as they are opened in production, and optimum's graph."""

    def ours_with(provider: str, precision: str) -> Runner:
        classifier = toolkit.load(
            work / f"bundle-{provider}", provider=provider, precision=precision, threads=THREADS, sessions=1
        )
        label = lambda feed: classifier.predict(feed["jpeg"]).label  # noqa: E731
        return Runner(called(precision, provider), precision, provider, THREADS, label)

    processor = CLIPImageProcessorPil()

    def compute(feed: Mapping[str, Any]) -> Any:
        with Image.open(io.BytesIO(feed["jpeg"])) as image:
            return optimum.run(processor(images=image.convert("RGB"), return_tensors="np"))

    engines = [ours_with(provider, precision) for provider, each in SHIPPED for precision in each]
    engines.append(Runner("transformers' processor and optimum's graph, fp32", "fp32", "cpu", THREADS, compute))
    return alternate(engines, [{"jpeg": content} for content in jpegs(work / "elpv", 32)], least)


def openvino_runner(name: str, precision: str, model: Any, floats: str) -> Runner:
    """A model of OpenVINO's, as its documentation runs it for latency; ``floats`` is what it computes them in."""
    import openvino as ov

    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": THREADS}
    settings["INFERENCE_PRECISION_HINT"] = floats
    request = ov.Core().compile_model(model, "CPU", settings).create_infer_request()

    def compute(feed: Mapping[str, Any]) -> Any:
        return next(iter(request.infer([feed["pixel_values"]]).values()))

    return Runner(name, precision, "openvino", THREADS, compute, "pixel_values")


def peaks(least: MinSamples) -> dict[str, dict[str, float]]:
    """GFLOP/s of a large matrix product by precision and library, the better of two turns."""
    m, k, n = PRODUCT
    torch.set_num_threads(THREADS)
    x, w = torch.randn(m, k), torch.randn(n, k)
    engines = []
    for precision, kind in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        given, weight = x.to(kind), w.to(kind)
        run = torch.inference_mode()(lambda _, given=given, weight=weight: torch.nn.functional.linear(given, weight))
        engines.append(Runner("torch", precision, "cpu", THREADS, run))
    for precision in KINDS:
        engines.append(Runner("openvino", precision, "openvino", THREADS, _openvino_product(precision, x, w)))
    found: dict[str, dict[str, float]] = {}
    for samples in alternate(engines, [{}], least):
        rate = 2e-9 * m * k * n / min(samples.block_medians)
        found.setdefault(samples.engine.precision, {})[samples.engine.name] = rate
    return found


def read_rate() -> float:
    """GB/s at which two threads read memory that no cache holds, the best of ten turns."""
    torch.set_num_threads(THREADS)
    values = torch.ones(1 << 28)
    times = []
    for _ in range(10):
        started = time.perf_counter()
        values.sum()
        times.append(time.perf_counter() - started)
    return 1e-9 * values.nbytes / min(times)


def weight_gb(graph: onnx.ModelProto) -> float:
    """GB that a graph's constants take."""
    return 1e-9 * sum(len(tensor.raw_data) for tensor in graph.graph.initializer)


def _openvino_product(precision: str, x: torch.Tensor, w: torch.Tensor) -> Callable[[Any], Any]:
    import openvino as ov
    from openvino import opset13 as ops

    given = ops.parameter(list(x.shape), np.float32)
    left, right = given, ops.constant(w.numpy())
    if precision == "int8":
        low, high = np.float32(-4), np.float32(4)
        left = ops.fake_quantize(given, low, high, low, high, 256)
        right = ops.fake_quantize(right, low, high, low, high, 255)
    model = ov.Model([ops.matmul(left, right, False, True)], [given])
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": THREADS}
    settings["INFERENCE_PRECISION_HINT"] = KINDS[precision]
    request = ov.Core().compile_model(model, "CPU", settings).create_infer_request()
    request.set_input_tensor(ov.Tensor(x.numpy()))
    return lambda _: request.infer()


def pixel_batches(run: Run, batch_size: int) -> list[dict[str, Any]]:
    """Held-out images as ``pixel_values``, in batches."""
    members = run.data.splits["test"]
    chosen = [members[place] for place in evenly_spaced(len(members), IMAGES)]
    values = [run.processor(images=[each.decode()], return_tensors="np")["pixel_values"] for each in chosen]
    starts = range(0, len(values) - batch_size + 1, batch_size)
    return [{"pixel_values": np.concatenate(values[start : start + batch_size])} for start in starts]


def rows(counted: Sequence[Samples], batch_size: int, gflop: Mapping[str, float]) -> list[dict[str, Any]]:
    """p50 in milliseconds of each engine, and what our graphs attain."""
    found = []
    for samples in counted:
        row = samples.row(batch_size)
        name = samples.engine.name
        entry = {"engine": name, "precision": samples.engine.precision, "batch_size": batch_size}
        entry |= {key: row[key] for key in ("p50_ms", "p90_ms", "p99_ms", "block_p50_ms")}
        if name in gflop:
            entry["gflops"] = 1000 * gflop[name] / row["p50_ms"]
        found.append(entry)
    return found


def measured(name: str, optimum: str | None, least: MinSamples) -> dict[str, Any]:
    """Everything of one encoder."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        run = make_run(work, ENCODERS[name])
        single = pixel_batches(run, 1)
        own, graphs = ours(run, work)
        engines = own + rivals(run, work, single, optimum)
        found: dict[str, Any] = {"peaks_gflops": peaks(least), "read_gb_s": read_rate(), "rows": []}
        weights = {each: weight_gb(graph) for each, graph in graphs.items()}
        best = {precision: max(rates.values()) for precision, rates in found["peaks_gflops"].items()}
        for batch_size in (1, 8):
            gflop = {}
            for each, graph in graphs.items():
                if "OpenVINO" not in each:
                    gflop[each] = count_work(graph, [batch_size, 3, SIDE, SIDE]).gflop
            fp32 = gflop["ours, fp32 on ONNX Runtime"]
            gflop |= dict.fromkeys([each for each in graphs if each not in gflop], fp32)
            counted = alternate(engines, pixel_batches(run, batch_size), least, blocks=BLOCKS)
            found["rows"] += rows(counted, batch_size, gflop)
        for row in found["rows"]:
            if "gflops" in row:
                row["share_of_peak"] = row["gflops"] / best[row["precision"]]
                read_ms = 1000 * weights[row["engine"]] / found["read_gb_s"]
                row["share_of_limit"] = max(row["share_of_peak"], read_ms / row["p50_ms"])
            print(json.dumps(row), flush=True)
        found["best"] = [verdict(found["rows"], batch_size) for batch_size in (1, 8)]
        if optimum:
            found["from_jpeg"] = rows(requests(work, engines[-1], least), 1, {})
            for row in found["from_jpeg"]:
                row["to_optimum"] = ratio(row, found["from_jpeg"][-1])
                print(json.dumps(row), flush=True)
        return found | {"logits": differences(run, engines, single)}


def verdict(measured_rows: Sequence[Mapping[str, Any]], batch_size: int) -> dict[str, Any]:
    """Our fastest beside the fastest of the others, by precision; and int8 beside optimum's fp32."""
    at = [row for row in measured_rows if row["batch_size"] == batch_size]
    found: dict[str, Any] = {"batch_size": batch_size}
    for precision in KINDS:
        mine, theirs = (
            min(
                (row for row in at if row["precision"] == precision and row["engine"].startswith("ours") is own),
                key=lambda row: float(row["p50_ms"]),
            )
            for own in (True, False)
        )
        found[precision] = {"ours": mine["engine"], "others": theirs["engine"], **ratio(mine, theirs)}
        optimum = [row for row in at if row["engine"].startswith("optimum")]
        if precision == "int8" and optimum:
            found["int8_to_optimum_fp32"] = ratio(mine, optimum[0])
    return found


def ratio(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """The median of two engines' ratios of times, block by block, with its 95 % interval from order statistics.

    Drift hits both engines of a block, and a burst of another tenant's load decides no more than its own block.
    """
    ratios = np.divide(mine["block_p50_ms"], theirs["block_p50_ms"])
    return {"ratio": float(np.median(ratios)), "interval": list(quantile_test(ratios).confidence_interval(0.95))}


def differences(run: Run, engines: Sequence[Runner], batches: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The largest difference of each engine's logits to transformers' in fp32; optimum's graph has no head."""
    with torch.inference_mode():
        wanted = [run.classifier.reference_logits(torch.from_numpy(feed["pixel_values"])).numpy() for feed in batches]
    found = {}
    for engine in engines:
        if engine.name.startswith("optimum"):
            continue
        given = [engine.run(feed) for feed in batches]
        logits = [each["logits"] if isinstance(each, dict) else np.asarray(each) for each in given]
        found[engine.name] = max(float(np.abs(a - b).max()) for a, b in zip(logits, wanted, strict=True))
    return found


def add_encoder(out: Path, name: str, entry: Mapping[str, Any]) -> None:
    """Write an encoder's entry into a file of results, beside those of others."""
    known = json.loads(out.read_bytes()) if out.is_file() else {"encoders": {}}
    write_json(out, {"encoders": known["encoders"] | {name: entry}})


def main() -> None:
    """Measure, print and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--optimum", help="python of an environment with optimum-onnx")
    parser.add_argument("--encoders", default=",".join(ENCODERS), help="comma-separated")
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    for name in given.encoders.split(","):
        entry = measured(name, given.optimum, MinSamples(given.runs, given.seconds))
        entry["machine"] = describe_machine() | {
            "threads": THREADS,
            "versions": {each: version(each) for each in ("onnxruntime-gpu", "openvino", "nncf", "torch")},
        }
        add_encoder(given.out, name, entry)
        print(json.dumps(entry["best"], indent=1))


if __name__ == "__main__":
    main()
