"""The test images of image libraries, damaged ones among them: predict, data check and a training in one call each.

    python -m benchmarks.image_suites pillow=Tests/images libavif=... libpng=... libjpeg-turbo=... libwebp=...

Each argument is a name and a folder; none of the images is part of this repository. Every file with an image's suffix,
and every one that begins like an image, is linked into a data set of two classes (by its hash), then, in processes of
their own: ``toolkit data check``, ``toolkit train`` with ``data.on_bad_image=skip``, ``toolkit export``,
``toolkit verify``, and ``toolkit predict`` over all. Beside the labels of ``predict`` stand those of Pillow,
transformers' image processor and PyTorch, called without the toolkit's decoder.

Writes benchmarks/results/image_suites.json; about ten minutes on two cores.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
from PIL import Image, ImageOps, features

from benchmarks.peak_memory import high_water
from toolkit.files import write_json
from toolkit.models.build import load_classifier
from toolkit.runtime.image_files import images_below
from toolkit.runtime.machine import describe_machine

RESULTS = Path(__file__).parent / "results" / "image_suites.json"
LONGEST = 900
"""Seconds after which a command counts as hanging."""
WHITE = 65535
"""What the training reads as white in files of more than 8 bits; black is 0."""
RECIPE = (
    "model.encoder=tiny-clip",
    "model.unfreeze_last=1",
    "training.epochs=1",
    "training.batch_size=32",
    "training.learning_rate=0.001",
)
LISTED = 12
"""Images that are named of each kind."""


def run(*arguments: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A command of ``toolkit``: how it went, and the JSON that it printed."""
    command = [sys.executable, "-m", "toolkit", *arguments]
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as messages:
        started, peak = time.perf_counter(), 0
        child = subprocess.Popen(command, stdout=output, stderr=messages)
        while child.poll() is None:
            peak = max(peak, high_water(child.pid))
            if time.perf_counter() - started > LONGEST:
                child.kill()
            time.sleep(0.02)
        seconds = time.perf_counter() - started
        output.seek(0)
        messages.seek(0)
        printed, said = output.read(), messages.read().decode(errors="replace")
    went = {
        "command": " ".join(arguments[:2]) if arguments[0] == "data" else arguments[0],
        "exit_code": child.returncode,
        "traceback": "Traceback (most recent call last)" in said,
        "hung": seconds > LONGEST,
        "seconds": round(seconds, 1),
        "peak_memory_mb": peak >> 20,
    }
    print(went, file=sys.stderr, flush=True)
    if went["traceback"] or not printed or (went["exit_code"] and arguments[0] in ("train", "export")):
        sys.exit(said[-3000:])
    return went, json.loads(printed) if printed else {}


def link(folders: Mapping[str, Path], data: Path) -> dict[str, int]:
    """Link every image into ``data/CLASS``; images of each suite."""
    counts = {}
    for name, folder in folders.items():
        files = images_below(folder).names
        counts[name] = len(files)
        for number, file in enumerate(files):
            path = Path(file).absolute()
            label = "even" if hashlib.sha256(path.read_bytes()).digest()[0] % 2 == 0 else "odd"
            (data / label).mkdir(parents=True, exist_ok=True)
            (data / label / f"{name}-{number:04d}-{path.name}").symlink_to(path)
    return counts


def reason(text: str) -> str:
    """A reason without its numbers and addresses, to count it."""
    return re.sub(r"\d[\d,.]*", "N", re.sub(r"0x[0-9a-f]+", "N", text))


def by_pillow(path: Path) -> tuple[Image.Image, bool]:
    """Upright RGB by Pillow alone, and whether greys of more than 8 bits were scaled by numpy."""
    image: Image.Image = Image.open(path)
    image.load()
    deep = image.mode in ("I", "F") or image.mode.startswith("I;16")
    if deep:
        values, hidden = np.asarray(image).astype(np.float64), image.info.get("transparency")
        pixels = np.rint(np.clip(values, 0, WHITE) * (255 / WHITE))
        image = Image.fromarray(np.where(values == hidden, 255, pixels).astype(np.uint8))
    else:
        image = ImageOps.exif_transpose(image)
    if "A" in image.getbands() or image.info.get("transparency") is not None:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB"), deep


