"""Paths on the command line: URLs and standard input by name, wrong folders before anything large is imported."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import typer
from typer.models import OptionInfo
from typer.testing import CliRunner

from toolkit.cli.main import app
from toolkit.errors import ToolkitError
from toolkit.recipe.reading import load_data_config
from toolkit.recipe.recipe import Recipe
from toolkit.user_paths import remote

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "transformers", "onnx", "accelerate", "scipy", "sklearn", "matplotlib")


def verbs(commands: typer.Typer, above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for command in commands.registered_commands:
        assert command.callback is not None
        yield (*above, command.name or command.callback.__name__), command.callback
    for group in commands.registered_groups:
        assert group.typer_instance is not None
        yield from verbs(group.typer_instance, (*above, str(group.typer_instance.info.name or group.name)))


def parameters(verb: Any) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(verb).parameters)


def takes_a_path(verb: Any, name: str) -> bool:
    return name == "config" or "Path" in str(get_type_hints(verb)[name])


VERBS = dict(verbs(app))
PLACES = [
    pytest.param(verb, name, id=f"{' '.join(verb)}-{name}")
    for verb, callback in VERBS.items()
    for name in parameters(callback)
    if takes_a_path(callback, name)
]


def arguments_of(verb: tuple[str, ...], name: str, value: str) -> list[str]:
    """A call of a verb with all that it must have, and a value for one parameter."""
    said, hints = list(verb), get_type_hints(VERBS[verb], include_extras=True)
    for each, parameter in parameters(VERBS[verb]).items():
        about = get_args(hints[each])[-1]
        if each != name and parameter.default is not inspect.Parameter.empty:
            continue
        word = value if each == name else "3" if hints[each].__origin__ is float else "somewhere"
        option = [*(about.param_decls or ()), f"--{each.replace('_', '-')}"][0]
        said += [option, word] if isinstance(about, OptionInfo) else [word]
    return said


@pytest.mark.parametrize("value", ["https://example.org/data.zip", "s3://bucket/run", "-"])
@pytest.mark.parametrize(("verb", "name"), PLACES)
def test_every_verb_refuses_what_is_no_path_here(
    verb: tuple[str, ...], name: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = CliRunner().invoke(app, arguments_of(verb, name, value), standalone_mode=False)
    assert isinstance(found.exception, ToolkitError)
    assert ("standard input" if value == "-" else f"{value} is a URL") in found.exception.what
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", ["C:/images", "C:\\images", "a:b", "./-", "-x", "http", "/tmp/https:/x", "~/x"])
def test_paths_of_this_machine_are_paths(path: str) -> None:
    assert remote(path) is None


def test_a_folder_with_the_name_of_an_address_is_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "s3:" / "bucket").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert load_data_config(Path("s3:/bucket")).path == tmp_path / "s3:" / "bucket"


def test_a_recipe_with_an_address_for_data_is_refused(make_recipe: Callable[..., Recipe]) -> None:
    with pytest.raises(ValueError, match=re.escape("https://example.org/x is a URL")):
        make_recipe(data={"path": "https://example.org/x"})


MEASURING = (
    ["parity", "{bundle}"],
    ["bench-latency", "{bundle}"],
    ["bench-latency", "{bundle}", "--url", "http://127.0.0.1:9"],
    ["tune", "{bundle}", "--p99-ms", "9"],
)
"""What takes a folder of images."""
NOWHERE: list[tuple[list[str], str]] = [
    (["export", "--onnx", "nowhere", "--out", "b"], "there is no such run folder (at nowhere)"),
    (["export", "--onnx", ".", "--out", "b"], "no run folder: recipe.yaml is missing"),
    (["export", "--onnx", "{run}", "--out", "b", "--data", "nowhere"], "no such file or folder (at nowhere)"),
    (["parity", "nowhere"], "no such folder (at nowhere)"),
    (["parity", "{bundle}", "--run", "nowhere"], "there is no such run folder (at nowhere)"),
    (["parity", "{bundle}", "--data", "nowhere"], "no such file or folder (at nowhere)"),
    (["bench-latency", "nowhere"], "no such folder (at nowhere)"),
    (["bench-latency", "{bundle}", "--run", "nowhere"], "there is no such run folder (at nowhere)"),
    (["bench-latency", "{bundle}", "--data", "nowhere"], "no such file or folder (at nowhere)"),
    (["tune", "{bundle}", "--p99-ms", "9", "--run", "nowhere"], "there is no such run folder (at nowhere)"),
    (["tune", "{bundle}", "--p99-ms", "9", "--data", "nowhere"], "no such file or folder (at nowhere)"),
    *(([*verb, "--images", "nowhere"], "no such file or folder (at nowhere)") for verb in MEASURING),
    *(([*verb, "--images", "."], "no images in the folder (at .)") for verb in MEASURING),
    (["train", "nowhere.yaml", "--out", "r"], "can't read the recipe: No such file or directory"),
]
ONE_AFTER_ANOTHER = """
import contextlib, io, json, sys
from toolkit.cli.main import main
for command in json.loads(sys.argv[1]):
    sys.argv[:] = ["toolkit", *command]
    said, code = io.StringIO(), 0
    with contextlib.redirect_stderr(said):
        try:
            main()
        except SystemExit as end:
            code = end.code
    imported = sorted({name.partition(".")[0] for name in sys.modules})
    print(json.dumps({"code": code, "said": said.getvalue(), "imported": imported}))
"""


@pytest.mark.parametrize("finished_run", ["clip"], indirect=True)
def test_a_wrong_path_is_refused_before_anything_large_is_imported(
    finished_run: Path, finished_bundle: Path, tmp_path: Path
) -> None:
    """In one process, so that the first one which imports too much is the one that is named."""
    commands = [
        [each.format(run=finished_run, bundle=finished_bundle) for each in arguments] for arguments, _ in NOWHERE
    ]
    script = [sys.executable, "-c", ONE_AFTER_ANOTHER, json.dumps(commands)]
    done = subprocess.run(script, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stderr == ""
    for (arguments, says), line in zip(NOWHERE, done.stdout.splitlines(), strict=True):
        end = json.loads(line)
        assert end["code"] == 2, (arguments, end["said"])
        assert end["said"].count("\n") == 1, (arguments, end["said"])
        assert says in end["said"], arguments
        assert set(end["imported"]) & set(HEAVY) == set(), arguments
    assert list(tmp_path.iterdir()) == []
