"""One image on its way into an encoder: what every step of the processor makes of it, and where attention goes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from toolkit.errors import ToolkitError
from toolkit.models.attention import AttentionMap, attention_map
from toolkit.models.checkpoint import Source
from toolkit.models.encoder import Encoder
from toolkit.models.image_processor import check_output_size
from toolkit.models.load import load_encoder, load_processor
from toolkit.models.processing import preprocess_from
from toolkit.models.tower_check import NoProjectionError
from toolkit.runtime.decode import decode
from toolkit.runtime.preprocess import Float32, Preprocess, UInt8


@dataclass(frozen=True)
class Inspection:
    """An image at every step."""

    encoder: Encoder
    preprocess: Preprocess
    decoded: Image.Image
    """Upright and in RGB."""
    resized: Image.Image
    cropped: UInt8
    """[height, width, 3]."""
    pixel_values: Float32
    """What the encoder takes [3, height, width]."""
    seen: UInt8
    """The same as grey levels again [height, width, 3]."""
    attention: AttentionMap | None
    without_attention: str
    """Why there is none; empty where there is."""

    @property
    def window(self) -> tuple[int, int, int, int] | None:
        """What is cropped out of the resized image: left, top, width and height in pixels; None if nothing is."""
        if self.preprocess.crop is None:
            return None
        height, width = self.preprocess.crop
        return (self.resized.width - width) // 2, (self.resized.height - height) // 2, width, height

    def steps(self) -> list[tuple[str, str]]:
        """Each step, and what it gives in words."""
        values, preprocess = self.pixel_values, self.preprocess
        by = "not resized" if preprocess.resize is None else preprocess.resample
        height, width = self.seen.shape[:2]
        return [
            ("decoded", f"{self.decoded.width} x {self.decoded.height} pixels, upright, RGB"),
            ("resized", f"{self.resized.width} x {self.resized.height}, {by}"),
            ("cropped", f"{width} x {height}" + (", the middle" if preprocess.crop else ", all of it")),
            ("seen", f"values {values.min():.2f} to {values.max():.2f}, mean {values.mean():.2f}"),
        ]

    def as_json(self) -> dict[str, Any]:
        """The same for a program."""
        values, attention = self.pixel_values, self.attention
        height, width = self.seen.shape[:2]
        return {
            "decoded": {"width": self.decoded.width, "height": self.decoded.height},
            "resized": {"width": self.resized.width, "height": self.resized.height},
            "cropped": {"width": width, "height": height},
            "pixel_values": {
                "min": float(values.min()),
                "max": float(values.max()),
                "mean": [float(channel.mean()) for channel in values],
            },
            "attention": attention
            and {"query": attention.query, "on_patches": attention.on_patches, "shares": attention.shares.tolist()},
            "without_attention": self.without_attention,
        }


def inspect_image(name: str, image: Path, revision: str | None = None) -> Inspection:
    """Run one image through an encoder's processor and its layers.

    Args:
        name: of the encoder, as :func:`toolkit.models.load.load_encoder` takes it.
        image: a file.
        revision: of a hub identifier.

    Raises:
        ToolkitError: an image or an encoder that can't be read, or no image processor.
    """
    raw = decode(image)  # a mistake is said before weights are read
    try:
        encoder = load_encoder(name, revision=revision)
    except NoProjectionError:
        encoder = load_encoder(name, "pooled", revision=revision)
    processor = load_processor(name, encoder.family, revision=revision)
    preprocess = preprocess_from(processor)
    resized = preprocess.resized(raw)
    pixel_values = preprocess(raw)
    attention, reason = None, ""
    try:
        check_output_size(processor, encoder, Source(name, name))
    except ToolkitError as error:
        reason = error.what
    if encoder.tower is None:
        reason = f"no family describes {encoder.family.name}, so nothing is known of its attention"
    if not reason:
        attention = attention_map(encoder.eval(), torch.from_numpy(pixel_values)[None])
    return Inspection(
        encoder=encoder,
        preprocess=preprocess,
        decoded=raw,
        resized=resized,
        cropped=preprocess.cropped(np.asarray(resized)),
        pixel_values=pixel_values,
        seen=grey_levels(preprocess, pixel_values),
        attention=attention,
        without_attention=reason,
    )


def grey_levels(preprocess: Preprocess, pixel_values: Float32) -> UInt8:
    """The inverse of :meth:`toolkit.runtime.preprocess.Preprocess.normalized`: uint8 [height, width, 3]."""
    values = pixel_values.astype(np.float64)
    if preprocess.mean is not None and preprocess.std is not None:
        values = values * np.reshape(preprocess.std, (3, 1, 1)) + np.reshape(preprocess.mean, (3, 1, 1))
    if preprocess.rescale_factor is not None:
        values /= preprocess.rescale_factor
    return np.clip(np.rint(values), 0, 255).astype(np.uint8).transpose(1, 2, 0)
