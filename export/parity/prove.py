"""The proof that the shipped graph gives what PyTorch gives, on real images, from the encoded file on."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any

import numpy as np
import onnx

from export.graph.config import GraphConfig, config_of
from export.graph.subgraph import network_input, network_part, open_part
from export.graph.tensor_names import LOGITS
from export.parity.agreement import agreement, changes
from export.parity.error_by_stage import error_by_stage, largest_difference
from export.parity.reference import NoiseFloor, Reference, noise_floor, noise_places
from export.precision.precision_reference import BATCH_SIZE, MULTIPLE, STEPS_MULTIPLE, PrecisionReference
from toolkit.data.labelled_image import UNLABELLED, LabelledImage
from toolkit.data.samples import groups_of
from toolkit.data.target import Label
from toolkit.progress import SILENT, Progress
from toolkit.runtime.decision import Decision
from toolkit.runtime.examples import ExampleReader
from toolkit.runtime.inputs import (
    Feed,
    Inputs,
    batches_of,
    bytes_of,
    examples_in,
    images_a_batch,
    part_of,
    places_by_shapes,
    stacked,
    windows,
)
from toolkit.runtime.label_thresholds import DECISIONS
from toolkit.runtime.precision import SPECS
from toolkit.runtime.preprocess import Float32, Preprocess
from toolkit.runtime.session import Session
from toolkit.runtime.tokenizer import Tokenizer

BATCH_SIZES = (1, 2, 7, 32)
"""Batches take turns; a chunk of images goes through each size once, so every image is run once. Photographs whose
larger batches would pass :data:`toolkit.runtime.inputs.BATCH_BYTES`, which production never runs, go without these."""
NOISE_MULTIPLE = 32
"""The tolerance of fp32 in noise floors.

Both engines round, and the floor is the maximum over a few images where parity takes that over
all: sound graphs came to 3 to 6 floors on 256 and on 2,100 images, faults to thousands.
"""
WORST_SHARE = MULTIPLE / 2
"""What a reduced precision costs in PyTorch for the image with the largest difference counts by this less, so that the
graph may be off by twice that much."""
LARGEST = float(np.finfo(np.float32).max)
"""Stands for a difference to something that is no number."""


@dataclass
class Comparison:
    """What both engines gave for the same files."""

    names: list[str] = field(default_factory=list)
    labels: list[Label] = field(default_factory=list)
    expected: list[Float32] = field(default_factory=list)
    logits: list[Float32] = field(default_factory=list)
    finite: bool = True
    decided_alike: bool | None = None
    """Whether the graph's own decisions are those of its logits, all of them; None where it gives none."""
    worst_by_batch_size: dict[int, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(("preparation", "reference", "graph"), 0.0))
    kept: dict[int, tuple[LabelledImage, Inputs]] = field(default_factory=dict)
    """Samples that were asked for, with their reference inputs."""


def compare(
    session: Session,
    preprocess: Preprocess,
    reference: Reference,
    samples: Sequence[LabelledImage],
    *,
    keep: Sequence[int] = (),
    tokenizer: Tokenizer | None = None,
    progress: Progress = SILENT,
) -> Comparison:
    """Run both engines over all samples, a chunk at a time, which is bounded in bytes as production's batches are.

    Args:
        session: the shipped graph, opened as production opens it.
        preprocess: the bundle's, for a graph that takes ``pixel_values``.
        reference: the PyTorch side.
        samples: at least one image.
        keep: places of samples to hand back with their reference inputs.
        tokenizer: the bundle's, for a graph that takes texts.
        progress: told how it goes on.
    """
    outcome, first = Comparison(), 0
    reader = ExampleReader(session.input, preprocess, tokenizer, session.takes_missing)
    images = (sample.inputs_for(reader) for sample in samples)
    started = time.perf_counter()
    for inputs in windows(images, sum(BATCH_SIZES)):
        chunk = samples[first : first + len(inputs)]
        feed = reference.inputs(chunk)
        prepared = time.perf_counter()
        expected = reference.known_logits(feed)
        computed = time.perf_counter()
        logits = _run(session, dict(enumerate(inputs)), expected, reference.decision, outcome)
        done = time.perf_counter()
        outcome.seconds["preparation"] += prepared - started
        outcome.seconds["reference"] += computed - prepared
        outcome.seconds["graph"] += done - computed
        outcome.names += [str(sample.path) for sample in chunk]
        outcome.labels += [sample.label for sample in chunk]
        outcome.expected.append(expected)
        outcome.logits.append(logits)
        outcome.kept |= {
            first + i: (sample, part_of(feed, i)) for i, sample in enumerate(chunk) if first + i in set(keep)
        }
        first += len(chunk)
        progress.done(first, len(samples))
        started = time.perf_counter()
    return outcome


