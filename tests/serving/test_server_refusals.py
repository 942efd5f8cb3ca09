"""Broken requests are refused with a reason, each in its form, and the server goes on."""

from __future__ import annotations

import base64
import io
import json
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc
from PIL import Image
from server_process import Answer, Server, serving
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

MODEL = "model"
INFER, PREDICT = f"/v2/models/{MODEL}/infer", "/predict"
BODY_MIB, IMAGES = 2, 8


@pytest.fixture(scope="module")
def server(finished_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("served")
    (root / MODEL).symlink_to(finished_bundle)
    options = ("--max-body-mib", BODY_MIB, "--max-images", IMAGES, "--max-pixels", 1_000_000)
    with serving(root / "log", root / MODEL, *options) as running:
        running.until_ready()
        yield running
        assert running.process.poll() is None
        assert not [line for line in running.lines if "traceback" in line]


@pytest.fixture
def photo() -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (40, 40), "red").save(content, "PNG")
    return content.getvalue()


def png_of(width: int, height: int) -> bytes:
    """A PNG that states a size, with hardly any data."""
    content = io.BytesIO()
    Image.new("1", (1, 1)).save(content, "PNG")
    head = bytearray(content.getvalue())
    head[16:24] = struct.pack(">II", width, height)
    head[29:33] = struct.pack(">I", zlib.crc32(bytes(head[12:29])))
    return bytes(head)


def jpeg(size: int = 64) -> bytes:
    content = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)).save(content, "JPEG")
    return content.getvalue()


def tensor(**changes: Any) -> dict[str, Any]:
    """An inference request with an input that is changed; None removes a key."""
    given = {"name": "image", "datatype": "UINT8", "shape": [1, 2, 2, 3], "data": [0] * 12} | changes
    return {"inputs": [{key: value for key, value in given.items() if value is not None}]}


NUMBERS: dict[str, tuple[Any, int, str]] = {
    "no inputs": ({}, 400, "inputs must be a list"),
    "an empty list": ({"inputs": []}, 400, "0 inputs, where one is taken"),
    "two inputs": ({"inputs": tensor()["inputs"] * 2}, 400, "2 inputs"),
    "another name": (tensor(name="pixels"), 400, "takes no input 'pixels'"),
    "a number as name": (tensor(name=7), 400, "name must be a string"),
    "no datatype": (tensor(datatype=None), 400, "datatype must be a string"),
    "another type": (tensor(datatype="FP64"), 400, "'FP64' is none of"),
    "floats": (tensor(datatype="FP32"), 400, "image must be UINT8"),
    "a shape that is no list": (tensor(shape="1"), 400, "shape must be a list"),
    "a negative side": (tensor(shape=[1, -2, 2, 3]), 400, "whole numbers"),
    "a side of true": (tensor(shape=[True, 2, 2, 3]), 400, "whole numbers"),
    "a hundred axes": (tensor(shape=[1] * 100), 400, "up to 8"),
    "an enormous shape": (tensor(shape=[1, 2**62, 2**62, 3]), 400, "12 elements"),
    "no pixel": (tensor(shape=[1, 0, 2, 3], data=[]), 400, "UINT8 [batch"),
    "no image": (tensor(shape=[0, 2, 2, 3], data=[]), 400, "a batch of no image"),
    "four channels": (tensor(shape=[1, 1, 3, 4]), 400, "UINT8 [batch"),
    "too few elements": (tensor(data=[0] * 11), 400, "11 elements"),
    "text among numbers": (tensor(data=[0] * 11 + ["x"]), 400, "whole numbers"),
    "fractions": (tensor(data=[0.5] * 12), 400, "whole numbers"),
    "a number over 255": (tensor(data=[256] * 12), 400, "from 0 to 255"),
    "a number under 0": (tensor(data=[-1] * 12), 400, "from 0 to 255"),
    "an enormous number": (tensor(data=[10**40] * 12), 400, "numbers"),
    "ragged data": (tensor(data=[[0], [0, 0]]), 400, "ragged"),
    "truth as data": (tensor(data=[True] * 12), 400, "whole numbers"),
    "bytes that are no text": (tensor(datatype="BYTES", shape=[1], data=[7]), 400, "strings of base64"),
    "bytes that are no base64": (tensor(datatype="BYTES", shape=[1], data=["%"]), 400, "no base64"),
    "bytes of two axes": (tensor(datatype="BYTES", shape=[1, 2], data=["", ""]), 400, "BYTES [batch]"),
    "an empty image": (tensor(datatype="BYTES", shape=[1], data=[""]), 400, "the file is empty"),
    "too many images": (
        tensor(datatype="BYTES", shape=[IMAGES + 1], data=["aa=="] * (IMAGES + 1)), 413, "over the limit"),
    "a bomb of pixels": (tensor(shape=[1, 2000, 2000, 3], data=[]), 400, "0 elements"),
    "data and bytes": (tensor(parameters={"binary_data_size": 0}), 400, "data or binary_data_size"),
    "bytes that don't follow": (tensor(data=None, parameters={"binary_data_size": 12}), 400, "of 0 bytes"),
    "a size of text": (tensor(data=None, parameters={"binary_data_size": "x"}), 400, "binary_data_size is 'x'"),
    "parameters that are a list": (tensor(parameters=[]), 400, "must be an object"),
    "an unknown output": (tensor() | {"outputs": [{"name": "boxes"}]}, 400, "gives no output 'boxes'"),
    "classes of a label": (
        tensor() | {"outputs": [{"name": "label", "parameters": {"classification": 2}}]}, 400, "no classes to rank"),
    "a negative number of classes": (
        tensor() | {"outputs": [{"name": "logits", "parameters": {"classification": -1}}]}, 400, "number of classes"),
    "an id of numbers": (tensor() | {"id": 7}, 400, "id must be a string"),
    "a timeout of text": (tensor() | {"parameters": {"timeout": "soon"}}, 400, "microseconds"),
    "a list as body": ([], 400, "must be a JSON object"),
}  # fmt: skip


