"""The exported graph beside optimum's: speed, exactness, export, proof, bisection, verification.

    python -m benchmarks.fused_graph --optimum ENV/bin/python

ENV is an environment of its own with optimum-onnx (pip install "optimum-onnx[onnxruntime]"), whose
optimum-cli exports transformers' CLIPForImageClassification of ViT-B/32's size; both graphs run in
this environment's ONNX Runtime, two threads, in alternating re-warmed blocks. Weights are random:
speed and exactness don't depend on their values. Writes benchmarks/results/fused_graph.json; takes about
twenty minutes on two cores that do nothing else.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from onnx import TensorProto, helper
from PIL import Image
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

from export.bundle import export_bundle
from export.graph.builder import IR_VERSION, OPSET, GraphBuilder, Scope
from export.graph.classifier_graph import build_graph
from export.graph.external_data import save_graph
from export.graph.preprocessing import add_preprocessing
from export.parity.prove import prove
from export.parity.reference import Reference
from export.prove_bundle import bisect_bundle, prove_again
from recipes.finetune import finetune
from toolkit.data.digits import write_digits
from toolkit.data.elpv import write_elpv
from toolkit.files import write_json
from toolkit.models.processing import preprocess_from
from toolkit.recipe.recipe import Recipe
from toolkit.runs.finished_run import Run
from toolkit.runtime.bundle import Bundle
from toolkit.runtime.decode import decode
from toolkit.runtime.machine import describe_machine
from toolkit.runtime.preprocess import Preprocess
from toolkit.runtime.session import Session

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "fused_graph.json"
PARTS = ("preprocessing", "export", "latency", "verification", "cost_of_parity", "many_images", "bisections")
THREADS, BLOCKS = 2, 10
OPTIMUM_MODEL = """
import sys, torch
from transformers import CLIPConfig, CLIPForImageClassification, CLIPImageProcessor
torch.manual_seed(0)
config = CLIPConfig(vision_config={"patch_size": 32})
config.num_labels = 2
CLIPForImageClassification(config).save_pretrained(sys.argv[1])
CLIPImageProcessor().save_pretrained(sys.argv[1])
"""
OUR_EXPORT = """
import sys
from pathlib import Path
from export.graph.external_data import save_graph
from export.graph.classifier_graph import build_graph
from toolkit.runs.finished_run import Run
from toolkit.models.processing import preprocess_from
run = Run(Path(sys.argv[1]))
save_graph(build_graph(run.classifier, preprocess_from(run.processor), run.provenance()), Path(sys.argv[2]))
"""
MODES = {"RGB": "jpg", "L": "png", "LA": "png", "P": "png", "RGBA": "png", "CMYK": "jpg", "1": "png"}


def make_run(work: Path) -> Path:
    """A ViT-B/32-sized run on elpv: the head learns for an epoch on a few images, the test split is whole."""
    torch.manual_seed(0)
    CLIPModel(CLIPConfig(text_config={"num_hidden_layers": 1})).save_pretrained(work / "encoder")
    CLIPImageProcessorPil().save_pretrained(work / "encoder")
    write_elpv(work / "elpv")
    for split in ("train", "val"):
        for folder in sorted((work / "elpv" / split).iterdir()):
            for path in sorted(folder.iterdir())[16:]:
                path.unlink()
    recipe = {
        "data": {"path": work / "elpv"},
        "model": {"encoder": str(work / "encoder"), "unfreeze_last": 0},
        "training": {"epochs": 1, "batch_size": 16, "boundary_cache": {"enabled": True}},
        "tracking": {"trackers": []},
    }
    finetune(Recipe.model_validate(recipe), work / "run")
    return work / "run"


def seconds_of(command: Sequence[str | Path], runs: int) -> dict[str, Any]:
    """Wall time of a whole process."""
    times = []
    for _ in range(runs):
        started = time.perf_counter()
        subprocess.run([str(part) for part in command], check=True, capture_output=True, cwd=ROOT)
        times.append(time.perf_counter() - started)
    return {"median_seconds": statistics.median(times), "seconds": times}


def preprocessing() -> dict[str, Any]:
    """CLIP's preprocessing in three forms, p50 in ms, and how far the graphs are off the processor."""
    processor = CLIPImageProcessorPil()
    preprocess = preprocess_from(processor)
    builder = GraphBuilder()
    add_preprocessing(builder, preprocess)
    exact, by_resize = (open_session(part(each)) for each in (builder, resize_graph(preprocess)))
    rows: dict[str, Any] = {}
    for height, width in ((300, 300), (480, 640), (1080, 1920), (3000, 4000)):
        pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
        image, batch = Image.fromarray(pixels), {"image": pixels[None]}
        engines: dict[str, Callable[[], Any]] = {
            "exact": partial(exact.run, None, batch),
            "Resize": partial(by_resize.run, None, batch),
            "processor": partial(processor, images=image, return_tensors="np"),
        }
        wanted = engines["processor"]()["pixel_values"]
        off = {name: float(np.abs(engines[name]()[0] - wanted).max()) for name in ("exact", "Resize")}
        times = alternate(engines, 20 if height < 1000 else 4, beside="processor")
        rows[f"{height}x{width}"] = times | {"max_pixel_value_off": off}
    return rows


