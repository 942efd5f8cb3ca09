from __future__ import annotations

import csv
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from accelerate import PartialState
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from recipes.finetune import finetune
from toolkit.errors import ToolkitError
from toolkit.recipe.recipe import Recipe
from toolkit.recipe.tracking import TrackingConfig
from toolkit.runs.run_folder import RunFolder
from toolkit.training.trackers import PACKAGES, CsvTracker, check_trackers

TRACKED = ("loss", "accuracy", "learning_rate")
Figures = set[tuple[int, str, float]]


def logged(run: Path) -> Figures:
    """What metrics.jsonl says, as (step, name, value)."""
    found, step = set(), 0
    for entry in RunFolder(run).history():
        step = entry.get("step", step)
        found |= {(step, f"{entry['split']}/{name}", entry[name]) for name in TRACKED if name in entry}
    return found


def in_csv(run: Path) -> list[tuple[int, str, float]]:
    with (run / "metrics.csv").open(newline="") as file:
        rows = [(int(row["step"]), row["name"], float(row["value"])) for row in csv.DictReader(file)]
    return [row for row in rows if row[1].split("/")[1] in TRACKED]


def in_tensorboard(run: Path) -> set[tuple[int, str, float]]:
    folder = next(run.rglob("events.out.tfevents*")).parent
    events = EventAccumulator(str(folder)).Reload()
    return {
        (event.step, tag, event.value)
        for tag in events.Tags()["scalars"]
        if tag.split("/")[1] in TRACKED
        for event in events.Scalars(tag)
    }


def test_csv_and_tensorboard_hold_what_metrics_jsonl_holds(make_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    run = tmp_path / "run"
    finetune(make_recipe(tracking={"trackers": ["csv", "tensorboard"], "log_every": 2}), run)
    expected = logged(run)
    assert {name for _, name, _ in expected} == {
        "train/loss", "train/accuracy", "train/learning_rate", "validation/loss", "validation/accuracy",
    }  # fmt: skip
    assert set(in_csv(run)) == expected
    rounded = {(step, name): value for step, name, value in in_tensorboard(run)}
    for step, name, value in expected:
        of_step = [value for other, title, value in expected if (other, title) == (step, name)]
        assert any(rounded[step, name] == pytest.approx(each, rel=1e-6) for each in [value, *of_step])


def test_a_resumed_run_repeats_no_line_of_the_csv(make_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    run = tmp_path / "run"
    recipe = make_recipe(
        training={"checkpoint_every": 2, "keep_last": 100}, tracking={"trackers": ["csv"], "log_every": 1}
    )
    finetune(recipe, run)
    whole = in_csv(run)
    (run / "summary.json").unlink()
    for checkpoint in (run / "checkpoints").iterdir():
        if int(checkpoint.name[5:]) > 4:
            for file in checkpoint.iterdir():
                file.unlink()
            checkpoint.rmdir()
    with (run / "metrics.csv").open("a") as file:
        file.write("10,train/lo")
    finetune(recipe, run, resume=True)
    assert in_csv(run) == whole


def test_a_new_csv_has_a_heading_alone(tmp_path: Path) -> None:
    PartialState()
    tracker = CsvTracker(tmp_path / "metrics.csv", 0)
    assert tracker.path.read_text() == "step,name,value\n"
    tracker.log({"b": 2.5, "a, quoted": 1}, step=3)
    assert tracker.path.read_text() == 'step,name,value\n3,"a, quoted",1\n3,b,2.5\n'
    assert CsvTracker(tmp_path / "metrics.csv", 2).path.read_text() == "step,name,value\n"


@pytest.mark.parametrize("name", sorted(PACKAGES))
def test_a_tracker_that_is_not_installed_is_refused_before_anything_is_written(
    name: Any, make_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    if importlib.util.find_spec(name):
        check_trackers(TrackingConfig(trackers=[name]))
        return
    with pytest.raises(ToolkitError, match=f"{name} is not installed") as caught:
        finetune(make_recipe(tracking={"trackers": [name]}), tmp_path / "run")
    assert caught.value.where == "tracking.trackers"
    assert f"pip install {PACKAGES[name]}" in caught.value.fix
    assert not (tmp_path / "run").exists()


def test_wandb_is_told_recipe_and_figures(
    make_recipe: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    finetune(make_recipe(tracking={"trackers": ["wandb"], "project": "colours"}), tmp_path / "run")
    kept = list((tmp_path / "run").rglob("*.wandb"))
    assert len(kept) == 1
    assert kept[0].stat().st_size > 0


def test_mlflow_is_told_recipe_and_figures(
    make_recipe: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "store").as_uri())
    mlflow.set_tracking_uri((tmp_path / "store").as_uri())
    summary = finetune(make_recipe(tracking={"trackers": ["mlflow"], "project": "colours"}), tmp_path / "run")
    client = mlflow.MlflowClient((tmp_path / "store").as_uri())
    experiment = client.get_experiment_by_name("colours")
    run = client.search_runs([experiment.experiment_id])[0]
    assert run.data.params["training.batch_size"] == "8"
    history = client.get_metric_history(run.info.run_id, "validation/accuracy")
    assert len(history) == summary["epochs"]
    json.dumps(run.data.params)
