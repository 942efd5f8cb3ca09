from __future__ import annotations

import hashlib
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from toolkit.data.elpv import GRADES, write_elpv
from toolkit.data.source import open_data
from toolkit.recipe.data import DataConfig

PUBLISHED = {"defective": 821, "functional": 1803}
"""106 and 715 cells of probability 2/3 and 1; 1508 and 295 of 0 and 1/3 (Deitsch et al. 2019, table 1)."""


@pytest.fixture(scope="module")
def elpv(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    dest = tmp_path_factory.mktemp("elpv") / "elpv"
    return dest, write_elpv(dest)


def test_the_classes_hold_as_many_cells_as_were_published(elpv: tuple[Path, dict[str, Any]]) -> None:
    _, about = elpv
    assert about["classes"] == list(PUBLISHED)
    totals = {name: sum(by_class[name] for by_class in about["counts"].values()) for name in PUBLISHED}
    assert totals == PUBLISHED
    assert about["images"] == sum(PUBLISHED.values()) == 2624


def test_every_image_is_the_packages_own_byte_for_byte(elpv: tuple[Path, dict[str, Any]]) -> None:
    root, _ = elpv
    package = find_spec("elpv_dataset")
    assert package is not None
    assert package.origin is not None
    originals = {path.name: path for path in (Path(package.origin).parent / "data").rglob("*.png")}
    written = {path.name: path for path in root.rglob("*.png")}
    assert written.keys() == originals.keys()
    assert all(written[name].read_bytes() == originals[name].read_bytes() for name in originals)


def test_dataset_json_names_licence_and_source(elpv: tuple[Path, dict[str, Any]]) -> None:
    root, about = elpv
    assert json.loads((root / "dataset.json").read_text()) == about
    assert about["licence"] == "CC BY-NC-SA 4.0"
    assert about["url"] == "https://github.com/zae-bayern/elpv-dataset"
    assert "Deitsch" in about["source"]


def test_every_image_is_in_the_split_that_published_figures_were_taken_on(elpv: tuple[Path, dict[str, Any]]) -> None:
    root, _ = elpv
    names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.png"))
    digest = hashlib.sha256("\n".join(names).encode()).hexdigest()
    assert digest == "fbf45b5b5d400784d29eccb2d9ab0d664b474c83d482949704688a74030fa913"
    opened = open_data(DataConfig(path=root))
    assert (opened.removed, opened.made) == ({}, [])


def test_the_four_grades_are_the_experts_probabilities(tmp_path: Path) -> None:
    about = write_elpv(tmp_path / "grades", grades=True)
    totals = {name: sum(by_class[name] for by_class in about["counts"].values()) for name in GRADES}
    assert totals == dict(zip(GRADES, (1508, 295, 106, 715), strict=True))
    assert " < ".join(GRADES) in about["note"]
