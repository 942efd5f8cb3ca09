from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto
from PIL import Image
from tiny_graph import LABELS, PREPROCESS, expected_logits, graph_bytes, outsourced, rounding

from toolkit.errors import CheckFailed, ToolkitError
from toolkit.files import write_json
from toolkit.runtime.bundle import FORMAT_VERSION, MANIFEST, Bundle, Golden, Manifest, write_manifest
from toolkit.runtime.predict import Predictor, expand
from toolkit.runtime.verify import OTHER_MACHINES, verify

PARITY_TOLERANCE = 1e-4
TOLERANCE = OTHER_MACHINES * PARITY_TOLERANCE
GOLDEN_NAMES = ["000.png", "001.png", "002.png"]
FILES = [
    *(f"golden/{name}" for name in GOLDEN_NAMES),
    "golden/reference.npz",
    "labels.json",
    "model.onnx",
    "parity.json",
    "preprocess.json",
]
FORBIDDEN = {"torch", "transformers", "onnx", "sklearn", "matplotlib", "accelerate", "safetensors"}


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    path = tmp_path / "bundle"
    golden = path / "golden"
    golden.mkdir(parents=True)
    rng = np.random.default_rng(2)
    for name in GOLDEN_NAMES:
        Image.fromarray(rng.integers(0, 256, (9, 13, 3), dtype=np.uint8)).save(golden / name)
    pixel_values = PREPROCESS.batch([golden / name for name in GOLDEN_NAMES])
    Golden(GOLDEN_NAMES, pixel_values, expected_logits(pixel_values).astype(np.float32)).save(path)
    (path / "model.onnx").write_bytes(graph_bytes())
    write_json(path / "labels.json", LABELS)
    write_json(path / "preprocess.json", PREPROCESS.model_dump(mode="json"))
    write_json(path / "parity.json", {"results": {"fp32": {"cpu": {"passed": True, "tolerance": PARITY_TOLERANCE}}}})
    write_manifest(path, Manifest(toolkit_version="0", created="2026-01-01T00:00:00+00:00"))
    return path


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def change_golden(path: Path, change: Callable[[Golden], None]) -> None:
    bundle = Bundle(path)
    golden = bundle.golden()
    change(golden)
    golden.save(path)
    bundle.update_manifest()


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
    assert np.array_equal(opened.preprocess.batch(images), golden.pixel_values)
    logits, _ = opened.session(threads=1).run(golden.pixel_values)
    # the reference is rounded to fp32 once more
    assert np.abs(logits - golden.logits).max() <= 2 * rounding(golden.pixel_values)


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


def test_rewriting_an_unchanged_manifest_changes_no_byte(bundle: Path) -> None:
    before = (bundle / MANIFEST).read_bytes()
    Bundle(bundle).update_manifest()
    assert (bundle / MANIFEST).read_bytes() == before


def test_a_newer_format_asks_for_an_upgrade(bundle: Path) -> None:
    content = json.loads((bundle / MANIFEST).read_bytes())
    write_json(bundle / MANIFEST, content | {"format_version": FORMAT_VERSION + 1, "unheard_of": {}})
    with pytest.raises(ToolkitError, match=f"has format {FORMAT_VERSION + 1}") as caught:
        Bundle(bundle)
    assert caught.value.fix == "upgrade clip-toolkit"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'{"format_version": 1',
        b"\xff\xfe\x00",
        b"[]",
        b"{}",
        b'{"format_version": "1"}',
        b'{"format_version": 1, "toolkit_version": "0", "created": "", "surprise": 1}',
        b'{"format_version": 1, "toolkit_version": "0", "created": "", "files": {"model.onnx": {"size": 1}}}',
    ],
)
def test_a_damaged_manifest_is_refused(bundle: Path, content: bytes) -> None:
    (bundle / MANIFEST).write_bytes(content)
    with pytest.raises(ToolkitError, match="damaged manifest") as caught:
        Bundle(bundle)
    assert caught.value.where == str(bundle / MANIFEST)


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


def test_verification_passes_on_a_whole_bundle(bundle: Path) -> None:
    report = verify(bundle, threads=1)
    assert report["passed"] is True
    assert report["problems"] == []
    assert (report["files"], report["images"]) == (len(FILES), len(GOLDEN_NAMES))
    assert report["preprocessing_identical"] is True
    assert report["top1_agreement"] == 1
    assert report["max_abs_logit"] <= 2 * rounding(Bundle(bundle).golden().pixel_values) < TOLERANCE
    assert json.loads(json.dumps(report)) == report


def other_labels(golden: Golden) -> None:
    golden.logits = np.roll(golden.logits, 1, axis=-1)


def other_logits(golden: Golden) -> None:
    golden.logits = golden.logits + np.float32(2 * TOLERANCE)


