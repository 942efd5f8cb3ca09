"""An MLflow server on this machine: what its client asks of one to log a run, and nothing else."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

RUN = "0123456789abcdef0123456789abcdef"


FIXED: dict[str, tuple[int, Any]] = {
    "experiments/get-by-name": (404, {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no such experiment"}),
    "experiments/create": (200, {"experiment_id": "1"}),
    "runs/log-batch": (200, {}),
    "registered-models/create": (400, {"error_code": "RESOURCE_ALREADY_EXISTS", "message": "it is there"}),
}


@dataclass
class FakeMlflow:
    artifacts: Path
    uri: str = ""
    status: str = ""
    batches: list[dict[str, Any]] = field(default_factory=list)
    versions: int = 0

    def answer(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        name = path.partition("?")[0].removeprefix("/api/2.0/mlflow/")
        if name in ("runs/create", "runs/get", "runs/update"):
            return 200, self._run(body)
        if name == "runs/log-batch":
            self.batches.append(body)
        elif name == "model-versions/create":
            self.versions += 1
            version = {key: body[key] for key in ("name", "source", "run_id")}
            return 200, {"model_version": version | {"version": str(self.versions), "status": "READY"}}
        return FIXED.get(name, (404, {"error_code": "ENDPOINT_NOT_FOUND", "message": f"this server has no {path}"}))

    def _run(self, body: dict[str, Any]) -> Any:
        self.status = body.get("status", self.status or "RUNNING")
        info = {"run_id": RUN, "experiment_id": "1", "status": self.status, "artifact_uri": self.artifacts.as_uri()}
        info["run_name"] = "bundle"
        return {"run": {"info": info, "data": {}}, "run_info": info}


@contextmanager
def fake_mlflow(artifacts: Path) -> Iterator[FakeMlflow]:
    """A server that answers while this is open; artifacts go into a folder."""
    server_state = FakeMlflow(artifacts)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, answer = server_state.answer(self.path, json.loads(body or b"{}"))
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_PATCH = do_GET  # noqa: N815

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server_state.uri = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server_state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
