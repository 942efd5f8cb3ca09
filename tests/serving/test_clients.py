"""The clients of docs/clients.md, as they stand there, against a running server."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from server_process import Server, serving
from tiny_bundle import write_tiny_bundle

import toolkit

PAGE = Path(__file__).parents[2] / "docs" / "clients.md"
SECTION = re.compile(r"^## (?P<title>.+?)$.*?^```(?P<language>\w+)\n(?P<code>.+?)^```$", re.MULTILINE | re.DOTALL)
CLIENTS = {found["title"]: (found["language"], found["code"]) for found in SECTION.finditer(PAGE.read_text("utf-8"))}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Path]]:
    """A server of a bundle called digits, and a folder with ``digit.png``."""
    root = tmp_path_factory.mktemp("clients")
    write_tiny_bundle(root / "digits")
    pixels = np.random.default_rng(5).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(root / "digit.png")
    with serving(root / "log", root / "digits") as server:
        server.until_ready()
        yield server, root


def command_for(language: str, code: str, folder: Path) -> list[str]:
    """How a user runs it; what is not on this machine is skipped with a reason."""
    if language == "python":
        (folder / "client.py").write_text(code, encoding="utf-8")
        return [sys.executable, "client.py"]
    program, name = {"bash": ("bash", "client.sh"), "javascript": ("node", "client.mjs")}[language]
    needed = "curl" if language == "bash" else "node"
    if shutil.which(needed) is None:
        pytest.skip(f"{needed} is not installed")
    (folder / name).write_text(code, encoding="utf-8")
    return [program, name]


def test_the_page_has_a_client_for_each_way_in() -> None:
    assert [language for language, _ in CLIENTS.values()] == ["bash", *["python"] * 4, "javascript"]
    assert PAGE.read_text("utf-8").count("\n```\n") == len(CLIENTS)
    for language, code in CLIENTS.values():
        assert len(code.splitlines()) <= 14, language


@pytest.mark.parametrize("title", CLIENTS)
def test_a_client_of_the_page_prints_what_predict_says(title: str, served: tuple[Server, Path], tmp_path: Path) -> None:
    server, root = served
    language, code = CLIENTS[title]
    assert "127.0.0.1:800" in code
    code = code.replace("127.0.0.1:8000", server.address).replace("127.0.0.1:8001", f"127.0.0.1:{server.grpc_port}")
    shutil.copyfile(root / "digit.png", tmp_path / "digit.png")
    command = command_for(language, code, tmp_path)
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    expected = toolkit.load(root / "digits").predict(root / "digit.png")
    if language == "bash":
        best = json.loads(done.stdout)["predictions"][0]
        said = [(best["label"], best["probability"])]
    else:
        said = [(line.split()[0], float(line.split()[1])) for line in done.stdout.splitlines()]
    assert len(said) == (2 if "several" in title else 1)
    for label, probability in said:
        assert label == expected.label
        assert probability == pytest.approx(expected.probability, abs=1e-6)