@pytest.mark.parametrize("name", NUMBERS)
def test_a_malformed_tensor_is_refused_by_name(name: str, server: Server) -> None:
    content, status, said = NUMBERS[name]
    answer = server.post_json(INFER, content)
    assert (answer.status, said in answer.json()["error"]) == (status, True), answer.body


BODIES: dict[str, tuple[Callable[[], bytes], dict[str, str], int, str]] = {
    "no body": (lambda: b"", {"content-type": "application/json"}, 400, "no JSON"),
    "no JSON": (lambda: b"{", {"content-type": "application/json"}, 400, "no JSON"),
    "no UTF-8": (lambda: b"\xff\xfe\x00", {"content-type": "application/json"}, 400, "no JSON"),
    "NaN": (lambda: b'{"images": [NaN]}', {"content-type": "application/json"}, 400, "no number of JSON"),
    "deep JSON": (lambda: b"[" * 10_000 + b"]" * 10_000, {"content-type": "application/json"}, 400, "no JSON"),
    "images of numbers": (lambda: b'{"images": [1]}', {"content-type": "application/json"}, 400, "base64"),
    "no images": (lambda: b'{"images": []}', {"content-type": "application/json"}, 400, "no image"),
    "no type": (lambda: b"x", {"content-type": ""}, 415, "content type"),
    "text": (lambda: b"x", {"content-type": "text/plain"}, 415, "content type"),
    "gzip": (lambda: b"x", {"content-type": "image/png", "content-encoding": "gzip"}, 415, "encoded as 'gzip'"),
    "a form without boundary": (lambda: b"x", {"content-type": "multipart/form-data"}, 400, "no multipart form"),
    "a form of nothing": (lambda: b"x", {"content-type": "multipart/form-data; boundary=b"}, 400, ""),
    "no image at all": (lambda: b"GIF89a", {"content-type": "image/gif"}, 400, "unreadable image"),
    "a truncated JPEG": (lambda: jpeg()[:-200], {"content-type": "image/jpeg"}, 400, "truncated"),
    "a bomb": (lambda: png_of(60_000, 60_000), {"content-type": "image/png"}, 400, "bomb"),
    "over the pixels of this server": (lambda: png_of(2000, 1000), {"content-type": "image/png"}, 400, "1,000,000"),
    "a sliver": (lambda: png_of(1, 2000), {"content-type": "image/png"}, 400, "longer than"),
    "too many bytes": (lambda: b"x" * (BODY_MIB + 1) * 2**20, {"content-type": "image/png"}, 413, "over the limit"),
}


