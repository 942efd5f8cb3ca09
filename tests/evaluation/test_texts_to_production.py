"""Images with texts, from a manifest through a run and its bundle to predictions and metrics."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

import toolkit
from toolkit.cli.main import main
from toolkit.data.pairs import Pair, read_pairs
from toolkit.errors import ToolkitError
from toolkit.recipe.recipe import Recipe
from toolkit.runtime.examples import ImageText
from toolkit.runtime.verify import verify

Cli = Callable[..., tuple[int, str, str]]
COLUMNS = {"path": "file", "text": "words", "label": "what"}


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    """The command line in this process: exit code, standard output and standard error."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["toolkit", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out, printed.err

    return run


@pytest.fixture(scope="module")
def manifest(color_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The colours, each image with words; the label is told by the words' first letter alone."""
    path = tmp_path_factory.mktemp("manifest") / "words.csv"
    rng = np.random.default_rng(0)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "words", "what", "split"])
        for image in sorted(color_data.rglob("*.png")):
            words = " ".join(rng.choice(["circle", "star", "ring", "on", "a"], rng.integers(1, 6)))
            writer.writerow([image, f"{image.parent.name} {words}", image.parent.name, image.parent.parent.name])
    return path


def recipe_of(manifest: Path, encoder: Path, fusion: dict[str, Any], **data: Any) -> Recipe:
    model = {"encoder": str(encoder), "inputs": ["image", "text"], "unfreeze_last": 0, "fusion": fusion}
    recipe = {
        "data": {"path": manifest, "columns": COLUMNS} | data,
        "model": model,
        "training": {"epochs": 2, "batch_size": 8, "learning_rate": 1e-3},
        "tracking": {"trackers": [], "plots": False},
    }
    return Recipe.model_validate(recipe)


