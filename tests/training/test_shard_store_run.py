"""A run on shards of an object store is the run on the same shards on a disk, and goes on exactly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest
from interrupted_runs import EVERY_STEP, cut_back, outcome_of

from recipes.finetune import finetune
from toolkit.data.sharding import write_shards
from toolkit.errors import ToolkitError
from toolkit.recipe.data import DataConfig
from toolkit.recipe.recipe import Recipe
from toolkit.runs.finished_run import Run


def test_a_run_on_a_store_goes_on_exactly_also_where_a_copy_was_lost(
    make_recipe: Callable[..., Recipe], color_data: Path, tmp_path: Path
) -> None:
    def recipe(data: dict[str, Any]) -> Recipe:
        return make_recipe(training={"epochs": 2, "batch_size": 12} | EVERY_STEP, data=data | {"augment": ["crop"]})

    write_shards(DataConfig(path=color_data), tmp_path / "shards", images_per_shard=20)
    system = fsspec.filesystem("memory")
    for path in (tmp_path / "shards").iterdir():
        system.pipe_file(f"memory://a-run/{path.name}", path.read_bytes())
    finetune(recipe({"path": tmp_path / "shards"}), tmp_path / "local")
    stored = recipe({"path": tmp_path / "copies", "store": "memory://a-run"})
    finetune(stored, tmp_path / "stored")
    assert outcome_of(tmp_path / "stored") == outcome_of(tmp_path / "local")
    cut_back(tmp_path / "stored", 4, tmp_path / "cut")
    (tmp_path / "copies" / "train-00001.tar").unlink()
    finetune(stored, tmp_path / "cut", resume=True)
    assert outcome_of(tmp_path / "cut") == outcome_of(tmp_path / "local")
    cut_back(tmp_path / "stored", 4, tmp_path / "other")
    system.rm("memory://a-run/train-00001.tar")
    with pytest.raises(ToolkitError, match=r"doesn't have: train-00001\.tar"):
        finetune(stored, tmp_path / "other", resume=True)
    system.rm("memory://a-run", recursive=True)


def test_a_finished_run_asks_the_store_only_where_its_shards_are_gone(
    make_recipe: Callable[..., Recipe], color_data: Path, tmp_path: Path
) -> None:
    write_shards(DataConfig(path=color_data), tmp_path / "shards", images_per_shard=40)
    system = fsspec.filesystem("memory")
    for path in (tmp_path / "shards").iterdir():
        system.pipe_file(f"memory://its-run/{path.name}", path.read_bytes())
    data = {"path": tmp_path / "copies", "store": "memory://its-run"}
    finetune(make_recipe(training={"epochs": 1}, data=data), tmp_path / "run")
    fingerprint = Run(tmp_path / "run").data.fingerprint
    (tmp_path / "copies").rename(tmp_path / "moved")
    assert Run(tmp_path / "run").data.fingerprint == fingerprint
    system.rm("memory://its-run", recursive=True)
    assert Run(tmp_path / "run").data.fingerprint == fingerprint
    before = sorted(tmp_path.iterdir())
    assert Run(tmp_path / "run", tmp_path / "moved").data.fingerprint == fingerprint
    assert sorted(tmp_path.iterdir()) == before
