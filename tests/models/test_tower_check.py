"""Every tensor of an encoder comes from its checkpoint, or the checkpoint is refused by names and number."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kinds
import pytest
import torch
import transformers
from safetensors.torch import load_file

from toolkit.errors import ToolkitError
from toolkit.models.build import build_classifier
from toolkit.models.load import EMBEDDED, load_encoder, resolve
from toolkit.recipe.model import Embedding, ModelConfig

TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2}
VISION: dict[str, Any] = TOWER | {"image_size": 32, "patch_size": 8}
TEXT: dict[str, Any] = TOWER | {"vocab_size": 100, "max_position_embeddings": 16, "eos_token_id": 99}
CLIP = transformers.CLIPConfig(vision_config=VISION, text_config=TEXT, projection_dim=24)
BLIP = transformers.BlipConfig(vision_config=VISION, text_config=TOWER | {"vocab_size": 100}, image_text_hidden_size=24)
SIGLIP = transformers.SiglipConfig(vision_config=VISION, text_config=TEXT | {"projection_size": 32})
FAMILY = pytest.mark.parametrize("family", ["clip", "siglip"])


def refused(source: Path, embedding: Embedding = "projected") -> ToolkitError:
    with pytest.raises(ToolkitError) as caught:
        load_encoder(str(source), embedding)
    assert str(source) in caught.value.where
    assert "\n" not in caught.value.as_line()
    return caught.value


def weights_of(folder: Path, embedding: Embedding = "projected") -> dict[str, torch.Tensor]:
    return load_encoder(str(folder), embedding).model.state_dict()


def assert_same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_the_embedded_encoder_is_its_file_to_the_bit() -> None:
    file = load_file(Path(resolve(EMBEDDED)) / "model.safetensors")
    ours = weights_of(Path(EMBEDDED))
    assert all(torch.equal(tensor, file[name].float()) for name, tensor in ours.items())
    assert len(ours) == sum(name.startswith(("vision_model.", "visual_projection.")) for name in file)
    assert load_encoder(EMBEDDED).notes == ()


@FAMILY
@pytest.mark.parametrize(
    "prefix", ["module.", "model.", "base_model.model.", "_orig_mod.", "module._orig_mod.", "FAMILY."]
)
def test_what_a_wrapper_puts_before_the_names_is_left_out_and_said(
    prefix: str, family: str, encoders: dict[str, Path], tmp_path: Path
) -> None:
    prefix = prefix.replace("FAMILY", family)
    folder = kinds.copy_of(encoders[family], tmp_path / "encoder", kinds.prefixed(prefix))
    encoder = load_encoder(str(folder))
    assert_same(encoder.model.state_dict(), weights_of(encoders[family]))
    count = len(encoder.model.state_dict())
    assert encoder.notes == (
        f"{count} of the encoder's {count} tensors have {prefix!r} in their names, and are read without it",
    )


@FAMILY
def test_layers_that_were_compiled_alone_are_read_without_their_prefix(
    family: str, encoders: dict[str, Path], tmp_path: Path
) -> None:
    def compiled(tensors: kinds.Tensors) -> kinds.Tensors:
        return {name.replace("layers.1.", "layers.1._orig_mod."): tensor for name, tensor in tensors.items()}

    encoder = load_encoder(str(kinds.copy_of(encoders[family], tmp_path / "encoder", compiled)))
    assert_same(encoder.model.state_dict(), weights_of(encoders[family]))
    assert "have '_orig_mod.' in" in encoder.notes[0]


@pytest.mark.parametrize(
    ("family", "prefix"),
    [("clip", "backbone."), ("siglip", "backbone."), ("clip", "vision_tower."), ("siglip", "vision_tower.")],
)
def test_another_prefix_is_refused_with_a_command_that_mends_it(
    family: str, prefix: str, encoders: dict[str, Path], tmp_path: Path
) -> None:
    folder = kinds.copy_of(encoders[family], tmp_path / "encoder", kinds.prefixed(prefix))
    error = refused(folder)
    assert f"begin with {prefix!r}" in error.what
    subprocess.run(
        error.fix[error.fix.index("python -c") :].replace("python", sys.executable, 1),
        shell=True,
        cwd=folder,
        check=True,
    )
    assert_same(weights_of(folder), weights_of(encoders[family]))


def test_names_that_transformers_itself_converts_are_read(encoders: dict[str, Path], tmp_path: Path) -> None:
    doubled = kinds.copy_of(encoders["clip"], tmp_path / "encoder", kinds.prefixed("vision_model."))
    ours, theirs = (load_encoder(str(folder)).state_dict() for folder in (doubled, encoders["clip"]))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@FAMILY
@pytest.mark.parametrize(
    ("change", "what", "fix"),
    [
        (kinds.without("layers.1.mlp.fc1.bias"), r"^1 of .* are missing: \S*layers.1.mlp.fc1.bias$", "copy"),
        (kinds.without("layers.1."), r"^16 of .* are missing: \S+, \S+, \S+ and 13 more$", "copy"),
        (kinds.without("layers.2."), r"^16 of .* are missing: .* and 13 more$", "says num_hidden_layers 3, .* has 2"),
        (
            kinds.with_layer(3),
            r"without a place for 16 tensors .*layers.3.* and 13 more$",
            "num_hidden_layers 3, .* has 4",
        ),
        (kinds.with_lora, r"tensors are of an adapter that was not merged: .*q_proj.* more$", "merge_and_unload"),
        (kinds.as_type(torch.int8, "layers"), r"weights are no floating-point .*\(I8\).* and 45 more$", "quantises"),
        (kinds.as_type(torch.bool, "post_layernorm"), r"^2 weights are no floating-point .*\(BOOL\)", "quantises"),
        (kinds.as_type(torch.float8_e4m3fn, "fc1.weight"), r"are no floating-point .*F8_E4M3", "quantises"),
        (kinds.named_as_open_clip, "names are those of open_clip: visual", "such as "),
        (kinds.named_as_timm, "names are those of timm", "such as "),
        (lambda tensors: {}, "none of the encoder's .* holds no tensor at all$", "such as "),
        (lambda tensors: {"a.b": torch.zeros(1)}, "none of the encoder's .* holds a.b$", "such as "),
        (
            kinds.with_values("1.mlp.fc1.weight", lambda tensor: tensor[:, :16].clone()),
            r"^1 of .* another shape: \S+ is \[64, 16\] where config.json makes it \[64, 32\]$",
            "intermediate_size",
        ),
        (
            kinds.with_values("1.mlp.fc1.weight", lambda tensor: tensor / 0),
            r"^1 tensors hold values that are not finite .*layers.1.mlp.fc1.weight$",
            "before",
        ),
        (
            lambda tensors: tensors | {f"module.{name}": t.clone() for name, t in tensors.items() if "post_" in name},
            "^2 of the encoder's tensors stand there twice: ",
            "save_pretrained",
        ),
    ],
)
def test_a_checkpoint_that_does_not_fill_the_encoder_is_refused(
    change: Callable[[kinds.Tensors], kinds.Tensors],
    what: str,
    fix: str,
    family: str,
    encoders: dict[str, Path],
    tmp_path: Path,
) -> None:
    if family == "clip":  # the text tower's tensors are none of ours
        alone = transformers.CLIPVisionModelWithProjection(transformers.CLIPVisionConfig(**VISION, projection_dim=24))
        alone.save_pretrained(tmp_path / "whole")
    whole = tmp_path / "whole" if family == "clip" else encoders["siglip"]
    error = refused(kinds.copy_of(whole, tmp_path / "encoder", change))
    assert re.search(what, error.what)
    assert re.search(fix, error.fix)


@FAMILY
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_point_types_are_read_in_fp32(
    dtype: torch.dtype, family: str, encoders: dict[str, Path], tmp_path: Path
) -> None:
    folder = kinds.copy_of(encoders[family], tmp_path / "encoder", kinds.as_type(dtype))
    expected = {name: tensor.to(dtype).float() for name, tensor in weights_of(encoders[family]).items()}
    assert_same(weights_of(folder), expected)


@FAMILY
def test_buffers_of_old_checkpoints_are_ignored(family: str, encoders: dict[str, Path], tmp_path: Path) -> None:
    ids = {"vision_model.embeddings.position_ids": torch.arange(17)[None]}
    folder = kinds.copy_of(encoders[family], tmp_path / "encoder", lambda tensors: tensors | ids)
    assert_same(weights_of(folder), weights_of(encoders[family]))


@pytest.mark.parametrize(
    "model",
    [
        lambda: transformers.CLIPForImageClassification(CLIP),
        lambda: transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**VISION)),
        lambda: transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**VISION, vision_use_head=False)),
        lambda: transformers.BlipForConditionalGeneration(BLIP),
        lambda: transformers.BlipVisionModel(BLIP.vision_config),
    ],
)
def test_a_tower_without_projection_is_a_choice_that_the_error_names(model: Callable[[], Any], tmp_path: Path) -> None:
    made = model()
    made.save_pretrained(tmp_path)
    error = refused(tmp_path)
    assert "no projection" in error.what
    assert "model.embedding=pooled" in error.fix
    ours, theirs = (
        {name.removeprefix("vision_model."): tensor for name, tensor in tensors.items()}
        for tensors in (weights_of(tmp_path, "pooled"), made.state_dict())
    )
    others = ("classifier.", "text_decoder.")
    assert_same(ours, {name: tensor for name, tensor in theirs.items() if not name.startswith(others)})


@FAMILY
def test_pooled_leaves_out_a_projection_that_is_there(family: str, encoders: dict[str, Path]) -> None:
    whole, ours = weights_of(encoders[family]), weights_of(encoders[family], "pooled")
    projection = {"clip": "visual_projection.", "siglip": "head."}[family]
    expected = {name.removeprefix("vision_model."): t for name, t in whole.items() if not name.startswith(projection)}
    assert_same(ours, expected)


@pytest.mark.parametrize("model", [transformers.CLIPModel, transformers.SiglipModel])
def test_a_whole_model_gives_its_vision_tower(model: Any, tmp_path: Path) -> None:
    made = model(CLIP if model is transformers.CLIPModel else SIGLIP)
    made.save_pretrained(tmp_path)
    theirs, ours = made.state_dict(), weights_of(tmp_path)
    assert all(
        torch.equal(tensor, theirs.get(name, theirs.get(f"vision_model.{name}"))) for name, tensor in ours.items()
    )


@pytest.mark.parametrize(
    "model",
    [
        lambda: transformers.ViTForImageClassification(transformers.ViTConfig(**VISION)),
        lambda: transformers.ViTForMaskedImageModeling(transformers.ViTConfig(**VISION)),
        lambda: transformers.Dinov2ForImageClassification(transformers.Dinov2Config(**VISION)),
    ],
)
def test_the_tower_of_a_model_that_transformers_saved_is_read_without_a_word(
    model: Callable[[], Any], tmp_path: Path
) -> None:
    made = model()
    made.save_pretrained(tmp_path)
    encoder = load_encoder(str(tmp_path), "pooled")
    theirs = made.base_model.state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in encoder.model.state_dict().items())
    assert encoder.notes == ()


@pytest.mark.parametrize(("family", "other"), [("clip", "siglip"), ("siglip", "clip")])
def test_weights_of_one_family_under_the_config_of_the_other(
    family: str, other: str, encoders: dict[str, Path], tmp_path: Path
) -> None:
    folder = kinds.copy_of(encoders[family], tmp_path / "encoder")
    (folder / "config.json").write_bytes((encoders[other] / "config.json").read_bytes())
    error = refused(folder)
    assert f"weights are a {family} encoder's" in error.what
    assert f"{family}_vision_model" in error.fix


@pytest.mark.parametrize("says", ["clip_text_model", "clip_vision_model"])
def test_a_text_tower_alone(says: str, tmp_path: Path) -> None:
    transformers.CLIPTextModel(transformers.CLIPTextConfig(**TEXT)).save_pretrained(tmp_path)
    kinds.set_json(tmp_path / "config.json", model_type=says, image_size=32, patch_size=8)
    assert "a text tower alone" in refused(tmp_path).what


@pytest.mark.parametrize(
    ("family", "keys", "what"),
    [
        (
            "clip",
            {"projection_dim": 48},
            r"visual_projection.weight is \[24, 32\] where config.json makes it \[48, 32\]",
        ),
        (
            "siglip",
            {"image_size": 64},
            r"position_embedding.weight is \[16, 32\] where config.json makes it \[64, 32\]",
        ),
        ("siglip", {"hidden_size": 2_000_000}, "60 of the encoder's 64 tensors have another shape"),
        ("siglip", {"num_channels": 4}, "patch_embedding.weight is"),
        ("siglip", {"hidden_size": "wide"}, "config.json makes no encoder: .*hidden_size"),
        ("siglip", {"hidden_size": -32}, "config.json makes no encoder"),
        ("siglip", {"num_attention_heads": 5}, "config.json makes no encoder: .*num_heads"),
        ("siglip", {"num_hidden_layers": 0}, "config.json makes no encoder"),
        ("siglip", {"patch_size": 0}, "config.json makes no encoder"),
        ("siglip", {"hidden_act": "no_such_activation"}, "config.json makes no encoder: .*no_such_activation"),
        ("siglip", {"model_type": "bert"}, "no support for encoders of type 'bert'"),
        ("siglip", {"model_type": None}, "names no model_type"),
        ("siglip", {"model_type": ["siglip"]}, "names no model_type"),
        ("siglip", {"quantization_config": {"quant_method": "bitsandbytes"}}, "has quantization_config"),
        ("clip", {"vision_config": "none"}, "config.json makes no encoder: .*vision_config"),
        ("clip", {"transformers_weights": "other.safetensors"}, "has transformers_weights"),
    ],
)
def test_a_configuration_that_does_not_fit(
    family: str, keys: dict[str, Any], what: str, encoders: dict[str, Path], tmp_path: Path
) -> None:
    assert re.search(what, refused(kinds.copy_of(encoders[family], tmp_path / "encoder", None, **keys)).what)


@pytest.mark.parametrize("content", [None, "", "{", "[1]", '"text"', "[" * 100_000, '{"a":' * 100_000, "\udcff"])
def test_a_configuration_that_is_no_json_object(content: str | None, encoders: dict[str, Path], tmp_path: Path) -> None:
    folder = kinds.copy_of(encoders["clip"], tmp_path / "encoder")
    (folder / "config.json").unlink()
    if content is not None:
        (folder / "config.json").write_bytes(content.encode(errors="surrogateescape"))
    assert "config.json" in refused(folder).what


def test_code_of_a_checkpoint_never_runs_and_is_never_asked_about(
    encoders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = {name: f"evil.{name}" for name in ("AutoConfig", "AutoModel", "AutoImageProcessor")}
    folder = kinds.copy_of(encoders["siglip"], tmp_path / "encoder", None, auto_map=code)
    kinds.set_json(folder / "preprocessor_config.json", auto_map=code)
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("it asked"))
    build_classifier(ModelConfig(encoder=str(folder), unfreeze_last=0), ["a", "b"], seed=0)
    kinds.set_json(folder / "config.json", model_type="my_own")
    assert "no support for encoders of type 'my_own'" in refused(folder).what
    assert not (tmp_path / "ran").exists()
