"""The files of a checkpoint: pickles, indexes, damaged headers, adapters, the hub's cache."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kinds
import pytest
import torch
from safetensors.torch import load_file, save_file

from toolkit.errors import ToolkitError
from toolkit.models.load import load_encoder

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


@pytest.fixture
def folder(encoders: dict[str, Path], tmp_path: Path) -> Path:
    return kinds.copy_of(encoders["siglip"], tmp_path / "encoder")


def refused(source: Path) -> ToolkitError:
    with pytest.raises(ToolkitError) as caught:
        load_encoder(str(source))
    assert str(source) in caught.value.where
    return caught.value


def shard(folder: Path, **weight_map: str) -> None:
    """Split the weights into two shards; an index names them, and what is given."""
    tensors = load_file(folder / WEIGHTS)
    names = sorted(tensors)
    index: dict[str, str] = {}
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        file = f"model-0000{number}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, folder / file, {"format": "pt"})
        index |= dict.fromkeys(part, file)
    (folder / WEIGHTS).unlink()
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": index | weight_map}))


def test_shards_are_read_as_one_file_is(folder: Path, encoders: dict[str, Path]) -> None:
    shard(folder)
    ours, theirs = (load_encoder(str(each)).model.state_dict() for each in (folder, encoders["siglip"]))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize(
    ("name", "what", "fix"),
    [
        ("../other.safetensors", "points out of its folder: ../other.safetensors", "beside it"),
        ("/etc/other.safetensors", "points out of its folder: /etc/other.safetensors", "beside it"),
        ("a/../../other.safetensors", "points out of its folder", "beside it"),
        ("..\\other.safetensors", "points out of its folder", "beside it"),
        ("pytorch_model-00001-of-00002.bin", "not safetensors: pytorch_model-00001-of-00002.bin", "save_pretrained"),
        ("other.pt", "not safetensors: other.pt", "safe_serialization=True"),
        ("other.gguf", "not safetensors: other.gguf", "save_pretrained"),
        ("gone.safetensors", "names 1 of 3 files that are not there: gone.safetensors", "copy the missing"),
    ],
)
def test_an_index_that_names_what_can_t_be_read(name: str, what: str, fix: str, folder: Path) -> None:
    shard(folder, other=name)
    (folder.parent / "other.safetensors").write_bytes(b"secret")
    error = refused(folder)
    assert what in error.what
    assert fix in error.fix


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"weight_map": {}}', '{"weight_map": {"a": 1}}', "[" * 100_000])
def test_an_index_that_is_none(content: str, folder: Path) -> None:
    shard(folder)
    (folder / INDEX).write_text(content)
    assert INDEX in refused(folder).what


def test_a_tensor_that_two_shards_hold(folder: Path) -> None:
    shard(folder)
    shutil.copy(folder / "model-00001-of-00002.safetensors", folder / "model-00003-of-00002.safetensors")
    content = json.loads((folder / INDEX).read_text())
    content["weight_map"]["other"] = "model-00003-of-00002.safetensors"
    (folder / INDEX).write_text(json.dumps(content))
    assert "stands in model-00001-of-00002.safetensors and in model-00003" in refused(folder).what


@pytest.mark.parametrize("names", [["pytorch_model.bin"], ["a.pt"], [f"pytorch_model-{n}.bin" for n in range(5)]])
def test_pickles_alone_are_refused_with_the_way_to_convert(names: list[str], folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    for name in names:
        torch.save({}, folder / name)
    error = refused(folder)
    assert f"the weights are pickles: {names[0]}" in error.what
    assert ("and 2 more" in error.what) == (len(names) == 5)
    assert "in a place you trust" in error.fix
    assert "save_pretrained(FOLDER, safe_serialization=True)" in error.fix


def test_pickles_beside_safetensors_are_never_opened(folder: Path) -> None:
    before = load_encoder(str(folder)).state_dict()
    (folder / "pytorch_model.bin").write_bytes(b"no pickle")
    assert all(tensor.equal(before[name]) for name, tensor in load_encoder(str(folder)).state_dict().items())


def of_header(header: dict[str, Any], size: int) -> bytes:
    """A safetensors file with any header."""
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(size)


def tensor(start: int, end: int, shape: list[int], dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


DAMAGE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda whole: b"", "is empty"),
    "a few bytes": (lambda whole: whole[:5], "damaged"),
    "cut in the header": (lambda whole: whole[:100], "damaged"),
    "cut in the values": (lambda whole: whole[:-100], "damaged"),
    "bytes behind": (lambda whole: whole + b"more", "damaged"),
    "header longer than the file": (lambda whole: struct.pack("<Q", len(whole) + 1) + whole[8:], "damaged"),
    "header of a petabyte": (lambda whole: struct.pack("<Q", 10**15) + whole[8:], "damaged"),
    "offsets that overlap": (
        lambda whole: of_header({"a": tensor(0, 8, [2]), "b": tensor(4, 12, [2])}, 12),
        "damaged",
    ),
    "offsets past the end": (lambda whole: of_header({"a": tensor(0, 8, [2])}, 4), "damaged"),
    "another shape than its bytes": (lambda whole: of_header({"a": tensor(0, 8, [3])}, 8), "damaged"),
    "an unknown type": (lambda whole: of_header({"a": tensor(0, 8, [2], "Q4")}, 8), "damaged"),
    "text": (lambda whole: b"<html>not found</html>", "damaged"),
    "a pickle": (lambda whole: b"PK\x03\x04" + whole, "is a pickle"),
    "Git LFS": (lambda whole: b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "is a pointer of Git LFS"),
}


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_refused_by_its_name(damage: str, sharded: bool, folder: Path) -> None:
    change, what = DAMAGE[damage]
    if sharded:
        shard(folder)
    file = folder / ("model-00002-of-00002.safetensors" if sharded else WEIGHTS)
    file.write_bytes(change(file.read_bytes()))
    error = refused(folder)
    assert file.name in error.what
    assert what in error.what


@pytest.mark.parametrize("kept", [[], ["config.json"]])
def test_an_adapter_alone_is_to_be_merged(kept: list[str], folder: Path) -> None:
    for path in list(folder.iterdir()):
        if path.name not in kept:
            path.unlink()
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "google/siglip-base-patch16-224"}')
    save_file({"base_model.model.a.lora_A.weight": torch.zeros(1)}, folder / "adapter_model.safetensors")
    error = refused(folder)
    assert "an adapter" in error.what
    assert "merge_and_unload()" in error.fix


def test_a_folder_without_weights_says_what_it_needs(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    error = refused(folder)
    assert f"no {WEIGHTS}" in error.what
    assert "config.json, model.safetensors and preprocessor_config.json" in error.fix


def cache_of(home: Path, name: str, files: Path, reference: str = "main", commit: str = "0" * 40) -> None:
    """Lay a folder out as the hub's cache: a snapshot of links into blobs."""
    repository = home / "hub" / f"models--{name.replace('/', '--')}"
    (repository / "blobs").mkdir(parents=True, exist_ok=True)
    (repository / "refs").mkdir(exist_ok=True)
    (repository / "refs" / reference).write_text(commit)
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    for path in files.iterdir():
        blob = repository / "blobs" / hashlib.sha256(path.read_bytes()).hexdigest()
        shutil.copy(path, blob)
        (snapshot / path.name).symlink_to(Path("../../blobs") / blob.name)


