"""Scoring an archive of photographs beside what the cores allow, its memory, and ten kills.

    python -m benchmarks.scoring [--images 20000] [--more 200000]

Photographs of 480x640 pixels are made from the pixels of elpv's solar cells: a few hundred JPEG files, and links to
them under as many names as are asked for. A ViT-B/32 of random weights (speed does not depend on their values) scores
them in int8. Core-seconds of reading and decoding, of preprocessing and of the network are measured apart, on a sample,
with one thread each, before and after the job; their mean sum over the cores is the least that the job can take. Then:
peak memory at --images and at --more rows, by the embedded tiny encoder, whose rows come faster; and ten kills at
random moments, after which every image must be there exactly once. Writes benchmarks/results/scoring.json; about 20
minutes on two cores that do nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.parquet
from PIL import Image

import toolkit
from benchmarks.fused_graph import make_run
from toolkit.data.elpv import write_elpv
from toolkit.files import write_json
from toolkit.runtime.bundle import Bundle
from toolkit.runtime.examples import decoded_source
from toolkit.runtime.inputs import stacked
from toolkit.runtime.machine import describe_machine, usable_cores
from toolkit.runtime.network_size import network_sized

RESULTS = Path(__file__).parent / "results" / "scoring.json"
DISTINCT, FOLDERS, SAMPLE = 256, 100, 64
KILLS, KILL_ROWS = 10, 50


def photographs(work: Path) -> list[Path]:
    """JPEG files of 480x640 pixels in colour."""
    write_elpv(work / "cells")
    (work / "photos").mkdir()
    rng, found = np.random.default_rng(0), []
    files = sorted((work / "cells" / "train").glob("*/*"))
    for number in range(DISTINCT):
        with Image.open(files[number % len(files)]) as image:
            large = np.asarray(image.convert("RGB").resize((640, 480), Image.Resampling.BICUBIC), np.float32)
        tinted = np.clip(large * rng.uniform(0.6, 1.2, 3) + rng.normal(0, 6, large.shape), 0, 255).astype(np.uint8)
        found.append(work / "photos" / f"{number:04d}.jpg")
        Image.fromarray(tinted).save(found[-1], quality=90)
    return found


def archive(work: Path, originals: list[Path], images: int) -> Path:
    """Links to photographs, some hundred folders of them."""
    root = work / f"archive-{images}"
    for place in range(FOLDERS):
        (root / f"{place:03d}").mkdir(parents=True)
    for number in range(images):
        os.link(originals[number % len(originals)], root / f"{number % FOLDERS:03d}" / f"{number:08d}.jpg")
    return root


def core_seconds(bundle: Bundle, originals: list[Path]) -> dict[str, float]:
    """Of an image, by stage, one thread each; the best of three turns."""
    session = bundle.session(precision="int8", threads=1)
    contents = [path.read_bytes() for path in originals[:SAMPLE]]
    found: dict[str, float] = {}
    for _ in range(3):
        marks = [time.perf_counter()]
        images = [decoded_source(bundle.preprocess, content, grey=session.input != "image") for content in contents]
        marks.append(time.perf_counter())
        inputs = [network_sized(session.input, bundle.preprocess, image) for image in images]
        marks.append(time.perf_counter())
        for start in range(0, SAMPLE, 8):
            session.run(stacked(inputs[start : start + 8]))
        marks.append(time.perf_counter())
        for stage, seconds in zip(("decode", "preprocess", "network"), np.diff(marks), strict=True):
            found[stage] = min(found.get(stage, np.inf), float(seconds) / SAMPLE)
    return found


def scored(bundle: Path, place: Path, out: Path, *options: str) -> dict[str, Any]:
    """One call in a process of its own, with its largest resident memory."""
    command = [sys.executable, "-m", "toolkit", "predict", str(bundle), "--input", str(place), "--out", str(out)]
    with subprocess.Popen([*command, "--json", *options], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
        process, peak = psutil.Process(child.pid), 0
        while child.poll() is None:
            with_children = [process, *process.children(recursive=True)]
            try:
                peak = max(peak, sum(each.memory_info().rss for each in with_children))
            except psutil.NoSuchProcess:
                continue
            time.sleep(0.2)
        assert child.stdout is not None
        summary: dict[str, Any] = json.loads(child.stdout.read())
    return summary | {"peak_resident_mib": peak / 2**20}


def killed(bundle: Path, place: Path, out: Path) -> dict[str, Any]:
    """Ten kills at random moments, then the end, and what lies there."""
    rng, command = np.random.default_rng(0), [sys.executable, "-m", "toolkit", "predict", str(bundle)]
    command += ["--input", str(place), "--out", str(out), "--shard-rows", str(KILL_ROWS)]
    kills, images = 0, sum(1 for _ in place.rglob("*.jpg"))
    while kills < KILLS:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(timeout=float(rng.uniform(1.0, 4.0)))
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
        else:
            break
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    paths: list[str] = []
    for part in sorted(out.glob("part-*.parquet")):
        paths += pyarrow.parquet.read_table(part, columns=["path"])["path"].to_pylist()
    return {"kills": kills, "images": images, "rows": len(paths), "distinct": len(set(paths))}


def main() -> None:
    """Measure, print and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--more", type=int, default=200_000)
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        originals = photographs(work)
        toolkit.export(make_run(work), out=work / "bundle", precision=("int8",))
        tiny = toolkit.zero_shot("tiny-clip", ["a cell", "a crack"], out=work / "tiny-run")
        toolkit.export(tiny, out=work / "tiny")
        bundle, cores = Bundle(work / "bundle"), usable_cores()
        place = archive(work, originals, given.images)
        turns = [core_seconds(bundle, originals)]
        summary = scored(work / "bundle", place, work / "scores")
        turns.append(core_seconds(bundle, originals))
        costs = {stage: float(np.mean([turn[stage] for turn in turns])) for stage in turns[0]}
        least = given.images * sum(costs.values()) / cores
        found: dict[str, Any] = {
            "images": given.images,
            "bytes_an_image": sum(path.stat().st_size for path in originals) / len(originals),
            "core_seconds_an_image": costs,
            "before_and_after": turns,
            "least_seconds": least,
            "seconds": summary["seconds"],
            "share_of_what_the_cores_allow": least / summary["seconds"],
            "images_per_second": summary["images_per_second"],
            "peak_resident_mib": summary["peak_resident_mib"],
        }
        print(json.dumps(found), flush=True)
        few = scored(work / "tiny", place, work / "tiny-few")
        many = scored(work / "tiny", archive(work, originals, given.more), work / "tiny-many")
        found["memory"] = {
            str(each["images"]): {key: each[key] for key in ("peak_resident_mib", "images_per_second")}
            for each in (few, many)
        } | {"ratio": many["peak_resident_mib"] / few["peak_resident_mib"]}
        print(json.dumps(found["memory"]), flush=True)
        found["kills"] = killed(work / "tiny", archive(work, originals, 4_000), work / "killed")
        print(json.dumps(found["kills"]), flush=True)
        write_json(given.out, found | {"machine": describe_machine()})


if __name__ == "__main__":
    main()
