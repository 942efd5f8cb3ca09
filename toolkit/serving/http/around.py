"""What every request of REST passes: key, request id, metrics and log. Plain ASGI, without a task of its own."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from toolkit.serving.access import require_key
from toolkit.serving.exchange import Exchange, seconds_since
from toolkit.serving.http.refusals import refusal
from toolkit.serving.refusal import Reason, Refused
from toolkit.serving.request_log import RequestLog, request_id

OPEN = ("/v2/health/live", "/v2/health/ready")
"""What needs no key: orchestrators ask for it."""
CLIENT_WENT = 499
"""What the log calls a request whose client went away."""


@dataclass
class _Sent:
    """Of an answer, what the log wants to know."""

    status: int = CLIENT_WENT
    begun: bool = field(default=False)


class Around:
    """An application inside of all that.

    Args:
        app: the application.
        exchange: models and metrics.
        api_key: that requests must carry; None where anybody may ask.
        log: told of every request.
    """

    def __init__(self, app: ASGIApp, exchange: Exchange, api_key: str | None, log: RequestLog) -> None:
        self._app, self._exchange, self._key, self._log = app, exchange, api_key, log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        arrived, headers, sent = time.monotonic(), Headers(scope=scope), _Sent()
        identity = request_id(headers.get("x-request-id"))
        scope.setdefault("state", {}).update(arrived=arrived, id=identity, model="")

        async def send_on(message: Message) -> None:
            if message["type"] == "http.response.start":
                sent.status, sent.begun = message["status"], True
                message["headers"] = [*message["headers"], (b"x-request-id", identity.encode())]
            await send(message)

        try:
            if scope["path"] not in OPEN:
                require_key(self._key, headers)
            await self._app(scope, receive, send_on)
        except Refused as refused:
            await refusal(refused)(scope, receive, send_on)
        except ClientDisconnect:
            sent.status = CLIENT_WENT
        except Exception:
            self._log.failure(identity)
            if not sent.begun:
                failed = Refused(Reason.FAILED, "the server failed; its log says why")
                await refusal(failed)(scope, receive, send_on)
        finally:
            self._told(scope, identity, sent.status, seconds_since(arrived))

    def _told(self, scope: Scope, identity: str, status: int, seconds: float) -> None:
        model: Any = scope.get("path_params", {}).get("model") or scope["state"]["model"]
        if model not in self._exchange.repository.names:
            model = ""  # what clients make up gets no label of its own
        if scope["method"] == "POST":
            self._exchange.metrics.request(model, "http", status, seconds)
            if status >= Reason.BAD_REQUEST.http:
                self._exchange.metrics.rejection(model, str(status))
        self._log.request(identity, scope["method"], scope["path"], status, seconds, model)
