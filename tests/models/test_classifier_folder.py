"""``best/`` is read whole or refused with what is wrong in it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kinds
import pytest
import torch
from safetensors.torch import load_file, save_file

from toolkit.errors import ToolkitError
from toolkit.models.build import build_classifier, load_classifier, save_classifier
from toolkit.recipe.model import HeadConfig, ModelConfig

LABELS = ["ant", "bee", "cat"]
FC1 = "layers.1.mlp.fc1.weight"


@pytest.fixture(scope="module", params=["clip", "siglip"])
def saved(request: pytest.FixtureRequest, encoders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    config = ModelConfig(encoder=str(encoders[request.param]), unfreeze_last=1, head=HeadConfig(hidden_size=16))
    classifier, processor = build_classifier(config, LABELS, seed=0)
    save_classifier(folder, classifier, config.head, processor)
    return folder


@pytest.fixture
def best(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "best"))


def refused(best: Path) -> ToolkitError:
    with pytest.raises(ToolkitError) as caught:
        load_classifier(best)
    assert str(best) in caught.value.where
    return caught.value


def test_it_is_read_back_to_the_bit(best: Path) -> None:
    state = load_classifier(best)[0].state_dict()
    file = load_file(best / "model.safetensors")
    assert file.keys() == state.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in file.items())


def test_a_folder_from_before_there_was_a_choice_of_embedding_is_read(best: Path) -> None:
    kinds.set_json(best / "config.json", embedding=None)
    assert load_classifier(best)[0].encoder.embedding == "projected"


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (kinds.without(FC1), f"1 of .* tensors are missing: .*{FC1}"),
        (kinds.without("layers.1."), "16 of .* tensors are missing: .* and 13 more"),
        (kinds.with_layer(7), "16 tensors have no place: .*layers.7.* and 13 more"),
        (
            kinds.with_values(FC1, lambda t: t[:, :8].clone()),
            rf"1 of .* another shape: \S+{FC1} is \[64, 8\], not \[64, 32\]",
        ),
        (kinds.as_type(torch.float16, FC1), f"1 of .* another type: .*{FC1} is float16, not float32"),
        (kinds.as_type(torch.int64, "temperature"), "another type: temperature is int64, not float32"),
        (kinds.with_values(FC1, lambda t: t * float("inf")), f"1 of .* not finite: .*{FC1}"),
        (kinds.with_values("temperature", lambda t: t * 0), "temperature is not above zero"),
        (kinds.with_values("temperature", lambda t: t * float("nan")), "not finite: temperature"),
    ],
)
def test_tensors_that_are_not_the_classifier_s(
    change: Callable[[kinds.Tensors], kinds.Tensors], what: str, best: Path
) -> None:
    file = best / "model.safetensors"
    save_file(change(load_file(file)), file)
    with pytest.raises(ToolkitError, match=what):
        load_classifier(best)


@pytest.mark.parametrize(
    ("labels", "what"),
    [
        (["ant", "bee"], "labels.json holds 2 names, and the head has 3 classes"),
        (["ant", "bee", "cat", "dog"], "labels.json holds 4 names, and the head has 3 classes"),
        (["ant", "bee", "ant"], "labels.json holds 1 names twice: ant"),
        (["ant", "bee", 3], "labels.json is no list of names"),
        ([], "labels.json is no list of names"),
        ({"0": "ant"}, "labels.json is no list of names"),
        ("ant", "labels.json is no list of names"),
    ],
)
def test_labels_that_are_not_the_head_s(labels: Any, what: str, best: Path) -> None:
    (best / "labels.json").write_text(json.dumps(labels))
    assert what in refused(best).what


@pytest.mark.parametrize("name", ["labels.json", "config.json", "preprocessor_config.json"])
@pytest.mark.parametrize("content", ["", "{", "[" * 100_000, "\udcff"])
def test_files_that_are_no_json(name: str, content: str, best: Path) -> None:
    (best / name).write_bytes(content.encode(errors="surrogateescape"))
    assert name in refused(best).what


@pytest.mark.parametrize(
    ("keys", "what"),
    [
        ({"family": "flava"}, "family 'flava', which is none of clip, metaclip_2"),
        ({"family": None}, "lacks family"),
        ({"head": None, "encoder": None}, "lacks encoder, head"),
        ({"embedding": "mean"}, "embedding 'mean', which is none of projected, pooled"),
        ({"embedding": "pooled"}, "model.safetensors: "),
        ({"format": 2}, "format 2, where this version reads 1"),
        ({"head": {"type": "mlp", "hidden_size": "wide"}}, "hidden_size"),
        ({"head": {"type": "linear"}}, "model.safetensors: "),
        ({"encoder": "none"}, "damaged checkpoint"),
        ({"encoder": {"hidden_size": -1}}, "damaged checkpoint"),
    ],
)
def test_a_configuration_of_something_else(keys: dict[str, Any], what: str, best: Path) -> None:
    kinds.set_json(best / "config.json", **keys)
    assert what in refused(best).what


def test_a_processor_that_is_gone_or_of_another_size(best: Path) -> None:
    keys = json.loads((best / "preprocessor_config.json").read_text())
    side = {"height": 48, "width": 48}
    kinds.set_json(
        best / "preprocessor_config.json", **({"crop_size": side} if "crop_size" in keys else {"size": side})
    )
    assert "48 x 48 pixels" in refused(best).what
    (best / "preprocessor_config.json").unlink()
    assert "no preprocessor_config.json" in refused(best).what


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "labels.json"])
def test_a_file_that_is_missing_is_named(name: str, best: Path) -> None:
    (best / name).unlink()
    assert f"{name} missing" in refused(best).what


def test_weights_that_are_cut_off(best: Path) -> None:
    file = best / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    assert "damaged checkpoint" in refused(best).what