def in_pillows_units(path: Path, deep: bool) -> bool:
    """Whether Pillow hands out the file's own values.

    It scales JPEG 2000 and PGM of more than 8 bits to 16, and takes a TIFF's signed bytes for unsigned ones.
    """
    with Image.open(path) as image:
        signed = image.format == "TIFF" and 2 in np.atleast_1d(image.tag_v2.get(339, 1))  # type: ignore[attr-defined]
        return not (signed or (deep and image.format in ("JPEG2000", "PPM")))


def compare(entries: Sequence[Mapping[str, Any]], run_folder: Path) -> dict[str, Any]:
    """Labels of ``predict`` beside Pillow's, the processor's and PyTorch's on the same files."""
    classifier, processor = load_classifier(run_folder / "best")
    kinds: dict[str, Counter[str]] = {
        "up to 8 bits": Counter(),
        "greys of more than 8 bits": Counter(),
        "other units": Counter(),
    }
    others: dict[str, list[str]] = {"other_labels": [], "predicted_alone": [], "refused_alone": []}
    largest = 0.0
    for entry in entries:
        path = Path(entry["path"])
        try:
            pixels, deep = by_pillow(path)
            values = processor(images=[pixels], return_tensors="pt")["pixel_values"]
            comparable = in_pillows_units(path, deep)
        except Exception as error:  # the independent path has no boundary: whatever Pillow raises
            if "label" in entry:
                others["predicted_alone"].append(f"{path.name}: {type(error).__name__}: {error}")
            continue
        if "label" not in entry:
            others["refused_alone"].append(f"{path.name}: {entry['error']}")
            continue
        if not comparable:
            kinds["other units"]["not compared"] += 1
            continue
        with torch.inference_mode():
            probabilities = classifier.probabilities(classifier.reference_logits(values))[0].numpy()
        difference = abs(float(probabilities.max()) - max(entry["probabilities"].values()))
        same = classifier.labels[int(probabilities.argmax())] == entry["label"]
        kind = "greys of more than 8 bits" if deep else "up to 8 bits"
        kinds[kind]["compared"] += 1
        kinds[kind]["same_label"] += same
        if not deep:
            largest = max(largest, difference)
        if not same:
            others["other_labels"].append(f"{path.name}: {difference:.1e}")
    counted = {name: {"count": len(listed), "some": listed[:LISTED]} for name, listed in others.items()}
    return {
        "by_kind": {kind: dict(found) for kind, found in kinds.items()},
        "largest_probability_difference": largest,
    } | counted


def main() -> None:
    """Run all commands over all suites, print and write the JSON."""
    parser = argparse.ArgumentParser(description="Test images of image libraries through the toolkit.")
    parser.add_argument("suites", nargs="+", metavar="NAME=FOLDER")
    suites = {name: Path(folder) for name, _, folder in (text.partition("=") for text in parser.parse_args().suites)}
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as work:
        data, trained, bundle = Path(work) / "data", Path(work) / "run", Path(work) / "bundle"
        counts = link(suites, data)
        scale = f"value_range=[0, {WHITE}]"
        recipe = Path(work) / "recipe.yaml"
        recipe.write_text(f"data:\n  path: {data}\n  on_bad_image: skip\n  {scale.replace('=', ': ')}\n")
        check, checked = run("data", "check", str(data), scale, "--json")
        train, summary = run("train", str(recipe), "--out", str(trained), *RECIPE, "--json")
        export, _ = run("export", "--onnx", str(trained), "--out", str(bundle), "--json")
        verify, verified = run("verify", str(bundle), "--json")
        predict, predicted = run("predict", str(bundle), str(data), "--json")
        entries = predicted["predictions"]
        refused = [entry for entry in entries if "error" in entry]
        found = {
            "suites": counts,
            "commands": [check, train, export, verify, predict],
            "images": len(entries),
            "predicted": len(entries) - len(refused),
            "unreadable": {
                "predict": len(refused),
                "data check": len(checked["unreadable"]),
                "train": summary.get("images_skipped", summary.get("skipped")),
            },
            "unreadable_by_suite": dict(
                Counter(re.split(r"-\d{4}-", Path(entry["path"]).name)[0] for entry in refused)
            ),
            "reasons": dict(Counter(reason(entry["error"]) for entry in refused).most_common()),
            "verified": verified.get("passed"),
            "independent_path": compare(entries, trained),
            "versions": {"pillow": PIL.__version__, "torch": torch.__version__}
            | {name: features.version(name) for name in ("avif", "webp", "jpg", "zlib", "libtiff", "jpg_2000")},
        }
    write_json(RESULTS, found | {"machine": describe_machine()})
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
