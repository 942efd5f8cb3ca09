"""Data as people have it: decoding beside transformers, the same images in four formats, and a check of 100,000 files.

    python -m benchmarks.data

1. Every mode and EXIF orientation: pixels of our decoder and preprocessing beside Pillow's exif_transpose and CLIP's
   image processor, and images a second of both, in alternating blocks, one thread each.
2. The same images as folder, CSV, shards and data set on disk: equal batches, and images a second of the loader.
3. ``toolkit data check`` on 10,000 and 100,000 files: images a second and peak memory of the whole process.

Writes benchmarks/results/data.json; about ten minutes on two cores.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from PIL import Image, ImageOps
from transformers import CLIPImageProcessorPil

from benchmarks.peak_memory import high_water
from toolkit.data.dataset import ImageDataset
from toolkit.data.elpv import write_elpv
from toolkit.data.sharding import write_shards
from toolkit.data.source import DataSource, open_data
from toolkit.files import write_json
from toolkit.models.processing import preprocess_from
from toolkit.recipe.data import DataConfig
from toolkit.runtime.decode import decode
from toolkit.runtime.machine import describe_machine

RESULTS = Path(__file__).parent / "results" / "data.json"
IMAGES, BLOCKS, FILES = 24, 5, 100_000
TINT = (1.0, 0.8, 0.6)
MODES = {
    "1": "PNG",
    "L": "PNG",
    "LA": "PNG",
    "P": "PNG",
    "P with transparency": "PNG",
    "RGB": "JPEG",
    "RGB as PNG": "PNG",
    "RGBA": "PNG",
    "CMYK": "JPEG",
    "YCbCr": "TIFF",
    "LAB": "TIFF",
    "I;16": "PNG",
}


def encoded(image: Image.Image, mode: str, orientation: int) -> bytes:
    """An elpv image as a file of a mode and an EXIF orientation."""
    rgb = Image.merge("RGB", [image.point([round(v * share) for v in range(256)]) for share in TINT])
    alpha = image.point([255 if v > 100 else 40 for v in range(256)])
    options: dict[str, Any] = {}
    if mode == "I;16":
        made = Image.fromarray(np.asarray(image).astype(np.uint16) * 257)
    elif mode in ("LA", "RGBA"):
        made = (image if mode == "LA" else rgb).convert(mode)
        made.putalpha(alpha)
    elif mode.startswith("P"):
        made = rgb.quantize(64)
        options = {"transparency": 3} if "transparency" in mode else {}
    elif mode in ("1", "L"):
        made = image.convert(mode)
    elif mode == "LAB":
        from PIL import ImageCms

        profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        made = ImageCms.applyTransform(rgb, ImageCms.buildTransform(*profiles, "RGB", "LAB"))
    else:
        made = rgb.convert(mode.partition(" ")[0])
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    made.save(file, MODES[mode], exif=exif, **options)
    return file.getvalue()


def decoding(images: list[Image.Image]) -> list[dict[str, Any]]:
    """A row a mode: whether all pixels are equal in all orientations, and images a second of both."""
    processor = CLIPImageProcessorPil()
    preprocess = preprocess_from(processor)
    rows = []
    for mode, file_format in MODES.items():
        files = [encoded(image, mode, index % 8 + 1) for index, image in enumerate(images)]

        def ours(content: bytes) -> Any:
            return preprocess(decode(content, grey=True))

        def theirs(content: bytes) -> Any:
            with Image.open(io.BytesIO(content)) as image:
                return processor(images=ImageOps.exif_transpose(image), return_tensors="np")["pixel_values"][0]

        def reference(content: bytes) -> Any:
            return processor(images=decode(content), return_tensors="np")["pixel_values"][0]

        equal = all(np.array_equal(ours(content), theirs(content)) for content in files)
        processed = all(np.array_equal(ours(content), reference(content)) for content in files)
        speeds = alternate({"ours": ours, "transformers": theirs}, files)
        row = {"mode": mode, "format": file_format, "orientations": 8, "images": len(files)}
        rows.append(row | {"equal_to_transformers": equal, "equal_after_our_decoding": processed} | speeds)
        print(rows[-1], file=sys.stderr, flush=True)
    return rows


def alternate(engines: dict[str, Callable[[bytes], Any]], files: list[bytes]) -> dict[str, Any]:
    """Median images a second of each, in alternating blocks."""
    speeds: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(BLOCKS):
        for name, engine in engines.items():
            started = time.perf_counter()
            for content in files:
                engine(content)
            speeds[name].append(len(files) / (time.perf_counter() - started))
    median = {name: statistics.median(values) for name, values in speeds.items()}
    return {"images_per_second": median, "ratio": median["ours"] / median["transformers"]}


def formats(folder: Path, work: Path) -> list[dict[str, Any]]:
    """A row a format: hash over all batches of an epoch, and images a second of reading them."""
    files = sorted(folder.rglob("*.png"))
    with (work / "manifest.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "label", "split"])
        table.writerows([file, file.parent.name, file.parent.parent.name] for file in files)
    write_shards(DataConfig(path=folder), work / "shards")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")})
    parts = {}
    for split in ("train", "val", "test"):
        mine = [file for file in files if file.parent.parent.name == split]
        content = [{"bytes": file.read_bytes(), "path": None} for file in mine]
        columns = {"image": content, "label": [file.parent.name for file in mine]}
        parts[split] = datasets.Dataset.from_dict(columns, features=features)
    datasets.DatasetDict(parts).save_to_disk(work / "set")
    places = {"folder": folder, "csv": work / "manifest.csv", "shards": work / "shards", "datasets": work / "set"}
    sources = {name: open_data(DataConfig(path=path)) for name, path in places.items()}
    speeds: dict[str, list[float]] = {name: [] for name in sources}
    digests: dict[str, str] = {}
    for _ in range(BLOCKS):
        for name, source in sources.items():
            digests[name], speed = read_epoch(source)
            speeds[name].append(speed)
    return [
        {
            "format": name,
            "batches_sha256": digests[name],
            "fingerprint": source.fingerprint,
            "images": len(source.splits["train"]),
            "images_per_second": statistics.median(speeds[name]),
        }
        for name, source in sources.items()
    ]


def read_epoch(source: DataSource) -> tuple[str, float]:
    """SHA-256 over the pixels and labels of the training split in batches of 32, and images a second."""
    dataset = ImageDataset(source.splits["train"], preprocess_from(CLIPImageProcessorPil()))
    digest, seconds = hashlib.sha256(), 0.0
    for first in range(0, len(dataset), 32):
        batch = dataset.__getitems__([(1, index) for index in range(first, min(first + 32, len(dataset)))])
        seconds += batch["seconds"]
        digest.update(batch["pixel_values"].numpy())
        digest.update(batch["labels"].numpy())
    return digest.hexdigest(), len(dataset) / seconds


def write_many(images: list[Image.Image], to: Path, count: int) -> None:
    """So many PNG files of 64x64 pixels, all different: windows of elpv's cells, turned and mirrored."""
    rng = np.random.default_rng(0)
    for index in range(count):
        image = images[int(rng.integers(len(images)))]
        left, top = (int(value) for value in rng.integers(0, 236, 2))
        folder = to / f"class {index % 10}" / f"{index // 1000:03d}"
        folder.mkdir(parents=True, exist_ok=True)
        image.crop((left, top, left + 64, top + 64)).rotate(90 * int(rng.integers(4))).save(folder / f"{index:06d}.png")


