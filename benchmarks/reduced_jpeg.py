"""What decoding JPEGs at the scale that the network needs saves: decode and resize to 224 pixels, one thread.

    python -m benchmarks.reduced_jpeg

Photographs of solar cells (elpv), tinted and enlarged, as JPEGs of three sizes; CLIP's preprocessing from a file's
content to ``pixel_values``, in full and as ``toolkit tune --reduced-jpeg`` lets it, beside transformers' processor, in
alternating blocks. Writes benchmarks/results/reduced_jpeg.json; takes a minute and a half.
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from transformers import CLIPImageProcessorPil

from benchmarks.fused_graph import tinted
from export.latency.measure import MinSamples, alternate
from export.latency.runner import Runner
from toolkit.data.elpv import write_elpv
from toolkit.files import write_json
from toolkit.models.processing import preprocess_from
from toolkit.runtime.machine import describe_machine
from toolkit.runtime.reduced_jpeg import ReducedPreprocess

RESULTS = Path(__file__).parent / "results" / "reduced_jpeg.json"
SIZES = ((640, 480), (1280, 960), (4032, 3024))
IMAGES = 8


def jpegs(elpv: Path, size: tuple[int, int]) -> list[bytes]:
    """Cells as JPEGs of a size."""
    contents = []
    for path in sorted((elpv / "test").rglob("*.png"))[:IMAGES]:
        with Image.open(path) as image:
            enlarged = tinted(image.convert("L").resize(size, Image.Resampling.BICUBIC))
        file = io.BytesIO()
        enlarged.save(file, "JPEG", quality=90)
        contents.append(file.getvalue())
    return contents


def measured(contents: list[bytes], least: MinSamples) -> list[dict[str, Any]]:
    """Milliseconds an image of each way, and what the reduced one changes of the pixels."""
    processor = CLIPImageProcessorPil()
    full = preprocess_from(processor)
    reduced = ReducedPreprocess.of(full)

    def by_processor(content: bytes) -> Any:
        with Image.open(io.BytesIO(content)) as image:
            return processor(images=image.convert("RGB"), return_tensors="np")["pixel_values"][0]

    ways: dict[str, Callable[[bytes], Any]] = {
        "in full": lambda content: full(full.decoded(content, grey=True)),
        "reduced": lambda content: reduced(reduced.decoded(content, grey=True)),
        "transformers' processor": by_processor,
    }

    def runner(name: str, way: Callable[[bytes], Any]) -> Runner:
        def run(feed: Mapping[str, Any]) -> Any:
            return way(feed["jpeg"])

        return Runner(name, "fp32", "cpu", 1, run)

    engines = [runner(name, way) for name, way in ways.items()]
    pixels = {name: np.stack([way(content) for content in contents]) for name, way in ways.items()}
    times = [samples.row(1) for samples in alternate(engines, [{"jpeg": content} for content in contents], least)]
    return [
        {"way": row["engine"], "p50_ms": row["p50_ms"], "to_in_full": row["p50_ms"] / times[0]["p50_ms"]}
        | {"mean_change_of_a_pixel": float(np.abs(pixels[row["engine"]] - pixels["in full"]).mean())}
        for row in times
    ]


def main() -> None:
    """Measure, print and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=4.0)
    given = parser.parse_args()
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        write_elpv(work / "elpv")
        for width, height in SIZES:
            contents = jpegs(work / "elpv", (width, height))
            rows[f"{width}x{height}"] = measured(contents, MinSamples(given.runs, given.seconds))
            print(json.dumps({f"{width}x{height}": rows[f"{width}x{height}"]}), flush=True)
    write_json(RESULTS, {"machine": describe_machine(), "images": IMAGES, "rows": rows})


if __name__ == "__main__":
    main()
