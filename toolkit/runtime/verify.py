"""The proof that a bundle carries with it: hashes first, then the golden images on this machine."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from toolkit.runtime.bundle import Bundle
from toolkit.runtime.decode import decode
from toolkit.runtime.predict import graph_input, places_by_shape, stacked

OTHER_MACHINES = 10
"""The tolerance in tolerances of parity: another machine may sum in another order; a decision must not change."""


def verify(path: Path, *, provider: str = "cpu", threads: int | None = None) -> dict[str, Any]:
    """Hash every file, then run the golden images from their encoded files on.

    Returns:
        ``passed``, ``files``, ``images``, ``input``, ``max_abs_logit``, ``max_abs_logit_to_export``,
        ``tolerance``, ``top1_agreement``, ``preprocessing_identical``, ``provider``, ``seconds``, and
        ``problems`` (sentences).

    Raises:
        ToolkitError: no bundle, or the provider is not there.
    """
    started = time.perf_counter()
    bundle = Bundle(path)
    problems = bundle.differences()
    report: dict[str, Any] = {"bundle": str(path), "provider": provider, "files": len(bundle.manifest.files)}
    if not problems:
        problems += _failed_parity(bundle)
        report |= _run_golden(bundle, provider, threads)
        if not report["preprocessing_identical"]:
            problems.append("preprocessing gives other pixel_values than the training-time processor gave")
        if report["top1_agreement"] < 1:
            problems.append("a golden image gets another label")
        for key, what in (("max_abs_logit", "PyTorch"), ("max_abs_logit_to_export", "the exporting machine")):
            if not report[key] <= report["tolerance"]:
                problems.append(
                    f"logits differ from those of {what} by {report[key]:.2e}, over {report['tolerance']:.1e}"
                )
    return report | {"passed": not problems, "problems": problems, "seconds": time.perf_counter() - started}


def _failed_parity(bundle: Bundle) -> list[str]:
    return [
        f"parity.json says that {precision} failed on {provider}"
        for precision, by_provider in bundle.parity_results.items()
        for provider, entry in by_provider.items()
        if not entry["passed"]
    ]


def _run_golden(bundle: Bundle, provider: str, threads: int | None) -> dict[str, Any]:
    golden = bundle.golden()
    session = bundle.session(provider=provider, threads=threads)
    contents = [bundle.read(f"golden/{name}") for name in golden.names]
    pixel_values = np.stack([bundle.preprocess(decode(content)) for content in contents])
    inputs = {place: graph_input(session.input, bundle.preprocess, content) for place, content in enumerate(contents)}
    logits = np.zeros_like(golden.logits)
    for places in places_by_shape(inputs):
        logits[places] = session.run(stacked(inputs[place] for place in places))[0]
    exported = golden.outputs.get("fp32", golden.logits)
    tolerance = OTHER_MACHINES * _tolerance(bundle, "fp32")
    return {
        "images": len(golden.names),
        "input": session.input,
        "preprocessing_identical": bool(np.array_equal(pixel_values, golden.pixel_values)),
        "max_abs_logit": float(np.abs(logits - golden.logits).max()),
        "max_abs_logit_to_export": float(np.abs(logits - exported).max()),
        "top1_agreement": float((logits.argmax(-1) == golden.logits.argmax(-1)).mean()),
        "tolerance": tolerance,
    }


def _tolerance(bundle: Bundle, precision: str) -> float:
    """The largest that parity used for a precision."""
    return max(float(entry["tolerance"]) for entry in bundle.parity_results[precision].values())
