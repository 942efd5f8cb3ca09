"""What serve.Dockerfile's lines install, and that it serves: as another user, on a root that can't be written to."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from built_image import Image
from dockerfile import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from server_process import Server, serving
from tiny_bundle import flip_a_byte

MOST_BYTES = 300_000_000
"""Of the site-packages of the image for CPUs."""
CONSTRAINTS = {
    canonicalize_name(name): version
    for name, _, version in (line.partition("==") for line in (ROOT / "constraints.txt").read_text().splitlines())
}
INSTALLED = """
import importlib.metadata, json
print(json.dumps({each.metadata["Name"]: each.version for each in importlib.metadata.distributions()}))
"""
REQUIRED = "import importlib.metadata, json; print(json.dumps(importlib.metadata.requires('clip-toolkit')))"
LOAD_CUDA = """
import ctypes, pathlib, onnxruntime
onnxruntime.preload_dlls()
folder = pathlib.Path(onnxruntime.__file__).parent / "capi"
ctypes.CDLL(str(folder / "libonnxruntime_providers_shared.so"), mode=ctypes.RTLD_GLOBAL)
ctypes.CDLL(str(folder / "libonnxruntime_providers_cuda.so"))
"""


def packages(image: Image) -> dict[str, str]:
    found: dict[str, str] = json.loads(image.run("python", "-c", INSTALLED).stdout)
    return {canonicalize_name(name): version for name, version in found.items()}


def size(folder: Path) -> int:
    """Bytes of the files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


@pytest.fixture
def public_bundle(finished_bundle: Path, public_folder: Path) -> Iterator[Path]:
    """A bundle with the permissions that ``toolkit export`` gave it, where every user can reach it."""
    place = public_folder / "bundles" / finished_bundle.name
    yield Path(shutil.copytree(finished_bundle, place))
    shutil.rmtree(place)


@contextmanager
def served(image: Image, bundle: Path, log: Path) -> Iterator[Server]:
    """The image's own command, with another bundle and ports that are free."""
    command = image.command(*image.stage.last("ENTRYPOINT").words, read_only=image.can_be_read_only())
    verb, *words, place = image.stage.last("CMD").words
    assert (verb, place) == ("serve", "/bundle")
    with serving(log, *words, bundle, toolkit=command) as server:
        yield server


def health_check(image: Image, server: Server) -> int:
    """The exit code of the image's health check."""
    _, _, command = image.stage.last("HEALTHCHECK").value.partition("CMD ")
    words = [word.replace("127.0.0.1:8000", server.address) for word in json.loads(command)]
    assert server.address in words[-1]
    return image.run(*words, read_only=image.can_be_read_only()).returncode


def test_every_line_was_run(serve_image: Image) -> None:
    assert serve_image.left_to_root == []


def test_it_holds_the_runtime_and_the_server_in_the_versions_that_ci_tested(serve_image: Image) -> None:
    found = packages(serve_image)
    assert found.pop("clip-toolkit")
    assert {name: CONSTRAINTS.get(name) for name in found} == found
    assert {"onnxruntime", "fastapi", "grpcio", "prometheus-client"} <= set(found)
    assert not {"onnxruntime-gpu", "torch", "transformers", "pip", "setuptools"} & set(found)


def test_it_holds_what_the_toolkit_requires_but_for_the_build_of_onnx_runtime(serve_image: Image) -> None:
    environments = [{"extra": extra} for extra in ("", "serve")]
    stated = [Requirement(each) for each in json.loads(serve_image.run("python", "-c", REQUIRED).stdout)]
    wanted = [
        each for each in stated if each.marker is None or any(each.marker.evaluate(those) for those in environments)
    ]
    found = packages(serve_image)
    missing = {
        each.name for each in wanted if not each.specifier.contains(found.get(canonicalize_name(each.name), "0"))
    }
    assert len(wanted) > 15
    assert missing <= {"onnxruntime-gpu"}


def test_its_packages_are_small(serve_image: Image) -> None:
    assert size(serve_image.site_packages) < MOST_BYTES


def test_who_runs_it_can_write_nowhere(serve_image: Image, public_folder: Path) -> None:
    if not serve_image.can_be_read_only():
        pytest.skip("a read-only root needs root and unshare")
    script = "import os, sys; print(os.getuid()); open(sys.argv[1] + '/written', 'w')"
    for folder in (public_folder, serve_image.site_packages, Path("/tmp"), Path("/")):
        done = serve_image.run("python", "-c", script, str(folder), read_only=True)
        assert done.stdout.split() == [serve_image.user.partition(":")[0]]
        assert "Read-only file system" in done.stderr


def test_it_becomes_ready_answers_and_ends(serve_image: Image, public_bundle: Path, tmp_path: Path) -> None:
    path = next((public_bundle / "golden").glob("*.png"))
    image = path.read_bytes()
    with served(serve_image, public_bundle, tmp_path / "log") as server:
        server.until_ready()
        assert health_check(serve_image, server) == 0
        sent = server.post_json("/predict", {"images": [base64.b64encode(image).decode()]})
        (answer,) = sent.json()["predictions"]
        assert sent.status == 200
        assert server.ask("POST", "/predict", *form(image)).json()["predictions"] == [answer]
        assert server.ask("GET", "/metrics").status == 200
        lines = server.lines  # all of them JSON
    assert server.process.returncode == 0
    assert {"listening", "ready", "request"} <= {line["message"] for line in lines}
    alone = serve_image.run("toolkit", "predict", str(public_bundle), str(path), "--json")
    (prediction,) = json.loads(alone.stdout)["predictions"]
    assert prediction["label"] == answer["label"]
    assert prediction["probabilities"] == answer["probabilities"]


def form(image: bytes) -> tuple[bytes, dict[str, str]]:
    """A form's body with an image, longer than what starlette keeps in memory, and its headers."""
    padding = b"\0" * 2_000_000  # behind the end of a PNG, where decoders don't look
    head = b'--part\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'
    return head + image + padding + b"\r\n--part--\r\n", {"content-type": "multipart/form-data; boundary=part"}


def test_the_health_check_fails_while_a_bundle_does_not_pass_its_proof(
    serve_image: Image, public_bundle: Path, tmp_path: Path
) -> None:
    flip_a_byte(public_bundle / "model.onnx")
    with served(serve_image, public_bundle, tmp_path / "log") as server:
        server.until_said("not ready")
        assert health_check(serve_image, server) != 0


def test_a_provider_that_is_not_there_ends_the_start(serve_image: Image, public_folder: Path) -> None:
    done = serve_image.run("toolkit", "serve", "--provider", "cuda", str(public_folder))
    assert done.returncode == 2
    assert "CUDAExecutionProvider" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_the_cuda_build_brings_all_of_cuda_but_the_driver(
    build_image: Callable[..., Image], public_folder: Path
) -> None:
    image = build_image("serve", DEVICE="cuda")
    found = packages(image)
    assert found.pop("clip-toolkit")
    assert {name: CONSTRAINTS.get(name) for name in found} == found
    assert not {"onnxruntime", "torch"} & set(found)
    loaded = image.run("python", "-c", LOAD_CUDA)
    assert loaded.returncode == 0 or "libcuda.so.1: cannot open" in loaded.stderr  # the driver's, which the host brings
    started = image.run("toolkit", "serve", "--provider", "cuda", str(public_folder))
    assert started.returncode == 2  # no bundle, or no GPU
    assert "Traceback" not in started.stderr
