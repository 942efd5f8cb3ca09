"""Verbs that write into a bundle: whole or not at all, or into a file elsewhere."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from toolkit.runtime.bundle import Bundle
from toolkit.runtime.verify import verify

VERBS = {
    "bench-latency": ["--runs", "2", "--seconds", "0", "--batch-sizes", "1", "--compare", "", "--no-details"],
    "parity": [],
    "tune": ["--p99-ms", "5000", "--max-accuracy-drop", "100"],
}
WRITTEN = {"bench-latency": "latency.json", "parity": "parity.json", "tune": "serving.json"}
REPLACE_AGAIN_AND_AGAIN = """
import itertools, shutil, sys
from pathlib import Path
from toolkit.files import write_json
from toolkit.runtime.bundle import Bundle
from export.change import change
from toolkit.runtime.staging import changing
bundle, source, whole = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "whole"
print("started", flush=True)
for number in itertools.count():
    if whole:
        with changing(bundle, empty=True) as folder:
            shutil.copytree(source, folder, dirs_exist_ok=True)
    else:
        with change(Bundle(bundle)) as (folder, manifest):
            manifest.provenance["number"] = number
            write_json(folder / "note.json", number)
"""


Toolkit = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def bundle(finished_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished_bundle, tmp_path / "bundle"))


@pytest.mark.parametrize("finished_run", ["clip"], indirect=True)
@pytest.mark.parametrize("verb", ["bench-latency", "parity", pytest.param("tune", marks=pytest.mark.slow)])
def test_the_outcome_goes_into_a_file_and_the_bundle_stays_as_it_is(
    verb: str, bundle: Path, in_process: Toolkit, tmp_path: Path
) -> None:
    before = {path: path.read_bytes() for path in bundle.rglob("*") if path.is_file()}
    out = tmp_path / "elsewhere" / "outcome.json"
    done = in_process(verb, bundle, *VERBS[verb], "--out", out)
    assert done.returncode == 0, done.stderr
    content = json.loads(out.read_text())
    assert {"bench-latency": "rows", "parity": "results", "tune": "batch_size"}[verb] in content
    assert {path: path.read_bytes() for path in bundle.rglob("*") if path.is_file()} == before
    refused = in_process(verb, bundle, *VERBS[verb], "--out", out, "--sign", "key")
    assert refused.returncode == 2
    assert "--out changes nothing that could be signed" in refused.stderr


@pytest.mark.parametrize("what", ["change", pytest.param("whole", marks=pytest.mark.slow)])
def test_a_change_that_is_killed_at_any_time_loses_no_bundle(what: str, bundle: Path, finished_bundle: Path) -> None:
    draw = random.Random(0)
    for _ in range(6):
        command = [sys.executable, "-c", REPLACE_AGAIN_AND_AGAIN, bundle, finished_bundle, what]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(draw.uniform(0, 0.3))
            os.kill(process.pid, signal.SIGKILL)
        assert Bundle(bundle).differences() == []
    assert verify(bundle)["passed"]


def test_export_replaces_a_bundle_and_leaves_nothing_of_it(
    bundle: Path, finished_run: Path, in_process: Toolkit
) -> None:
    (bundle / "old.txt").write_text("of another export")
    done = in_process("export", "--onnx", finished_run, "--out", bundle, "--force")
    assert done.returncode == 0, done.stderr
    assert not (bundle / "old.txt").exists()
    assert verify(bundle)["passed"]
