"""One example to its prediction stage by stage: what each took, and what the network was shown."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image

from toolkit.errors import ToolkitError
from toolkit.runtime.decode import UnreadableImageError
from toolkit.runtime.examples import ImageText
from toolkit.runtime.inputs import Inputs
from toolkit.serving.predictor import Prediction
from toolkit.serving.refusal import Refused, bad_request
from toolkit.serving.served_model import ServedModel


@dataclass(frozen=True)
class PredictedByStage:
    """A prediction, and how it came about."""

    prediction: Prediction
    seconds: Mapping[str, float]
    """By stage: ``decode``, of an image; ``preprocess``, up to the size that the network takes, and of a text to its
    tokens; ``network``, from its place in the queue to its outputs."""
    image: Image.Image | None
    """As decoded: upright, mode RGB or L; None without one."""
    seen: Image.Image | None
    """What is left of it after resize and crop."""


async def predict_by_stage(model: ServedModel, example: ImageText, deadline: float) -> PredictedByStage:
    """Predict an encoded image, a text, or both by the same functions and the same queue as every other request.

    Args:
        model: what predicts.
        example: the image encoded.
        deadline: of :func:`time.monotonic`.

    Raises:
        Refused: no image or text where the model takes it, or no place for it in time.
    """
    image = example.image
    assert image is None or isinstance(image, bytes)

    def prepare() -> tuple[Image.Image | None, Inputs, float, float]:
        started = time.perf_counter()
        decoded = None if image is None else model.decoded(image)
        done = time.perf_counter()
        inputs = model.prepared(decoded, example.text)
        return decoded, inputs, done - started, time.perf_counter() - done

    try:
        decoded, inputs, decode, preprocess = await asyncio.to_thread(prepare)
        started = time.perf_counter()
        (outputs,) = await model.outputs_of([inputs], deadline)
        network = time.perf_counter() - started
        if isinstance(outputs, Refused):
            raise outputs
        seen = None if decoded is None else await asyncio.to_thread(_seen, model, decoded)
    except UnreadableImageError as error:
        raise bad_request(f"unreadable image: {error.reason}") from error
    except ToolkitError as error:  # of the text
        raise bad_request(f"{error.what}; {error.fix}") from error
    seconds = ({} if image is None else {"decode": decode}) | {"preprocess": preprocess, "network": network}
    return PredictedByStage(model.prediction(outputs), seconds, decoded, seen)


def _seen(model: ServedModel, image: Image.Image) -> Image.Image:
    preprocess = model.bundle.preprocess
    return Image.fromarray(preprocess.cropped(np.asarray(preprocess.resized(image))))
