"""Encoders beside each other: the choice is validation's, the test split is never seen, a mistake names its encoder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from recipes.compare_encoders import compare_encoders
from toolkit.errors import ToolkitError
from toolkit.models.load import load_encoder
from toolkit.runs.encoders_compare_file import EncodersCompareFile


@pytest.fixture(scope="module")
def compared(
    color_data: Path, encoders: dict[str, Path], tiny_swin: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[EncodersCompareFile, Path]:
    out = tmp_path_factory.mktemp("compared") / "out"
    names = [str(encoders["siglip"]), str(tiny_swin), "tiny-clip"]
    return compare_encoders(color_data, names, out), out


def test_the_file_reads_back_and_holds_every_encoder(compared: tuple[EncodersCompareFile, Path]) -> None:
    found, out = compared
    assert EncodersCompareFile.model_validate(json.loads((out / "encoders_compare.json").read_bytes())) == found
    assert sorted(path.name for path in out.iterdir()) == ["encoders_compare.json", "encoders_compare.png"]
    assert {each.family for each in found.encoders} == {"clip", "siglip", "traced:swin"}
    assert found.images == {"train": 36, "validation": 15}
    assert found.made == []
    for each in found.encoders:
        assert each.interval[0] <= each.accuracy <= each.interval[1]
        assert each.graph_bytes > 4 * each.parameters
        assert (each.latency.batch_size, each.latency.precision, each.latency.provider) == (1, "fp32", "cpu")
        assert each.parameters == sum(p.numel() for p in load_encoder(each.encoder).parameters())


def test_the_best_comes_first_and_the_others_are_so_far_behind(compared: tuple[EncodersCompareFile, Path]) -> None:
    found, _ = compared
    best, *others = found.encoders
    assert (best.encoder, best.behind_best) == (found.best, None)
    for each in others:
        assert each.behind_best is not None
        assert each.behind_best.value == pytest.approx(best.accuracy - each.accuracy)
        low, high = each.behind_best.interval
        assert low <= each.behind_best.value <= high
    near = found.as_good_as_best()
    assert best in near
    assert [each.latency.p50_ms for each in near] == sorted(each.latency.p50_ms for each in near)


def test_the_test_split_is_never_seen(color_data: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(color_data, tmp_path / "other"))
    for number, path in enumerate(sorted((other / "test").rglob("*.png"))):
        noise = np.random.default_rng(number).integers(0, 256, (30, 30, 3), np.uint8)
        Image.fromarray(noise).save(path)
    ours, theirs = (compare_encoders(data, ["tiny-clip"]) for data in (color_data, other))
    assert ours.data_fingerprint != theirs.data_fingerprint
    for name in ("accuracy", "strength", "interval"):
        assert getattr(ours.encoders[0], name) == getattr(theirs.encoders[0], name)


def test_a_split_that_is_missing_is_made_as_for_training(color_data: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(color_data / "train", data)
    found = compare_encoders(data, ["tiny-clip"])
    assert found.made == ["train", "validation"]
    assert sum(found.images.values()) < 36  # a test split was made too


def test_a_copy_of_an_encoder_is_as_good(color_data: Path, encoders: dict[str, Path], tmp_path: Path) -> None:
    copy = shutil.copytree(encoders["clip"], tmp_path / "copy")
    found = compare_encoders(color_data, [str(encoders["clip"]), str(copy)])
    (behind,) = (each.behind_best for each in found.encoders if each.behind_best)
    assert behind.value == 0
    assert not behind.told_apart
    assert len(found.as_good_as_best()) == 2


def test_a_checkpoint_without_projection_is_compared_as_it_is(
    color_data: Path, encoders: dict[str, Path], tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(encoders["clip"], tmp_path / "pooled"))
    tensors = {name: t for name, t in load_file(folder / "model.safetensors").items() if "visual_proj" not in name}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    (found,) = compare_encoders(color_data, [str(folder)]).encoders
    assert (found.embedding, found.embedding_size) == ("pooled", 32)


def test_an_encoder_that_fails_is_named_and_nothing_is_written(
    color_data: Path, encoders: dict[str, Path], tmp_path: Path
) -> None:
    broken = Path(shutil.copytree(encoders["siglip"], tmp_path / "broken"))
    (broken / "preprocessor_config.json").unlink()
    with pytest.raises(ToolkitError, match=r"no preprocessor_config\.json") as caught:
        compare_encoders(color_data, ["tiny-clip", str(broken)], tmp_path / "out")
    assert caught.value.where == f"--encoders: {broken}"
    assert not (tmp_path / "out").exists()


def test_a_name_that_is_none_is_named(color_data: Path) -> None:
    with pytest.raises(ToolkitError, match="no such encoder folder") as caught:
        compare_encoders(color_data, ["tiny-clip", "./nowhere"])
    assert caught.value.where == "--encoders: ./nowhere"


def test_one_encoder_by_two_names_is_refused(color_data: Path, encoders: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(encoders["clip"])
    with pytest.raises(ToolkitError, match="are the same encoder"):
        compare_encoders(color_data, [str(encoders["clip"]), str(tmp_path / "link")])


def test_data_of_one_class_is_refused(color_data: Path, tmp_path: Path) -> None:
    shutil.copytree(color_data / "train" / "red", tmp_path / "data" / "red")
    with pytest.raises(ToolkitError, match="a classifier needs two classes"):
        compare_encoders(tmp_path / "data", ["tiny-clip"])


def test_what_is_there_is_kept_unless_it_may_be_replaced(color_data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").touch()
    with pytest.raises(ToolkitError, match="no comparison of encoders is there already"):
        compare_encoders(color_data, ["tiny-clip"], out, force=True)
    assert [path.name for path in out.iterdir()] == ["notes.txt"]
