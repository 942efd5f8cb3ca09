"""The proof that a bundle carries with it: hashes first, then the golden images on this machine."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from toolkit.errors import CheckFailed, ToolkitError
from toolkit.runtime.bundle import Bundle
from toolkit.runtime.golden import Golden
from toolkit.runtime.inputs import places_by_shapes, stacked, windows
from toolkit.runtime.label_thresholds import DECISIONS
from toolkit.runtime.providers import runnable
from toolkit.runtime.session import Session
from toolkit.runtime.signature import check_signature

OTHER_MACHINES = 10
"""The tolerance in tolerances of parity: another machine may sum in another order; a decision must not change."""


def verify(
    path: Path, *, provider: str | None = None, threads: int | None = None, public_key: Path | None = None
) -> dict[str, Any]:
    """Hash every file, then run the golden images from their encoded files on.

    Args:
        path: a bundle folder.
        provider: the provider to run on; that of ``serving.json``, or the CPU, unless given.
        threads: threads of the session; those of ``serving.json``, or the usable cores, unless given.
        public_key: PEM file of the key that must have signed the bundle.

    Returns:
        ``passed``, ``files``, ``signature`` (``valid``, ``invalid``, ``absent`` or ``not checked``), ``images``,
        ``input``, ``max_abs_logit``, ``max_abs_logit_to_export``, ``tolerance``, ``top1_agreement``,
        ``preprocessing_identical``, ``provider``, ``seconds``, and ``problems`` (sentences). The golden images'
        metrics are those of the default precision; under ``precisions`` they stand for each that runs here.

    Raises:
        ToolkitError: no bundle, or the provider is not there, or the key is not usable.
    """
    started = time.perf_counter()
    bundle = Bundle(path)
    report: dict[str, Any] = {"bundle": str(path), "files": len(bundle.manifest.files)}
    with bundle.holding():
        problems = bundle.differences()
        tuned = None if problems else bundle.serving
        provider = provider or (tuned.provider if tuned else "cpu")
        report |= {"provider": provider, "serving": tuned.model_dump(mode="json") if tuned else None}
        report["signature"] = _signature(bundle, public_key, problems)
        if not problems:
            problems += failed_parity(bundle)
            there = runnable(bundle.precisions, provider)
            report["precisions"] = {}
            for each in there:
                session = bundle.session(provider=provider, threads=threads, precision=each)
                report["precisions"][each] = golden_figures(bundle, each, session)
                problems += golden_problems(each, report["precisions"][each])
            report |= report["precisions"][there[0]]
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


def failed_parity(bundle: Bundle) -> list[str]:
    """What parity.json says failed, a sentence a precision and provider."""
    return [
        f"parity.json says that {precision} failed on {provider}"
        for precision, by_provider in bundle.parity_results.items()
        for provider, entry in by_provider.items()
        if not entry["passed"]
    ]


def require_sound(bundle: Bundle) -> None:
    """Raise unless every file is as the manifest has it and no parity failed: nothing else is worth measuring.

    Raises:
        CheckFailed: a file differs, or a graph was proven wrong.
    """
    bundle.check_files()
    failed = failed_parity(bundle)
    if failed:
        raise CheckFailed(f"{bundle.path}: {'; '.join(failed)}")


def golden_problems(precision: str, metrics: dict[str, Any]) -> list[str]:
    """What is wrong with the golden images in one precision, in sentences."""
    problems = []
    if not metrics["preprocessing_identical"]:
        problems.append("preprocessing gives other pixel_values than the training-time processor gave")
    if not metrics.get("decisions_identical", True):
        problems.append(f"the graph in {precision} decides otherwise than its logits at the bundle's thresholds")
    if metrics["top1_agreement"] < 1:
        problems.append(f"a golden image gets another label in {precision}")
    for key, what in (("max_abs_logit", "PyTorch"), ("max_abs_logit_to_export", "the exporting machine")):
        if not metrics[key] <= metrics["tolerance"]:
            problems.append(
                f"logits differ from those of {what} in {precision} by {metrics[key]:.2e}, "
                f"over {metrics['tolerance']:.1e}"
            )
    return problems


def golden_figures(bundle: Bundle, precision: str, session: Session) -> dict[str, Any]:
    """What a session gives for the golden images, from their encoded files on, beside what it must give.

    Returns:
        ``images``, ``input``, ``preprocessing_identical``, ``max_abs_logit`` (to PyTorch's),
        ``max_abs_logit_to_export`` (to the exporting machine's), ``top1_agreement`` (an image in doubt agrees),
        ``decided`` (images that are not in doubt), ``tolerance``.
    """
    golden = bundle.golden()
    contents = [bundle.read(f"golden/{name}") for name in golden.names]
    logits, first, identical = np.zeros_like(golden.logits), 0, True
    reader = bundle.reader(session.input)
    texts: Sequence[str | None] = golden.texts or [None] * len(contents)
    inputs = (reader.of_content(content, text) for content, text in zip(contents, texts, strict=True))
    for window in windows(inputs, len(contents)):
        for places in places_by_shapes(dict(enumerate(window))):
            batch = stacked(window[place] for place in places)
            outputs = session.run_batches(batch, session.largest_batch or len(places))
            logits[[first + place for place in places]] = outputs["logits"]
            if DECISIONS in outputs:
                identical &= bool(np.array_equal(outputs[DECISIONS], bundle.decision.decide(outputs["logits"])))
        first += len(window)
    exported = golden.outputs.get(precision, golden.logits)
    tolerance = _tolerance(bundle, precision)
    decision = bundle.decision
    same = decision.agree(logits, exported)
    # an int8 or fp16 graph may round otherwise on another machine, so that an image in doubt gets the other label
    doubtful = decision.margins(exported) <= 2 * tolerance if precision != "fp32" else np.zeros_like(same)
    return {
        "images": len(golden.names),
        "input": session.input,
        "preprocessing_identical": _same_pixels(bundle, golden, contents) and _same_tokens(bundle, golden),
        "max_abs_logit": float(np.abs(logits - golden.logits).max()),
        "max_abs_logit_to_export": float(np.abs(logits - exported).max()),
        "top1_agreement": float((same | doubtful).mean()),
        "decided": int((~doubtful).sum()),
        "tolerance": tolerance,
        **({"decisions_identical": identical} if DECISIONS in session.outputs else {}),
    }


def _same_pixels(bundle: Bundle, golden: Golden, contents: Sequence[bytes]) -> bool:
    """Whether the golden images become the ``pixel_values`` that the training-time processor made of them."""
    theirs = golden.inputs.get("pixel_values")
    if theirs is None:  # a bundle of texts alone
        return True
    ours = np.stack([bundle.preprocess(bundle.preprocess.decoded(content)) for content in contents])
    return bool(np.array_equal(ours, theirs))


def _same_tokens(bundle: Bundle, golden: Golden) -> bool:
    """Whether the golden texts become the tokens that the training-time tokenizer made of them."""
    if golden.texts is None or bundle.tokenizer is None:
        return golden.texts is None and bundle.tokenizer is None
    made, padding_counts = bundle.tokenizer(golden.texts), bundle.tokenizer.settings.padding == "context"
    theirs, mask = golden.inputs["input_ids"], golden.inputs["attention_mask"]
    length = made.input_ids.shape[1]
    read = np.ones_like(mask, bool) if padding_counts else mask.astype(bool)
    same = np.array_equal(made.attention_mask, mask[:, :length]) and not read[:, length:].any()
    return same and np.array_equal(made.input_ids[read[:, :length]], theirs[:, :length][read[:, :length]])


def _tolerance(bundle: Bundle, precision: str) -> float:
    """The largest that parity used for a precision, and for another machine; in reduced ones it covers that already."""
    entries = bundle.parity_results.get(precision)
    if not entries:
        what = f"parity.json has no entry for {precision}"
        raise ToolkitError(what, where=bundle.path, fix="export the bundle again")
    largest = max(float(entry["tolerance"]) for entry in entries.values())
    return OTHER_MACHINES * largest if precision == "fp32" else largest
