from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from toolkit.data.digits import write_digits
from toolkit.data.source import open_data
from toolkit.errors import ToolkitError
from toolkit.recipe.data import DataConfig

Written = tuple[Path, dict[str, Any]]


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Written:
    dest = tmp_path_factory.mktemp("digits") / "digits"
    return dest, write_digits(dest)


def test_every_digit_is_written_once_with_its_ink(digits: Written) -> None:
    root, about = digits
    original = load_digits()
    files = {int(path.stem): path for path in root.rglob("*.png")}
    assert about["images"] == len(files) == len(original.target) == 1797
    assert about["classes"] == [str(digit) for digit in range(10)]
    for index, path in files.items():
        with Image.open(path) as image:
            assert (image.mode, image.size) == ("L", (8, 8))
            # 17 levels of ink lie 255/16 apart, so dividing finds each again
            assert np.array_equal(np.rint(np.asarray(image) / (255 / 16)), original.images[index])
        assert path.parent.name == str(original.target[index])


def test_the_fingerprint_is_the_same_wherever_and_whenever_it_is_written(digits: Written, tmp_path: Path) -> None:
    assert write_digits(tmp_path / "again") == digits[1]
    assert [path.name for path in tmp_path.iterdir()] == ["again"]


def test_another_seed_gives_another_split(digits: Written, tmp_path: Path) -> None:
    other = write_digits(tmp_path / "other", seed=1)
    assert other["fingerprint"] != digits[1]["fingerprint"]
    totals = [sum(sum(by_class.values()) for by_class in about["counts"].values()) for about in (other, digits[1])]
    assert totals == [1797, 1797]


def test_an_existing_data_set_is_refused_and_left_alone(digits: Written) -> None:
    root, _ = digits
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    with pytest.raises(ToolkitError, match="--force"):
        write_digits(root)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before
    assert list(root.parent.iterdir()) == [root]


def test_every_image_is_in_the_split_that_published_figures_were_taken_on(digits: Written) -> None:
    root, _ = digits
    names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.png"))
    digest = hashlib.sha256("\n".join(names).encode()).hexdigest()
    assert digest == "7fb8abbd35ca7a71b2dba53b6af38e2ae6313f581c3e6505f782477d262bbf7a"
    assert (open_data(DataConfig(path=root)).removed, open_data(DataConfig(path=root)).made) == ({}, [])
