"""A server in a process of its own, as a user starts it."""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

READY_SECONDS = 120
TOOLKIT = (sys.executable, "-m", "toolkit")


@dataclass(frozen=True)
class Answer:
    """Of HTTP."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Server:
    """A running server."""

    process: subprocess.Popen[bytes]
    port: int
    grpc_port: int
    log: Path

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines(keepends=True) if line.endswith("\n")]

    def ask(self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body or None, headers or {})
            response = connection.getresponse()
            given = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, given, response.read())
        finally:
            connection.close()

    def post_json(self, path: str, content: Any, headers: dict[str, str] | None = None) -> Answer:
        body = json.dumps(content).encode()
        return self.ask("POST", path, body, {"content-type": "application/json"} | (headers or {}))

    def until_ready(self) -> None:
        ends = time.monotonic() + READY_SECONDS
        while self.ask("GET", "/v2/health/ready").status != 200:
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < ends, self.log.read_text()
            time.sleep(0.05)

    def until_said(self, message: str, times: int = 1, **fields: object) -> list[dict[str, Any]]:
        """Wait for lines of the log that have these fields."""
        wanted = {"message": message} | fields
        ends = time.monotonic() + READY_SECONDS
        while True:
            found = [line for line in self.lines if line.items() >= wanted.items()]
            if len(found) >= times:
                return found
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < ends, self.log.read_text()
            time.sleep(0.05)


@contextmanager
def serving(log: Path, *arguments: object, toolkit: Sequence[str] = TOOLKIT, verb: str = "serve") -> Iterator[Server]:
    """A server of some bundles, listening but not yet ready; of another installation where its command is given.

    ``verb="app"`` has a page and no gRPC.
    """
    options = ["--grpc-port", "0"] if verb == "serve" else ["--json"]
    command = [*toolkit, verb, *map(str, arguments), "--port", "0", *options]
    with log.open("wb") as stream:
        process = subprocess.Popen(command, stderr=stream, stdout=subprocess.PIPE)
    try:
        ends = time.monotonic() + READY_SECONDS
        while not log.read_text().endswith("\n"):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < ends
            time.sleep(0.05)
        first = json.loads(log.read_text().splitlines()[0])
        yield Server(process, first["port"], first["grpc_port"], log)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        finally:
            process.kill()
