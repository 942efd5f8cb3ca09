"""A client for HTTP/1.1 that costs little beside what it measures: kept connections, requests made beforehand."""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from httptools import HttpParserError, HttpResponseParser

from toolkit.errors import ToolkitError

MOST_CONNECTIONS = 1024


@dataclass(frozen=True)
class Response:
    """What came back; status 0 where the connection ended before an answer."""

    status: int
    body: bytes = b""


LOST = Response(0)


@dataclass(frozen=True)
class Target:
    """Where requests go."""

    host: str
    port: int
    tls: bool
    prefix: str
    """Of every path."""

    @classmethod
    def of(cls, url: str) -> Target:
        """The target of a URL such as ``http://127.0.0.1:8000``.

        Raises:
            ToolkitError: another kind of URL.
        """
        try:
            parts = urlsplit(url)
            port = parts.port or (443 if parts.scheme == "https" else 80)
        except ValueError:
            parts, port = urlsplit(""), 0
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ToolkitError(f"{url!r} is no address of a server", where="--url", fix="write http://HOST:PORT")
        return cls(parts.hostname, port, parts.scheme == "https", parts.path.rstrip("/"))

    def request(self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> bytes:
        """The bytes of a request."""
        lines = [f"{method} {self.prefix}{path} HTTP/1.1", f"host: {self.host}:{self.port}"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        lines += [f"content-length: {len(body)}", "", ""]
        return "\r\n".join(lines).encode() + body


class _Connection(asyncio.Protocol):
    """One request at a time."""

    def __init__(self, pool: HttpClient) -> None:
        self._pool = pool
        self._transport: Any = None
        self._answer: asyncio.Future[Response] | None = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def send(self, request: bytes) -> asyncio.Future[Response]:
        self._parser, self._parts, self._keep = HttpResponseParser(self), list[bytes](), True
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._answer

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except HttpParserError:
            self._transport.close()

    def on_body(self, body: bytes) -> None:
        self._parts.append(body)

    def on_message_complete(self) -> None:
        answer, self._answer = self._answer, None
        if answer is not None and not answer.done():
            answer.set_result(Response(self._parser.get_status_code(), b"".join(self._parts)))
        if self._parser.should_keep_alive():
            self._pool.idle.append(self)
        else:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._pool.lost(self)
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(LOST)

    def close(self) -> None:
        self._transport.close()


class HttpClient:
    """Connections to one server, opened as they are needed.

    Args:
        target: the server.
        verify: whether its certificate must be of an authority that this machine trusts.
    """

    def __init__(self, target: Target, *, verify: bool = True) -> None:
        self._target = target
        self.idle: deque[_Connection] = deque()
        self._tls: ssl.SSLContext | None = None
        if target.tls:
            self._tls = ssl.create_default_context() if verify else ssl._create_unverified_context()

    async def send(self, request: bytes) -> Response:
        """Send a request's bytes; an answer, or ``LOST``."""
        if self.idle:
            return await self.idle.pop().send(request)
        try:
            _, connection = await asyncio.get_running_loop().create_connection(
                lambda: _Connection(self), self._target.host, self._target.port, ssl=self._tls
            )
        except OSError:
            return LOST
        return await connection.send(request)

    def lost(self, connection: _Connection) -> None:
        """Forget a connection that ended."""
        if connection in self.idle:
            self.idle.remove(connection)

    def close(self) -> None:
        """Close the connections that wait."""
        for connection in list(self.idle):
            connection.close()