def part(builder: GraphBuilder) -> bytes:
    """A graph from ``image`` to ``pixel_values``."""
    entry = helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", "height", "width", 3])
    result = helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, ["batch", 3, 224, 224])
    graph = helper.make_graph(builder.nodes, "part", [entry], [result], list(builder.initializers.values()))
    opsets = [helper.make_opsetid("", OPSET)]
    content: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION).SerializeToString()
    return content


def resize_graph(preprocess: Preprocess) -> GraphBuilder:
    """CLIP's preprocessing by ONNX's Resize on uint8, the nearest to Pillow that it has."""
    builder = GraphBuilder()
    add = Scope(builder, "resize")
    planes = add("Transpose", "image", perm=[0, 3, 1, 2])
    sides = add("Shape", planes, start=2, end=4)
    shorter = add("ReduceMin", sides, keepdims=1)
    new = add("Div", add("Mul", sides, add.integers(preprocess.size[0])), shorter)
    size = add("Concat", add("Shape", planes, start=0, end=2), new, axis=0)
    filtered = {"mode": "cubic", "cubic_coeff_a": -0.5, "antialias": 1, "exclude_outside": 1}
    resized = add("Resize", planes, "", "", size, **filtered)
    first = add("Div", add("Sub", new, add.integers(224)), add.integers(2))
    cropped = add("Slice", resized, first, add("Add", first, add.integers(224)), add.integers(2, 3))
    values = add("Div", add("Cast", cropped, to=TensorProto.FLOAT), add.single(255.0))
    mean, std = (add.single(np.reshape(value, (3, 1, 1))) for value in (preprocess.mean, preprocess.std))
    add("Div", add("Sub", values, mean), std, name="pixel_values")
    return builder


def export_times(work: Path, run: Path, optimum: Path) -> dict[str, Any]:
    """Both exports without a proof, as whole processes, in turns."""
    subprocess.run([optimum, "-c", OPTIMUM_MODEL, work / "optimum-model"], check=True, capture_output=True)
    theirs = [optimum.parent / "optimum-cli", "export", "onnx", "--no-post-process", "--task", "image-classification"]
    theirs += ["--model", work / "optimum-model", work / "optimum"]
    turns: dict[str, list[float]] = {"ours": [], "optimum": []}
    for _ in range(3):
        turns["ours"] += seconds_of([sys.executable, "-c", OUR_EXPORT, run, work / "ours.onnx"], 1)["seconds"]
        turns["optimum"] += seconds_of(theirs, 1)["seconds"]
    medians = {name: statistics.median(times) for name, times in turns.items()}
    return {"seconds": turns, "median_seconds": medians, "ratio": medians["ours"] / medians["optimum"]}


def open_session(model: Path | bytes) -> ort.InferenceSession:
    """A session with the options that ours has."""
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = THREADS, 1
    source = model if isinstance(model, bytes) else str(model)
    return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def alternate(engines: dict[str, Callable[[], object]], runs: int, beside: str = "optimum") -> dict[str, Any]:
    """p50 in milliseconds of each engine, in alternating re-warmed blocks, and the ratio to one of them."""
    times: dict[str, list[float]] = {name: [] for name in engines}
    for block in range(BLOCKS):
        order = list(engines) if block % 2 == 0 else list(reversed(engines))
        for name in order:
            for _ in range(3):
                engines[name]()
            for _ in range(runs):
                started = time.perf_counter()
                engines[name]()
                times[name].append((time.perf_counter() - started) * 1000)
    p50 = {name: statistics.median(values) for name, values in times.items()}
    spread = {name: [float(np.percentile(values, q)) for q in (10, 90)] for name, values in times.items()}
    ratios = {name: value / p50[beside] for name, value in p50.items() if name != beside}
    return {"p50_ms": p50, "p10_p90_ms": spread, f"ratio_to_{beside}": ratios, "runs": runs * BLOCKS}


