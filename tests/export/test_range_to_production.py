"""A run on images of more than 8 bits: the range that it found goes with it, to the raw file in production."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from deep_files import png, tiff

from export.bundle import ExportOptions, export_bundle
from export.latency.pool import golden_contents, pool_of
from export.parity.reference import Reference
from export.prove_bundle import prove_again
from recipes.finetune import finetune
from toolkit.data.source import open_data
from toolkit.errors import ToolkitError
from toolkit.recipe.recipe import Recipe
from toolkit.runs.finished_run import Run
from toolkit.runtime.bundle import Bundle
from toolkit.runtime.decode import decode
from toolkit.runtime.examples import graph_input
from toolkit.runtime.verify import verify
from toolkit.serving.classifier import Classifier

DARK = "dark.png"


def write_deep_images(root: Path) -> Path:
    """12-bit greys in 16-bit PNGs, of two brightnesses; and one that alone would be read as 8 bits."""
    rng = np.random.default_rng(0)
    for split, count in {"train": 8, "val": 4, "test": 4}.items():
        for name, level in {"dense": 3000, "thin": 600}.items():
            folder = root / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                height, width = rng.integers(36, 60, 2)
                values = np.clip(rng.normal(level, 300, (height, width)), 0, 4095)
                (folder / f"{index:02d}.png").write_bytes(png(values.astype(np.uint16)))
    (root / "test" / "thin" / DARK).write_bytes(png(rng.integers(0, 200, (40, 40)).astype(np.uint16)))
    return root


@pytest.fixture(scope="module")
def deep_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_deep_images(tmp_path_factory.mktemp("deep") / "data")


@pytest.fixture(scope="module")
def deep_run(deep_data: Path, make_recipe: Callable[..., Recipe], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("deep-runs") / "run"
    recipe = make_recipe(
        data={"path": deep_data},
        training={"boundary_cache": {"enabled": True}, "batch_size": 4},
        tracking={"plots": True},
    )
    finetune(recipe, out)
    return out


@pytest.fixture(scope="module", params=["image", "pixel_values"])
def deep_bundle(request: pytest.FixtureRequest, deep_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("deep-bundles") / request.param
    export_bundle(Run(deep_run), out, ExportOptions(request.param))
    return out


def test_the_range_that_was_found_lies_in_the_run_and_in_the_bundle(deep_run: Path, deep_bundle: Path) -> None:
    saved = json.loads((deep_run / "best" / "preprocessor_config.json").read_text())
    assert saved["value_range"] == [0, 4095]
    assert json.loads((deep_bundle / "preprocess.json").read_text())["value_range"] == [0, 4095]
    assert Run(deep_run).data.value_range == Run(deep_run).value_range == (0, 4095)


def test_predicting_from_the_raw_file_is_what_pytorch_gives(deep_run: Path, deep_bundle: Path, deep_data: Path) -> None:
    run, bundle = Run(deep_run), Bundle(deep_bundle)
    parity = bundle.parity["results"]["fp32"]["cpu"]
    assert parity["passed"]
    assert parity["top1_agreement"] == 1
    assert parity["stages"]["preprocess"]["max_pixel_value"] == parity["stages"]["decode"]["max_grey_levels"] == 0
    files = sorted((deep_data / "test").rglob("*.png"))
    examples = {example.path: example for example in run.data.splits["test"]}
    assert set(files) == set(examples)
    reference = Reference(run)
    feed = reference.inputs([examples[file] for file in files])
    session = bundle.session(provider="cpu")
    for file, expected in zip(files, feed["pixel_values"], strict=True):
        assert np.array_equal(bundle.preprocess.batch([file])[0], expected)
        given = graph_input(session.input, bundle.preprocess, file)[session.input]
        assert np.array_equal(given, np.asarray(examples[file].decode()) if session.input == "image" else expected)
    expected_labels = [bundle.labels[int(row.argmax())] for row in reference.logits(feed)]
    assert [entry["label"] for entry in Classifier.open(bundle, provider="cpu").entries(files)] == expected_labels


def test_a_dark_image_is_as_dark_in_production_as_in_training(deep_bundle: Path, deep_data: Path) -> None:
    dark = deep_data / "test" / "thin" / DARK
    assert np.asarray(decode(dark)).max() > 190  # alone, its white is 255
    assert np.asarray(Bundle(deep_bundle).preprocess.decoded(dark)).max() <= np.rint(200 * 255 / 4095)


def test_golden_images_further_proofs_and_inputs_of_benchmarks_use_the_range(
    deep_run: Path, deep_bundle: Path, deep_data: Path, tmp_path: Path
) -> None:
    report = verify(deep_bundle)
    assert report["problems"] == []
    assert report["preprocessing_identical"]
    copied = Path(shutil.copytree(deep_bundle, tmp_path / "bundle"))
    folder = deep_data / "test" / "thin"
    entry = prove_again(Bundle(copied), Run(deep_run), provider="cpu", threads=1, folder=folder)["results"]["fp32"]
    assert entry["cpu"]["passed"]
    assert entry["cpu"]["stages"]["preprocess"]["max_pixel_value"] == 0
    bundle = Bundle(copied)
    pool = pool_of(bundle, "image", *golden_contents(bundle))
    brightest = max(int(group["image"].max()) for group in pool.groups)
    assert brightest == max(
        int(np.asarray(bundle.preprocess.decoded(bundle.read(f"golden/{name}"))).max())
        for name in bundle.golden().names
    )


def test_the_boundary_cache_of_another_range_is_another(deep_data: Path, make_recipe: Any, tmp_path: Path) -> None:
    for value_range in ([0, 4095], [0, 5000], [0, 4095]):
        cache = {"enabled": True, "dir": str(tmp_path / "cache")}
        recipe = make_recipe(
            data={"path": deep_data, "value_range": value_range}, training={"boundary_cache": cache, "batch_size": 4}
        )
        finetune(recipe, tmp_path / "run", force=True)
    assert len([path for path in (tmp_path / "cache").iterdir() if path.is_dir()]) == 2


def test_a_given_range_is_the_one_of_run_and_bundle(make_recipe: Any, tmp_path: Path) -> None:
    """CT in Hounsfield units, windowed by the recipe."""
    rng = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for name, level in {"bone": 300, "lung": -700}.items():
            (tmp_path / "data" / split / name).mkdir(parents=True)
            for index in range(4):
                values = np.clip(rng.normal(level, 200, (40, 40)), -1024, 3071).astype(np.int16)
                (tmp_path / "data" / split / name / f"{index}.tif").write_bytes(tiff(values))
    recipe = make_recipe(
        data={"path": tmp_path / "data", "value_range": [-1000, 400]}, training={"batch_size": 4, "epochs": 1}
    )
    finetune(recipe, tmp_path / "run")
    export_bundle(Run(tmp_path / "run"), tmp_path / "bundle")
    bundle = Bundle(tmp_path / "bundle")
    assert bundle.preprocess.value_range == (-1000, 400)
    assert bundle.parity["results"]["fp32"]["cpu"]["stages"]["preprocess"]["max_pixel_value"] == 0
    assert verify(tmp_path / "bundle")["passed"]


@pytest.mark.parametrize("damaged", ["wide", [0], {"low": 0}, 3])
def test_a_damaged_range_of_a_run_is_said_in_words(deep_run: Path, tmp_path: Path, damaged: Any) -> None:
    run = Path(shutil.copytree(deep_run, tmp_path / "run"))
    config = run / "best" / "preprocessor_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"value_range": damaged}))
    with pytest.raises(ToolkitError, match=r"value_range is .*, not \[low, high\]") as caught:
        assert Run(run).data
    assert caught.value.where == str(config)


def test_a_run_of_before_ranges_were_recorded_reads_each_file_alone(deep_run: Path, tmp_path: Path) -> None:
    old = Path(shutil.copytree(deep_run, tmp_path / "run"))
    config = old / "best" / "preprocessor_config.json"
    content = json.loads(config.read_text())
    del content["value_range"]
    config.write_text(json.dumps(content))
    run = Run(old)
    assert run.data.value_range is None
    assert open_data(run.recipe.data).value_range == (0, 4095)
    dark = next(sample for sample in run.data.splits["test"] if str(sample.path).endswith(DARK))
    assert np.asarray(dark.decode()).max() > 190
    export_bundle(run, tmp_path / "bundle")
    assert Bundle(tmp_path / "bundle").preprocess.value_range is None
