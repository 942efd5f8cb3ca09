"""Labels and calibrated probabilities of images, from a bundle alone."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from toolkit.errors import ToolkitError
from toolkit.runtime.bundle import Bundle
from toolkit.runtime.decision import VALUE
from toolkit.runtime.decode import UnreadableImageError
from toolkit.runtime.examples import ExampleReader, Source
from toolkit.runtime.inputs import Inputs, places_by_shapes, stacked, windows
from toolkit.runtime.label_thresholds import DECISIONS
from toolkit.runtime.preprocess import Float32
from toolkit.runtime.session import Outputs
from toolkit.runtime.tokenizer import UnusableTextError
from toolkit.serving.ahead import mapped_ahead
from toolkit.serving.pool import AHEAD, BundlePool
from toolkit.text import path_text

MOST_CLASSES, FEW = 100, 10
NOT_A_NUMBER = "the graph gives probabilities that are no numbers (NaN) for it"


@dataclass(frozen=True)
class Decided:
    """The label that a bundle gives an image."""

    label: str
    probability: float
    """Of the label, calibrated."""
    labels: list[str] | None = field(default=None, kw_only=True)
    """All labels that are said, in the bundle's order, maybe none; None of a bundle that says one of an image.

    ``label`` is the most probable one then, whether it is said or not."""
    value: float | None = field(default=None, kw_only=True)
    """The number, in the unit of the data; None of a bundle that says classes. ``label`` is empty beside it, and there
    is no probability: ``probability`` is NaN and ``probabilities`` hold nothing."""


@dataclass(frozen=True)
class Prediction(Decided):
    """What a bundle says of an image."""

    probabilities: Mapping[str, float]
    """By label, in the bundle's order."""
    logits: Float32 = field(repr=False, compare=False)
    """Logits [classes]."""
    embedding: Float32 | None = field(default=None, repr=False, compare=False)
    """The image's embedding [P] at length one; None where the bundle was exported without."""


Deferred = Callable[[], Source]
"""Reads an image when its turn comes; may raise :class:`UnreadableImageError`."""
Predicted = Prediction | ToolkitError
"""A prediction, or why there is none: an image that can't be read, or probabilities that are no numbers."""


Example = Inputs | ToolkitError
"""An image as the graph takes it, or why it can't be read."""


def read_example(reader: ExampleReader, source: Source | Deferred) -> Example:
    """Read, decode and preprocess one image, or say why it can't be."""
    try:
        return reader(source() if callable(source) else source)
    except (UnreadableImageError, UnusableTextError) as error:
        return error


class Predictor:
    """A bundle in service: images in, predictions out, in order and over all sessions of a pool.

    Batches are cut from the stream of images by its order and their sizes alone, so that the same
    images give the same predictions to the bit, however many sessions share them.
    """

    def __init__(self, bundle: Bundle, pool: BundlePool, reader: ExampleReader | None = None) -> None:
        self.bundle, self.pool = bundle, pool
        self.reader = reader or bundle.reader(pool.input, reduced_jpeg=pool.reduced_jpeg)

    def __call__(
        self,
        sources: Iterable[Source | Deferred],
        batch_size: int | None = None,
        readers: int = 1,
        stretch: int | None = None,
    ) -> Iterator[Predicted]:
        """Yield a prediction an image, in order.

        Args:
            sources: images, or what reads them; a few batches of them are held at once.
            batch_size: images a run, at most: the pool's unless given; fewer where they are large.
            readers: threads that read, decode and preprocess beside the sessions; one stands for this thread.
            stretch: images whose batches hold none of others; see :func:`toolkit.runtime.inputs.windows`.
        """
        most = batch_size or self.pool.batch_size
        read_one = partial(read_example, self.reader)
        read: Iterable[Example] = map(read_one, sources)
        if readers > 1:
            ahead = most * len(self.pool.sessions) + 2 * readers
            read = mapped_ahead(read_one, sources, threads=readers, ahead=ahead)
        yield from self.of_windows(windows(read, most, stretch=stretch))

    def of_windows(self, read: Iterable[Sequence[Example]]) -> Iterator[Predicted]:
        """Yield a prediction an image, in order, of what was read already.

        Args:
            read: what goes into a run together, but for its shapes; a few are held at once.
        """
        pending: deque[tuple[Sequence[Example], list[tuple[list[int], Future[Outputs]]]]] = deque()
        for window in read:
            examples = {place: each for place, each in enumerate(window) if not isinstance(each, ToolkitError)}
            runs = [
                (places, self.pool.submit(stacked(examples[place] for place in places)))
                for places in places_by_shapes(examples)
            ]
            pending.append((window, runs))
            if len(pending) > AHEAD * len(self.pool.sessions) - 1:
                yield from self._gathered(*pending.popleft())
        while pending:
            yield from self._gathered(*pending.popleft())

    def _gathered(
        self, window: Sequence[Example], runs: list[tuple[list[int], Future[Outputs]]]
    ) -> Iterator[Predicted]:
        predicted: dict[int, Predicted] = {
            place: read for place, read in enumerate(window) if isinstance(read, ToolkitError)
        }
        for places, run in runs:
            outputs = run.result()
            for row, place in enumerate(places):
                predicted[place] = prediction_of(self.bundle, {name: values[row] for name, values in outputs.items()})
        yield from (predicted[place] for place in range(len(window)))


