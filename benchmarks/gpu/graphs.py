"""Where the graphs run, what is copied, what they compute, and what a change of the batch size costs."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from PIL import Image

from benchmarks.gpu.cuda_placement import placed
from benchmarks.gpu.setting import Setting, StageError

INPUTS = ("image", "pixel_values")
SEQUENCE = (1, 2, 7, 32)
COPIES = {"MemcpyToHost": "to_host", "MemcpyFromHost": "to_device"}


def placement(setting: Setting) -> dict[str, Any]:
    """Operators by provider and copies of each graph, beside what the rules foretell of the fp32 ones."""
    found: dict[str, Any] = {}
    for kind in INPUTS:
        bundle = setting.bundle(kind)
        for precision in setting.precisions:
            session = bundle.session(provider=setting.provider, precision=precision, record_nodes=True)
            nodes: dict[str, Counter[str]] = {}
            for node in session.executed_nodes(feed_of(setting, bundle, kind, 2)):
                nodes.setdefault(node.provider, Counter())[node.operator] += 1
            copies = {name: sum(counts[name] for counts in nodes.values()) for name in COPIES}
            found[f"{kind} {precision}"] = {"nodes": {name: dict(each) for name, each in nodes.items()}} | copies
        predicted = placed(onnx.load(bundle.path / bundle.graph_name("fp32")))
        found[f"{kind} foretold"] = {name: getattr(predicted, place) for name, place in COPIES.items()}
    waits = {name: each["MemcpyToHost"] for name, each in found.items() if each["MemcpyToHost"]}
    if waits:
        raise StageError(f"copies to the host, each of which waits for the device: {waits}", found)
    if not setting.dry:
        for kind in INPUTS:
            measured = {name: found[f"{kind} fp32"][name] for name in COPIES}
            if measured != found[f"{kind} foretold"]:
                raise StageError(f"{kind}: {measured}, but foretold was {found[f'{kind} foretold']}", found)
    return found


def feed_of(setting: Setting, bundle: Any, kind: str, count: int) -> dict[str, Any]:
    """A batch as the graph takes it."""
    images = setting.images(count)
    if kind == "image":
        return {"image": images}
    return {"pixel_values": np.stack([bundle.preprocess(Image.fromarray(image)) for image in images])}


def numbers(setting: Setting) -> dict[str, Any]:
    """Pixels beside the image processor, logits beside the CPU's and those in float64."""
    from export.graph.subgraph import open_part, preprocessing_part
    from export.parity.reference import Reference

    count, found = setting.of(3, 32), {}
    run, wrong = setting.run(), []
    images = setting.images(count)
    wanted = np.asarray(run.processor(images=list(images), return_tensors="np")["pixel_values"])
    truth = Reference(run).truth({"pixel_values": wanted})
    for kind in INPUTS:
        bundle = setting.bundle(kind)
        parity = bundle.parity["results"]
        given = feed_of(setting, bundle, kind, count)
        if kind == "image":
            session = bundle.session(provider=setting.provider, precision="fp32")
            part = open_part(preprocessing_part(onnx.load(bundle.path / bundle.graph_name("fp32"))), session)
            (pixels,) = part.compute(["pixel_values"], given)
            off = np.abs(pixels - wanted)
            found["pixels"] = {"largest": float(off.max()), "unequal": int((off > 0).sum()), "of": off.size}
            if off.max() > 1.5 / 255 / min(bundle.preprocess.std or (1,)):
                wrong.append(f"pixels differ by {off.max():.3g}")
        cpu = bundle.session(provider="cpu", precision="fp32").run(given)["logits"]
        for precision in setting.precisions:
            session = bundle.session(provider=setting.provider, precision=precision)
            logits = session.run(given)["logits"]
            entry = parity[precision][setting.provider]
            found[f"{kind} {precision}"] = {
                "from_float64": float(np.abs(logits - truth).max()),
                "from_cpu_fp32": float(np.abs(logits - cpu).max()),
                "cpu_fp32_from_float64": float(np.abs(cpu - truth).max()),
                "labels_alike": float((logits.argmax(1) == truth.argmax(1)).mean()),
                "parity": {name: entry[name] for name in ("passed", "tolerance", "noise_floor", "top1_agreement")},
            }
            if not np.abs(logits - truth).max() <= entry["tolerance"]:
                wrong.append(f"{kind} {precision}: {np.abs(logits - truth).max():.3g} from float64")
    if wrong:
        raise StageError("; ".join(wrong), found)
    return found


def batches(setting: Setting) -> dict[str, Any]:
    """Batch sizes in turns, twice: a size that comes again must not cost what it cost at first."""
    found: dict[str, Any] = {}
    for kind in INPUTS:
        bundle = setting.bundle(kind)
        for precision in setting.precisions:
            session = bundle.session(provider=setting.provider, precision=precision)
            rows = found[f"{kind} {precision}"] = []
            for turn in range(2):
                for size in setting.of(SEQUENCE[:3], SEQUENCE):
                    feed = feed_of(setting, bundle, kind, size)
                    seconds = list(timed(session, feed, setting.of(3, 20)))
                    rest = statistics.median(seconds[1:])
                    rows.append(
                        {"turn": turn, "batch_size": size, "first_ms": 1000 * seconds[0], "p50_ms": 1000 * rest}
                    )
    again = [row["first_ms"] - row["p50_ms"] for rows in found.values() for row in rows if row["turn"] == 1]
    return found | {"largest_extra_ms_of_a_size_that_comes_again": max(again)}


def timed(session: Any, feed: dict[str, Any], runs: int) -> Iterator[float]:
    """Seconds of each run, from host memory to host memory."""
    for _ in range(runs):
        started = time.perf_counter()
        session.run(feed)
        yield time.perf_counter() - started
