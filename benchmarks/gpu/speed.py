"""Latency and throughput beside the rivals, bound memory and CUDA graphs, and what happens where memory ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from benchmarks.gpu.graphs import feed_of
from benchmarks.gpu.setting import ENCODERS, Setting, StageError

RIVALS = {
    "vit-b-32": (
        "torch-eager",
        "torch-compile",
        "torch-bf16",
        "torch-fp16",
        "torch-compile-bf16",
        "torch-compile-fp16",
    ),
    "vit-b-16": ("torch-fp16", "torch-compile-fp16"),
    "vit-l-14": ("torch-fp16", "torch-compile-fp16"),
}
"""By encoder; compiling takes most of the time, so the larger ones meet the strongest alone."""
DRY_RIVALS = ("torch-eager", "torch-bf16")
"""Compiling for a CPU alone takes longer than the rehearsal may."""
KEPT = ("engine", "precision", "batch_size", "p50_ms", "p99_ms", "throughput_ips", "device", "steady")
LIMIT = 3 << 30
"""Bytes that a session may take where memory is to end."""


def rivals(setting: Setting) -> dict[str, Any]:
    """Ours in every precision, bound and replayed, beside torch in turns, on ``pixel_values``."""
    import onnx
    import torch

    from export.latency.measure import MinSamples, measure
    from export.latency.pool import golden_contents, pool_of
    from export.latency.reference_runners import reference_runner
    from export.latency.roofline.work import count_work
    from export.latency.runner import bound_engine, onnxruntime_engine

    found: dict[str, Any] = {}
    for encoder in setting.of(("vit-b-32",), tuple(ENCODERS)):
        bundle, run = setting.bundle("pixel_values", encoder), setting.run(encoder)
        ours = [
            onnxruntime_engine(bundle, provider=setting.provider, threads=None, precision=each)
            for each in setting.precisions
        ]
        bound = ["onnxruntime-bound"] if setting.dry else ["onnxruntime-bound", "onnxruntime-cuda-graph"]
        makers: dict[str, Callable[[], Any]] = {
            f"{name} {each.precision}": partial(bound_engine, name, bundle, each) for name in bound for each in ours
        }
        for name in setting.of(DRY_RIVALS, RIVALS[encoder]):
            makers[name] = partial(reference_runner, name, run, ours[0])
        pool = pool_of(bundle, "pixel_values", *golden_contents(bundle))
        sizes = setting.of([1], [1, 32])
        others, refused = those_that_run(makers, [pool.batches(size)[0] for size in sizes])
        least = setting.of(MinSamples(5, 0.05), MinSamples(30, 0.5))
        rows = measure([*ours, *others], pool, sizes, least)
        model = onnx.load(bundle.path / bundle.graph_name("fp32"), load_external_data=False)
        gflop = {size: count_work(model, [size, 3, 224, 224]).gflop for size in sizes}
        found[encoder] = {
            "rows": [
                {key: row[key] for key in KEPT if key in row} | {"tflops": gflop[row["batch_size"]] / row["p50_ms"]}
                for row in rows
            ],
            "refused": refused,
        }
        del others, ours, makers
        if not setting.dry:
            torch.cuda.empty_cache()
    return found


def those_that_run(makers: Mapping[str, Callable[[], Any]], batches: Sequence[Any]) -> tuple[list[Any], dict[str, str]]:
    """Engines that take every batch, and why the others don't: one rival that fails must not cost the others' times."""
    engines, refused = [], {}
    for name, make in makers.items():
        try:
            engine = make()
            for batch in batches:
                engine.run(batch)
        except Exception as error:
            refused[name] = f"{type(error).__name__}: {error}"[:300]
        else:
            engines.append(engine)
    return engines, refused


def binding(setting: Setting) -> dict[str, Any]:
    """Bound memory and CUDA graphs give what a plain run gives, at one batch size after the other."""
    from toolkit.runtime.binding import Binding

    bundle, found = setting.bundle("pixel_values"), {}
    options = {"bound": {}} if setting.dry else {"bound": {}, "cuda graph": {"enable_cuda_graph": "1"}}
    for precision in setting.precisions:
        plain = bundle.session(provider=setting.provider, precision=precision)
        for name, chosen in options.items():
            for size in setting.of((1, 2), (1, 8, 32)):
                session = bundle.session(
                    provider=setting.provider, precision=precision, provider_options=chosen, batch_size=size
                )
                feed = feed_of(setting, bundle, "pixel_values", size)
                bound, expected = Binding(session, {"pixel_values": feed["pixel_values"].shape}), plain.run(feed)
                times = []
                for _ in range(setting.of(3, 30)):
                    started = time.perf_counter()
                    got = bound.run(feed)
                    times.append(time.perf_counter() - started)
                off = float(np.abs(got["logits"] - expected["logits"]).max())
                found[f"{precision}, {name}, batch {size}"] = {
                    "p50_ms": 1000 * float(np.median(times[1:])),
                    "off": off,
                }
                if off > (1e-4 if precision == "fp32" else 2e-2):
                    raise StageError(f"{precision}, {name}, batch {size} is off by {off}", found)
    return found


def end_of_memory(setting: Setting) -> dict[str, Any]:
    """Batches grow until memory ends, which must be one line, and an image must go through afterwards."""
    from toolkit.errors import ToolkitError

    bundle = setting.bundle("pixel_values")
    options = {} if setting.dry else {"gpu_mem_limit": str(LIMIT)}
    session = bundle.session(provider=setting.provider, precision="fp32", provider_options=options)
    image = feed_of(setting, bundle, "pixel_values", 1)["pixel_values"]
    expected = session.run({"pixel_values": image})["logits"]
    found: dict[str, Any] = {"fitted": [], "limit_bytes": None if setting.dry else LIMIT}
    size = 1
    while size <= setting.of(4, 1 << 14):
        try:
            session.run({"pixel_values": np.repeat(image, size, axis=0)})
        except ToolkitError as error:
            found |= {"ended_at": size, "said": error.what[:300], "fix": error.fix}
            break
        found["fitted"].append(size)
        size *= 2
    again = session.run({"pixel_values": image})["logits"]
    if not np.abs(again - expected).max() <= 1e-4:
        raise StageError("after memory ended an image has other logits", found)
    if not setting.dry and "ended_at" not in found:
        raise StageError("memory never ended", found)
    return found
