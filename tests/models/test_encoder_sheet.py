"""What is said of an encoder is what loading it gives, and what is unusual about its checkpoint is said."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kinds
import pytest
import torch
from huggingface_hub import constants
from transformers import CLIPModel

from toolkit.errors import ToolkitError
from toolkit.models.build import open_as_it_is
from toolkit.models.encoder_sheet import sheet_of
from toolkit.models.known_encoders import KNOWN
from toolkit.models.load import load_encoder
from toolkit.models.processing import preprocess_from

B32 = "openai/clip-vit-base-patch32"
FAMILIES = ["clip", "laion", "siglip", "siglip2", "dinov2", "dinov2_with_registers", "dinov3_vit", "vit", "blip"]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_sheet_says_what_loading_gives(name: str, encoders: dict[str, Path]) -> None:
    sheet = sheet_of(str(encoders[name]))
    encoder, processor = open_as_it_is(str(encoders[name]))
    groups = [(group.name, sum(p.numel() for p in group.parameters())) for group in encoder.groups]
    assert [(group.name, group.parameters) for group in sheet.groups] == groups
    assert sheet.facts.parameters == sum(count for _, count in groups)
    assert sheet.preprocess == preprocess_from(processor)
    assert sheet.image_size == (32, 32)
    tokens = encoder(torch.zeros(1, 3, 32, 32), 0, 1)
    assert (sheet.facts.tokens, sheet.facts.width) == tokens.shape[1:]
    for embedding, width in sheet.embedding_sizes.items():
        loaded = load_encoder(str(encoders[name]), embedding)  # type: ignore[arg-type]
        assert loaded(torch.zeros(1, 3, 32, 32)).shape == (1, width)
    assert sheet.stored is not None
    assert (list(sheet.stored.dtypes), sheet.stored.sharded) == (["fp32"], False)
    assert sheet.precisions == ["fp32", "fp16", "bf16", "int8"]
    json.dumps(sheet.as_json(), allow_nan=False)


def test_zero_shot_needs_the_text_tower_itself(encoders: dict[str, Path], text_encoders: dict[str, Path]) -> None:
    assert {name: sheet_of(str(path)).zero_shot for name, path in text_encoders.items()} == dict.fromkeys(
        text_encoders, True
    )
    assert not sheet_of(str(encoders["siglip"])).zero_shot  # its family has texts, this checkpoint has none
    assert not sheet_of(str(encoders["blip"])).zero_shot


def test_an_encoder_that_no_family_describes_is_one_group(tiny_swin: Path) -> None:
    sheet = sheet_of(str(tiny_swin))
    assert [group.name for group in sheet.groups] == ["encoder"]
    assert (sheet.family, sheet.traced, sheet.precisions) == ("traced:swin", True, ["fp32", "fp16"])
    assert (sheet.facts.layers, sheet.facts.gflops) == (None, None)


@pytest.mark.parametrize("name", [B32, "google/siglip2-base-patch16-naflex", "facebook/dinov2-base"])
def test_a_known_name_that_is_not_here_is_told_of_what_is_published(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    sheet = sheet_of(name)
    assert sheet.stored is None
    assert not sheet.as_json()["checkpoint_read"]
    assert sheet.facts == KNOWN[name].facts()
    assert sum(group.parameters for group in sheet.groups) == sheet.facts.parameters
    assert sheet.page == f"https://huggingface.co/{name}"
    if name == B32:
        assert sheet.embedding_sizes == {"projected": 512, "pooled": 768}


def test_a_known_name_that_was_fetched_before_is_read(encoders: dict[str, Path], tmp_path: Path) -> None:
    repository, commit = tmp_path / "hub" / f"models--{B32.replace('/', '--')}", "0" * 40
    shutil.copytree(encoders["clip"], repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    environment = os.environ | {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "toolkit", "encoders", "show", B32, "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    said = json.loads(done.stdout)
    assert (said["checkpoint_read"], said["facts"]["layers"], said["image_size"]) == (True, 3, [32, 32])
    assert said["licence"] == {"name": "see the page", "stated_in": None}
    assert done.stderr == ""


def test_types_and_shards_are_those_of_the_files(encoders: dict[str, Path], tmp_path: Path) -> None:
    half = kinds.copy_of(encoders["clip"], tmp_path / "half", kinds.as_type(torch.float16, "layers."))
    stored = sheet_of(str(half)).stored
    assert stored is not None
    assert stored.dtypes == {"fp16": 48, "fp32": 8}
    assert "converted to fp32: of 56 are stored 48 in fp16" in notes(half)
    sharded = kinds.copy_of(encoders["clip"], tmp_path / "sharded")
    (sharded / "model.safetensors").unlink()
    CLIPModel.from_pretrained(encoders["clip"]).save_pretrained(sharded, max_shard_size="100KB")
    found = sheet_of(str(sharded)).stored
    assert found is not None
    assert found.sharded
    assert found.files == len(list(sharded.glob("*.safetensors")))
    assert found.bytes == sum(path.stat().st_size for path in sharded.glob("*.safetensors"))


def test_without_a_projection_what_is_pooled_is_told(encoders: dict[str, Path], tmp_path: Path) -> None:
    folder = kinds.copy_of(encoders["clip"], tmp_path / "pooled", kinds.without("visual_projection"))
    sheet = sheet_of(str(folder))
    assert sheet.embedding_sizes == {"projected": None, "pooled": 32}
    assert sheet.facts.embedding_size == 32
    assert "no projection (visual_projection)" in notes(folder)


def notes(folder: Path) -> str:
    return "\n".join(sheet_of(str(folder)).oddities)


def with_text(**keys: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        config["text_config"] |= keys
        (folder / "config.json").write_text(json.dumps(config))

    return change


def with_processor(**keys: Any) -> Callable[[Path], None]:
    return lambda folder: kinds.set_json(folder / "preprocessor_config.json", **keys)


def two_processors(folder: Path) -> None:
    processor = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": processor}))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (with_text(eos_token_id=2, pad_token_id=1), "eos_token_id 2 (and pad_token_id 1, which nothing reads)"),
        (with_text(eos_token_id=100), "eos_token_id 100 and a vocabulary of 100"),
        (lambda folder: kinds.set_json(folder / "config.json", auto_map={"AutoModel": "m.M"}), "(auto_map)"),
        (lambda folder: (folder / "pytorch_model.bin").touch(), "are not read: pytorch_model.bin"),
        (with_processor(image_mean=[0.5, 0.5, 0.5]), "mean is 0.5, 0.5, 0.5, where clip encoders have 0.4815"),
        (with_processor(resample=2), "resample is bilinear, where clip encoders have bicubic"),
        (lambda folder: (folder / "preprocessor_config.json").unlink(), "no preprocessor_config.json there"),
        (with_processor(crop_size={"height": 40, "width": 40}), "gives 40 x 40 pixels, and the encoder has positions"),
        (two_processors, "processor_config.json is read, preprocessor_config.json is not"),
    ],
)
def test_what_is_unusual_is_said(
    change: Callable[[Path], None], says: str, encoders: dict[str, Path], tmp_path: Path
) -> None:
    folder = kinds.copy_of(encoders["clip"], tmp_path / "odd")
    assert says not in notes(folder)
    change(folder)
    assert says in notes(folder)


def test_positions_of_another_size_are_said(encoders: dict[str, Path], tmp_path: Path) -> None:
    folder = kinds.copy_of(encoders["dinov2"], tmp_path / "dinov2")
    assert "interpolated" not in notes(folder)
    size = {"height": 40, "width": 48}
    kinds.set_json(folder / "preprocessor_config.json", size={"shortest_edge": 48}, crop_size=size)
    assert "trained for 32 x 32 pixels, and are interpolated to the 40 x 48" in notes(folder)
    assert sheet_of(str(folder)).facts.tokens == 1 + 5 * 6


@pytest.mark.parametrize(
    ("card", "licence", "stated_in"),
    [
        ("---\nlicense: mit\ntags: [clip]\n---\n# A card\n", "mit", "README.md"),
        ("---\nlicense: other\nlicense_name: dinov3-license\n---\n", "dinov3-license", "README.md"),
        ("---\nlicense: [a, b]\n---\n", "see the page", None),
        ("---\nlicense: mit\n", "see the page", None),
        ("---\nlicense: &a [*a]\n---\n", "see the page", None),
        ("# A card without metadata\n\nlicense: mit\n", "see the page", None),
    ],
)
def test_the_licence_is_the_card_s(
    card: str, licence: str, stated_in: str | None, encoders: dict[str, Path], tmp_path: Path
) -> None:
    folder = kinds.copy_of(encoders["clip"], tmp_path / "clip")
    (folder / "README.md").write_text(card)
    found = sheet_of(str(folder)).licence
    assert (found.name, found.stated_in) == (licence, stated_in)


def test_what_is_no_encoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ToolkitError, match=r"no config\.json there"):
        sheet_of(str(tmp_path))
    with pytest.raises(ToolkitError, match="has no revisions"):
        sheet_of("tiny-clip", "main")
