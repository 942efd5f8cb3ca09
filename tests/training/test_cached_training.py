"""Training from the boundary cache is training: the same losses, never from a stale or damaged cache."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from recipes.finetune import finetune, opened_trainer
from toolkit.data.source import open_data
from toolkit.errors import ToolkitError
from toolkit.models.build import build_classifier
from toolkit.models.processing import preprocess_from
from toolkit.recipe.recipe import Recipe
from toolkit.training.boundary_cache import FILL_BATCH, map_rows
from toolkit.training.checkpoints import checkpoints_in, read_checkpoint

CACHED = {"boundary_cache": {"enabled": True}}


def losses_of(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def shards_of(cache: Path) -> dict[Path, int]:
    """Shards, and when each was written."""
    return {path: path.stat().st_mtime_ns for path in sorted(cache.rglob("*.safetensors"))}


@pytest.mark.parametrize("family", ["clip", pytest.param("siglip", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("model", "augment", "views"),
    [
        ({"unfreeze_last": 2}, [], 1),
        ({"unfreeze_last": 1}, ["crop", "flip_horizontal"], 3),
        ({"unfreeze_last": 0}, ["crop"], 3),
        ({"unfreeze": ["post_norm"]}, [], 1),
    ],
    ids=["two-layers", "one-layer-views", "head-views", "post-norm"],
)
def test_cached_and_uncached_training_give_the_same_losses(
    family: str,
    model: dict[str, Any],
    augment: list[str],
    views: int,
    make_recipe: Callable[..., Recipe],
    tmp_path: Path,
) -> None:
    """Three epochs see three views. The trunk ran in other batches, which may move a float32 sum by a few ulps.

    The tolerance is 1000 ulps of a loss near 1: three layers, two products each, eighteen steps.
    """
    for name, cache in (("plain", {}), ("cached", {"boundary_cache": {"enabled": True, "views": views}})):
        training = {"epochs": 3, "batch_size": 6} | cache
        finetune(make_recipe(family, model=model, data={"augment": augment}, training=training), tmp_path / name)
    assert losses_of(tmp_path / "cached") == pytest.approx(losses_of(tmp_path / "plain"), abs=1000 * 2**-24)


def test_a_cached_row_is_bit_for_bit_what_the_trunk_gives_in_the_same_batch(
    make_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    recipe = make_recipe(training={"epochs": 1, "boundary_cache": {"enabled": True, "dir": tmp_path / "cache"}})
    finetune(recipe, tmp_path / "run")
    data = open_data(recipe.data)
    classifier, processor = build_classifier(recipe.model, data.classes, 0)
    preprocess, examples = preprocess_from(processor), data.splits["train"][:FILL_BATCH]
    with torch.no_grad():
        pixel_values = torch.from_numpy(preprocess.batch([example.path for example in examples]))
        expected = classifier.eval()(pixel_values, stop=classifier.boundary)
    [shard] = (tmp_path / "cache").rglob("train-*.safetensors")
    rows = map_rows(shard, expected.numpy().dtype)[1]
    assert torch.equal(torch.from_numpy(rows[:FILL_BATCH].copy()), expected)


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_a_cache_in_half_the_bytes_gives_nearly_the_same_losses(
    dtype: str, make_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    """Rounding activations near 1 to 8 bits (bf16) moves a loss by less than 2 %."""
    sizes = []
    for name in ("fp32", dtype):
        cache = {"enabled": True, "dtype": name, "dir": tmp_path / f"cache-{name}"}
        finetune(make_recipe(training={"boundary_cache": cache}), tmp_path / name)
        sizes.append(sum(path.stat().st_size for path in shards_of(tmp_path / f"cache-{name}")))
    assert losses_of(tmp_path / dtype) == pytest.approx(losses_of(tmp_path / "fp32"), rel=0.02)
    assert sizes[1] < 0.51 * sizes[0]


@pytest.mark.parametrize(
    ("share_of_train", "lies"),
    [(0.0, []), pytest.param(1.0, ["train"], marks=pytest.mark.slow), (1.5, ["train", "validation"])],
    ids=["none", "one", "all"],
)
def test_a_cache_in_the_memory_of_the_device_gives_the_same_weights(
    share_of_train: float,
    lies: list[str],
    make_recipe: Callable[..., Recipe],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """On a CPU, whose memory is taken for a GPU's: half of what is free holds so much of the training rows."""
    recipe = make_recipe(training={"boundary_cache": {"enabled": True, "device_share": 0.5}, "ema_decay": 0.5})
    read = finetune(recipe, tmp_path / "read")
    assert read["boundary_cache_on_device"] == {}
    assert "may be taken" not in capsys.readouterr().err
    with opened_trainer(recipe, tmp_path / "resident") as trainer:
        rows = trainer.boundary._layout.row_bytes
        free = int(2 * share_of_train * read["images"]["train"] * rows)
        trainer.boundary.free_device_bytes = lambda: free
        summary = trainer.fit()
    assert summary["boundary_cache_on_device"] == {split: read["images"][split] * rows for split in lies}
    assert (
        json.loads((tmp_path / "resident" / "summary.json").read_text())["boundary_cache_on_device"]
        == (summary["boundary_cache_on_device"])
    )
    said = " ".join(capsys.readouterr().err.split())
    assert ("may be taken" in said) == bool(free)
    if lies:
        assert f"{' and '.join(lies)} on the device" in said
    weights = [(tmp_path / run / "best" / "model.safetensors").read_bytes() for run in ("read", "resident")]
    assert weights[0] == weights[1]
    assert losses_of(tmp_path / "read") == losses_of(tmp_path / "resident")


