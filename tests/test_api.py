"""The Python API: its examples run, its names are there, and importing it costs nothing."""

from __future__ import annotations

import doctest
import inspect
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import toolkit
import toolkit.api
from toolkit.data.digits import write_digits
from toolkit.recipe.reading import load_recipe
from toolkit.recipe.recipe import Recipe
from toolkit.recipe.shipped import find_recipe
from toolkit.runtime.bundle import Bundle

FUNCTIONS = [
    *("load", "finetune", "zero_shot", "few_shot", "import_classifier"),
    *("export", "export_triton", "parity", "bench_latency", "evaluate", "score", "sweep"),
]


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A part of them, for what is trained and not looked at."""
    folder = tmp_path_factory.mktemp("data") / "digits"
    write_digits(folder)
    for digit in folder.glob("*/*/"):
        for image in sorted(digit.iterdir())[16:]:
            image.unlink()
    return folder


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier that transformers saved."""
    import transformers

    folder = tmp_path_factory.mktemp("classifiers") / "clip"
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision |= {"image_size": 32, "patch_size": 8}
    config = transformers.CLIPConfig(vision_config=vision, id2label={0: "cat", 1: "dog"})
    transformers.CLIPForImageClassification(config).save_pretrained(folder)
    crop = {"height": 32, "width": 32}
    transformers.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=crop).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_examples_of_the_docstrings_run(
    name: str, finished_bundle: Path, digits: Path, color_data: Path, classifier: Path, tmp_path: Path
) -> None:
    function = getattr(toolkit, name)
    assert function is getattr(toolkit.api, name)
    bundle = Bundle(finished_bundle)
    if name in ("parity", "bench_latency"):  # which write into it
        shutil.copytree(finished_bundle, tmp_path / "bundle")
        bundle = Bundle(tmp_path / "bundle")
    known = {
        "toolkit": toolkit,
        "bundle": bundle,
        "image": finished_bundle / "golden" / "000.png",
        "run": bundle.run,
        "data": digits,
        "images": color_data,
        "checkpoint": classifier,
        "out": tmp_path / "out",
    }
    (example,) = doctest.DocTestFinder(recurse=False).find(function, name, globs=known)
    assert example.examples
    assert doctest.DocTestRunner().run(example).failed == 0


@pytest.mark.parametrize("name", toolkit.__all__)
def test_every_public_name_is_there_and_says_what_it_is(name: str) -> None:
    found: Any = getattr(toolkit, name)
    assert inspect.getdoc(found)
    assert name in dir(toolkit)
    if inspect.isfunction(found):
        assert all(
            parameter.annotation is not inspect.Parameter.empty
            for parameter in inspect.signature(found).parameters.values()
        )


def test_an_unknown_name_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="no attribute 'fine_tune'"):
        toolkit.fine_tune  # noqa: B018


def test_importing_the_package_imports_nothing_else() -> None:
    script = "import sys, toolkit; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split()) - set(sys.stdlib_module_names)
    assert not loaded & {"torch", "numpy", "onnxruntime", "pydantic", "PIL", "transformers", "typer", "rich"}


def test_a_recipe_in_memory_is_trained_as_it_is(digits: Path, tmp_path: Path) -> None:
    recipe = load_recipe(
        find_recipe("digits"),
        [f"data.path={digits}", "training.epochs=1", "model.unfreeze_last=0", "tracking.plots=false"],
    )
    run = toolkit.finetune(recipe, out=tmp_path / "run")
    assert isinstance(run.recipe, Recipe)
    assert run.recipe.training.epochs == 1
    with pytest.raises(toolkit.ToolkitError, match="takes no overrides"):
        toolkit.finetune(recipe, out=tmp_path / "other", overrides=["training.epochs=2"])


def test_a_mistake_in_an_override_is_named_as_on_the_command_line(tmp_path: Path) -> None:
    with pytest.raises(toolkit.ToolkitError, match=r"data\.path"):
        toolkit.finetune("digits", out=tmp_path / "run", overrides=[f"data.path={tmp_path / 'nowhere'}"])
