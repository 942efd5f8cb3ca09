"""Five hundred requests that no server may answer with a prediction, to be sent beside good ones."""

from __future__ import annotations

import io
import json
import socket
import struct
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
from PIL import Image

EACH = 50
SECONDS = 60.0
"""In which each must be answered."""
CLOSED = "closed"
"""What a connection is that its client left half-way: nobody is there to be told."""


def _request(path: str, body: bytes, kind: str = "application/json", length: int | str | None = None) -> bytes:
    size = len(body) if length is None else length
    return f"POST {path} HTTP/1.1\r\nhost: a\r\ncontent-type: {kind}\r\ncontent-length: {size}\r\n\r\n".encode() + body


def _jpeg(seed: int) -> bytes:
    content = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(content, "JPEG")
    return content.getvalue()


def _bomb(side: int) -> bytes:
    """A PNG that states many pixels and holds one."""
    content = io.BytesIO()
    Image.new("1", (1, 1)).save(content, "PNG")
    head = bytearray(content.getvalue())
    head[16:24] = struct.pack(">II", side, side)
    head[29:33] = struct.pack(">I", zlib.crc32(bytes(head[12:29])))
    return bytes(head)


def _tensor(seed: int) -> bytes:
    """A type or a shape that does not fit."""
    rng = np.random.default_rng(seed)
    given: dict[str, Any] = {"name": "image", "datatype": "UINT8", "shape": [1, 2, 2, 3], "data": [0] * 12}
    key = ["datatype", "shape", "data", "name"][seed % 4]
    given[key] = {
        "datatype": f"FP{rng.integers(100)}",
        "shape": rng.integers(2, 9, 4).tolist(),
        "data": [0] * int(rng.integers(1, 12)),
        "name": str(rng.integers(9)),
    }[key]
    return json.dumps({"inputs": [given]}).encode()


HTTP: dict[str, Callable[[str, int], bytes]] = {
    "a truncated JPEG": lambda path, seed: _request("/predict", _jpeg(seed)[: -100 - seed], "image/jpeg"),
    "a bomb": lambda path, seed: _request("/predict", _bomb(20_000 + seed), "image/png"),
    "a wrong type or shape": lambda path, seed: _request(path, _tensor(seed)),
    "giant headers": lambda path, seed: b"GET /v2 HTTP/1.1\r\nhost: a\r\nx: " + b"a" * (100_000 + seed) + b"\r\n\r\n",
    "a wrong content length": lambda path, seed: _request(path, b"{}", length=["x", "-1", "1e3", "2, 3"][seed % 4]),
    "10,000-deep JSON": lambda path, seed: _request(path, b"[" * 10_000 + b"]" * (10_000 - seed)),
    "no HTTP": lambda path, seed: bytes(np.random.default_rng(seed).integers(1, 9, 64, dtype=np.uint8)) + b"\r\n\r\n",
}
LEFT: dict[str, Callable[[str, int], bytes]] = {
    "a body that stops": lambda path, seed: _request("/predict", _jpeg(seed)[: 10 + seed], "image/jpeg", 5_000),
    "headers that stop": lambda path, seed: _request("/predict", b"")[: 20 + seed],
}
"""Sent as far as they go, and then closed from the client's side."""


def _answer(port: int, content: bytes, *, leave: bool) -> str:
    """The status that came back."""
    found = b""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=SECONDS) as connection:
            connection.sendall(content)
            if leave:
                connection.shutdown(socket.SHUT_WR)
            while b"\r\n" not in found and (part := connection.recv(65536)):
                found += part
    except ConnectionError:  # it was refused while it was still being sent
        pass
    return found.split(b" ")[1].decode() if found.startswith(b"HTTP/1.1 ") else CLOSED


def broken(port: int, grpc_port: int, model: str) -> Iterator[tuple[str, str]]:
    """Send them one by one; yield what each was and how it was answered.

    Args:
        port: of HTTP.
        grpc_port: of gRPC.
        model: that the server has.
    """
    path = f"/v2/models/{model}/infer"
    with grpc.insecure_channel(f"127.0.0.1:{grpc_port}") as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        for seed in range(EACH):
            for name, make in HTTP.items():
                yield name, _answer(port, make(path, seed), leave=False)
            for name, make in LEFT.items():
                yield name, _answer(port, make(path, seed), leave=True)
            try:
                call(b"\xff" * (1 + seed), timeout=SECONDS)
                yield "invalid protobuf", "OK"
            except grpc.RpcError as error:
                yield "invalid protobuf", error.code().name


def counted(port: int, grpc_port: int, model: str) -> dict[str, Any]:
    """How all of them were answered, and whether each was refused as a client's mistake."""
    by_kind: dict[str, Counter[str]] = {}
    for name, status in broken(port, grpc_port, model):
        by_kind.setdefault(name, Counter())[status] += 1
    refused = all(
        status.startswith("4") or status == "INVALID_ARGUMENT" or (status == CLOSED and name in LEFT)
        for name, statuses in by_kind.items()
        for status in statuses
    )
    total = sum(sum(statuses.values()) for statuses in by_kind.values())
    return {"requests": total, "answers": {name: dict(each) for name, each in by_kind.items()}, "all_refused": refused}
