from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from toolkit.data.package import package_folder
from toolkit.data.textile import write_textile
from toolkit.errors import ToolkitError

INSTALLED = pytest.mark.skipif(find_spec("conformal_clip_data") is None, reason="conformal-clip-data is not installed")
CLASSES = {"global": 500, "local": 500, "nominal": 1000}


@pytest.fixture(scope="module")
def textile(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    dest = tmp_path_factory.mktemp("textile") / "textile"
    return dest, write_textile(dest)


@INSTALLED
def test_every_image_of_the_package_stands_in_one_split_byte_for_byte(textile: tuple[Path, dict[str, Any]]) -> None:
    root, about = textile
    totals = {name: sum(by_class[name] for by_class in about["counts"].values()) for name in about["classes"]}
    assert (totals, about["images"]) == (CLASSES, 2000)
    folder = package_folder("conformal_clip_data", distribution="conformal-clip-data", verb="test")
    originals = {(path.parent.name, path.name): path for path in folder.rglob("*.jpg")}
    written = list(root.rglob("*.jpg"))
    assert sorted((path.parent.name, path.name) for path in written) == sorted(originals)
    assert all(path.read_bytes() == originals[path.parent.name, path.name].read_bytes() for path in written)


@INSTALLED
def test_dataset_json_names_licence_and_source(textile: tuple[Path, dict[str, Any]]) -> None:
    root, about = textile
    assert json.loads((root / "dataset.json").read_text()) == about
    assert (about["name"], about["licence"]) == ("textile", "MIT")
    assert "conformal-clip-data" in about["source"]


@INSTALLED
def test_no_image_stands_in_two_splits(textile: tuple[Path, dict[str, Any]]) -> None:
    splits: dict[bytes, set[str]] = defaultdict(set)
    for path in textile[0].rglob("*.jpg"):
        splits[hashlib.sha256(path.read_bytes()).digest()].add(path.parts[-3])
    assert {len(found) for found in splits.values()} == {1}


def test_a_package_that_is_missing_is_named_with_the_extra_that_brings_it() -> None:
    with pytest.raises(ToolkitError, match="no-such-images is not installed") as caught:
        package_folder("no_such_images", distribution="no-such-images", verb="toolkit data textile")
    assert (caught.value.where, caught.value.fix) == ("toolkit data textile", 'pip install "clip-toolkit[data]"')