@pytest.fixture(scope="module")
def run(manifest: Path, text_encoders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    from recipes.finetune import finetune

    out = tmp_path_factory.mktemp("runs") / "run"
    finetune(recipe_of(manifest, text_encoders["clip"], {"type": "concat"}), out)
    return out


@pytest.fixture(scope="module")
def bundle(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from export.bundle import export_bundle
    from toolkit.runs.finished_run import Run

    out = tmp_path_factory.mktemp("bundles") / "bundle"
    export_bundle(Run(run), out)
    return out


@pytest.fixture(scope="module")
def rows(manifest: Path) -> list[dict[str, str]]:
    with manifest.open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_way_to_the_graph_gives_the_same_logits(
    bundle: Path, manifest: Path, rows: list[dict[str, str]], cli: Cli, tmp_path: Path
) -> None:
    first = rows[:9]
    with toolkit.load(bundle) as classifier:
        streamed = classifier.predict([ImageText(row["file"], row["words"]) for row in first], batch_size=1)
        other = classifier.predict(ImageText(first[0]["file"], "something else"))
    assert not np.allclose(other.logits, streamed[0].logits, atol=1e-3)  # the text is read
    code, out, _ = cli("predict", bundle, "--manifest", manifest, "--json", "--batch-size", 1)
    entries = json.loads(out)["predictions"]
    assert (code, len(entries)) == (0, len(rows))
    for row, entry, prediction in zip(first, entries, streamed, strict=False):
        assert (entry["path"], entry["text"], entry["label"]) == (row["file"], row["words"], prediction.label)
        assert entry["probabilities"] == prediction.probabilities
    code, out, _ = cli("predict", bundle, first[0]["file"], "--text", first[0]["words"], "--json")
    assert json.loads(out)["predictions"] == entries[:1]
    code, _, _ = cli("predict", bundle, "--manifest", manifest, "--out", tmp_path / "p.csv", "--batch-size", 1)
    with (tmp_path / "p.csv").open(newline="") as file:
        written = list(csv.DictReader(file))
    assert list(written[0])[:3] == ["path", "text", "label"]
    assert [(each["text"], each["label"]) for each in written] == [(each["text"], each["label"]) for each in entries]


def test_texts_of_any_lengths_share_a_batch(bundle: Path, rows: list[dict[str, str]]) -> None:
    sources = [ImageText(row["file"], row["words"]) for row in rows]
    with toolkit.load(bundle) as classifier:
        alone = np.stack([each.logits for each in classifier.predict(sources, batch_size=1)])
        together = np.stack([each.logits for each in classifier.predict(sources, batch_size=16)])
    assert np.abs(alone - together).max() < 1e-5 * np.abs(alone).max()


def test_the_bundle_is_as_good_as_its_run_on_the_test_split(bundle: Path, run: Path, manifest: Path) -> None:
    settings = [f"columns.{role}={name}" for role, name in COLUMNS.items() if role != "text"]  # that one it knows
    found = toolkit.evaluate(bundle, data=manifest, settings=settings, split="test")
    summary = json.loads((run / "summary.json").read_text())
    assert found.accuracy == summary["test"]["accuracy"]
    assert found.data_fingerprint != ""
    assert verify(bundle)["passed"]


def test_a_table_shows_the_texts(bundle: Path, rows: list[dict[str, str]], cli: Cli) -> None:
    code, out, _ = cli("predict", bundle, rows[0]["file"], "--text", "red " * 30)
    assert code == 0
    assert "red red" in out
    assert "text" in out


def test_long_texts_are_cut_and_counted(bundle: Path, rows: list[dict[str, str]], cli: Cli) -> None:
    code, _, said = cli("predict", bundle, rows[0]["file"], "--text", "a red circle " * 30, "--json")
    assert (code, said) == (0, "texts that lost their end: 1 of 1; the network takes 16 tokens\n")


def test_a_text_that_can_not_be_read_leaves_the_others(bundle: Path, rows: list[dict[str, str]]) -> None:
    image = rows[0]["file"]
    with toolkit.load(bundle) as classifier:
        good, bad, missing = classifier.stream(
            [ImageText(image, "red"), ImageText(image, "\ud83d"), ImageText("nowhere.png", "red")]
        )
        assert isinstance(bad, ToolkitError)
        assert "half of a surrogate pair" in bad.what
        assert isinstance(missing, ToolkitError)
        assert not isinstance(good, ToolkitError)
        entries = list(classifier.entries([Path(image)], texts=["\ud83d"]))
    assert entries[0]["error"] == bad.what


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["IMAGE"], "no text"),
        ([], "nothing is there to predict"),
        (["--text", "red"], "no image"),
        (["IMAGE", "--text", "red", "--manifest", "MANIFEST"], "a manifest stands for all images and texts"),
        (["--manifest", "MANIFEST", "--text-column", "nothing"], "column 'nothing' is missing"),
        (["--manifest", "MANIFEST", "--path-column", "nothing"], "column 'nothing' is missing"),
        (["IMAGE", "--text", "red", "--text-column", "words"], "there is no manifest"),
    ],
)
def test_what_is_missing_is_named(
    bundle: Path, manifest: Path, rows: list[dict[str, str]], cli: Cli, arguments: list[str], what: str
) -> None:
    given = {"IMAGE": rows[0]["file"], "MANIFEST": manifest}
    code, out, said = cli("predict", bundle, *(given.get(each, each) for each in arguments))
    assert (code, out) == (2, "")
    assert what in said


def test_data_without_texts_is_refused_by_name(bundle: Path, color_data: Path, manifest: Path, cli: Cli) -> None:
    code, _, said = cli("evaluate", bundle, "--data", color_data)
    assert (code, "folders of images hold no texts" in said) == (2, True)
    code, _, said = cli("evaluate", bundle, "--data", manifest, "columns.text=null", "columns.path=file")
    assert (code, "the bundle takes texts, and none are named" in said) == (2, True)


def test_a_bundle_of_images_alone_takes_no_text(
    image_bundle: Path, manifest: Path, rows: list[dict[str, str]], cli: Cli
) -> None:
    for arguments in (
        ["predict", image_bundle, rows[0]["file"], "--text", "red"],
        ["predict", image_bundle, "--manifest", manifest, "--text-column", "words"],
        ["evaluate", image_bundle, "--data", manifest, "columns.text=words"],
    ):
        code, _, said = cli(*arguments)
        assert (code, "the bundle takes images alone, and no text" in said) == (2, True)
    code, out, _ = cli("predict", image_bundle, "--manifest", manifest, "--path-column", "file", "--json")
    entries = json.loads(out)["predictions"]
    assert (code, len(entries), set(entries[0])) == (0, len(rows), {"path", "label", "probabilities"})