@pytest.mark.parametrize("name", BODIES)
def test_a_body_that_is_no_image_is_refused(name: str, server: Server) -> None:
    body, headers, status, said = BODIES[name]
    answer = server.ask("POST", PREDICT, body(), headers)
    assert answer.status == status, answer.body
    assert said in answer.json()["error"]


@pytest.mark.parametrize(
    ("length", "said"), [("x", "'x'"), ("-1", "'-1'"), ("999999", "of a body of"), ("3", "no JSON")]
)
def test_a_wrong_length_of_the_json_is_refused(length: str, said: str, server: Server) -> None:
    headers = {"content-type": "application/octet-stream", "inference-header-content-length": length}
    answer = server.ask("POST", INFER, json.dumps(tensor()).encode(), headers)
    assert answer.status == 400
    assert said in answer.json()["error"]


@pytest.mark.parametrize(
    ("tail", "said"),
    [(b"\xff\xff\xff\x7fabc", "longer than"), (b"", "other elements"), (b"\x01\0\0\0ab", "other elements")],
)
def test_bytes_that_don_t_hold_their_elements_are_refused(tail: bytes, said: str, server: Server) -> None:
    given = {"name": "image", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": len(tail)}}
    head = json.dumps({"inputs": [given]}).encode()
    headers = {"content-type": "application/octet-stream", "inference-header-content-length": str(len(head))}
    answer = server.ask("POST", INFER, head + tail, headers)
    assert answer.status == 400
    assert said in answer.json()["error"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("GET", "/v2/models/other", 404),
        ("POST", "/v2/models/other/infer", 404),
        ("POST", "/v2/models/model/versions/7/infer", 404),
        ("POST", "/v2/models/../infer", 404),
        ("POST", "/v2/models/%2e%2e%2fx/infer", 404),
        ("POST", "/v2/repository/models/model/load", 404),
        ("POST", "/v2/repository/models/model/unload", 404),
        ("DELETE", "/predict", 405),
        ("GET", "/v2/models/model/infer", 405),
    ],
)
def test_what_isn_t_there_is_said(method: str, path: str, status: int, server: Server) -> None:
    answer = server.ask(method, path)
    assert answer.status == status
    assert answer.json()["error"]


@pytest.mark.parametrize("given", ["soon", "0", "-1", "nan", "inf"])
def test_a_timeout_that_is_none_is_refused(given: str, server: Server, photo: bytes) -> None:
    answer = server.ask("POST", PREDICT, photo, {"content-type": "image/png", "x-request-timeout": given})
    assert answer.status == 400


