"""What learns behind a trunk of another precision: in steps, cache, figures and through a resume."""

from __future__ import annotations

import copy
import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from recipes.finetune import finetune
from toolkit.data.source import open_data
from toolkit.errors import ToolkitError
from toolkit.files import sha256_of
from toolkit.metrics.split import split_metrics
from toolkit.models.build import build_classifier, load_classifier
from toolkit.models.classifier import Classifier
from toolkit.models.processing import preprocess_from
from toolkit.recipe.recipe import Recipe
from toolkit.runs.launch import Worker
from toolkit.runs.run_folder import RunFolder
from toolkit.training.setup import announce, build_accelerator
from toolkit.training.trainer import Trainer


class RoundedTrunk:
    """The frozen groups with rounded weights; one image at a time, so that no batch changes the order of a sum."""

    def __init__(self, classifier: Classifier, mantissa: torch.dtype) -> None:
        self.classifier, self.boundary, self.mantissa = copy.deepcopy(classifier).eval(), classifier.boundary, mantissa
        for parameter in self.classifier.parameters():
            parameter.data = parameter.data.to(mantissa).float()

    @torch.no_grad()
    def __call__(self, pixel_values: Tensor) -> Tensor:
        return torch.cat([self.classifier(image[None], stop=self.boundary) for image in pixel_values])

    def describe(self) -> dict[str, Any]:
        return {"weights": str(self.mantissa)}


def trunk_of(recipe: Recipe, mantissa: torch.dtype = torch.bfloat16) -> RoundedTrunk:
    classifier, _ = build_classifier(recipe.model, open_data(recipe.data).classes, recipe.training.seed)
    return RoundedTrunk(classifier, mantissa)


def train(recipe: Recipe, out: Path, mantissa: torch.dtype = torch.bfloat16, *, resume: bool = False) -> dict[str, Any]:
    """What recipes/finetune.py does, with a trunk of these tests where the recipe asks for one."""
    accelerator, folder, data = build_accelerator(recipe, out), RunFolder(out), open_data(recipe.data)
    classifier, processor = build_classifier(recipe.model, data.classes, recipe.training.seed)
    trunk = None if recipe.training.trunk_precision == "fp32" else RoundedTrunk(classifier, mantissa)
    trainer = Trainer(classifier, processor, data, recipe, folder, accelerator, trunk)
    folder.prepare(recipe, [Worker.this()], resume=resume, trunk=trunk.describe() if trunk else None)
    if resume:
        trainer.resume()
    announce(accelerator, data, recipe, trainer.train_plan)
    return trainer.fit()


def outcome_of(run: Path) -> dict[str, Any]:
    summary = json.loads((run / "summary.json").read_text())
    return {
        "best": sha256_of(run / "best" / "model.safetensors"),
        "metrics": RunFolder(run).history(times=False),
        "figures": {split: summary[split] for split in ("train", "validation", "test")},
        "trunk": (run / "trunk.json").read_bytes(),
    }


def logits_by_hand(run: Path, recipe: Recipe, split: str, trunk: RoundedTrunk | None) -> Tensor:
    """A split through a trunk and the groups of ``best/`` behind it, or through ``best/`` alone."""
    best, processor = load_classifier(run / "best")
    examples = open_data(recipe.data).splits[split]
    pixel_values = torch.from_numpy(preprocess_from(processor).batch([example.path for example in examples]))
    with torch.no_grad():
        return best(trunk(pixel_values), start=trunk.boundary) if trunk else best(pixel_values)