LOAD = """
import json, sys
from toolkit.recipe.model import ModelConfig
from toolkit.errors import ToolkitError
from toolkit.models.build import build_classifier
for name, revision in json.loads(sys.argv[1]):
    try:
        config = ModelConfig(encoder=name, revision=revision, unfreeze_last=0)
        classifier, processor = build_classifier(config, ["a", "b"], 0)
        total = sum(float(each.detach().double().sum()) for each in classifier.encoder.parameters())
        print(json.dumps({"sum": total, "mean": processor.image_mean}))
    except ToolkitError as error:
        print(json.dumps({"error": error.as_line()}))
"""
ONE_AFTER_ANOTHER = """
import json, sys
from toolkit.cli.main import main
for command in json.loads(sys.argv[1]):
    sys.argv[:] = ["toolkit", *command]
    try:
        main()
    except SystemExit as end:
        if end.code:
            raise
"""
WRONG: dict[str, tuple[Callable[[Path], Any], str]] = {
    "someone/pickles": (
        lambda folder: (folder / WEIGHTS).rename(folder / "pytorch_model.bin"),
        "weights are pickles|no model.safe",
    ),
    "someone/no-processor": (
        lambda folder: (folder / "preprocessor_config.json").unlink(),
        "no preprocessor_config.json there",
    ),
    "someone/no-config": (
        lambda folder: (folder / "config.json").unlink(),
        "can't load the encoder: .*HF_HUB_OFFLINE is set",
    ),
}
Asked = tuple[str, str | None]