def test_a_device_out_of_memory_is_said_where_rows_lie_on_it_and_the_run_goes_on_with_fewer(
    make_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    """At the end of the first epoch, as if another process had taken what was left."""

    def crowded(epoch: int, _: dict[str, float]) -> bool:
        raise torch.OutOfMemoryError(f"in epoch {epoch}")

    def recipe(share: float) -> Recipe:
        return make_recipe(training={"epochs": 2, "boundary_cache": {"enabled": True, "device_share": share}})

    with opened_trainer(recipe(0.5), tmp_path / "run") as trainer:
        trainer.boundary.free_device_bytes = lambda: 10**9
        with pytest.raises(ToolkitError, match=r"out of memory, of which cached rows take .* GB") as said:
            trainer.train(crowded)
    assert said.value.where == "training.boundary_cache.device_share"
    assert "below 0.5" in said.value.fix
    assert finetune(recipe(0.25), tmp_path / "run", resume=True)["epochs"] == 2
    with opened_trainer(recipe(0.5), tmp_path / "other") as trainer, pytest.raises(torch.OutOfMemoryError):
        trainer.train(crowded)


def test_runs_with_other_seeds_and_rates_share_a_cache(make_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    written = []
    for seed in (0, 1):
        cache = {"enabled": True, "dir": tmp_path / "cache"}
        training = {"epochs": 1, "seed": seed, "learning_rate": 1e-3 * (seed + 1), "boundary_cache": cache}
        finetune(make_recipe(training=training), tmp_path / f"run-{seed}")
        written.append(shards_of(tmp_path / "cache"))
    assert written[0]
    assert written[0] == written[1]


def test_a_damaged_shard_is_computed_again(make_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    recipe = make_recipe(training={"boundary_cache": {"enabled": True, "dir": tmp_path / "cache"}})
    finetune(recipe, tmp_path / "before")
    shard = next((tmp_path / "cache").rglob("train-*.safetensors"))
    content = bytearray(shard.read_bytes())
    content[-100] ^= 16
    shard.write_bytes(content)
    finetune(recipe, tmp_path / "after")
    assert losses_of(tmp_path / "after") == losses_of(tmp_path / "before")
    content[-100] ^= 16
    assert shard.read_bytes() == bytes(content)


def change_a_frozen_weight(encoder: Path, data: Path) -> None:
    weights = load_file(encoder / "model.safetensors")
    name = next(name for name in weights if "vision" in name and "layers.0.mlp.fc1.weight" in name)
    weights[name][0, 0] += 1e-3
    save_file(weights, encoder / "model.safetensors", {"format": "pt"})


def change_the_processor(encoder: Path, data: Path) -> None:
    path = encoder / "preprocessor_config.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"image_std": [0.3, 0.3, 0.3]}))


def exchange_two_images(encoder: Path, data: Path) -> None:
    """The same files under each other's names: the images are the same, what an index means is not."""
    one, other = (data / "train" / name / "00.png" for name in ("red", "blue"))
    contents = one.read_bytes(), other.read_bytes()
    one.write_bytes(contents[1])
    other.write_bytes(contents[0])


@pytest.mark.parametrize("change", [change_a_frozen_weight, change_the_processor, exchange_two_images])
def test_a_stale_cache_is_not_read(
    change: Callable[[Path, Path], None],
    encoders: dict[str, Path],
    color_data: Path,
    make_recipe: Callable[..., Recipe],
    tmp_path: Path,
) -> None:
    encoder = shutil.copytree(encoders["clip"], tmp_path / "encoder")
    data = shutil.copytree(color_data, tmp_path / "data")
    cached = {"enabled": True, "dir": tmp_path / "cache"}
    sections: dict[str, Any] = {"data": {"path": data}, "model": {"encoder": str(encoder)}}
    finetune(make_recipe(**sections, training={"boundary_cache": cached}), tmp_path / "before")
    change(encoder, data)
    finetune(make_recipe(**sections, training={"boundary_cache": cached}), tmp_path / "after")
    finetune(make_recipe(**sections), tmp_path / "uncached")
    assert len(list((tmp_path / "cache").iterdir())) == 2
    assert losses_of(tmp_path / "after") == pytest.approx(losses_of(tmp_path / "uncached"), abs=1000 * 2**-24)
    assert losses_of(tmp_path / "after") != losses_of(tmp_path / "before")


def test_a_cache_of_ones_own_ends_with_the_run(make_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    finetune(make_recipe(training=CACHED), tmp_path / "run")
    assert not (tmp_path / "run" / "boundary_cache").exists()


def test_what_is_over_the_budget_is_refused_before_the_first_byte(
    make_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    cache = {"enabled": True, "max_gb": 1e-5, "dir": tmp_path / "cache"}
    with pytest.raises(ToolkitError, match=r"needs 0\.\d+ GB .*36 train images.*over max_gb"):
        finetune(make_recipe(training={"boundary_cache": cache}), tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_nothing_frozen_is_nothing_to_cache(make_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    with pytest.raises(ToolkitError, match="nothing to cache"):
        finetune(make_recipe(model={"unfreeze": ["all"]}, training=CACHED), tmp_path / "run")


def test_a_disk_without_room_is_said_and_the_run_can_go_on_elsewhere(
    make_recipe: Callable[..., Recipe], small_disk: Path, tmp_path: Path
) -> None:
    filler = small_disk / "filler"
    filler.write_bytes(bytes(1000 * 1024))
    recipe = make_recipe(training={"boundary_cache": {"enabled": True, "dir": small_disk / "cache"}})
    with pytest.raises(ToolkitError, match="the disk has"):
        finetune(recipe, tmp_path / "run")
    read_checkpoint(checkpoints_in(tmp_path / "run" / "checkpoints")[-1])
    filler.unlink()
    finetune(recipe, tmp_path / "run", resume=True)