@pytest.fixture
def image_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "runtime")
    from tiny_bundle import write_tiny_bundle

    return write_tiny_bundle(tmp_path / "tiny")


def test_what_may_be_missing_may_be_missing_in_a_manifest_and_on_the_command_line(
    manifest: Path,
    rows: list[dict[str, str]],
    text_encoders: dict[str, Path],
    cli: Cli,
    tmp_path: Path,
) -> None:
    from export.bundle import export_bundle
    from recipes.finetune import finetune
    from toolkit.runs.finished_run import Run

    some = tmp_path / "some.csv"
    with some.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(row | ({"words": ""} if place % 5 == 0 else {}) for place, row in enumerate(rows))
    fusion = {"type": "gated", "modality_dropout": 0.3}
    finetune(recipe_of(some, text_encoders["clip"], fusion, missing_text="allow"), tmp_path / "run")
    export_bundle(Run(tmp_path / "run"), tmp_path / "bundle")
    (tmp_path / "m.csv").write_text(f"file,words\n{rows[0]['file']},red\n{rows[0]['file']},\n,red\n")
    code, out, _ = cli("predict", tmp_path / "bundle", "--manifest", tmp_path / "m.csv", "--json")
    assert code == 0
    both, image, text = json.loads(out)["predictions"]
    assert (set(both) - set(image), image["path"], text["path"]) == ({"text"}, rows[0]["file"], None)
    assert len({tuple(each["probabilities"].values()) for each in (both, image, text)}) == 3
    code, out, _ = cli("predict", tmp_path / "bundle", "--text", "red", "--json")
    assert json.loads(out)["predictions"][0]["label"] == text["label"]
    code, out, _ = cli("predict", tmp_path / "bundle", rows[0]["file"], "--json")
    assert json.loads(out)["predictions"][0]["label"] == image["label"]
    assert cli("predict", tmp_path / "bundle", "--text", "red")[0] == 0  # as a table
    settings = [f"columns.{role}={name}" for role, name in COLUMNS.items() if role != "text"]
    found = toolkit.evaluate(tmp_path / "bundle", data=some, settings=settings, split="test")
    assert found.accuracy == json.loads((tmp_path / "run" / "summary.json").read_text())["test"]["accuracy"]


def test_a_recipe_that_takes_images_needs_some(manifest: Path, text_encoders: dict[str, Path]) -> None:
    with pytest.raises(ValidationError, match=r"data\.columns\.path is null, so the data has no images"):
        recipe_of(manifest, text_encoders["clip"], {}, columns=COLUMNS | {"path": None})


def test_rows_may_lack_image_or_text_only_where_that_is_allowed(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "m.csv").write_text("path,text\na.png,one\na.png,\n,two\n")
    allowed = read_pairs(tmp_path / "m.csv", path_column="path", text_column="text", allow_missing=True)
    image = tmp_path / "a.png"
    assert allowed == [Pair(image, "one"), Pair(image, None), Pair(None, "two")]
    with pytest.raises(ToolkitError, match="no text in row 2"):
        read_pairs(tmp_path / "m.csv", path_column="path", text_column="text")
    with pytest.raises(ToolkitError, match="no path in row 3"):
        read_pairs(tmp_path / "m.csv", path_column="path", text_column=None)
    (tmp_path / "n.csv").write_text("path,text\n,\n")
    with pytest.raises(ToolkitError, match="neither path nor text in row 1"):
        read_pairs(tmp_path / "n.csv", path_column="path", text_column="text", allow_missing=True)


def test_the_manifest_says_where_its_images_lie(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("path\nimages/a.png\n/elsewhere/b.png\n")
    pairs = read_pairs(tmp_path / "m.csv", path_column="path", text_column=None)
    assert pairs == [Pair(tmp_path / "images" / "a.png", None), Pair(Path("/elsewhere/b.png"), None)]