@pytest.fixture(scope="module")
def from_cache(encoders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[Asked, dict[str, Any]]:
    """What a process that may ask no hub finds in its cache: encoders and revisions, good ones and others."""
    root = tmp_path_factory.mktemp("cached")
    whole = kinds.copy_of(encoders["siglip"], root / "whole")
    older = kinds.copy_of(whole, root / "older", lambda tensors: {name: each / 2 for name, each in tensors.items()})
    kinds.set_json(older / "preprocessor_config.json", image_mean=[0.25, 0.25, 0.25])
    cache_of(root / "home", "someone/encoder", whole)
    cache_of(root / "home", "someone/encoder", older, "v1", "1" * 40)
    shard(kinds.copy_of(whole, root / "sharded"))
    cache_of(root / "home", "someone/sharded", root / "sharded")
    for name, (change, _) in WRONG.items():
        folder = kinds.copy_of(whole, root / name)
        change(folder)
        cache_of(root / "home", name, folder)
    asked: list[Asked] = [
        ("someone/sharded", None),
        *(("someone/encoder", each) for each in (None, "v1", "1" * 40, "v2")),
    ]
    asked += [(name, None) for name in WRONG]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(root / "home")}
    command = [sys.executable, "-c", LOAD, json.dumps(asked)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return dict(zip(asked, map(json.loads, done.stdout.splitlines()), strict=True))


def test_the_hub_s_cache_is_read_offline_through_its_links(
    encoders: dict[str, Path], from_cache: dict[Asked, dict[str, Any]]
) -> None:
    whole = load_encoder(str(encoders["siglip"]))
    total = sum(float(parameter.detach().double().sum()) for parameter in whole.parameters())
    assert from_cache["someone/sharded", None]["sum"] == from_cache["someone/encoder", None]["sum"] == total


@pytest.mark.parametrize("revision", ["v1", "1" * 40])
def test_a_revision_is_the_one_that_is_read(revision: str, from_cache: dict[Asked, dict[str, Any]]) -> None:
    newest, pinned = from_cache["someone/encoder", None], from_cache["someone/encoder", revision]
    assert pinned["sum"] == newest["sum"] / 2
    assert pinned["mean"] == [0.25, 0.25, 0.25]
    assert newest["mean"] != pinned["mean"]


def test_the_text_tower_is_read_at_the_revision_that_zero_shot_is_asked_for(
    text_encoders: dict[str, Path], tmp_path: Path
) -> None:
    encoder = text_encoders["clip"]
    cache_of(tmp_path / "home", "someone/encoder", encoder)
    older = kinds.copy_of(encoder, tmp_path / "older", kinds.with_values("logit_scale", lambda scale: scale - 1))
    cache_of(tmp_path / "home", "someone/encoder", older, "v1", "1" * 40)
    (tmp_path / "templates.txt").write_text("a {}\n")
    asked = ["zero-shot", "--encoder", "someone/encoder", "--labels", "red,blue", "--templates", "templates.txt"]
    commands = [[*asked, "--out", "runs/newest"], [*asked, "--revision", "v1", "--out", "runs/v1"]]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    script = [sys.executable, "-c", ONE_AFTER_ANOTHER, json.dumps(commands)]
    subprocess.run(script, env=environment, check=True, cwd=tmp_path)
    files = [tmp_path / "runs" / name / "best" / "model.safetensors" for name in ("newest", "v1")]
    scales = [float(load_file(file)["head.logit_scale"]) for file in files]
    assert scales[0] - scales[1] == pytest.approx(1)


def test_a_revision_that_is_not_there_is_said(from_cache: dict[Asked, dict[str, Any]]) -> None:
    assert "model.encoder: someone/encoder at v2" in from_cache["someone/encoder", "v2"]["error"]


@pytest.mark.parametrize("source", ["tiny-clip", "folder"])
def test_what_is_none_of_the_hub_s_has_no_revisions(source: str, folder: Path) -> None:
    with pytest.raises(ToolkitError, match="has no revisions") as caught:
        load_encoder(str(folder) if source == "folder" else source, revision="v1")
    assert caught.value.where == "model.revision: v1"


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_in_the_hub_s_cache_is_said_too(name: str, from_cache: dict[Asked, dict[str, Any]]) -> None:
    said = from_cache[name, None]["error"]
    assert re.search(WRONG[name][1], said)
    assert f"model.encoder: {name}" in said
    assert "\n" not in said
