"""The proof that a bundle carries with it: hashes first, then the golden images on this machine."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from toolkit.errors import CheckFailed
from toolkit.runtime.bundle import Bundle
from toolkit.runtime.decode import decode
from toolkit.runtime.predict import graph_input, places_by_shape, stacked
from toolkit.runtime.signature import check_signature

OTHER_MACHINES = 10
"""The tolerance in tolerances of parity: another machine may sum in another order; a decision must not change."""


def verify(
    path: Path, *, provider: str = "cpu", threads: int | None = None, public_key: Path | None = None
) -> dict[str, Any]:
    """Hash every file, then run the golden images from their encoded files on.

    Args:
        path: a bundle folder.
        provider: the provider to run on.
        threads: threads of the session; the usable cores unless given.
        public_key: PEM file of the key that must have signed the bundle.

    Returns:
        ``passed``, ``files``, ``signature`` (``valid``, ``invalid``, ``absent`` or ``not checked``), ``images``,
        ``input``, ``max_abs_logit``, ``max_abs_logit_to_export``, ``tolerance``, ``top1_agreement``,
        ``preprocessing_identical``, ``provider``, ``seconds``, and ``problems`` (sentences).

    Raises:
        ToolkitError: no bundle, or the provider is not there, or the key is not usable.
    """
    started = time.perf_counter()
    bundle = Bundle(path)
    report: dict[str, Any] = {"bundle": str(path), "provider": provider, "files": len(bundle.manifest.files)}
    with bundle.holding():
        problems = bundle.differences()
        report["signature"] = _signature(bundle, public_key, problems)
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


def _signature(bundle: Bundle, public_key: Path | None, problems: list[str]) -> str:
    """The state of the signature; with a key, anything but a good one is a problem."""
    if public_key is None:
        return "not checked" if bundle.signed else "absent"
    try:
        signed = check_signature(bundle.path, public_key)
    except CheckFailed as verdict:
        problems.append(str(verdict))
        return "invalid" if bundle.signed else "absent"
    # the files may have been exchanged since the manifest was read
    others = [name for name, entry in bundle.manifest.files.items() if signed.get(name) != entry.sha256]
    problems += [f"{name} is not the one that was signed" for name in others]
    return "invalid" if others else "valid"


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
