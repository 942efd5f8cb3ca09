"""The server scenario against a running server."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from server_process import Server, serving

from export.latency.http_client import Target
from export.latency.measure import MinSamples
from export.remote_benchmark import benchmark_url
from toolkit.errors import ToolkitError
from toolkit.runtime.bundle import Bundle

FEW = MinSamples(40, 1.0)


@pytest.fixture(scope="module")
def bundles(finished_bundle: Path, pixel_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both kinds of a graph's input by a name of its own."""
    root = tmp_path_factory.mktemp("served")
    for name, bundle in (("images", finished_bundle), ("pixels", pixel_bundle)):
        (root / name).symlink_to(bundle)
    return root


@pytest.fixture(scope="module")
def server(bundles: Path) -> Iterator[Server]:
    with serving(bundles / "log", bundles / "images", bundles / "pixels", "--quiet") as running:
        running.until_ready()
        yield running


@pytest.mark.parametrize("name", ["images", "pixels"])
def test_a_server_that_keeps_up_answers_every_request(name: str, bundles: Path, server: Server) -> None:
    found = benchmark_url(Bundle(bundles / name), f"http://{server.address}", rate=40, least=FEW)
    (point,) = found["server"]["points"]
    assert point["requests"] >= 20
    assert (point["refused"], point["failed"], point["unfinished"]) == (0, 0, 0)
    assert not point["saturated"]
    assert set(point["statuses"]) == {"200"}
    assert 0 < point["p50_ms"] <= point["p99_ms"] <= point["max_ms"]
    assert found["alone_ms"] > 0
    assert (found["model"], found["platform"]) == (name, "onnxruntime_onnx")


@pytest.mark.slow
def test_a_rate_that_holds_is_found(bundles: Path, server: Server) -> None:
    found = benchmark_url(Bundle(bundles / "images"), f"http://{server.address}", target_p99_ms=500.0, least=FEW)
    server_found = found["server"]
    assert server_found["target_p99_ms"] == 500
    assert server_found["saturation_ips"] > 0
    assert server_found["points"][-1]["saturated"]
    assert len(server_found["points"]) >= 2


def test_what_is_refused_is_counted(finished_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "one").symlink_to(finished_bundle)
    with serving(tmp_path / "log", tmp_path / "one", "--waiting", 1, "--threads", 1, "--quiet") as server:
        server.until_ready()
        found = benchmark_url(
            Bundle(tmp_path / "one"), f"http://{server.address}", rate=3000, least=MinSamples(600, 0.2)
        )
    (point,) = found["server"]["points"]
    assert point["saturated"]
    assert point["refused"] == point["dropped"] == point["statuses"]["429"] > 0
    assert point["requests"] == sum(point["statuses"].values())


def test_another_server_is_told_from_a_model_that_is_not_there(
    bundles: Path, server: Server, tmp_path: Path, finished_bundle: Path
) -> None:
    (tmp_path / "other").symlink_to(finished_bundle)
    with pytest.raises(ToolkitError, match="no model other there"):
        benchmark_url(Bundle(tmp_path / "other"), f"http://{server.address}", rate=1)
    with pytest.raises(ToolkitError, match="nothing answers"):
        benchmark_url(Bundle(bundles / "images"), "http://127.0.0.1:9", rate=1)


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://a", "http://", "http://a:b", ""])
def test_what_is_no_url_is_said(url: str) -> None:
    with pytest.raises(ToolkitError, match="is no address of a server"):
        Target.of(url)


def test_the_verb_writes_what_it_found(bundles: Path, server: Server, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "toolkit",
        "bench-latency",
        bundles / "images",
        "--url",
        f"http://{server.address}",
    ]
    options = ["--rate", "30", "--runs", "20", "--seconds", "0.5"]
    done = subprocess.run(
        [*command, *options, "--json", "--out", tmp_path / "url.json"], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == json.loads((tmp_path / "url.json").read_text())
    in_words = subprocess.run([*command, *options], capture_output=True, text=True, check=True).stdout
    assert "ms a request alone" in in_words
    assert "0 refused, 0 failed" in in_words
    for more in (["--compare", "torch-eager"], ["--baseline", bundles / "pixels"]):
        wrong = subprocess.run([*command, *more], capture_output=True, text=True, check=False)
        assert (wrong.returncode, "--url sends requests to a server" in wrong.stderr) == (2, True)
    no_url = subprocess.run([*command[:5], "--rate", "3"], capture_output=True, text=True, check=False)
    assert (no_url.returncode, "give --url too" in no_url.stderr) == (2, True)
