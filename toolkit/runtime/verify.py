"""The proof that a bundle carries with it: hashes first, then the golden images on this machine."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from toolkit.runtime.bundle import Bundle
from toolkit.runtime.decode import decode

TOLERANCE = 1e-3
"""Largest logit difference to the reference machine that counts as the same result in fp32.

Wider than parity's, since another machine may sum in another order; a decision must not change.
"""


def verify(path: Path, *, provider: str = "cpu", threads: int | None = None) -> dict[str, Any]:
    """Hash every file, then run the golden images from their encoded files on.

    Returns:
        ``passed``, ``files``, ``images``, ``max_abs_logit``, ``tolerance``, ``top1_agreement``,
        ``preprocessing_identical``, ``provider``, ``seconds``, and ``problems`` (sentences).

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
        if not report["max_abs_logit"] <= TOLERANCE:
            problems.append(f"logits differ by {report['max_abs_logit']:.2e}, more than {TOLERANCE:.0e}")
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
    files = [f"golden/{name}" for name in golden.names]
    images = [decode(bundle.read(file), where=bundle.path / file) for file in files]
    pixel_values = np.stack([bundle.preprocess(image) for image in images])
    logits, _ = session.run(pixel_values)
    return {
        "images": len(golden.names),
        "preprocessing_identical": bool(np.array_equal(pixel_values, golden.pixel_values)),
        "max_abs_logit": float(np.abs(logits - golden.logits).max()),
        "top1_agreement": float((logits.argmax(-1) == golden.logits.argmax(-1)).mean()),
        "tolerance": TOLERANCE,
    }
