"""What each graph of a bundle loses in accuracy, on the validation split: the test split chooses nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from toolkit.errors import ToolkitError
from toolkit.metrics.intervals import paired_drop
from toolkit.runtime.bundle import Bundle
from toolkit.runtime.inputs import places_by_shapes, stacked, windows
from toolkit.runtime.preprocess import Float32
from toolkit.sampling import evenly_spaced

if TYPE_CHECKING:
    from toolkit.data.labelled_image import LabelledImage
    from toolkit.runs.finished_run import Run

IMAGES = 1500
"""Validation images, at most: so many without a discordant one show a loss below 0.2 percentage points."""
BATCH_SIZE = 16
CHUNK = 64
"""Images that are held at once, at most."""


@dataclass(frozen=True)
class Drop:
    """Percentage points of accuracy that a graph loses against the reference, and the 95 % interval."""

    points: float
    interval: tuple[float, float]
    at_most: float
    """What is lost at most, with 95 % confidence (one-sided)."""
    images: int
    source: str
    """Where the number comes from, in words."""


def accuracy_drops(bundle: Bundle, run: Run | None, precisions: Sequence[str], provider: str) -> dict[str, Drop]:
    """Measure on the run's validation split; without the run, take what parity.json holds.

    The reference is PyTorch in fp32, in the shape of the bundle's fp32 graph where it has one, whose equality is
    proven. Both are run on the same images; see :func:`toolkit.metrics.intervals.paired_drop`. Of images without
    labels, each whose label changes counts as lost.
    """
    if run is None:
        return {precision: _recorded(bundle, precision) for precision in precisions}
    from export.parity.reference import Reference
    from toolkit.data.samples import groups_of

    members = run.data.splits["validation"]
    chosen = [members[place] for place in evenly_spaced(len(members), IMAGES)]
    if "fp32" in bundle.precisions and "fp32" in precisions:
        reference, of = _logits(bundle, "fp32", provider, chosen), "the fp32 graph"
    else:
        pytorch = Reference(run)
        feed = pytorch.inputs(chosen)
        reference, of = pytorch.without_trunk(feed), "PyTorch in fp32"
    decision = bundle.decision
    answers = np.array([example.label for example in chosen]) if run.labelled else decision.decide(reference)
    drops, images = {}, f"{len(chosen)} validation images" if run.labelled else f"{len(chosen)} images without labels"
    for precision in precisions:
        logits = _logits(bundle, precision, provider, chosen)
        lost = paired_drop(decision.right(reference, answers), decision.right(logits, answers), groups_of(chosen))
        low, high = lost.interval
        source = f"{images}, against {of}"
        drops[precision] = Drop(100 * lost.value, (100 * low, 100 * high), 100 * lost.at_most, len(chosen), source)
    return drops


def _logits(bundle: Bundle, precision: str, provider: str, examples: Sequence[LabelledImage]) -> Float32:
    """Logits [images, classes]; images are read as they are needed."""
    session = bundle.session(provider=provider, precision=precision, batch_size=BATCH_SIZE)
    logits, first = np.zeros((len(examples), len(bundle.labels)), np.float32), 0
    reader = bundle.reader(session.input)
    inputs = (example.inputs_for(reader) for example in examples)
    for window in windows(inputs, CHUNK):
        for places in places_by_shapes(dict(enumerate(window))):
            outputs = session.run_batches(stacked(window[place] for place in places), BATCH_SIZE)
            logits[[first + place for place in places]] = outputs["logits"]
        first += len(window)
    return logits


def _recorded(bundle: Bundle, precision: str) -> Drop:
    """What the export proved; no more images can be wrong than got another label."""
    entries = bundle.parity_results.get(precision, {})
    for entry in entries.values():
        if "figures" in entry:
            points = -100 * float(entry["figures"]["accuracy"]["change"])
            most = 100 * (1 - float(entry["top1_agreement_at_least"]))
            return Drop(points, (-most, most), most, int(entry["images"]), "parity.json, since the run is not here")
    what = f"neither the run nor a metric in parity.json tells what {precision} loses"
    raise ToolkitError(what, where=bundle.path, fix="give the run with --run RUN")
