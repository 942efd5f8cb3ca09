"""``--data``: a run's images are somewhere else by now, and are the same or refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from recipes.finetune import finetune
from toolkit.cli.main import app
from toolkit.errors import ToolkitError
from toolkit.recipe.recipe import Recipe


@pytest.fixture(scope="module")
def moved(
    make_recipe: Callable[..., Recipe], color_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """A run, and where its data was moved after it."""
    root = tmp_path_factory.mktemp("moved")
    before = Path(shutil.copytree(color_data, root / "before"))
    finetune(make_recipe(data={"path": before}, training={"epochs": 1}), root / "run")
    return root / "run", Path(shutil.move(before, root / "after"))


def call(*arguments: object) -> dict[str, object]:
    done = CliRunner().invoke(app, [*map(str, arguments), "--json"], standalone_mode=False)
    if done.exception:
        raise done.exception
    return dict(json.loads(done.stdout))


def test_every_verb_of_a_run_finds_its_data_where_it_is_now(moved: tuple[Path, Path], tmp_path: Path) -> None:
    run, data = moved
    bundle = tmp_path / "bundle"
    with pytest.raises(ToolkitError, match="is not here any more") as gone:
        call("export", "--onnx", run, "--out", bundle)
    assert "--data" in gone.value.fix
    assert not bundle.exists()
    call("export", "--onnx", run, "--out", bundle, "--data", data)
    with pytest.raises(ToolkitError, match="is not here any more"):
        call("parity", bundle)
    parity = call("parity", bundle, "--data", data)
    assert parity["results"]["fp32"]["cpu"]["images"] == 36  # type: ignore[index]
    quick = ("--batch-sizes", 1, "--runs", 1, "--seconds", 0, "--no-details", "--compare", "")
    inputs = call("bench-latency", bundle, "--data", data, *quick)["inputs"]
    assert inputs["from"].startswith("held-out images of the run's data set")  # type: ignore[index]


def test_other_images_are_refused(moved: tuple[Path, Path], tmp_path: Path) -> None:
    run, data = moved
    other = Path(shutil.copytree(data, tmp_path / "other"))
    (other / "test" / "red" / "00.png").unlink()
    with pytest.raises(ToolkitError, match="this is not the data that the run was trained on") as caught:
        call("export", "--onnx", run, "--out", tmp_path / "bundle", "--data", other)
    assert caught.value.where == str(other)
