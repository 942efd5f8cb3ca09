"""The proof that JPEGs may be decoded at the scale that the network needs: nearly all decisions stay the same.

Images are compared as the served graph decides them, decoded in full and decoded smaller. What is held is agreement,
not accuracy, so images without labels serve: photographs as production sees them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from export.latency.measure import MinSamples, alternate
from export.latency.runner import Runner
from export.latency.tuning.photographs import AGREEMENT, Photograph, Photographs
from export.parity.agreement import agreement
from toolkit.errors import CheckFailed, ToolkitError
from toolkit.progress import SILENT, Progress
from toolkit.runtime.bundle import Bundle
from toolkit.runtime.decode import UnreadableImageError
from toolkit.runtime.examples import ExampleReader
from toolkit.runtime.inputs import stacked
from toolkit.runtime.preprocess import Float32
from toolkit.runtime.reduced_jpeg import ReducedJpeg
from toolkit.runtime.serving import Serving
from toolkit.runtime.tokenizer import UnusableTextError
from toolkit.serving.pool import BundlePool, open_pool
from toolkit.serving.predictor import Predictor

TIMED, LEAST = 64, MinSamples(40, 2.0)
"""Images that are timed, and how often each way."""


def prove_reduced_jpeg(
    bundle: Bundle,
    serving: Serving,
    photographs: Photographs,
    progress: Progress = SILENT,
    least: MinSamples = LEAST,
) -> ReducedJpeg:
    """Compare decisions, and the milliseconds of a request.

    Args:
        bundle: opened.
        serving: provider, precision, sessions and batch size that are to be served.
        photographs: to compare decisions on; those that can't be decoded are left out.
        progress: told how many images are compared.
        least: how often requests are timed.

    Raises:
        CheckFailed: fewer decisions than ``AGREEMENT`` stay the same.
        ToolkitError: too few of the photographs can be decoded.
    """
    progress.stage("decoding JPEGs smaller")
    with open_pool(bundle, serving=serving.model_copy(update={"reduced_jpeg": None})) as pool:
        full, reduced = (bundle.reader(pool.input, reduced_jpeg=smaller) for smaller in (False, True))
        expected, unreadable = _logits(bundle, pool, full, photographs.jpegs, progress)
        photographs = photographs.without(unreadable)
        photographs.require_enough()
        jpegs, source = photographs.jpegs, photographs.source
        logits, lost = _logits(bundle, pool, reduced, jpegs, progress)
        for place, reason in lost.items():
            what = f"{jpegs[place].name} could be read in full, and not where it is decoded smaller: {reason}"
            raise CheckFailed(f"nothing was written: {what}")
        same = agreement(bundle.decision, expected, logits, [each.name for each in jpegs], photographs.groups)
        if same["top1_agreement_at_least"] < AGREEMENT:
            raise CheckFailed(
                f"nothing was written: {same['flip_count']:,} of {len(jpegs):,} JPEGs of {source} get another "
                f"decision where they are decoded smaller, so agreement is at least "
                f"{same['top1_agreement_at_least']:.2%} with 95 % confidence, and {AGREEMENT:.1%} is asked; "
                f"leave --reduced-jpeg out"
            )
        full_ms, reduced_ms = _milliseconds(pool, (full, reduced), jpegs, least)
    return ReducedJpeg(
        images=len(jpegs),
        source=source,
        top1_agreement=same["top1_agreement"],
        top1_agreement_at_least=same["top1_agreement_at_least"],
        flip_count=same["flip_count"],
        largest_flip_margin=same["largest_flip_margin"],
        max_abs_logit=float(np.abs(expected - logits).max()),
        full_ms=full_ms,
        reduced_ms=reduced_ms,
    )


def _logits(
    bundle: Bundle, pool: BundlePool, reader: ExampleReader, photographs: Sequence[Photograph], progress: Progress
) -> tuple[Float32, dict[int, str]]:
    """Logits [images, classes] of those that can be read, and the places of the others, with the reason."""
    rows, unreadable = list[Float32](), dict[int, str]()
    for place, predicted in enumerate(Predictor(bundle, pool, reader)(each.read for each in photographs)):
        if isinstance(predicted, (UnreadableImageError, UnusableTextError)):
            unreadable[place] = predicted.reason if isinstance(predicted, UnreadableImageError) else predicted.what
        elif isinstance(predicted, ToolkitError):  # of the graph
            raise predicted
        else:
            rows.append(predicted.logits)
        progress.done(place + 1, len(photographs))
    return np.stack(rows) if rows else np.zeros((0, len(bundle.labels)), np.float32), unreadable


def _milliseconds(
    pool: BundlePool, readers: Sequence[ExampleReader], photographs: Sequence[Photograph], least: MinSamples
) -> list[float]:
    """Median of a request by each reader, from the file's content to the logits, in alternating turns."""
    session = pool.sessions[0]

    def request(feed: Any, reader: ExampleReader) -> Any:
        return session.run(stacked([reader(feed["source"])]))

    contents: list[Any] = [{"source": each.read()} for each in photographs[:TIMED]]
    precision, provider = pool.precision, session.provider
    engines = [Runner("", precision, provider, 1, partial(request, reader=reader)) for reader in readers]
    return [1000 * float(np.median(samples.seconds)) for samples in alternate(engines, contents, least)]
