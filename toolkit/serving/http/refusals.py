"""Refusals as answers of REST."""

from __future__ import annotations

from fastapi.responses import JSONResponse

from toolkit.serving.refusal import Reason, Refused


def refusal(refused: Refused) -> JSONResponse:
    """The answer to a request that is refused."""
    headers = {}
    if refused.retry_after is not None:
        headers["retry-after"] = str(max(1, round(refused.retry_after)))
    if refused.reason is Reason.UNAUTHENTICATED:
        headers["www-authenticate"] = "Bearer"
    if refused.reason is Reason.BODY_TIMEOUT:
        headers["connection"] = "close"  # nothing more is waited for
    return JSONResponse({"error": refused.what}, refused.reason.http, headers)
