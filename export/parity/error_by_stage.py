"""Where the error of a graph comes from: decoding, preprocessing or the network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from PIL import Image

from export.graph.preprocessing import IMAGE, PIXEL_VALUES, RESIZED
from export.graph.subgraph import network_input, network_part, open_part, preprocessing_part, takes_levels
from export.graph.tensor_names import EMBEDDING, LOGITS, tensor_after
from export.parity.reference import Reference
from toolkit.data.labelled_image import LabelledImage
from toolkit.runtime.inputs import Inputs, stacked
from toolkit.runtime.preprocess import Float32, Preprocess
from toolkit.runtime.session import Session
from toolkit.sampling import evenly_spaced

STAGE_IMAGES = 4
"""Images on which the error is split."""


def error_by_stage(
    session: Session,
    model: onnx.ModelProto,
    preprocess: Preprocess,
    reference: Reference,
    kept: Sequence[tuple[LabelledImage, Inputs]],
    expected: Float32,
) -> dict[str, Any]:
    """Compare each stage with the reference's, fed with what the reference feeds it.

    Args:
        session: the shipped graph, whose provider and threads are used.
        model: the same graph.
        preprocess: the bundle's.
        reference: the PyTorch side.
        kept: samples with their reference inputs.
        expected: the reference's logits of these samples.

    Returns:
        Of images ``decode``: largest difference in grey levels between production's pixels and training's, and
        ``preprocess``: largest difference of ``pixel_values``; ``network``: largest difference of
        logits; ``embedding_cosine``: the smallest; ``images``; of a graph that gives embeddings also
        ``max_abs_embedding``, their largest difference at length one.
    """
    places = evenly_spaced(len(kept), STAGE_IMAGES)
    chosen = [kept[place] for place in places]
    wanted = stacked(values for _, values in chosen)
    of_images = {}
    if reference.takes_images:
        samples = [sample for sample, _ in chosen]
        of_images = _before_network(session, model, preprocess, samples, wanted[PIXEL_VALUES])
    classifier = reference.classifier
    names = [tensor_after(classifier, classifier.encoder.groups[-1]), LOGITS]
    names += [EMBEDDING] if EMBEDDING in session.outputs else []
    embedding, logits, *unit = open_part(network_part(model, names), session).compute(
        names, network_input(model, preprocess, wanted)
    )
    theirs = reference.embeddings(wanted)
    given = {"max_abs_embedding": largest_difference(unit[0], _at_length_one(theirs))} if unit else {}
    return {
        **given,
        "images": len(chosen),
        **of_images,
        "network": {"max_abs_logit": largest_difference(logits, expected[places])},
        "embedding_cosine": float(np.nan_to_num(_cosines(embedding, theirs)).min()),
    }


def _before_network(
    session: Session,
    model: onnx.ModelProto,
    preprocess: Preprocess,
    samples: Sequence[LabelledImage],
    pixel_values: Float32,
) -> dict[str, Any]:
    """Decoding and preprocessing of images beside training's, whose ``pixel_values`` [images, 3, height, width]."""
    takes_images = session.input == IMAGE
    produce = _by_the_graph(session, model, preprocess) if takes_images else preprocess
    decoding, made = 0.0, list[Float32]()
    for sample in samples:  # one by one: they may be large
        image = preprocess.decoded(sample.read(), grey=not takes_images)
        pixels = np.asarray(image.convert("RGB"))
        decoding = max(decoding, float(np.abs(np.asarray(sample.decode(), np.int16) - pixels).max()))
        made.append(produce(image))
    return {
        "decode": {"max_grey_levels": decoding},
        "preprocess": {"max_pixel_value": largest_difference(np.stack(made), pixel_values)},
    }


def _by_the_graph(session: Session, model: onnx.ModelProto, preprocess: Preprocess) -> Callable[[Image.Image], Float32]:
    """What gives ``pixel_values`` of an image by the graph's own preprocessing, or by what it has of it."""
    end = RESIZED if takes_levels(model) else PIXEL_VALUES
    part = open_part(preprocessing_part(model, [end]), session)

    def produce(image: Image.Image) -> Float32:
        given = part.compute([end], {IMAGE: np.asarray(image)[None]})[0][0]
        return preprocess.normalized(given.astype(np.uint8)) if end == RESIZED else given

    return produce


def largest_difference(ours: Float32, theirs: Float32 | npt.NDArray[np.float64]) -> float:
    """Max |ours - theirs|; the largest fp32 number where one of them is no number, since JSON knows no infinity."""
    with np.errstate(invalid="ignore"):  # infinity minus itself is no number, which is asked next
        difference = np.abs(ours - theirs)
    return float(difference.max()) if np.isfinite(difference).all() else float(np.finfo(np.float32).max)


def _at_length_one(embeddings: Float32) -> Float32:
    unit: Float32 = embeddings / np.linalg.norm(embeddings, axis=-1, keepdims=True)
    return unit


def _cosines(ours: Float32, theirs: Float32) -> Float32:
    lengths = np.linalg.norm(ours, axis=-1) * np.linalg.norm(theirs, axis=-1)
    cosines: Float32 = (ours * theirs).sum(-1) / lengths
    return cosines
