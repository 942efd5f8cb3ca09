"""``toolkit encoders`` and ``toolkit inspect`` from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from toolkit.cli.main import app


def run(*arguments: object) -> Result:
    done = CliRunner().invoke(app, [*map(str, arguments)], standalone_mode=False)
    assert done.exception is None, done.exception
    return done


def test_show_says_the_same_to_programs_and_to_people(encoders: dict[str, Path]) -> None:
    said = json.loads(run("encoders", "show", encoders["clip"], "--json").stdout)
    assert said["checkpoint_read"]
    assert said["stored"] == {"dtypes": {"fp32": 56}, "files": 1, "bytes": 265764, "sharded": False}
    assert said["preprocess"]["crop"] == [32, 32]
    printed = run("encoders", "show", encoders["clip"]).stdout
    for words in (
        "3 layers, 32 wide, 2 heads, MLP 64, patches of 8 x 8 pixels, 17 tokens",
        "cropped to 32 x 32 pixels in the middle",
        "projected: 24, pooled: 32",
        *(group["name"] for group in said["groups"]),
        *said["oddities"],
    ):
        assert words in printed


def test_inspect_writes_a_picture_and_prints_the_steps(
    encoders: dict[str, Path], color_data: Path, tmp_path: Path
) -> None:
    image, out = color_data / "test" / "red" / "00.png", tmp_path / "deep" / "seen.png"
    said = json.loads(run("inspect", encoders["dinov2"], image, "--out", out, "--json").stdout)
    assert (said["image"], said["out"], said["cropped"]) == (str(image), str(out), {"width": 32, "height": 32})
    assert [len(row) for row in said["attention"]["shares"]] == [4] * 4
    assert said["encoder"]["family"] == "dinov2"
    with Image.open(out) as picture:
        assert picture.format == "PNG"
    printed = run("inspect", encoders["dinov2"], image).stdout
    assert "attention rollout: the class token's, 4 x 4 patches" in printed
    assert "where dinov2 encoders have 0.485, 0.456, 0.406" in printed
    assert "add --out FILE.png" in printed


def test_inspect_without_attention_says_so_in_one_line(tiny_swin: Path, color_data: Path, tmp_path: Path) -> None:
    image = color_data / "test" / "red" / "00.png"
    printed = run("inspect", tiny_swin, image, "--out", tmp_path / "seen.png").stdout
    assert printed.count("no attention maps: no family describes traced:swin") == 1
    assert (tmp_path / "seen.png").stat().st_size > 10_000


def test_compare_prints_what_it_writes(encoders: dict[str, Path], color_data: Path, tmp_path: Path) -> None:
    names, out = f"{encoders['clip']}, {encoders['vit']}", tmp_path / "compared"
    arguments = ["encoders", "compare", "--data", color_data, "--encoders", names]
    said = json.loads(run(*arguments, "--out", out, "--json").stdout)
    assert said == {"out": str(out)} | json.loads((out / "encoders_compare.json").read_bytes())
    with Image.open(out / "encoders_compare.png") as picture:
        assert picture.format == "PNG"
    printed = run(*arguments).stdout
    for each in said["encoders"]:
        assert each["encoder"] in printed
    assert "linear probes on 36 images of 3 classes, accuracy in % on 15 of validation" in printed
    assert "next: toolkit encoders show" in printed
    assert "written" not in printed


@pytest.mark.parametrize("verb", ["show", "list"])
def test_nothing_else_stands_on_stdout(verb: str, encoders: dict[str, Path]) -> None:
    arguments = [encoders["vit"]] if verb == "show" else []
    assert isinstance(json.loads(run("encoders", verb, *arguments, "--json").stdout), dict)
