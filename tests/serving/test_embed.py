"""Embeddings in a file: those of the reference, in order, and the same after an interruption."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import torch
from PIL import Image
from safetensors import safe_open

import toolkit
from toolkit.errors import ToolkitError
from toolkit.recipe.recipe import Recipe
from toolkit.runs.finished_run import Run
from toolkit.runtime import embedding_file
from toolkit.runtime.embedding_file import Embedded, EmbeddingChunks, write_embeddings
from toolkit.serving.embed import embed_files


@pytest.fixture(scope="module")
def exported(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> toolkit.Bundle:
    out = tmp_path_factory.mktemp("embedding") / "bundle"
    return toolkit.export(finished_run, out=out, precision="fp32,fp16", embedding=True)


def test_embeddings_are_those_of_the_encoder_at_length_one(
    exported: toolkit.Bundle, finished_run: Path, color_data: Path, tmp_path: Path
) -> None:
    files = sorted(color_data.rglob("*.png"))
    with toolkit.load(exported) as classifier:
        done = embed_files(classifier, files, tmp_path / "out.parquet")
        assert done == {"images": len(files), "resumed": 0, "errors": {}}
        embed_files(classifier, files, tmp_path / "out.safetensors")
    table = pyarrow.parquet.read_table(tmp_path / "out.parquet").to_pydict()
    with safe_open(tmp_path / "out.safetensors", "np") as file:
        array, names = file.get_tensor("embedding"), json.loads(file.metadata()["paths"])
    assert table["path"] == names == [str(path) for path in files]
    assert np.array_equal(np.array(table["embedding"], np.float32), array)
    run = Run(finished_run)
    pixels = np.concatenate(
        [run.processor(images=[Image.open(path)], return_tensors="np")["pixel_values"] for path in files]
    )
    encoder = run.classifier.encoder
    with torch.inference_mode():
        theirs = torch.nn.functional.normalize(encoder.family.embed(encoder.model, torch.from_numpy(pixels)), dim=-1)
    assert np.abs(array - theirs.numpy()).max() <= 1e-5
    assert not list(tmp_path.glob(".*"))


def test_parity_says_how_far_they_are_off(exported: toolkit.Bundle) -> None:
    results = exported.parity["results"]
    assert results["fp32"]["cpu"]["stages"]["max_abs_embedding"] <= 1e-5
    assert results["fp16"]["cpu"]["stages"]["max_abs_embedding"] <= 1e-2


def test_an_interrupted_call_goes_on_where_it_was(
    exported: toolkit.Bundle, color_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedding_file, "CHUNK", 10)
    files, out = sorted(color_data.rglob("*.png")), tmp_path / "out.safetensors"
    paths = [str(path) for path in files]

    def rows(stop: int) -> list[Embedded]:
        return [Embedded(path, np.full(3, place, np.float32)) for place, path in enumerate(paths[:stop])]

    def until_killed(stop: int):  # type: ignore[no-untyped-def]
        yield from rows(stop)
        raise KeyboardInterrupt

    first = EmbeddingChunks(out, paths, "graph")
    assert first.done() == 0
    with pytest.raises(KeyboardInterrupt):
        first.write(until_killed(25))
    again = EmbeddingChunks(out, paths, "graph")
    assert again.done() == 2
    again.write(rows(len(paths))[20:], first=2)
    assert write_embeddings(again) == {}
    with safe_open(out, "np") as file:
        assert np.array_equal(file.get_tensor("embedding")[:, 0], np.arange(len(paths)))
    assert first.done() == 0
    with pytest.raises(KeyboardInterrupt):
        first.write(until_killed(25))
    assert EmbeddingChunks(out, paths[1:], "graph").done() == 0  # other images


@pytest.mark.parametrize("suffix", [".parquet", ".safetensors"])
def test_an_image_that_can_not_be_read_is_named(
    exported: toolkit.Bundle, color_data: Path, tmp_path: Path, suffix: str
) -> None:
    bad, good = tmp_path / "bad.png", next(color_data.rglob("*.png"))
    bad.write_bytes(b"no image")
    out = tmp_path / f"out{suffix}"
    with toolkit.load(exported) as classifier:
        done = embed_files(classifier, [bad, good], out)
    assert list(done["errors"]) == [str(bad)]
    if suffix == ".parquet":
        table = pyarrow.parquet.read_table(out).to_pydict()
        assert table["path"] == [str(good), str(bad)]
        assert table["embedding"][1] is None
        assert table["error"][1]
    else:
        with safe_open(out, "np") as file:
            assert json.loads(file.metadata()["paths"]) == [str(good)]
            assert list(json.loads(file.metadata()["errors"])) == [str(bad)]


def test_a_bundle_without_embeddings_says_how_to_get_them(finished_bundle: Path, tmp_path: Path) -> None:
    with toolkit.load(finished_bundle) as classifier:
        assert classifier.predict(finished_bundle / "golden" / "000.png").embedding is None
        with pytest.raises(ToolkitError, match="gives no embedding"):
            embed_files(classifier, [finished_bundle / "golden" / "000.png"], tmp_path / "out.parquet")
        with pytest.raises(ToolkitError, match=r"as \.parquet or \.safetensors, not as \.csv"):
            embed_files(classifier, [finished_bundle / "golden" / "000.png"], tmp_path / "out.csv")


def test_a_cosine_head_and_the_output_share_their_embedding(make_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    recipe = make_recipe("clip", model={"head": {"type": "cosine"}}, training={"epochs": 1})
    bundle = toolkit.export(toolkit.finetune(recipe, out=tmp_path / "run"), out=tmp_path / "bundle", embedding=True)
    entry = bundle.parity["results"]["fp32"]["cpu"]
    assert entry["passed"]
    assert entry["stages"]["max_abs_embedding"] <= 1e-5
