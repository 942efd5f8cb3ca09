"""A run is a function of the images: folder, manifest, shards and data set on disk give the same one, bit for bit."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
from PIL import Image

from recipes.finetune import finetune
from toolkit.data.sharding import write_shards
from toolkit.files import sha256_of
from toolkit.recipe.data import DataConfig
from toolkit.recipe.recipe import Recipe
from toolkit.runs.run_folder import RunFolder

AUGMENTED = {"augment": ["random_resized_crop", "rand_augment", "flip_horizontal"]}


def outcome_of(run: Path) -> dict[str, Any]:
    """What must be equal: the best weights, every figure but the times, the test's figures."""
    summary = json.loads((run / "summary.json").read_text())
    return {
        "best": sha256_of(run / "best" / "model.safetensors"),
        "metrics": RunFolder(run).history(times=False),
        "figures": {split: summary[split] for split in ("train", "validation", "test")},
        "fingerprint": summary["data_fingerprint"],
    }


@pytest.fixture(scope="module")
def formats(color_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("formats")
    files = sorted(color_data.rglob("*.png"), key=lambda file: file.name)
    with (root / "manifest.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "split"])
        writer.writerows([file, file.parent.name, file.parent.parent.name] for file in files)
    write_shards(DataConfig(path=color_data), root / "shards", images_per_shard=10)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")})
    parts = {}
    for split in ("train", "val", "test"):
        mine = [file for file in files if file.parent.parent.name == split]
        table = {"image": [str(file) for file in mine], "label": [file.parent.name for file in mine]}
        parts[split] = datasets.Dataset.from_dict(table, features=features)
    datasets.DatasetDict(parts).save_to_disk(root / "set")
    return {"manifest": root / "manifest.csv", "shards": root / "shards", "datasets": root / "set"}


@pytest.fixture(scope="module")
def from_folder(make_recipe: Callable[..., Recipe], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("runs") / "folder"
    finetune(make_recipe(data=AUGMENTED), out)
    return outcome_of(out)


@pytest.mark.parametrize(
    ("name", "workers"),
    [
        *(("manifest", 0), ("datasets", 0), ("shards", 2)),
        *(pytest.param(*each, marks=pytest.mark.slow) for each in (("manifest", 2), ("datasets", 2), ("shards", 0))),
    ],
)
def test_every_format_gives_the_same_run(
    make_recipe: Callable[..., Recipe],
    formats: dict[str, Path],
    from_folder: dict[str, Any],
    tmp_path: Path,
    name: str,
    workers: int,
) -> None:
    recipe = make_recipe(data=AUGMENTED | {"path": formats[name]}, training={"loader_workers": workers})
    finetune(recipe, tmp_path / "run")
    assert outcome_of(tmp_path / "run") == from_folder


def test_a_run_on_shards_goes_on_in_the_middle_of_an_epoch(
    make_recipe: Callable[..., Recipe], formats: dict[str, Path], from_folder: dict[str, Any], tmp_path: Path
) -> None:
    training = {"checkpoint_every": 1, "keep_last": 1000}
    recipe = make_recipe(data=AUGMENTED | {"path": formats["shards"]}, training=training)
    finetune(recipe, tmp_path / "run")
    whole = outcome_of(tmp_path / "run")
    assert whole["best"] == from_folder["best"]
    (tmp_path / "run" / "summary.json").unlink()
    for checkpoint in (tmp_path / "run" / "checkpoints").iterdir():
        if int(checkpoint.name[5:]) > 7:  # 5 steps an epoch
            for file in checkpoint.iterdir():
                file.unlink()
            checkpoint.rmdir()
    (tmp_path / "run" / "best" / "model.safetensors").write_bytes(b"of a later epoch")
    finetune(recipe, tmp_path / "run", resume=True)
    assert outcome_of(tmp_path / "run") == whole


def test_a_run_that_skips_broken_images_counts_and_lists_them(
    make_recipe: Callable[..., Recipe], color_data: Path, tmp_path: Path
) -> None:
    files = sorted(color_data.rglob("*.png"))
    broken = {"zero.png": b"", "text.jpg": b"no image", "half.png": files[0].read_bytes()[:60]}
    for kind, mode in (("AVIF", "RGB"), ("BLP", "P"), ("DDS", "RGB")):
        stream = io.BytesIO()
        Image.new(mode, (32, 32)).save(stream, kind)
        broken[f"{kind}.jpg"] = stream.getvalue()[:-20] if kind != "DDS" else stream.getvalue()[:100]
    for name, content in broken.items():
        (tmp_path / name).write_bytes(content)
    rows = [f"{file},{file.parent.name},{file.parent.parent.name}\n" for file in files]
    rows += [f"{name},red,train\n" for name in broken]
    (tmp_path / "m.csv").write_text(f"path,label,split\n{''.join(rows)}")
    recipe = make_recipe(data={"path": tmp_path / "m.csv", "on_bad_image": "skip"}, training={"epochs": 1})
    summary = finetune(recipe, tmp_path / "run")
    skipped = {Path(entry["path"]).name: entry["reason"] for entry in summary["skipped_images"]}
    assert set(skipped) == set(broken)
    assert not any("\n" in reason for reason in skipped.values())
    assert skipped["zero.png"] == "the file is empty"
    assert skipped["text.jpg"] == "not an image that Pillow knows"
    assert summary["images"]["train"] == 36
