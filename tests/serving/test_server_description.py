"""schemathesis makes requests from the OpenAPI description and finds nothing; traces have their spans."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from server_process import Server, serving

HOOKS = """
import base64, io
import schemathesis
from hypothesis import strategies as st
from PIL import Image

def png(red, side):
    content = io.BytesIO()
    Image.new("RGB", (side, side), (red, 0, 0)).save(content, "PNG")
    return content.getvalue()

images = st.builds(png, st.integers(0, 255), st.integers(1, 64))
schemathesis.openapi.format("byte", images.map(lambda content: base64.b64encode(content).decode()))
schemathesis.openapi.format("binary", images.map(schemathesis.Binary if hasattr(schemathesis, "Binary") else bytes))
schemathesis.openapi.media_type("image/png", images)
schemathesis.openapi.media_type("image/jpeg", images)
"""
CONFIG = """
[[operations]]
include-path-regex = "infer$"
checks.positive_data_acceptance.enabled = false
"""
"""JSON Schema can't say that data has as many elements as its shape."""


def test_schemathesis_finds_nothing(finished_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "hooks.py").write_text(HOOKS)
    (tmp_path / "schemathesis.toml").write_text(CONFIG)
    with serving(tmp_path / "log", finished_bundle) as server:
        server.until_ready()
        command = [sys.executable, "-m", "schemathesis.cli", "run", f"http://{server.address}/openapi.json"]
        command += ["--max-examples", "25", "--seed", "1", "--no-color"]
        environment = os.environ | {"SCHEMATHESIS_HOOKS": "hooks", "PYTHONPATH": f"{tmp_path}:{Path.cwd()}"}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert re.search(r"[1-9]\d\d generated, [1-9]\d\d passed", done.stdout), done.stdout
        assert server.process.poll() is None


def test_a_request_is_a_span_below_the_client_s(finished_bundle: Path, tmp_path: Path) -> None:
    """With a provider that writes spans to stdout, set up as an operator would: before the server starts."""
    script = (
        "import sys; from pathlib import Path\n"
        "from opentelemetry import trace\n"
        "from opentelemetry.sdk.trace import TracerProvider\n"
        "from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor\n"
        "provider = TracerProvider()\n"
        "out = ConsoleSpanExporter(formatter=lambda span: span.to_json(indent=None) + '\\n')\n"
        "provider.add_span_processor(SimpleSpanProcessor(out))\n"
        "trace.set_tracer_provider(provider)\n"
        "from toolkit.serving.server.run import ServerSettings, serve\n"
        "serve([Path(sys.argv[1])], ServerSettings(port=0, grpc_port=None))\n"
    )
    log, spans = tmp_path / "log", tmp_path / "spans"
    with log.open("wb") as stream, spans.open("wb") as out:
        process = subprocess.Popen([sys.executable, "-c", script, str(finished_bundle)], stderr=stream, stdout=out)
    try:
        while not log.read_text().endswith("\n"):
            assert process.poll() is None, log.read_text()
            time.sleep(0.05)
        server = Server(process, json.loads(log.read_text().splitlines()[0])["port"], 0, log)
        server.until_ready()
        trace = "0af7651916cd43dd8448eb211c80319c"
        headers = {"traceparent": f"00-{trace}-b7ad6b7169203331-01"}
        server.ask("GET", "/v2", headers=headers)
        server.ask("POST", "/predict", b"no image", headers | {"content-type": "image/png"})
    finally:
        process.terminate()
        process.wait(30)
    found = [json.loads(line) for line in spans.read_text().splitlines()]
    for name in ("GET /v2", "POST /predict"):
        (span,) = [each for each in found if each["name"] == name]
        assert span["context"]["trace_id"] == f"0x{trace}"
        assert span["parent_id"] == "0xb7ad6b7169203331"


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
