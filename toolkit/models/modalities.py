"""Which of image and text an encoder takes, and the tower of each."""

from __future__ import annotations

from toolkit.models.encoder import Encoder
from toolkit.models.multimodal import MultimodalEncoder
from toolkit.models.text_network import TextNetwork

AnyEncoder = Encoder | MultimodalEncoder | TextNetwork
"""Of images, of images with texts, or of texts alone."""


def image_tower_of(encoder: AnyEncoder) -> Encoder | None:
    """What takes the images; None for an encoder of texts alone."""
    if isinstance(encoder, TextNetwork):
        return None
    return encoder.image if isinstance(encoder, MultimodalEncoder) else encoder


def text_tower_of(encoder: AnyEncoder) -> TextNetwork | None:
    """What takes the texts; None for an encoder of images alone."""
    if isinstance(encoder, TextNetwork):
        return encoder
    return encoder.text if isinstance(encoder, MultimodalEncoder) else None