def latency(work: Path, run: Run) -> dict[str, Any]:
    """The network alone at batch 1 and 8, and from a 480x640 JPEG to probabilities."""
    preprocess = Bundle(work / "bundle").preprocess
    save_graph(build_graph(run.classifier, preprocess, {}, "pixel_values"), work / "pixels.onnx")
    ours, image_graph = Session(work / "pixels.onnx", threads=THREADS), Session(work / "ours.onnx", threads=THREADS)
    theirs, processor = open_session(work / "optimum" / "model.onnx"), CLIPImageProcessorPil()
    (entry,) = (value.name for value in theirs.get_inputs())
    rng = np.random.default_rng(0)
    rows: dict[str, Any] = {}
    for batch, runs in ((1, 20), (8, 5)):
        pixel_values = rng.normal(size=(batch, 3, 224, 224)).astype(np.float32)
        rows[f"network, batch {batch}"] = alternate(
            {
                "ours": lambda x=pixel_values: ours.run({"pixel_values": x}),
                "optimum": lambda x=pixel_values: theirs.run(None, {entry: x}),
            },
            runs,
        )
    files = jpegs(work / "elpv", 32)
    turn = {"ours": 0, "ours, pixels outside": 0, "optimum": 0}

    def next_file(name: str) -> bytes:
        turn[name] += 1
        return files[turn[name] % len(files)]

    def one_graph() -> object:
        return image_graph.run({"image": np.asarray(decode(next_file("ours")))[None]})

    def pixels_outside() -> object:
        return ours.run({"pixel_values": preprocess(decode(next_file("ours, pixels outside"), grey=True))[None]})

    def processor_and_graph() -> object:
        with Image.open(io.BytesIO(next_file("optimum"))) as image:
            pixel_values = processor(images=image.convert("RGB"), return_tensors="np")["pixel_values"]
        return theirs.run(None, {entry: pixel_values})

    engines = {"ours": one_graph, "ours, pixels outside": pixels_outside, "optimum": processor_and_graph}
    rows["480x640 JPEG to probabilities"] = alternate(engines, 20)
    return rows


def jpegs(elpv: Path, count: int) -> list[bytes]:
    """Elpv's cells, tinted, as JPEGs of 640x480."""
    files = []
    for path in sorted((elpv / "test").rglob("*.png"))[:count]:
        with Image.open(path) as image:
            colored = tinted(image.convert("L").resize((640, 480)))
        file = io.BytesIO()
        colored.save(file, "JPEG", quality=90)
        files.append(file.getvalue())
    return files


def tinted(grey: Image.Image) -> Image.Image:
    """A grey image with three different channels."""
    return Image.merge("RGB", [grey.point([round(value * share) for value in range(256)]) for share in (1.0, 0.8, 0.6)])