def undefined_logits(golden: Golden) -> None:
    golden.logits = np.full_like(golden.logits, np.nan)


def other_pixel(golden: Golden) -> None:
    golden.pixel_values[0, 0, 0, 0] = np.nextafter(golden.pixel_values[0, 0, 0, 0], np.float32(2))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (other_labels, "another label"),
        (other_logits, "logits differ"),
        (undefined_logits, "logits differ"),
        (other_pixel, "other pixel_values"),
    ],
)
def test_verification_fails_when_this_machine_gives_something_else(
    bundle: Path, change: Callable[[Golden], None], problem: str
) -> None:
    change_golden(bundle, change)
    report = verify(bundle, threads=1)
    assert report["passed"] is False
    assert any(problem in sentence for sentence in report["problems"])


def test_verification_fails_when_parity_had_failed(bundle: Path) -> None:
    results = {"fp32": {p: {"passed": p == "cpu", "tolerance": PARITY_TOLERANCE} for p in ("cpu", "cuda")}}
    write_json(bundle / "parity.json", {"results": results})
    Bundle(bundle).update_manifest()
    report = verify(bundle, threads=1)
    assert (report["passed"], report["problems"]) == (False, ["parity.json says that fp32 failed on cuda"])


@pytest.mark.parametrize("damage", [flip_a_byte, Path.unlink], ids=["flipped", "missing"])
@pytest.mark.parametrize("name", FILES)
def test_verification_names_each_file_that_differs(bundle: Path, name: str, damage: Callable[[Path], None]) -> None:
    damage(bundle / name)
    report = verify(bundle, threads=1)
    assert report["passed"] is False
    assert [sentence.split()[0] for sentence in report["problems"]] == [name]


def test_predictions_come_in_order_with_an_error_in_its_place(bundle: Path, tmp_path: Path) -> None:
    bad, missing = tmp_path / "bad.jpg", tmp_path / "missing.png"
    bad.write_text("no image")
    good = [bundle / "golden" / name for name in GOLDEN_NAMES]
    paths = [good[2], bad, good[0], missing, good[1]]
    opened = Bundle(bundle)
    entries = list(Predictor(opened, opened.session(threads=1))(paths))

    assert [entry["path"] for entry in entries] == [str(path) for path in paths]
    assert entries[1] == {"path": str(bad), "error": "not an image that Pillow knows"}
    assert set(entries[3]) == {"path", "error"}
    golden = opened.golden()
    for entry, index in zip((entries[0], entries[2], entries[4]), (2, 0, 1), strict=True):
        assert entry["label"] == LABELS[golden.logits[index].argmax()]
        assert list(entry["probabilities"]) == LABELS
        assert max(entry["probabilities"], key=entry["probabilities"].__getitem__) == entry["label"]
        assert sum(entry["probabilities"].values()) == pytest.approx(1, abs=8 * float(np.finfo(np.float32).eps))
    assert json.loads(json.dumps(entries)) == entries


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_predictions_do_not_depend_on_the_batch_size(bundle: Path, batch_size: int) -> None:
    opened = Bundle(bundle)
    predictor = Predictor(opened, opened.session(threads=1))
    paths = [bundle / "golden" / name for name in (*GOLDEN_NAMES, "missing.png", GOLDEN_NAMES[0])]
    allowed = 2 * rounding(opened.golden().pixel_values)
    for one, other in zip(predictor(paths), predictor(paths, batch_size), strict=True):
        assert {key: one[key] for key in one if key != "probabilities"} == {
            key: other[key] for key in other if key != "probabilities"
        }
        assert one.get("probabilities", {}) == pytest.approx(other.get("probabilities", {}), abs=allowed)


def test_files_that_are_all_bad_need_no_graph(bundle: Path, tmp_path: Path) -> None:
    opened = Bundle(bundle)
    entries: list[dict[str, Any]] = list(Predictor(opened, opened.session(threads=1))([tmp_path / "missing.png"]))
    assert ["error" in entry for entry in entries] == [True]


def test_a_folder_stands_for_the_images_below_it(bundle: Path, tmp_path: Path) -> None:
    images = [bundle / "golden" / name for name in GOLDEN_NAMES]
    assert expand([bundle]) == images
    assert expand([images[1], bundle / "golden", tmp_path / "missing.png"]) == [
        images[1],
        *images,
        tmp_path / "missing.png",
    ]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ToolkitError, match="no images in the folder"):
        expand([tmp_path / "empty"])


@pytest.mark.parametrize("module", ["verify", "predict", "bundle", "session", "doctor"])
def test_production_imports_nothing_of_training(module: str) -> None:
    script = f"import sys, toolkit.runtime.{module}; print(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = set(answer.stdout.split())
    assert "onnxruntime" in loaded
    assert loaded & FORBIDDEN == set()


