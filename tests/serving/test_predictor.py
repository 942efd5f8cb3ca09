"""Predictions from a bundle alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper
from tiny_bundle import GOLDEN_NAMES
from tiny_graph import LABELS, graph_bytes, rounding

from toolkit.errors import ToolkitError
from toolkit.runtime.bundle import Bundle
from toolkit.runtime.image_files import expand, find_images
from toolkit.serving.classifier import Classifier


def test_predictions_come_in_order_with_an_error_in_its_place(bundle: Path, tmp_path: Path) -> None:
    bad, missing = tmp_path / "bad.jpg", tmp_path / "missing.png"
    bad.write_text("no image")
    good = [bundle / "golden" / name for name in GOLDEN_NAMES]
    paths = [good[2], bad, good[0], missing, good[1]]
    opened = Bundle(bundle)
    entries = list(Classifier.open(opened, threads=1).entries(paths))

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
    classifier = Classifier.open(opened, threads=1)
    paths = [bundle / "golden" / name for name in (*GOLDEN_NAMES, "missing.png", GOLDEN_NAMES[0])]
    allowed = 2 * rounding(opened.golden().inputs["pixel_values"])
    for one, other in zip(classifier.entries(paths), classifier.entries(paths, batch_size=batch_size), strict=True):
        assert {key: one[key] for key in one if key != "probabilities"} == {
            key: other[key] for key in other if key != "probabilities"
        }
        assert one.get("probabilities", {}) == pytest.approx(other.get("probabilities", {}), abs=allowed)


def test_files_that_are_all_bad_need_no_graph(bundle: Path, tmp_path: Path) -> None:
    opened = Bundle(bundle)
    entries: list[dict[str, Any]] = list(Classifier.open(opened, threads=1).entries([tmp_path / "missing.png"]))
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


def test_what_a_folder_holds_beside_images_is_counted(bundle: Path, tmp_path: Path) -> None:
    for name in ("a/1.jfif", "a/2", "a/@eaDir/1.jpg", "b/.hidden.png", "b/x.txt", "b/3.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(bundle / "golden" / GOLDEN_NAMES[0], tmp_path / name)
    (tmp_path / "b" / "gone.png").symlink_to(tmp_path / "nowhere")
    found = find_images([tmp_path / "a", tmp_path / "b", tmp_path / "c.png"])
    names = ["a/1.jfif", "a/2", "b/3.png", "b/gone.png", "c.png"]
    assert found.names == [str(tmp_path / name) for name in names]
    assert found.left_out == {"@eaDir": 1, "hidden": 1, ".txt": 1}
    opened = Bundle(bundle)
    entries = list(Classifier.open(opened, threads=1).entries(expand([tmp_path / "b"])))
    assert ["error" in entry for entry in entries] == [False, True]


def test_a_folder_without_images_says_what_lies_there(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ToolkitError, match=r"no images in the folder; left out: 1 file: 1 \.txt"):
        expand([tmp_path])


def test_an_image_that_the_graph_gives_nan_for_has_an_error_and_no_label(bundle: Path) -> None:
    model = ModelProto.FromString(graph_bytes())
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == "bias")
    bias.CopyFrom(numpy_helper.from_array(np.full(len(LABELS), np.nan, np.float32), "bias"))
    (bundle / "model.onnx").write_bytes(model.SerializeToString())
    Bundle(bundle).update_manifest()
    opened = Bundle(bundle)
    (entry,) = Classifier.open(opened, threads=1).entries([bundle / "golden" / GOLDEN_NAMES[0]])
    assert set(entry) == {"path", "error"}
    assert "NaN" in entry["error"]