def _run(
    session: Session, inputs: dict[int, Inputs], expected: Float32, decision: Decision, outcome: Comparison
) -> Float32:
    """The graph's logits of a chunk, noting the largest difference at each batch size."""
    logits = np.zeros_like(expected)
    groups = places_by_shapes(inputs)
    most = [images_a_batch(bytes_of(inputs[places[0]]), max(BATCH_SIZES)) for places in groups]
    for places in _batches(groups, most, set(outcome.worst_by_batch_size)):
        batch = stacked(inputs[place] for place in places)
        outputs = session.run_batches(batch, session.largest_batch or len(places))
        got = logits[places] = outputs[LOGITS]
        if DECISIONS in outputs:
            alike = bool(np.array_equal(outputs[DECISIONS], decision.decide(got)))
            outcome.decided_alike = alike and outcome.decided_alike is not False
        finite = all(bool(np.isfinite(values).all()) for values in outputs.values())
        worst = largest_difference(got, expected[places]) if finite else LARGEST
        outcome.finite &= finite
        size = len(places)
        outcome.worst_by_batch_size[size] = max(worst, outcome.worst_by_batch_size.get(size, 0.0))
    return logits


def _batches(groups: Sequence[Sequence[int]], most: Sequence[int], covered: set[int]) -> Iterator[list[int]]:
    """Cut groups of equally large images into batches whose sizes take turns.

    The group that takes the largest batches is gone through again until every size that it takes has had its turn,
    unless all of these are ``covered`` already.

    Args:
        groups: places of images of one size.
        most: images of each group that fit into a batch.
        covered: sizes of batches that ran before.
    """
    first = max(range(len(groups)), key=lambda at: (most[at], len(groups[at])))
    for at, group in enumerate(groups):
        fitting = [size for size in BATCH_SIZES if size <= most[at]]
        turns_left = len(fitting) if at == first and not covered >= set(fitting) else 0
        sizes, done = cycle(fitting), 0
        while done < len(group) or turns_left > 0:
            size = next(sizes)
            end = done + size if turns_left > 0 else min(done + size, len(group))
            yield [group[place % len(group)] for place in range(done, end)]
            done, turns_left = end, turns_left - 1


@dataclass(frozen=True)
class Proven:
    """What a proof found of a graph."""

    entry: dict[str, Any]
    """Of ``parity.json``."""
    logits: Float32
    """The graph's [images, classes]."""


def prove(
    session: Session,
    model: onnx.ModelProto,
    preprocess: Preprocess,
    reference: Reference,
    samples: Sequence[LabelledImage],
    progress: Progress = SILENT,
    tokenizer: Tokenizer | None = None,
) -> Proven:
    """What ``parity.json`` says of a precision and provider, passed or not.

    Args:
        session: the shipped graph, opened as production opens it; closed before parts of the graph are opened.
        model: the same graph, to look inside it.
        preprocess: the bundle's.
        reference: the PyTorch side.
        samples: real images.
        progress: told how it goes on.
        tokenizer: the bundle's, for a graph that takes texts.
    """
    config = config_of(model)
    keep = noise_places(len(samples))
    outcome = compare(session, preprocess, reference, samples, keep=keep, tokenizer=tokenizer, progress=progress)
    session.close()
    expected, logits = np.concatenate(outcome.expected), np.concatenate(outcome.logits)
    kept = [outcome.kept[place] for place in keep]
    feed = stacked(values for _, values in kept)
    floor = noise_floor(reference, feed, expected[keep])
    difference = np.abs(logits - expected) if outcome.finite else np.full(expected.shape, LARGEST)
    by_size = outcome.worst_by_batch_size
    worst = max(by_size.values())
    task = reference.classifier.task
    decisions = agreement(reference.decision, expected, np.nan_to_num(logits), outcome.names, groups_of(samples))
    bounds: dict[str, Any] = {"noise_floor": floor.largest, "noise_multiple": NOISE_MULTIPLE}
    if config.precision != "fp32":
        # the worst image too: what it costs in PyTorch tells a fault of the graph from an image that rounding hurts
        worst_image = reference.inputs([samples[int(difference.max(-1).argmax())]])
        feed = {name: np.concatenate([values, worst_image[name]]) for name, values in feed.items()}
        part = open_part(network_part(model, [LOGITS]), session)
        batches = (network_input(model, preprocess, batch) for batch in batches_of(feed, BATCH_SIZE))
        given = np.concatenate([part.compute([LOGITS], batch)[0] for batch in batches])
        bounds = reduced(reference, preprocess, config, floor.largest, feed, given)
    tolerance = bounds["noise_multiple"] * bounds["noise_floor"]
    flip_margin = decisions["largest_flip_margin"] or 0.0
    stages = error_by_stage(session, model, preprocess, reference, kept, expected[keep])
    sound = bounds.get("same_rounding", {}).get("passed", True) and bounds.get("against_fp32", {}).get("passed", True)
    if config.precision != "fp32" and reference.takes_images:  # what would hide below the cost of the precision
        sound &= stages["decode"]["max_grey_levels"] == 0
        sound &= stages["preprocess"]["max_pixel_value"] == 0
    sure = decisions["top1_agreement_at_most"] >= SPECS[config.precision].least_agreement
    entry: dict[str, Any] = {
        "max_abs_logit": worst,
        "mean_abs_logit": float(difference.mean()) if outcome.finite else LARGEST,
        "max_abs_logit_by_batch_size": {
            str(size): worst for size, worst in sorted(outcome.worst_by_batch_size.items())
        },
        "worst_image": outcome.names[int(difference.max(-1).argmax())],
        **decisions,
        "images": len(samples),
        "batch_sizes": sorted(by_size),
        "threads": session.threads,
        "tolerance": tolerance,
        **bounds,
        "noise": _noise(floor, logits[keep]),
        "stages": stages,
        "finite": outcome.finite,
        "seconds": outcome.seconds,
        "form": config.model_dump(mode="json"),
        "passed": outcome.finite and sound and sure and worst <= tolerance and flip_margin <= 2 * tolerance,
    }
    if outcome.decided_alike is not None:
        entry["decisions_identical"] = outcome.decided_alike
        entry["passed"] &= outcome.decided_alike
    known = outcome.labels
    if any(label != UNLABELLED for label in known) and outcome.finite:  # all are labelled, or none
        again = list(config.temperature) if isinstance(config.temperature, tuple) else config.temperature
        temperature = reference.classifier.temperature.tolist()
        entry["figures"] = changes(task, expected, logits, known, temperature, again, reference.decision.cuts)
        if "accuracy" in entry["figures"]:
            entry["reference_accuracy"] = entry["figures"]["accuracy"]["reference"]
    return Proven(entry, logits)