@pytest.mark.parametrize("name", ["../outside.txt", "/etc/hostname", "golden/../../outside.txt", "a\\b"])
def test_a_manifest_that_leads_out_of_the_bundle_is_refused(name: str, bundle: Path) -> None:
    manifest = json.loads((bundle / MANIFEST).read_text())
    manifest["files"][name] = {"sha256": "0" * 64, "size": 1}
    write_json(bundle / MANIFEST, manifest)
    with pytest.raises(ToolkitError, match="leads out of the bundle"):
        Bundle(bundle)


def test_a_link_is_no_file_of_a_bundle(bundle: Path, tmp_path: Path) -> None:
    outside = tmp_path / "labels.json"
    (bundle / "labels.json").rename(outside)
    (bundle / "labels.json").symlink_to(outside)
    assert Bundle(bundle).differences() == ["labels.json is a link"]
    with pytest.raises(ToolkitError, match="lacks the file"):
        Bundle(bundle).read("labels.json")


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


def put_graph(path: Path, location: str, *, data_name: str | None = None) -> None:
    """Replace the graph by one that keeps its weight at a location, and list all with fresh hashes."""
    graph, data = outsourced(location)
    (path / "model.onnx").write_bytes(graph)
    if data_name is not None:
        (path / data_name).parent.mkdir(exist_ok=True)
        (path / data_name).write_bytes(data)
    Bundle(path).update_manifest()


@pytest.mark.parametrize("name", ["model.onnx.data", "weights/model.bin"])
def test_external_data_gives_the_same_as_one_file(name: str, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixel_values = Bundle(bundle).golden().pixel_values
    expected = Bundle(bundle).session(threads=1).run(pixel_values)
    put_graph(bundle, name, data_name=name)
    # what lies below the working directory under the same name is never looked at
    elsewhere = bundle.parent / "elsewhere"
    (elsewhere / name).parent.mkdir(parents=True)
    (elsewhere / name).write_bytes(bytes((bundle / name).stat().st_size))
    monkeypatch.chdir(elsewhere)
    for one, other in zip(expected, Bundle(bundle).session(threads=1).run(pixel_values), strict=True):
        assert np.array_equal(one, other)
    assert verify(bundle, threads=1)["passed"]


def test_a_session_keeps_its_weights_when_the_data_file_is_gone(bundle: Path) -> None:
    put_graph(bundle, "model.onnx.data", data_name="model.onnx.data")
    opened = Bundle(bundle)
    pixel_values, session = opened.golden().pixel_values, opened.session(threads=1)
    before = session.run(pixel_values)
    (bundle / "model.onnx.data").write_bytes(b"")
    assert all(np.array_equal(*pair) for pair in zip(before, session.run(pixel_values), strict=True))


@pytest.mark.parametrize(
    ("location", "says"),
    [
        ("/etc/passwd", "leads out"),
        ("../outside.bin", "leads out"),
        ("golden/../../outside.bin", "leads out"),
        ("golden/../weight.bin", "leads out"),
        ("..\\outside.bin", "leads out"),
        ("C:\\outside.bin", "leads out"),
        ("C:outside.bin", "leads out"),
        ("./weight.bin", "no plain relative path"),
        ("golden//weight.bin", "no plain relative path"),
        ("", "no plain relative path"),
        (".", "no plain relative path"),
        ("*/_ORT_MEM_ADDR_/*", "no plain relative path"),
        ("weight\n.bin", "no plain relative path"),
        ("manifest.json", "can't be listed"),
        ("elsewhere.bin", "not in the manifest"),
    ],
)
def test_a_graph_that_points_to_no_listed_file_is_refused(location: str, says: str, bundle: Path) -> None:
    _, data = outsourced(location)
    (bundle.parent / "outside.bin").write_bytes(data)  # ONNX Runtime itself would read it
    put_graph(bundle, location, data_name="weight.bin")
    with pytest.raises(ToolkitError, match=says) as caught:
        Bundle(bundle).session()
    assert repr(location) in caught.value.what
    assert caught.value.where == str(bundle / "model.onnx")
    report = verify(bundle)
    assert not report["passed"]
    assert report["problems"] == [caught.value.what]


def test_a_graph_of_subgraphs_with_external_data_is_refused(bundle: Path) -> None:
    """ONNX Runtime takes such data from the disk even where the file's content was given from memory."""
    graph, data = outsourced("weight.bin")
    model = ModelProto.FromString(graph)
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "weight")
    model.graph.sparse_initializer.add().values.CopyFrom(weight)
    (bundle / "model.onnx").write_bytes(model.SerializeToString())
    (bundle / "weight.bin").write_bytes(data)
    Bundle(bundle).update_manifest()
    with pytest.raises(ToolkitError, match="anything but an initializer of the main graph"):
        Bundle(bundle).session()


