"""An image at the size that the network's preprocessing makes of it, so that images of all sizes share a batch.

A graph that takes ``image`` resizes and crops inside. Given pixels that are resized already, its resize changes
nothing; what the crop cuts off anyway may be cut off before. The result is the same to the bit.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from toolkit.runtime.inputs import Inputs
from toolkit.runtime.preprocess import Preprocess, UInt8


def network_sized(kind: str, preprocess: Preprocess, image: Image.Image) -> Inputs:
    """One image as a graph takes it, resized.

    Args:
        kind: ``image`` or ``pixel_values``; see :attr:`toolkit.runtime.session.Session.input`.
        preprocess: the bundle's.
        image: decoded: RGB, or grey (mode L) for ``pixel_values``.

    Raises:
        UnreadableImageError: a sliver of an image that would grow past the limit of pixels.
    """
    if kind != "image":
        return {kind: preprocess(image)}
    return {kind: np.ascontiguousarray(_cut(np.asarray(preprocess.resized(image)), preprocess))}


def _cut(pixels: UInt8, preprocess: Preprocess) -> UInt8:
    """Cut resized pixels [h, w, 3] down to what neither resize nor crop would take off."""
    if preprocess.crop is None:
        return pixels
    places = []
    for have, size, crop in zip(pixels.shape[:2], preprocess.size, preprocess.crop, strict=True):
        keep = min(have, max(crop, size if preprocess.resize else crop))
        first = (have - crop) // 2 - (keep - crop) // 2
        places.append(slice(first, first + keep))
    return pixels[places[0], places[1]]