def raw(server: Server, content: bytes, *, close: bool = False, wait: float = 30.0) -> bytes:
    """What comes back for bytes on a connection."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=wait) as connection:
        connection.sendall(content)
        if close:
            connection.shutdown(socket.SHUT_WR)
        found = b""
        try:
            while part := connection.recv(65536):
                found += part
        except (TimeoutError, ConnectionResetError):
            pass
        return found


def test_giant_headers_are_refused(server: Server) -> None:
    found = raw(server, b"GET /v2 HTTP/1.1\r\nhost: a\r\nx: " + b"a" * 200_000)
    assert found.startswith(b"HTTP/1.1 431 ")
    many = b"".join(b"x-%d: 1\r\n" % place for place in range(20_000))
    assert raw(server, b"GET /v2 HTTP/1.1\r\nhost: a\r\n" + many + b"\r\n").startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize(
    "content",
    [
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nhost: a\r\ncontent-length: -5\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nhost: a\r\ncontent-length: x\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"GET /v2 HTTP/1.1\r\nhost a\r\n\r\n",
    ],
)
def test_what_is_no_http_is_refused(content: bytes, server: Server) -> None:
    assert raw(server, content).startswith(b"HTTP/1.1 400 ")


def test_half_a_body_and_a_closed_connection_cost_nothing(server: Server) -> None:
    head = b"POST /predict HTTP/1.1\r\nhost: a\r\ncontent-type: image/png\r\ncontent-length: 1000\r\n\r\n"
    assert raw(server, head + b"abc", close=True) == b""
    assert server.ask("GET", "/v2/health/live").status == 200


def test_invalid_protobuf_is_refused(server: Server) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        with pytest.raises(grpc.RpcError) as caught:
            call(b"\xff\xff\xff\xff\xff")
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        with pytest.raises(grpc.RpcError) as caught:
            call(b"x" * (BODY_MIB + 2) * 2**20)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def message(**changes: Any) -> Any:
    given = {"name": "image", "datatype": "UINT8", "shape": [1, 2, 2, 3]} | changes
    return service_pb2.ModelInferRequest(model_name=MODEL, inputs=[given])


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (service_pb2.ModelInferRequest(model_name="other"), "no model 'other'"),
        (service_pb2.ModelInferRequest(model_name=MODEL), "0 inputs"),
        (message(), "0 elements"),
        (message(datatype="FP64"), "'FP64' is none of"),
        (message(shape=[-1, 2, 2, 3]), "whole numbers"),
        (message(contents={"uint_contents": [256] * 12}), "from 0 to 255"),
        (message(datatype="BYTES", shape=[1], contents={"bytes_contents": [b"x"]}), "unreadable image"),
    ],
)
def test_a_malformed_message_is_refused(request_: Any, said: str, server: Server) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        call = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=service_pb2.ModelInferRequest.SerializeToString,
        )
        with pytest.raises(grpc.RpcError) as caught:
            call(request_)
    assert said in caught.value.details()
    assert caught.value.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND)


def test_raw_contents_that_don_t_fit_are_refused(server: Server) -> None:
    client = tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{server.grpc_port}")
    given = tritonclient.grpc.InferInput("image", [1, 2, 2, 3], "UINT8")
    given.set_data_from_numpy(np.zeros((1, 2, 2, 3), np.uint8))
    given.set_shape([1, 3, 2, 3])
    with pytest.raises(InferenceServerException, match="12 bytes, where UINT8"):
        client.infer(MODEL, [given])


def test_good_requests_among_broken_ones_are_answered(server: Server, photo: bytes) -> None:
    """All of the above at once, from four sides, with good requests in between."""
    broken = [(PREDICT, body(), headers) for body, headers, _, _ in BODIES.values()]
    broken += [
        (INFER, json.dumps(content).encode(), {"content-type": "application/json"})
        for content, _, _ in NUMBERS.values()
    ]
    good = {
        "inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": [base64.b64encode(photo).decode()]}]
    }
    expected = server.post_json(INFER, good).json()
    failures: list[Answer] = []

    def ask(first: int) -> None:
        for path, body, headers in broken[first::4]:
            answer = server.ask("POST", path, body, headers)
            again = server.post_json(INFER, good)
            if not 400 <= answer.status < 500 or again.status != 200 or again.json() != expected:
                failures.extend([answer, again])

    threads = [threading.Thread(target=ask, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_a_body_that_crawls_is_given_up(finished_bundle: Path, tmp_path: Path) -> None:
    """Slow headers too; with a server that has less patience."""
    script = (
        "import sys; from pathlib import Path\n"
        "from toolkit.serving.limits import Limits\n"
        "from toolkit.serving.server.run import ServerSettings, serve\n"
        "serve([Path(sys.argv[1])], ServerSettings(port=0, grpc_port=None, limits=Limits(body_seconds=1.0)))\n"
    )
    log = tmp_path / "log"
    with log.open("wb") as stream:
        process = subprocess.Popen([sys.executable, "-c", script, str(finished_bundle)], stderr=stream)
    try:
        while not log.read_text().endswith("\n"):
            assert process.poll() is None, log.read_text()
            time.sleep(0.05)
        server = Server(process, json.loads(log.read_text().splitlines()[0])["port"], 0, log)
        server.until_ready()
        head = b"POST /predict HTTP/1.1\r\nhost: a\r\ncontent-type: image/png\r\ncontent-length: 1000\r\n\r\n"
        assert raw(server, head + b"abc").startswith(b"HTTP/1.1 408 ")
        assert raw(server, b"GET /v2 HTTP/1.1\r\nhost").startswith(b"HTTP/1.1 408 ")
    finally:
        process.terminate()
        process.wait(30)