@pytest.mark.parametrize(
    ("family", "last"),
    [
        *(("clip", 1), ("siglip", 0)),
        *(pytest.param(family, last, marks=pytest.mark.slow) for family, last in (("clip", 0), ("siglip", 1))),
    ],
)
def test_cached_training_through_a_trunk_equals_uncached_training_through_it(
    family: str, last: int, make_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    model = {"unfreeze_last": last}
    for name, cache in (("plain", False), ("cached", True)):
        training = {"trunk_precision": "int8", "boundary_cache": {"enabled": cache}}
        train(make_recipe(family, model=model, training=training), tmp_path / name)
    train(make_recipe(family, model=model), tmp_path / "fp32")
    assert outcome_of(tmp_path / "cached") == outcome_of(tmp_path / "plain")
    assert RunFolder(tmp_path / "fp32").history(times=False) != RunFolder(tmp_path / "plain").history(times=False)
    assert RunFolder(tmp_path / "fp32").trunk() is None


def test_each_trunk_has_a_cache_of_its_own(make_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    training = {"epochs": 1, "boundary_cache": {"enabled": True, "dir": tmp_path / "cache"}}
    recipe = make_recipe(training=training | {"trunk_precision": "int8"})
    train(make_recipe(training=training), tmp_path / "fp32")
    train(recipe, tmp_path / "one")
    train(recipe, tmp_path / "other", torch.float16)
    train(recipe, tmp_path / "again")
    keys = [json.loads(path.read_text()) for path in (tmp_path / "cache").glob("*/key.json")]
    assert sorted(str(key.get("trunk")) for key in keys) == sorted(
        ["None", str({"weights": "torch.bfloat16"}), str({"weights": "torch.float16"})]
    )


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_the_figures_are_those_of_the_trunk_and_the_saved_groups_behind_it(
    family: str, make_recipe: Callable[..., Recipe], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = make_recipe(family, training={"trunk_precision": "fp16", "wise_ft": True, "select_by": "loss"})
    summary = train(recipe, tmp_path)
    assert "frozen trunk in fp16 (ONNX Runtime)" in capsys.readouterr().err
    assert summary["trunk_precision"] == "fp16"
    data, trunk = open_data(recipe.data), trunk_of(recipe)
    test, validation = (logits_by_hand(tmp_path, recipe, split, trunk) for split in ("test", "validation"))
    rows = list(csv.DictReader((tmp_path / "test_predictions.csv").open()))
    written = torch.tensor([[float(row[f"logit:{name}"]) for name in data.classes] for row in rows])
    # the groups behind the trunk ran in other batches: a few ulps of a logit near 1
    torch.testing.assert_close(written, test, atol=1000 * 2**-24, rtol=0)
    assert (written - logits_by_hand(tmp_path, recipe, "test", None)).abs().max() > 1000 * 2**-24
    expected = split_metrics(test, data.labels("test"), summary["temperature"])
    assert summary["test"]["accuracy"] == expected["accuracy"]
    assert summary["test"]["loss"] == pytest.approx(expected["loss"], rel=1e-4)
    [chosen] = [entry for entry in summary["wise_ft"]["tried"] if entry["alpha"] == summary["wise_ft"]["alpha"]]
    assert chosen["loss"] == pytest.approx(split_metrics(validation, data.labels("validation"))["loss"], rel=1e-4)


@pytest.mark.parametrize("cached", [False, True])
def test_a_resumed_run_keeps_its_trunk_and_equals_the_straight_one(
    cached: bool, make_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    training = {"trunk_precision": "int8", "checkpoint_every": 1, "keep_last": 100}
    recipe, run = make_recipe(training=training | {"boundary_cache": {"enabled": cached}}), tmp_path / "run"
    train(recipe, run)
    expected = outcome_of(run)
    for checkpoint in (run / "checkpoints").iterdir():
        if int(checkpoint.name[5:]) > 3:
            shutil.rmtree(checkpoint)
    (run / "summary.json").unlink()
    train(recipe, run, resume=True)
    assert outcome_of(run) == expected
    with pytest.raises(ToolkitError, match="belongs to another trunk"):
        train(recipe, run, torch.float16, resume=True)
    assert RunFolder(run).trunk() == trunk_of(recipe).describe()


def test_a_new_run_has_a_new_trunk(make_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.prepare(make_recipe(), [Worker.this()], resume=False, trunk={"weights": "one"})
    folder.prepare(make_recipe(), [Worker.this()], resume=False, trunk={"weights": "other"})
    assert folder.trunk() == {"weights": "other"}


@pytest.mark.parametrize("content", [b'{"weights": ', b"[]", b"\xff\xfe"])
def test_a_damaged_description_is_said(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "trunk.json"
    path.write_bytes(content)
    with pytest.raises(ToolkitError, match="damaged description of the trunk") as caught:
        RunFolder(tmp_path).trunk()
    assert caught.value.where == str(path)


def test_nothing_frozen_is_no_trunk(make_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    recipe = make_recipe(model={"unfreeze": ["all"]}, training={"trunk_precision": "int8"})
    with pytest.raises(ToolkitError, match=r"^no group is frozen, so there is no trunk to run in int8\n") as caught:
        finetune(recipe, tmp_path / "run")
    assert caught.value.where == "training.trunk_precision"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("precision", "given"), [("int8", False), ("fp32", True)])
def test_a_trainer_does_not_run_another_trunk_than_the_recipe_says(
    precision: str, given: bool, make_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    recipe = make_recipe(training={"trunk_precision": precision})
    data = open_data(recipe.data)
    classifier, processor = build_classifier(recipe.model, data.classes, 0)
    trunk = RoundedTrunk(classifier, torch.bfloat16) if given else None
    with pytest.raises(ValueError, match=f"a trunk in {precision}"):
        Trainer(classifier, processor, data, recipe, RunFolder(tmp_path), build_accelerator(recipe, tmp_path), trunk)
