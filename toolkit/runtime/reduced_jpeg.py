"""JPEGs decoded at the scale that the network needs, where images show that nearly all decisions stay the same.

A JPEG decodes to 1/2, 1/4 or 1/8 of its size for a fraction of the work, and the resize that follows has as much less
to do. The pixels that the network gets differ a little, and a decision may differ with them, so this is no default:
``toolkit tune --reduced-jpeg`` asks that images show, with 95 % confidence, that at least 99.5 % of decisions stay the
same, and keeps what they showed in ``serving.json``. Golden images and parity always decode in full.
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from toolkit.runtime.decode import IN_MEMORY, MAX_PIXELS, REDUCIBLE, UnreadableImageError, decode, decoding, open_image
from toolkit.runtime.preprocess import Preprocess


class ReducedPreprocess(Preprocess):
    """The same preprocessing of JPEGs that were decoded no larger than it needs them."""

    @classmethod
    def of(cls, preprocess: Preprocess) -> ReducedPreprocess:
        """A bundle's preprocessing, so changed."""
        return cls.model_validate(preprocess.model_dump())

    def decoded(self, source: Path | bytes, *, grey: bool = False, most_pixels: int = MAX_PIXELS) -> Image.Image:
        """Decode a file or its bytes, a JPEG at the smallest scale whose short side is not below the resize's."""
        kept = self.short_side
        return decode(source, grey=grey, value_range=self.value_range, most_pixels=most_pixels, reduced_to=kept)

    @property
    def short_side(self) -> int | None:
        """Pixels that a decoded image's short side must keep; None where nothing is resized."""
        return max(self.size) if self.resize else None

    def reduces(self, content: bytes) -> bool:
        """Whether an encoded image is decoded smaller than it is; what can't be read is not."""
        try:
            with decoding(IN_MEMORY), open_image(content) as image:
                kept = self.short_side
                return kept is not None and image.format in REDUCIBLE and min(image.size) >= 2 * kept
        except UnreadableImageError:
            return False


class ReducedJpeg(BaseModel):
    """What was measured of reduced decoding, by the graph and settings that are served."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    images: int = Field(ge=1)
    """JPEGs whose decisions were compared, all of which decode smaller."""
    source: str
    """Where they come from, in words."""
    top1_agreement: float = Field(ge=0, le=1)
    """Share of them that get the same decision as when they are decoded in full."""
    top1_agreement_at_least: float = Field(ge=0, le=1)
    """With 95 % confidence."""
    flip_count: int = Field(ge=0)
    largest_flip_margin: float | None
    """Of a decision that differs: how far apart the two likeliest classes' logits were."""
    max_abs_logit: float = Field(ge=0)
    """Largest difference of a logit."""
    full_ms: float = Field(gt=0)
    """Median milliseconds of a request of one image that is decoded in full, from the file's content to the logits."""
    reduced_ms: float = Field(gt=0)
    """The same where it is decoded smaller."""
