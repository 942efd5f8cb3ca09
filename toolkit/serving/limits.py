"""What bounds the requests that a server takes."""

from __future__ import annotations

from dataclasses import dataclass

from toolkit.runtime.decode import MAX_PIXELS

MIB = 1 << 20


@dataclass(frozen=True)
class Limits:
    """Bounds of a server; what is beyond one is refused before it costs anything."""

    body_bytes: int = 64 * MIB
    """Of a request's body."""
    pixels: int = MAX_PIXELS
    """Of an image, before it is decoded."""
    images: int = 256
    """In one request."""
    waiting: int = 512
    """Images of a model that wait for decoding or a session, all requests together."""
    seconds: float = 30.0
    """From a request's arrival to its answer, unless the client gives it less."""
    body_seconds: float = 20.0
    """In which a request's headers, and then its body, must arrive."""
    header_bytes: int = 64 * 1024
    """Of a request's line and headers."""
