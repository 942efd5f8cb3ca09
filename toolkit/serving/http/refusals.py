"""Refusals as answers of REST."""

from __future__ import annotations

from typing import Any

from fastapi.responses import JSONResponse

from toolkit.serving.http.schemas import Error
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


def described_refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Some refusals, and that without a key, for an endpoint's description."""
    return {
        reason.http: {"model": Error, "description": reason.name.replace("_", " ").capitalize()}
        for reason in Reason
        if reason.http in (401, *statuses)
    }