def data_file_as_link(bundle: Path) -> str:
    (bundle / "weight.bin").rename(bundle.parent / "weight.bin")
    (bundle / "weight.bin").symlink_to(bundle.parent / "weight.bin")
    return "weight.bin is a link"


def folder_as_link(bundle: Path) -> str:
    (bundle / "golden").rename(bundle.parent / "golden")
    (bundle / "golden").symlink_to(bundle.parent / "golden")
    return "golden is a link"


def unlisted_link(bundle: Path) -> str:
    (bundle / "golden" / "passwd").symlink_to("/etc/passwd")
    return "golden/passwd is a link"


def broken_link(bundle: Path) -> str:
    (bundle / "old").symlink_to("nowhere")
    return "old is a link"


def unlisted_file(bundle: Path) -> str:
    (bundle / "golden" / ".hidden").write_bytes(b"")
    return "golden/.hidden is not in the manifest"


def pipe(bundle: Path) -> str:
    os.mkfifo(bundle / "pipe")
    return "pipe is no plain file"


@pytest.mark.parametrize("add", [data_file_as_link, folder_as_link, unlisted_link, broken_link, unlisted_file, pipe])
def test_links_and_unknown_files_are_refused_by_name(add: Callable[[Path], str], bundle: Path) -> None:
    put_graph(bundle, "weight.bin", data_name="weight.bin")
    Bundle(bundle).session(threads=1)
    sentence = add(bundle)
    with pytest.raises(ToolkitError, match=sentence) as caught:
        Bundle(bundle).session()
    assert caught.value.where == str(bundle)
    assert sentence in verify(bundle)["problems"]


@pytest.mark.parametrize("add", [unlisted_link, broken_link, pipe])
def test_no_manifest_is_written_over_what_it_can_not_list(add: Callable[[Path], str], bundle: Path) -> None:
    before = (bundle / MANIFEST).read_bytes()
    name, _, fault = add(bundle).partition(" ")
    with pytest.raises(ToolkitError, match=f"'{name}': it {fault}"):
        Bundle(bundle).update_manifest()
    assert (bundle / MANIFEST).read_bytes() == before


def test_a_bundle_behind_a_link_is_the_users_choice(bundle: Path) -> None:
    (bundle.parent / "current").symlink_to(bundle)
    assert verify(bundle.parent / "current", threads=1)["passed"]


def test_a_manifest_that_is_a_link_is_refused(bundle: Path) -> None:
    (bundle / MANIFEST).rename(bundle.parent / MANIFEST)
    (bundle / MANIFEST).symlink_to(bundle.parent / MANIFEST)
    with pytest.raises(ToolkitError, match=r"manifest\.json is a link"):
        Bundle(bundle)


@pytest.mark.parametrize("name", ["", ".", "./a", "a//b", "a/", "C:a", "a\x00b", "manifest.json", "signature.json"])
def test_a_manifest_lists_plain_names_only(name: str, bundle: Path) -> None:
    manifest = json.loads((bundle / MANIFEST).read_text())
    manifest["files"][name] = {"sha256": "0" * 64, "size": 1}
    write_json(bundle / MANIFEST, manifest)
    with pytest.raises(ToolkitError, match="damaged manifest"):
        Bundle(bundle)


def test_no_byte_of_the_manifest_can_change_unseen(bundle: Path) -> None:
    whole = (bundle / MANIFEST).read_bytes()
    for position in range(0, len(whole), 5):
        for flip in (1, 0x20):
            content = bytearray(whole)
            content[position] ^= flip
            (bundle / MANIFEST).write_bytes(content)
            with pytest.raises(ToolkitError):
                Bundle(bundle).session(threads=1)
    (bundle / MANIFEST).write_bytes(whole)
    Bundle(bundle).session(threads=1)


def test_a_manifest_that_was_edited_is_named(bundle: Path) -> None:
    manifest = json.loads((bundle / MANIFEST).read_text())
    write_json(bundle / MANIFEST, manifest | {"created": "2020-01-01T00:00:00+00:00"})
    assert Bundle(bundle).differences() == ["manifest.json was changed"]
    assert verify(bundle)["problems"] == ["manifest.json was changed"]
    with pytest.raises(ToolkitError, match="manifest was changed"):
        Bundle(bundle).session()
    opened = Bundle(bundle)
    opened.update_manifest()
    assert opened.differences() == Bundle(bundle).differences() == []


def test_a_manifest_without_its_own_hash_is_read(bundle: Path) -> None:
    manifest = json.loads((bundle / MANIFEST).read_text())
    del manifest["manifest_sha256"]
    write_json(bundle / MANIFEST, manifest)
    assert verify(bundle, threads=1)["passed"]


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
            list(Predictor(Bundle(bundle), Bundle(bundle).session())([image]))
        assert caught.value.where == str(bundle / name)
        (bundle / name).write_bytes(whole)
    assert verify(bundle)["passed"]