def check(path: Path) -> dict[str, Any]:
    """Run ``toolkit data check`` as a user does."""
    command = [sys.executable, "-m", "toolkit.cli.main", "data", "check", str(path), "--json"]
    started, peak = time.perf_counter(), 0
    with tempfile.TemporaryFile() as output, subprocess.Popen(command, stdout=output) as child:
        while child.poll() is None:
            peak = max(peak, high_water(child.pid))
            time.sleep(0.02)
        seconds = time.perf_counter() - started
        output.seek(0)
        report = json.load(output)
    return {
        "images": report["images"],
        "seconds": seconds,
        "images_per_second": report["images"] / seconds,
        "peak_memory_bytes": peak,
        "problems": report["problems"],
    }


def main() -> None:
    """Measure all three, print and write the JSON."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        write_elpv(work / "elpv")
        cells = [Image.open(path).convert("L") for path in sorted((work / "elpv").rglob("*.png"))]
        found: dict[str, Any] = {"decoding": decoding(cells[:IMAGES]), "formats": formats(work / "elpv", work)}
        found["check"] = []
        for count in (FILES // 10, FILES):
            write_many(cells, work / str(count), count)
            found["check"].append(check(work / str(count)))
            print(found["check"][-1], file=sys.stderr, flush=True)
    write_json(RESULTS, found | {"machine": describe_machine()})


if __name__ == "__main__":
    main()
