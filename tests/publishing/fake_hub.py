"""A hub on this machine: what ``huggingface_hub`` asks of one to make a repository and to commit, and nothing else."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

TOKEN = "hf_of_this_test"
OWNER = "me"
LARGE = (".onnx", ".npz", ".png")
"""What it wants by LFS."""


class RefusedError(Exception):
    def __init__(self, status: int, error: str, code: str = "") -> None:
        super().__init__(error)
        self.status, self.error, self.code = status, error, code


@dataclass
class Repo:
    private: bool
    branches: dict[str, dict[str, bytes]] = field(default_factory=lambda: {"main": {".gitattributes": b""}})
    messages: list[str] = field(default_factory=list)

    def sha(self, branch: str) -> str:
        files = sorted((name, hashlib.sha1(content).hexdigest()) for name, content in self.branches[branch].items())
        return hashlib.sha1(json.dumps([files, len(self.messages)]).encode()).hexdigest()

    def write(self, branch: str, folder: Path) -> Path:
        """What a download of the branch gives."""
        for name, content in self.branches[branch].items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        return folder


@dataclass
class FakeHub:
    endpoint: str = ""
    repos: dict[str, Repo] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    """LFS objects that were uploaded, by SHA-256."""
    requests: list[str] = field(default_factory=list)
    lose_uploads: bool = False
    """Whether every upload of a large file is refused."""
    overtake: bool = False
    """Whether somebody else commits while a push is under way."""

    def answer(self, method: str, path: str, token: str, body: bytes) -> Any:
        self.requests.append(f"{method} {path}")
        if method == "PUT" and (found := re.fullmatch(r"/lfs/(\w+)", path)):
            return self._put(found[1], body)
        if token != f"Bearer {TOKEN}":
            raise RefusedError(401, "Invalid credentials in Authorization header")
        if path == "/api/whoami-v2":
            return {"name": OWNER, "type": "user", "auth": {"type": "access_token"}}
        if path == "/api/validate-yaml":
            return {"errors": [], "warnings": []}
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if found := re.fullmatch(r"/(.+/.+)\.git/info/lfs/objects/batch", path):
            return self._batch(json.loads(body))
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|branch|preupload|commit)/([^/?]+))?", path):
            return self._of_repo(method, found[1], found[2], unquote(found[3] or "main"), body)
        raise RefusedError(404, f"this hub has no {method} {path}")

    def _put(self, oid: str, body: bytes) -> Any:
        if self.lose_uploads or hashlib.sha256(body).hexdigest() != oid:
            raise RefusedError(403, "lost")
        self.large[oid] = body
        return {}

    def _create(self, asked: dict[str, Any]) -> Any:
        owner = asked.get("organization") or OWNER
        name = f"{owner}/{asked['name']}"
        if owner != OWNER:
            raise RefusedError(403, f"You don't have the rights to create a model under the namespace {owner}")
        if name in self.repos:
            raise RefusedError(409, "You already created this model repo")
        self.repos[name] = Repo(asked.get("visibility", "") == "private" or bool(asked.get("private")))
        return {"url": f"{self.endpoint}/{name}", "name": name}

    def _batch(self, asked: dict[str, Any]) -> Any:
        objects = [
            {**each, "authenticated": True}
            | (
                {}
                if each["oid"] in self.large
                else {"actions": {"upload": {"href": f"{self.endpoint}/lfs/{each['oid']}"}}}
            )
            for each in asked["objects"]
        ]
        return {"transfer": "basic", "objects": objects}

    def _of_repo(self, method: str, name: str, action: str | None, branch: str, body: bytes) -> Any:
        if name not in self.repos:
            raise RefusedError(404, "Repository not found", "RepoNotFound")
        repo = self.repos[name]
        if action == "branch":
            if branch in repo.branches:
                raise RefusedError(409, "Reference already exists")
            repo.branches[branch] = dict(repo.branches["main"])
            return {}
        if branch not in repo.branches:
            raise RefusedError(404, "Invalid rev id", "RevisionNotFound")
        files = repo.branches[branch]
        if action == "preupload":
            asked = json.loads(body)["files"]
            repo.messages += ["of somebody else"] * self.overtake
            return {"files": [self._mode(each["path"], files.get(each["path"])) for each in asked]}
        if action == "commit":
            return self._commit(name, branch, [json.loads(line) for line in body.splitlines()])
        assert method == "GET"
        siblings = [{"rfilename": path} for path in sorted(files)]
        return {"id": name, "modelId": name, "sha": repo.sha(branch), "private": repo.private, "siblings": siblings}

    @staticmethod
    def _mode(path: str, there: bytes | None) -> dict[str, Any]:
        """How a file is to be sent, and what is there under its name."""
        found = {"path": path, "uploadMode": "lfs" if path.endswith(LARGE) else "regular", "shouldIgnore": False}
        if there is None:
            return found
        blob = hashlib.sha1(b"blob %d\0" % len(there) + there).hexdigest()
        return found | {"oid": hashlib.sha256(there).hexdigest() if path.endswith(LARGE) else blob}

    def _commit(self, name: str, branch: str, lines: list[dict[str, Any]]) -> Any:
        repo = self.repos[name]
        files = dict(repo.branches[branch])
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                if value.get("parentCommit") not in (None, repo.sha(branch)):
                    raise RefusedError(412, "A commit has happened since.")
                message = value["summary"]
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.large[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
            else:
                raise RefusedError(400, f"no such operation: {line['key']}")
        repo.branches[branch] = files
        repo.messages.append(message)
        oid = repo.sha(branch)
        return {"success": True, "commitOid": oid, "commitUrl": f"{self.endpoint}/{name}/commit/{oid}"}


@contextmanager
def fake_hub() -> Iterator[FakeHub]:
    """A hub that answers while this is open."""
    hub = FakeHub()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {}
            try:
                path, token = self.path.partition("?")[0], self.headers.get("Authorization", "")
                status, answer = 200, hub.answer(self.command, path, token, body)
            except RefusedError as refused:
                status, answer = refused.status, {"error": refused.error}
                headers = {"X-Error-Code": refused.code, "X-Error-Message": refused.error}
            content = json.dumps(answer).encode()
            self.send_response(status)
            for key, value in {**headers, "Content-Type": "application/json"}.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_PUT = do_GET  # noqa: N815

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
