"""What every request for a prediction has: a body, read within its limits, and maybe a time to wait."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from starlette.datastructures import Headers
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from toolkit.runtime.inputs import TEXT
from toolkit.serving.limits import MIB, Limits
from toolkit.serving.refusal import Reason, Refused, bad_request

TIMEOUT = "x-request-timeout"
"""Seconds that a client waits at most."""


async def read_body(request: Request, limits: Limits) -> bytes:
    """All of a body.

    Raises:
        Refused: it is too large, encoded, or arrives too slowly.
        starlette.requests.ClientDisconnect: the client went away.
    """
    encoding = request.headers.get("content-encoding", "identity")
    if encoding.lower() != "identity":
        raise Refused(Reason.UNSUPPORTED, f"the body is encoded as {encoding!r}; send it as it is")
    stated = request.headers.get("content-length", "")
    too_large = Refused(Reason.TOO_LARGE, f"the body is over the limit of {limits.body_bytes:,} bytes")
    if stated.isdecimal() and int(stated) > limits.body_bytes:
        raise too_large
    parts, size = [], 0
    try:
        async with asyncio.timeout(limits.body_seconds):
            more = True
            while more:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnect
                size += len(message["body"])
                if size > limits.body_bytes:
                    raise too_large
                parts.append(message["body"])
                more = message["more_body"]
    except TimeoutError as error:
        what = f"the body took longer than {limits.body_seconds:g} s to arrive"
        raise Refused(Reason.BODY_TIMEOUT, what) from error
    return b"".join(parts)


async def form_in(body: bytes, headers: Headers, limits: Limits) -> tuple[list[bytes], list[str]]:
    """The files of a multipart form, whatever their fields are called, and its fields named ``text``.

    Raises:
        Refused: no form, or too many parts.
    """

    async def stream() -> AsyncIterator[bytes]:
        for start in range(0, len(body), MIB):
            yield body[start : start + MIB]

    parser = MultiPartParser(
        headers,
        stream(),  # type: ignore[arg-type] # an iterator is all it takes
        max_files=limits.images,
        max_fields=limits.images,
        max_part_size=limits.body_bytes,
    )
    parser.spool_max_size = limits.body_bytes  # the body is in memory already; there may be no disk to write to
    try:
        async with asyncio.timeout(limits.body_seconds):
            form = await parser.parse()
    except (MultiPartException, KeyError, ValueError, TimeoutError) as error:
        raise bad_request(f"the body is no multipart form: {getattr(error, 'message', error)}") from error
    files, texts = [], []
    for name, part in form.multi_items():
        if not isinstance(part, str):
            files.append(await part.read())
        elif name == TEXT:
            texts.append(part)
        else:
            raise bad_request(f"the field {name!r} holds text; give files, as curl -F file=@photo.jpg does")
    await form.close()
    return files, texts


def timeout_in(request: Request) -> float | None:
    """Seconds that the client waits at most, by its header.

    Raises:
        Refused: no number above 0.
    """
    given = request.headers.get(TIMEOUT)
    if given is None:
        return None
    try:
        seconds = float(given)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise bad_request(f"{TIMEOUT} must be seconds above 0, not {given!r}")
    return seconds
