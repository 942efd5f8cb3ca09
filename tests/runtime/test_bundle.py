"""A bundle as a whole: what was put in comes out, and nothing that was changed is used."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_bundle import FILES, GOLDEN_NAMES, flip_a_byte
from tiny_graph import LABELS, PREPROCESS, rounding

from toolkit.errors import CheckFailed, ToolkitError
from toolkit.runtime.bundle import MANIFEST, Bundle, Golden, Manifest, write_manifest
from toolkit.runtime.verify import verify
from toolkit.serving.classifier import Classifier

FORBIDDEN = {"torch", "transformers", "onnx", "sklearn", "matplotlib", "accelerate", "safetensors"}


def test_a_whole_bundle_has_no_differences(bundle: Path) -> None:
    opened = Bundle(bundle)
    assert opened.differences() == []
    opened.check_files()
    assert sorted(opened.manifest.files) == FILES
    assert {name: len(opened.read(name)) for name in FILES} == {
        name: entry.size for name, entry in opened.manifest.files.items()
    }


def test_a_bundle_gives_back_what_was_put_in(bundle: Path) -> None:
    opened = Bundle(bundle)
    golden = opened.golden()
    images = [bundle / "golden" / name for name in golden.names]
    assert opened.labels == LABELS
    assert golden.names == GOLDEN_NAMES
    assert np.array_equal(opened.preprocess.batch(images), golden.inputs["pixel_values"])
    logits = opened.session(threads=1).run(golden.inputs)["logits"]
    # the reference is rounded to fp32 once more
    assert np.abs(logits - golden.logits).max() <= 2 * rounding(golden.inputs["pixel_values"])


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_byte_is_named_and_not_read(bundle: Path, name: str) -> None:
    opened = Bundle(bundle)
    flip_a_byte(bundle / name)
    assert opened.differences() == [f"{name} was changed"]
    with pytest.raises(ToolkitError, match="differs from the manifest's SHA-256") as caught:
        opened.read(name)
    assert caught.value.where == str(bundle / name)
    with pytest.raises(CheckFailed, match=name):
        opened.check_files()


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named_and_not_read(bundle: Path, name: str) -> None:
    opened = Bundle(bundle)
    (bundle / name).unlink()
    assert opened.differences() == [f"{name} is missing"]
    with pytest.raises(ToolkitError, match="the bundle lacks the file") as caught:
        opened.read(name)
    assert caught.value.where == str(bundle / name)


def test_a_flipped_byte_in_the_graph_or_the_reference_stops_their_use(bundle: Path) -> None:
    opened = Bundle(bundle)
    flip_a_byte(bundle / "model.onnx")
    flip_a_byte(bundle / Golden.FILE)
    with pytest.raises(ToolkitError, match="SHA-256"):
        opened.session()
    with pytest.raises(ToolkitError, match="SHA-256"):
        opened.golden()


@pytest.mark.parametrize("name", ["latency.json", "golden/003.png", "plots/loss.png"])
def test_an_extra_file_is_named_and_not_read_until_the_manifest_lists_it(bundle: Path, name: str) -> None:
    opened = Bundle(bundle)
    (bundle / name).parent.mkdir(exist_ok=True)
    (bundle / name).write_bytes(b"extra")
    assert opened.differences() == [f"{name} is not in the manifest"]
    with pytest.raises(ToolkitError, match="does not list the file"):
        opened.read(name)

    opened.update_manifest()
    assert Bundle(bundle).differences() == []
    assert Bundle(bundle).read(name) == b"extra"


@pytest.mark.parametrize(
    ("name", "message"), [("", "no bundle"), ("missing", "no such folder"), ("file", "a file, not a bundle")]
)
def test_what_is_no_bundle_is_refused(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "file").write_text("a file")
    with pytest.raises(ToolkitError, match=message):
        Bundle(tmp_path / name)


def test_an_unknown_precision_lists_what_there_is(bundle: Path) -> None:
    opened = Bundle(bundle)
    assert opened.graph_name() == opened.graph_name("fp32") == opened.manifest.default
    with pytest.raises(ToolkitError, match="no int4 graph") as caught:
        opened.graph_name("int4")
    assert caught.value.fix == "choose from fp32"


@pytest.mark.parametrize(
    "module",
    ["runtime.verify", "serving.classifier", "serving.pool", "runtime.bundle", "runtime.session", "runtime.doctor"],
)
def test_production_imports_nothing_of_training(module: str) -> None:
    script = f"import sys, toolkit.{module}; print(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = set(answer.stdout.split())
    assert "onnxruntime" in loaded
    assert loaded & FORBIDDEN == set()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("labels.json", b"{"),
        ("labels.json", b'["a"]'),
        ("labels.json", b"[1, 2, 3]"),
        ("preprocess.json", b'{"a": 1}'),
        ("preprocess.json", PREPROCESS.model_copy(update={"resample": "bilinear"}).model_dump_json().encode()),
        ("golden/reference.npz", b"garbage"),
        ("parity.json", b"[]"),
        ("parity.json", b'{"results": {"fp32": {"cpu": {}}}}'),
    ],
)
def test_damaged_content_with_a_fresh_hash_is_said_in_one_line(name: str, content: bytes, bundle: Path) -> None:
    (bundle / name).write_bytes(content)
    Bundle(bundle).update_manifest()
    with pytest.raises(ToolkitError) as caught:
        verify(bundle)
    assert name.partition(".")[0].partition("/")[0] in caught.value.as_line()


def test_what_was_compared_is_what_is_used(bundle: Path) -> None:
    opened = Bundle(bundle)
    with opened.holding():
        assert opened.differences() == []
        flip_a_byte(bundle / "model.onnx")
        flip_a_byte(bundle / "labels.json")
        opened.session(threads=1)
        assert opened.labels == LABELS
    with pytest.raises(ToolkitError, match="SHA-256"):
        opened.session(threads=1)


@pytest.mark.parametrize("name", [*FILES, MANIFEST])
def test_no_session_opens_over_a_flipped_byte(name: str, bundle: Path) -> None:
    flip_a_byte(bundle / name)
    with pytest.raises(ToolkitError) as caught:
        Bundle(bundle).session()
    assert caught.value.where == str(bundle / name)


def test_every_file_of_a_real_bundle_is_guarded(finished_bundle: Path, tmp_path: Path) -> None:
    """One flipped byte in each file in turn: verification names it, and nothing is predicted from it."""
    bundle = Path(shutil.copytree(finished_bundle, tmp_path / "bundle"))
    image = Path(shutil.copyfile(finished_bundle / "golden" / "000.png", tmp_path / "image.png"))
    names = [file.relative_to(bundle).as_posix() for file in bundle.rglob("*") if file.is_file()]
    assert len(names) > 15
    for name in sorted(names):
        whole = (bundle / name).read_bytes()
        flip_a_byte(bundle / name)
        try:
            problems = verify(bundle)["problems"]
        except ToolkitError as error:  # a manifest that is no longer JSON
            problems = [Path(error.where).name]
        assert [sentence.split()[0] for sentence in problems] == [name]
        with pytest.raises(ToolkitError) as caught:
            list(Classifier.open(bundle).entries([image]))
        assert caught.value.where == str(bundle / name)
        (bundle / name).write_bytes(whole)
    assert verify(bundle)["passed"]


def test_a_bundle_of_format_1_opens_as_ever(bundle: Path) -> None:
    """Its golden file has ``pixel_values`` where inputs now have names."""
    golden = Bundle(bundle).golden()
    arrays = {"names": np.array(golden.names), "pixel_values": golden.inputs["pixel_values"], "logits": golden.logits}
    np.savez(bundle / Golden.FILE, allow_pickle=False, **arrays)
    write_manifest(bundle, Manifest(format_version=1, toolkit_version="0", created="2026-01-01T00:00:00+00:00"))
    assert json.loads((bundle / "manifest.json").read_text())["format_version"] == 1
    again = Bundle(bundle).golden()
    assert np.array_equal(again.inputs["pixel_values"], golden.inputs["pixel_values"])
    assert verify(bundle, threads=1)["passed"]