def prediction_of(bundle: Bundle, outputs: Mapping[str, Float32]) -> Predicted:
    """What a bundle says of one image.

    Args:
        bundle: whose graph computed it.
        outputs: by name, without the batch axis: ``logits`` and ``probabilities`` [classes], maybe ``embedding`` [P].
    """
    decided = decided_of(bundle, outputs)
    if isinstance(decided, ToolkitError):
        return decided
    logits, embedding = outputs["logits"], outputs.get("embedding")
    if decided.value is not None:
        return Prediction("", math.nan, {}, logits, embedding, value=decided.value)
    named = dict(zip(bundle.labels, outputs["probabilities"].tolist(), strict=True))
    return Prediction(decided.label, decided.probability, named, logits, embedding, labels=decided.labels)


def decided_of(bundle: Bundle, outputs: Mapping[str, Float32]) -> Decided | ToolkitError:
    """The labels of one image alone, or what is wrong with its probabilities; see :func:`prediction_of`."""
    if VALUE in outputs and "probabilities" not in outputs:
        value = float(outputs[VALUE][0])
        if not math.isfinite(value):
            return ToolkitError("the graph gives no number (NaN) for it", where=bundle.path, fix="verify the bundle")
        return Decided("", math.nan, value=value)
    row = outputs["probabilities"]
    if not math.isfinite(row.sum()):  # of numbers from 0 to 1, as long as all are numbers
        return ToolkitError(NOT_A_NUMBER, where=bundle.path, fix="verify the bundle")
    decision = bundle.decision
    best, said = int(decision.likeliest(outputs["logits"][None])[0]), None
    if decision.several_labels:
        flags = outputs.get(DECISIONS, decision.decide(outputs["logits"]))
        said = [name for name, there in zip(bundle.labels, flags, strict=True) if there]
    return Decided(bundle.labels[best], float(row[best]), labels=said)


def entry_of(
    path: Path | None, predicted: Predicted, top_k: int | None = None, text: str | None = None
) -> dict[str, Any]:
    """A prediction as an object of JSON: ``path``, ``label`` and ``probabilities``, or ``path`` and ``error``.

    A number is a ``value`` in the place of both. Where an image may have several labels, ``labels`` are those that are
    said, and ``label`` is the most probable one.

    Args:
        path: of the image; None where it is missing.
        predicted: what is said of it.
        top_k: classes whose probabilities are given, the label's first, then the likeliest; all in the bundle's order
            if None.
        text: what stood beside the image; it stands behind ``path`` as ``text``.
    """
    about: dict[str, Any] = {"path": None if path is None else path_text(path)}
    if text is not None:
        about["text"] = text
    if isinstance(predicted, ToolkitError):
        reason = predicted.reason if isinstance(predicted, UnreadableImageError) else predicted.what
        return about | {"error": reason}
    if predicted.value is not None:
        return about | {"value": predicted.value}
    several = {} if predicted.labels is None else {"labels": predicted.labels}
    return about | {"label": predicted.label} | several | {"probabilities": likeliest(predicted, top_k)}


def likeliest(predicted: Prediction, top_k: int | None) -> dict[str, float]:
    """Probabilities of ``top_k`` classes, the label's first, then the likeliest; all in the bundle's order if None."""
    probabilities = predicted.probabilities
    if top_k is None or top_k >= len(probabilities):
        return dict(probabilities)
    ranked = sorted(probabilities, key=lambda label: (label != predicted.label, -probabilities[label]))
    return {label: probabilities[label] for label in ranked[:top_k]}


def default_top_k(classes: int) -> int | None:
    """All classes, of more than 100 the ten likeliest: each of 1,000 would be 40 kB an image."""
    return None if classes <= MOST_CLASSES else FEW