def write_many_images(work: Path) -> Path:
    """Elpv's and digits' images, and generated files of every mode, orientation and aspects of 1:50 to 50:1."""
    folder = work / "many"
    folder.mkdir()
    write_elpv(work / "elpv-whole")
    write_digits(work / "digits")
    for name, count in (("elpv-whole", 900), ("digits", 500)):
        files = sorted((work / name).rglob("*.png"))
        for number, path in enumerate(files[:: max(1, len(files) // count)][:count]):
            shutil.copyfile(path, folder / f"{name}-{number:04d}.png")
    cells = sorted((work / "elpv-whole").rglob("*.png"))
    rng = np.random.default_rng(0)
    for number in range(700):
        mode = list(MODES)[number % len(MODES)]
        aspect = 50.0 ** rng.uniform(-1, 1)
        side = rng.uniform(40, 400)
        size = (max(1, round(side * aspect**0.5)), max(1, round(side / aspect**0.5)))
        with Image.open(cells[number % len(cells)]) as cell:
            image = Image.merge(
                "RGB", [cell.convert("L").point([round(v * s) for v in range(256)]) for s in (1, 0.7, 0.5)]
            )
        image = image.resize(size, Image.Resampling.BICUBIC).convert(mode)
        exif = Image.Exif()
        exif[0x0112] = number // len(MODES) % 8 + 1
        image.save(folder / f"generated-{number:04d}.{MODES[mode]}", exif=exif)
    return folder


def cost_of_parity(work: Path, run: Run) -> dict[str, Any]:
    """What parity on 256 images takes beside the two engines' own time on them."""
    bundle = Bundle(work / "bundle")
    model = build_graph(run.classifier, bundle.preprocess, {})
    samples, reference = run.held_out(256), Reference(run)
    session = Session(work / "bundle" / "model.onnx", threads=THREADS)
    started = time.perf_counter()
    entry = prove(session, model, bundle.preprocess, reference, samples).entry
    wall, own = time.perf_counter() - started, entry["seconds"]
    engines = own["reference"] + own["graph"]
    return {"images": 256, "seconds": wall, "parts": own, "engines_seconds": engines, "ratio": wall / engines}


def many_images(work: Path, run: Run) -> dict[str, Any]:
    """Parity's entry on more than 2,000 files."""
    folder = write_many_images(work)
    parity = prove_again(Bundle(work / "bundle"), run, provider="cpu", threads=THREADS, folder=folder)
    return dict(parity["results"]["fp32"]["cpu"])


def bisections(work: Path, run: Run) -> list[dict[str, Any]]:
    """Each planted fault, and where it was found."""
    sys.path.insert(0, str(ROOT / "tests" / "export"))
    import planted

    rows = []
    for fault in (planted.wrong_epsilon, planted.overflowing_fp16, planted.swapped_mean_and_std, planted.wrong_crop):
        bundle = Path(shutil.copytree(work / "bundle", work / fault.__name__))
        planted.plant(bundle, fault)
        report = bisect_bundle(Bundle(bundle), run, provider="cpu", threads=THREADS)
        rows.append(
            {"fault": (fault.__doc__ or "").strip(), "found": report["first_fault"], "tensors": report["tensors"]}
        )
        shutil.rmtree(bundle)
    return rows


def verification(work: Path) -> dict[str, Any]:
    """``toolkit verify`` as a process, beside a process that creates the session alone."""
    create = f"""
import onnxruntime as ort
options = ort.SessionOptions()
options.intra_op_num_threads, options.inter_op_num_threads = {THREADS}, 1
ort.InferenceSession({str(work / "bundle" / "model.onnx")!r}, options, providers=["CPUExecutionProvider"])
"""
    return {
        "toolkit verify": seconds_of([Path(sys.executable).parent / "toolkit", "verify", work / "bundle"], 7),
        "session creation alone": seconds_of([sys.executable, "-c", create], 7),
    }


def main() -> None:
    """Measure all, print and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--optimum", type=Path, required=True, help="python of an environment with optimum-onnx")
    parser.add_argument("--parts", default=",".join(PARTS), help="which to measure; the others stay as they were")
    given = parser.parse_args()
    optimum, parts = given.optimum.absolute(), given.parts.split(",")
    torch.set_num_threads(THREADS)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        run = Run(make_run(work))
        export_bundle(run, work / "bundle", threads=THREADS)
        names = ["optimum", "optimum-onnx", "torch", "transformers", "onnx"]
        script = f"from importlib.metadata import version\nprint(*(version(n) for n in {names}))"
        versions = subprocess.run([optimum, "-c", script], check=True, capture_output=True, text=True).stdout.split()
        found: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        found["optimum_environment"] = dict(zip(names, versions, strict=True))
        exported = export_times(work, run.path, optimum)  # writes the graphs that latency compares
        measures: dict[str, Callable[[], Any]] = {
            "preprocessing": preprocessing,
            "export": lambda: exported,
            "latency": lambda: latency(work, run),
            "verification": lambda: verification(work),
            "cost_of_parity": lambda: cost_of_parity(work, run),
            "many_images": lambda: many_images(work, run),
            "bisections": lambda: bisections(work, run),
        }
        for part in parts:
            found[part] = measures[part]()
            print(part, json.dumps(found[part]), file=sys.stderr, flush=True)
    libraries = {name: version(name) for name in ("torch", "transformers", "onnx", "onnxruntime-gpu", "pillow")}
    write_json(RESULTS, found | {"threads": THREADS, "machine": describe_machine() | {"versions": libraries}})


if __name__ == "__main__":
    main()
