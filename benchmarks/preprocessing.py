"""Preprocessing beside the Hugging Face processor: milliseconds an image, and whether the pixels are identical.

    python -m benchmarks.preprocessing

Real images of elpv (grey), the same tinted, and enlarged; CLIP's processor. Alternating blocks of
64 images: called one by one with decoded images, and from files, as training reads them (a batch
on all usable cores) beside the processor called for each file. Writes
benchmarks/results/preprocessing.json; takes half a minute.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from transformers import CLIPImageProcessorPil

from toolkit.data.dataset import ImageDataset
from toolkit.data.elpv import write_elpv
from toolkit.data.labelled_image import LabelledImage
from toolkit.data.listing import WholeFile
from toolkit.files import write_json
from toolkit.models.processing import preprocess_from
from toolkit.runtime.decode import decode
from toolkit.runtime.machine import describe_machine

RESULTS = Path(__file__).parent / "results" / "preprocessing.json"
IMAGES, BLOCKS = 64, 21
TINTS = ((1.0, 0.8, 0.6), (0.5, 1.0, 0.9), (0.9, 0.6, 1.0))


def alternate(ours: Callable[[], object], theirs: Callable[[], object]) -> dict[str, Any]:
    """Median milliseconds an image of both, in alternating blocks."""
    times: dict[str, list[float]] = {"ours": [], "processor": []}
    for _ in range(BLOCKS):
        for engine, call in (("ours", ours), ("processor", theirs)):
            started = time.perf_counter()
            call()
            times[engine].append((time.perf_counter() - started) / IMAGES * 1000)
    median = {engine: statistics.median(values) for engine, values in times.items()}
    return {"milliseconds": median, "ratio": median["ours"] / median["processor"]}


def main() -> None:
    """Measure, print and write."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    processor = CLIPImageProcessorPil()
    preprocess = preprocess_from(processor)
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        write_elpv(work / "elpv")
        grey = [Image.open(file).copy() for file in sorted((work / "elpv" / "train").rglob("*.png"))[:IMAGES]]
        tinted = [
            Image.fromarray((np.asarray(image)[..., None] * TINTS[index % 3]).astype(np.uint8))
            for index, image in enumerate(grey)
        ]
        for name, images in {
            "elpv (grey, 300x300)": grey,
            "tinted (300x300)": tinted,
            "tinted and enlarged (640x480)": [image.resize((640, 480)) for image in tinted],
        }.items():
            files = [work / f"{index}.png" for index in range(IMAGES)]
            for image, file in zip(images, files, strict=True):
                image.save(file)
            dataset = ImageDataset([LabelledImage(file, 0, WholeFile(str(file))) for file in files], preprocess)
            keys = [(1, index) for index in range(IMAGES)]
            equal = all(
                np.array_equal(
                    preprocess(decode(file, grey=True)),
                    processor(Image.open(file), return_tensors="np")["pixel_values"][0],
                )
                for file in files
            )
            rows[name] = {
                "identical_pixels": equal,
                "called one by one": alternate(
                    lambda images=images: [preprocess(image) for image in images],  # type: ignore[misc]
                    lambda images=images: [processor(image, return_tensors="pt") for image in images],  # type: ignore[misc]
                ),
                "from files, as training reads them": alternate(
                    lambda dataset=dataset, keys=keys: dataset.__getitems__(keys),  # type: ignore[misc]
                    lambda files=files: [processor(Image.open(file), return_tensors="pt") for file in files],  # type: ignore[misc]
                ),
            }
    write_json(RESULTS, {"machine": describe_machine(), "images": IMAGES, "blocks": BLOCKS, "rows": rows})
    print(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
