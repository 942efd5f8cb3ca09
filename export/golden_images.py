"""The images or texts that a bundle proves itself with in production, and what was computed from them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from export.parity.reference import Reference
from toolkit.data.labelled_image import LabelledImage
from toolkit.runtime.bundle import Golden
from toolkit.runtime.decode import suffix_of
from toolkit.runtime.golden import GOLDEN_TEXT
from toolkit.runtime.preprocess import Float32
from toolkit.sampling import evenly_spaced

GOLDEN_IMAGES = 8


def write_golden(
    stage: Path, reference: Reference, examples: Sequence[LabelledImage], logits: dict[str, Float32]
) -> None:
    """A few of parity's images as files, or of its texts, with what the reference and each shipped graph made of them.

    Args:
        stage: the bundle to be.
        reference: the PyTorch side.
        examples: images that parity used.
        logits: by precision, the graph's [images, classes] of all ``examples``.
    """
    places = evenly_spaced(len(examples), GOLDEN_IMAGES)
    chosen = [examples[place] for place in places]
    feed = reference.inputs(chosen)
    (stage / "golden").mkdir()
    names = []
    for number, example in enumerate(chosen):
        if reference.takes_images:
            content = example.read()
            names.append(f"{number:03d}{suffix_of(content)}")
        else:
            content = (example.text or "").encode()
            names.append(f"{number:03d}{GOLDEN_TEXT}")
        (stage / "golden" / names[-1]).write_bytes(content)
    outputs = {precision: values[places] for precision, values in logits.items()}
    texts = None if reference.texts is None else [example.text or "" for example in chosen]
    Golden(names, feed, reference.known_logits(feed), outputs, texts).save(stage)