def reduced(
    reference: Reference,
    preprocess: Preprocess,
    config: GraphConfig,
    single: float,
    feed: Feed,
    given: Float32,
) -> dict[str, Any]:
    """The bounds of a reduced precision, from PyTorch in that precision.

    Args:
        reference: the PyTorch side.
        preprocess: between images and ``pixel_values``.
        config: of the graph.
        single: the noise floor of fp32.
        feed: a few images as the reference takes them, and behind them that with the largest difference.
        given: what the graph's network gives for them in batches of ``BATCH_SIZE``; of int8 with its floats in float32.

    Returns:
        ``noise_floor``, what the precision alone changes in PyTorch, of the worst image a share; ``noise_multiple``;
        ``against_fp32``, the graph beside PyTorch in fp32 throughout, whatever trunk the reference
        has; for int8 ``same_rounding``, the graph beside PyTorch with the very same rounding.
    """
    own = PrecisionReference.of(reference.classifier, preprocess, config)
    logits, exact = own.logits(feed), reference.without_trunk(feed)
    of_worst = largest_difference(logits[-1], exact[-1])
    cost = max(largest_difference(logits[:-1], exact[:-1]), of_worst / WORST_SHARE, single)
    off = largest_difference(given, exact)
    bounds: dict[str, Any] = {
        "noise_floor": cost,
        "noise_multiple": MULTIPLE,
        "against_fp32": {"max_abs_logit": off, "tolerance": MULTIPLE * cost, "passed": off <= MULTIPLE * cost},
        "least_agreement": SPECS[config.precision].least_agreement,
    }
    if config.precision == "int8":
        alike = own
        if config.floats != "fp32":
            single_floats = config.model_copy(update={"floats": "fp32"})
            alike = PrecisionReference.of(reference.classifier, preprocess, single_floats)
        difference, floor = largest_difference(given, alike.logits(feed)), max(alike.steps(feed), single)
        bounds["same_rounding"] = {
            "max_abs_logit": difference,
            "noise_floor": floor,
            "tolerance": STEPS_MULTIPLE * floor,
            "images": examples_in(feed),
            "passed": difference <= STEPS_MULTIPLE * floor,
        }
    return bounds


def _noise(floor: NoiseFloor, logits: Float32) -> dict[str, Any]:
    return {
        "images": len(floor.truth),
        "pytorch_one_thread_other_batches": floor.reordered,
        "pytorch_to_float64": floor.rounding,
        "graph_to_float64": largest_difference(logits, floor.truth),
    }
