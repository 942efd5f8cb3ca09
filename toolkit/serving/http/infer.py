"""The Open Inference Protocol's ``infer`` over REST."""

from __future__ import annotations

import time
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.routing import Route

from toolkit.serving.exchange import Exchange, seconds_since
from toolkit.serving.http.body import read_body, timeout_in
from toolkit.serving.http.direct import described
from toolkit.serving.http.refusals import described_refusals
from toolkit.serving.http.schemas import InferenceAnswer, infer_body
from toolkit.serving.http.tensors import HEADER_LENGTH, answer_body, parse_request
from toolkit.serving.limits import Limits


def infer_routes(app: FastAPI, exchange: Exchange, limits: Limits) -> list[Route]:
    """Describe the endpoints and return the routes that lead to them."""
    description: dict[str, Any] = {
        "response_model": InferenceAnswer,
        "response_model_exclude_none": True,
        "responses": described_refusals(400, 404, 408, 413, 415, 429, 503, 504),
        "openapi_extra": {"requestBody": infer_body()},
        "tags": ["protocol"],
    }

    async def infer(request: Request, model: str) -> Response:
        """Answer a request of the Open Inference Protocol, with tensors in JSON or as bytes behind it."""
        return await _infer(request, exchange, limits, model)

    async def version_infer(request: Request, model: str, version: str) -> Response:
        """The same of a version."""
        return await _infer(request, exchange, limits, model, version)

    return [
        described(app, "/v2/models/{model}/infer", infer, **description),
        described(app, "/v2/models/{model}/versions/{version}/infer", version_infer, **description),
    ]


async def _infer(request: Request, exchange: Exchange, limits: Limits, model: str, version: str = "") -> Response:
    arrived, metrics = request.state.arrived, exchange.metrics
    exchange.repository.get(model, version)  # before the body is read
    body = await read_body(request, limits)
    asked = parse_request(body, request.headers.get(HEADER_LENGTH))
    read = time.monotonic()
    metrics.stage(model, "read", read - arrived)
    answered = await exchange.infer(model, version, asked, arrived, timeout_in(request))
    computed = time.monotonic()
    metrics.stage(model, "infer", computed - read)
    served = answered.model
    content, head = answer_body(served.name, served.version, asked, answered.tensors, answered.wanted)
    metrics.stage(model, "respond", seconds_since(computed))
    headers = {HEADER_LENGTH: str(head)} if head is not None else {}
    kind = "application/json" if head is None else "application/octet-stream"
    return Response(content, headers=headers, media_type=kind)
