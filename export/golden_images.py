"""The images that a bundle proves itself with in production, and what was computed from them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from export.parity.reference import Reference
from toolkit.data.source import LabelledImage
from toolkit.runtime.bundle import Golden
from toolkit.runtime.decode import suffix_of
from toolkit.runtime.examples import graph_input
from toolkit.runtime.inputs import stacked
from toolkit.runtime.preprocess import Float32, Preprocess
from toolkit.runtime.session import Session
from toolkit.sampling import evenly_spaced

GOLDEN_IMAGES = 8


def golden_examples(examples: Sequence[LabelledImage]) -> list[LabelledImage]:
    """Images that travel with the bundle, spread over those that parity uses."""
    return [examples[place] for place in evenly_spaced(len(examples), GOLDEN_IMAGES)]


def golden_outputs(session: Session, preprocess: Preprocess, examples: Sequence[LabelledImage]) -> Float32:
    """What a shipped graph makes of the golden images, one by one."""
    inputs = (graph_input(session.input, preprocess, example.read()) for example in golden_examples(examples))
    return np.concatenate([session.run(stacked([each]))["logits"] for each in inputs])


def write_golden(
    stage: Path, reference: Reference, examples: Sequence[LabelledImage], outputs: dict[str, Float32]
) -> None:
    """A few images as files, with what the reference and each shipped graph make of them."""
    chosen = golden_examples(examples)
    feed = reference.inputs(example.decode() for example in chosen)
    (stage / "golden").mkdir()
    names = []
    for number, example in enumerate(chosen):
        content = example.read()
        names.append(f"{number:03d}{suffix_of(content)}")
        (stage / "golden" / names[-1]).write_bytes(content)
    Golden(names, feed, reference.logits(feed), outputs).save(stage)
