"""Who may ask: an API key, where one was set."""

from __future__ import annotations

import hmac
from collections.abc import Mapping

from toolkit.serving.refusal import Reason, Refused

HEADER = "x-api-key"
BEARER = "bearer "


def require_key(key: str | None, headers: Mapping[str, str]) -> None:
    """Raise unless the headers carry the key, as ``X-API-Key`` or ``Authorization: Bearer``.

    Args:
        key: that of the server; None where anybody may ask.
        headers: by name in small letters.

    Raises:
        Refused: another key or none.
    """
    if key is None:
        return
    given = headers.get(HEADER, "")
    authorization = headers.get("authorization", "")
    if not given and authorization[: len(BEARER)].lower() == BEARER:
        given = authorization[len(BEARER) :]
    if not hmac.compare_digest(given.encode(), key.encode()):
        raise Refused(Reason.UNAUTHENTICATED, "no API key, or another one; send it as X-API-Key")
