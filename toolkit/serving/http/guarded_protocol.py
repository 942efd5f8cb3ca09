"""uvicorn's HTTP protocol with bounds on headers: their bytes, and the time in which they must arrive."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

TOO_LARGE = "431 Request Header Fields Too Large"
TOO_SLOW = "408 Request Timeout"


class GuardedProtocol(HttpToolsProtocol):
    """Refuses headers that are too large or too slow, of which httptools holds any number for any time.

    A subclass sets both bounds; see :func:`guarded`.
    """

    header_bytes: int
    header_seconds: float

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for a request's headers."""
        super().connection_made(transport)
        self._pending_bytes = 0
        self._in_headers = True
        self._header_timer: asyncio.TimerHandle | None = self._timer()

    def data_received(self, data: bytes) -> None:
        """Count what comes before a request's headers are complete."""
        if self._in_headers:
            self._pending_bytes += len(data)
            if self._header_timer is None:
                self._header_timer = self._timer()
        super().data_received(data)
        if self._in_headers and self._pending_bytes > self.header_bytes:
            self._refuse(TOO_LARGE, f"the headers are over the limit of {self.header_bytes:,} bytes")

    def on_headers_complete(self) -> None:
        """The headers are there."""
        self._in_headers, self._pending_bytes = False, 0
        self._stop_timer()
        size = sum(len(name) + len(value) for name, value in self.headers) + len(self.url)
        if size > self.header_bytes:
            self._refuse(TOO_LARGE, f"the headers are over the limit of {self.header_bytes:,} bytes")
            return
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The body is there too; the next request may begin."""
        super().on_message_complete()
        self._in_headers = True

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timer."""
        self._stop_timer()
        super().connection_lost(exc)

    def _timer(self) -> asyncio.TimerHandle:
        return self.loop.call_later(self.header_seconds, self._late)

    def _stop_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _late(self) -> None:
        self._header_timer = None
        if self._in_headers and self._pending_bytes:
            self._refuse(TOO_SLOW, f"the headers took longer than {self.header_seconds:g} s to arrive")
        elif self._in_headers and self.cycle is None:  # a connection that never asked for anything
            self.transport.close()

    def _refuse(self, status: str, what: str) -> None:
        if self.transport.is_closing():
            return
        body = f'{{"error": "{what}"}}'.encode()
        head = f"HTTP/1.1 {status}\r\nconnection: close\r\ncontent-type: application/json\r\n"
        self.transport.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        self.transport.close()


def guarded(header_bytes: int, header_seconds: float) -> type[GuardedProtocol]:
    """The protocol with these bounds."""
    return type("Guarded", (GuardedProtocol,), {"header_bytes": header_bytes, "header_seconds": header_seconds})
