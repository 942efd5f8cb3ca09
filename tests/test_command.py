"""How a command ends when its output has no place to go."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CLOSED_PIPE = 141


def shell(words: str, *, buffered: bool) -> tuple[int, str]:
    """Exit code of ``toolkit`` in a line of bash, and what was said on stderr."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "" if buffered else "1"}
    line = words.replace("toolkit", f"{shlex.quote(sys.executable)} -m toolkit")
    script = f"set -o pipefail; {line}"
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, check=False, cwd=ROOT, env=environment
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize("buffered", [True, False])
@pytest.mark.parametrize("arguments", ["recipes list", "recipes list --json", "--help", "recipes explain --help"])
def test_a_reader_that_goes_away_is_no_error(arguments: str, buffered: bool) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    environment = {**os.environ, "PYTHONUNBUFFERED": "" if buffered else "1"}
    command = [sys.executable, "-m", "toolkit", *arguments.split()]
    done = subprocess.run(
        command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False, cwd=ROOT, env=environment
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (CLOSED_PIPE, "")


@pytest.mark.parametrize("buffered", [True, False])
@pytest.mark.parametrize("arguments", ["recipes list", "recipes list --json", "--help", "--version"])
def test_a_full_device_is_one_line(arguments: str, buffered: bool) -> None:
    code, said = shell(f"toolkit {arguments} > /dev/full", buffered=buffered)
    assert code == 2
    assert said.splitlines() == [
        "error: No space left on device (at the output); make room, or choose a place that has some"
    ]


@pytest.mark.parametrize("buffered", [True, False])
@pytest.mark.parametrize("to", ["2>/dev/full", "2>&-", ">&- 2>&-", ">/dev/full 2>/dev/full", "2>/dev/full --json"])
def test_an_error_that_nobody_can_be_told_is_an_exit_code(to: str, buffered: bool) -> None:
    assert shell(f"toolkit predict nowhere x.png {to}", buffered=buffered) == (2, "")


def test_a_closed_output_is_none(tmp_path: Path) -> None:
    assert shell("toolkit recipes list >&-", buffered=True) == (0, "")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_any_name_can_be_said_in_any_encoding(encoding: str) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    command = [sys.executable, "-m", "toolkit", "predict", "日本\x1b[2J".encode() + b"\xff", "x.png"]
    done = subprocess.run(command, capture_output=True, check=False, cwd=ROOT, env=environment)
    assert done.returncode == 2
    (line,) = done.stderr.decode(encoding).splitlines()
    assert "there is no such folder" in line
    assert "\\x1b[2J\\xff" in line
    assert ("日本" in line) == (encoding == "utf-8")
