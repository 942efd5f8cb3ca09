"""A hub that does not answer is asked once, and said; a hub that answers is left to the load."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from toolkit.errors import ToolkitError
from toolkit.models.hub import ask_hub
from toolkit.models.load import load_encoder, resolve

ASKED = "HEAD /someone/encoder/resolve/main/config.json HTTP/1.1"


class Attempts(list[str]):
    """First lines of what a server was asked."""


@contextmanager
def server(answer: bytes | None) -> Iterator[tuple[str, Attempts]]:
    """A server that gives one answer to all that it is asked, or never any."""
    attempts, over, opened = Attempts(), threading.Event(), list[socket.socket]()
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while not over.is_set():
            try:
                client, _ = listening.accept()
            except OSError:
                return
            opened.append(client)
            attempts.append(client.recv(4096).decode(errors="replace").partition("\r\n")[0])
            if answer is not None:
                client.sendall(answer)
                client.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}", attempts
    finally:
        over.set()
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        for client in opened:
            client.close()


@pytest.fixture
def closed_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    return f"http://127.0.0.1:{port}"


def test_a_hub_that_never_answers_is_asked_once() -> None:
    with server(None) as (endpoint, attempts):
        silence = ask_hub("someone/encoder", endpoint, 0.2)
    assert [asked for asked in attempts if "/someone/" in asked] == [ASKED]
    assert f"the hub ({endpoint}) gave no answer within 0.2 s" in str(silence)


def test_a_hub_that_is_not_there_is_said(closed_port: str) -> None:
    assert f"the hub ({closed_port}) gave no answer" in str(ask_hub("someone/encoder", closed_port))


@pytest.mark.parametrize("status", ["404 Not Found", "401 Unauthorized", "403 Forbidden", "200 OK"])
def test_a_hub_that_says_no_has_answered(status: str) -> None:
    with server(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode()) as (endpoint, attempts):
        assert ask_hub("someone/encoder", endpoint) is None
    assert [asked for asked in attempts if "/someone/" in asked] == [ASKED]


def test_what_is_no_name_of_a_repository_is_left_to_the_load(closed_port: str) -> None:
    assert ask_hub("no such name!", closed_port) is None


LOAD = """
import json, sys
from toolkit.errors import ToolkitError
from toolkit.models.load import load_encoder, load_processor
for name in sys.argv[1:]:
    try:
        encoder = load_encoder(name)
        load_processor(name, encoder.family)
        print(json.dumps(" ".join(encoder.notes)))
    except ToolkitError as error:
        print(json.dumps(error.as_line()))
"""


@dataclass(frozen=True)
class Loads:
    """What a process said of two encoders, of which one was fetched before, and what the hub was asked for them."""

    endpoint: str
    asked: list[str]
    nothing_there: str
    fetched_before: str
    stderr: str


@pytest.fixture(scope="module")
def loads(encoders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Loads:
    """From a hub that never answers."""
    home = tmp_path_factory.mktemp("home")
    repository, commit = home / "hub" / "models--someone--fetched", "0" * 40
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    (repository / "blobs").mkdir()
    for path in encoders["clip"].iterdir():
        blob = repository / "blobs" / hashlib.sha256(path.read_bytes()).hexdigest()
        shutil.copy(path, blob)
        (snapshot / path.name).symlink_to(Path("../../blobs") / blob.name)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
    with server(None) as (endpoint, attempts):
        environment |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_ETAG_TIMEOUT": "1"}
        command = [sys.executable, "-c", LOAD, "someone/encoder", "someone/fetched"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    nothing, fetched = map(json.loads, done.stdout.splitlines())
    return Loads(endpoint, [each for each in attempts if "/someone/" in each], nothing, fetched, done.stderr)


def test_a_load_from_a_hub_that_never_answers_ends_after_one_attempt(loads: Loads) -> None:
    assert loads.asked[0] == ASKED
    assert loads.asked.count(ASKED) == 1
    assert "\n" not in loads.nothing_there
    assert f"the hub ({loads.endpoint}) gave no answer within 1 s" in loads.nothing_there
    assert "model.encoder: someone/encoder" in loads.nothing_there
    assert loads.stderr == ""


def test_what_was_fetched_before_is_used_and_said(loads: Loads) -> None:
    # once for the encoder, once for its processor, whatever the number of files
    assert loads.asked[1:] == [ASKED.replace("encoder", "fetched")] * 2
    assert "gave no answer within 1 s" in loads.fetched_before
    assert "what was fetched before is used" in loads.fetched_before


def test_folders_ask_nobody(encoders: dict[str, Path]) -> None:
    assert load_encoder(str(encoders["clip"])).notes == ()


@pytest.mark.parametrize(
    ("address", "fix"),
    [
        ("https://huggingface.co/openai/clip-vit-base-patch32", "write openai/clip-vit-base-patch32"),
        ("huggingface.co/openai/clip-vit-base-patch32/tree/main", "write openai/clip-vit-base-patch32"),
        ("https://example.org/clip.zip", "give a folder or a hub identifier, or use tiny-clip"),
    ],
)
def test_an_address_in_place_of_an_encoder_is_told_what_to_write(address: str, fix: str) -> None:
    with pytest.raises(ToolkitError, match=re.escape(address)) as caught:
        resolve(address)
    assert caught.value.fix == fix
