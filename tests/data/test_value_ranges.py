"""One range for all images of a data set, and what `data check` says of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from deep_files import packed_12_bit_tiff, png, tiff
from PIL import Image
from typer.testing import CliRunner

from toolkit.cli.main import app
from toolkit.data.check import check_data
from toolkit.data.source import DataSource, open_data
from toolkit.errors import ToolkitError
from toolkit.recipe.data import DataConfig
from toolkit.recipe.reading import load_data_config
from toolkit.runtime.decode import decode
from toolkit.runtime.value_range import Range

FLOAT = 11
Pixels = npt.NDArray[Any]


def ramp(low: float, high: float, dtype: Any, seed: int = 0) -> Pixels:
    """12 x 12 values from ``low`` to ``high`` in an order of their own."""
    values = np.linspace(low, high, 144).astype(dtype)
    return np.random.default_rng(seed).permutation(values).reshape(12, 12)


def written(folder: Path, contents: list[bytes], suffix: str) -> Path:
    """Images of two classes, in turn."""
    for index, content in enumerate(contents):
        path = folder / "ab"[index % 2] / f"{index:02d}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def config_of(folder: Path, value_range: Range | None = None) -> DataConfig:
    return DataConfig(path=folder, value_range=value_range, validation_share=0.2, test_share=0.2)


def pixels_by_name(data: DataSource) -> dict[str, Pixels]:
    examples = [example for split in data.splits.values() for example in split]
    return {example.path.name: np.asarray(example.decode(grey=True)) for example in examples}


KINDS: dict[str, tuple[Callable[[Pixels], bytes], str, Any, tuple[float, float], tuple[float, float], str]] = {
    # writer, suffix, type, the data's extremes, the right range, what data check says
    "12-bit PNG": (png, ".png", np.uint16, (0, 4095), (0, 4095), "16-bit, 0 to 4095 found, read as [0, 4095]"),
    "12-bit TIFF": (tiff, ".tif", np.uint16, (3, 3000), (0, 4095), "16-bit, 3 to 3000 found, read as [0, 4095]"),
    "16-bit PNG": (png, ".png", np.uint16, (0, 65535), (0, 65535), "16-bit, 0 to 65535 found, read as [0, 65535]"),
    "16-bit signed": (
        tiff,
        ".tif",
        np.int16,
        (0, 1000),
        (0, 1023),
        "16-bit signed, 0 to 1000 found, read as [0, 1023]",
    ),
    "float to 1": (tiff, ".tif", np.float32, (0, 1), (0, 1), "float, 0 to 1 found, read as [0, 1]"),
    "float to 200": (tiff, ".tif", np.float32, (0, 200), (0, 255), "float, 0 to 200 found, read as [0, 255]"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_dark_image_stays_dark_beside_the_others(tmp_path: Path, kind: str) -> None:
    """The first image has a sixteenth of the others' brightness; alone it would be read in a smaller range."""
    write, suffix, dtype, (low, high), value_range, said = KINDS[kind]
    images = [ramp(low, high, dtype, seed) for seed in range(12)]
    images[0] = ramp(low, low + (high - low) / 16, dtype)
    data = open_data(config_of(written(tmp_path, [write(image) for image in images], suffix)))
    assert data.value_range == value_range
    assert data.value_ranges == {said: 12}
    decoded = pixels_by_name(data)
    for index, image in enumerate(images):
        expected = np.rint((image.astype(np.float64) - value_range[0]) * 255 / (value_range[1] - value_range[0]))
        assert np.array_equal(decoded[f"{index:02d}{suffix}"], expected)
    report = check_data(config_of(tmp_path))
    assert (report["value_ranges"], report["problems"]) == ({said: 12}, [])
    assert report["darker_than_the_rest"] == {"count": 1, "paths": [str(tmp_path / "a" / f"00{suffix}")]}
    assert report["flatter_than_the_rest"] == report["darker_than_the_rest"]


def test_a_given_range_is_that_of_every_image(tmp_path: Path) -> None:
    images = [ramp(-1000, 3000, np.int16, seed) for seed in range(12)]
    written(tmp_path, [tiff(image) for image in images], ".tif")
    data = open_data(config_of(tmp_path, (-1000, 400)))
    assert data.value_range == (-1000, 400)
    assert data.value_ranges == {"16-bit signed, -1000 to 3000 found, read as [-1000, 400]": 12}
    decoded = pixels_by_name(data)["03.tif"]
    assert np.array_equal(decoded, np.rint((np.clip(images[3].astype(int), -1000, 400) + 1000) * 255 / 1400))


@pytest.mark.parametrize(
    ("contents", "said", "fix"),
    [
        (
            [tiff(ramp(-1000, 3000, np.int16, seed)) for seed in range(12)],
            "12 16-bit signed images (00.tif, 02.tif, 04.tif and 9 more) hold values from -1000 to 3000, and no rule "
            "says what is black and white in them",
            "set data.value_range='[low, high]', such as data.value_range='[-1000, 3000]'",
        ),
        (
            [tiff(ramp(-1, 1, np.float32, seed)) for seed in range(12)],
            "12 float images (00.tif, 02.tif, 04.tif and 9 more) hold values from -1 to 1, and no rule says what is "
            "black and white in them",
            "set data.value_range='[low, high]', such as data.value_range='[-1, 1]'",
        ),
        (
            [tiff(ramp(0, 1000, np.float32, seed)) for seed in range(12)],
            "12 float images (00.tif, 02.tif, 04.tif and 9 more) hold values from 0 to 1000, and no rule says what is "
            "black and white in them",
            "set data.value_range='[low, high]', such as data.value_range='[0, 1000]'",
        ),
        (
            [tiff(ramp(0, 1_000_000, np.int32, seed)) for seed in range(12)],
            "12 32-bit images (00.tif, 02.tif, 04.tif and 9 more) hold values from 0 to 1000000, and no rule says "
            "what is black and white in them",
            "set data.value_range='[low, high]', such as data.value_range='[0, 1000000]'",
        ),
        (
            [tiff(ramp(0, 1, np.float32, seed)) for seed in range(10)]
            + [tiff(ramp(0, 4000, np.uint16, seed)) for seed in range(2)],
            "no one range fits all images of more than 8 bits: 10 float images (00.tif, 02.tif, 04.tif and 7 more) "
            "are [0, 1]; 2 16-bit images (10.tif, 11.tif) are [0, 4095]",
            "store them in one kind, or set data.value_range='[low, high]' for all of them",
        ),
    ],
    ids=["CT", "-1 to 1", "float", "32-bit", "mixed"],
)
def test_values_that_no_rule_fits_are_refused_with_what_was_found(
    tmp_path: Path, contents: list[bytes], said: str, fix: str
) -> None:
    written(tmp_path, contents, ".tif")
    with pytest.raises(ToolkitError) as caught:
        open_data(config_of(tmp_path))
    assert (caught.value.what, caught.value.where, caught.value.fix) == (said, str(tmp_path), fix)
    report = check_data(config_of(tmp_path))
    assert report["problems"] == [f"{said}; {fix}"]
    assert report["unreadable"] == []


def test_a_found_range_mends_what_was_refused(tmp_path: Path) -> None:
    written(tmp_path, [tiff(ramp(-1, 1, np.float32, seed)) for seed in range(12)], ".tif")
    with pytest.raises(ToolkitError) as caught:
        open_data(config_of(tmp_path))
    assert caught.value.fix.endswith("data.value_range='[-1, 1]'")
    data = open_data(config_of(tmp_path, (-1, 1)))
    assert {(int(pixels.min()), int(pixels.max())) for pixels in pixels_by_name(data).values()} == {(0, 255)}


def test_what_all_files_state_is_the_range(tmp_path: Path) -> None:
    contents = [
        tiff(ramp(-0.5, 0.5, np.float32, seed), extra=[(340, FLOAT, [-1]), (341, FLOAT, [1])]) for seed in range(12)
    ]
    data = open_data(config_of(written(tmp_path, contents, ".tif")))
    assert data.value_range == (-1, 1)
    assert data.value_ranges == {"float, -0.5 to 0.5 found, [-1, 1] stated, read as [-1, 1]": 12}


def test_each_images_own_extremes_are_no_range(tmp_path: Path) -> None:
    """Writers that put an image's smallest and largest value into the tags would make all equally bright."""
    images = [ramp(0, 100 * (seed + 1), np.uint16, seed) for seed in range(12)]
    contents = [tiff(image, extra=[(340, 3, [0]), (341, 3, [int(image.max())])]) for image in images]
    data = open_data(config_of(written(tmp_path, contents, ".tif")))
    assert data.value_range == (0, 4095)
    assert data.value_ranges == {"16-bit, 0 to 1200 found, statements differ, read as [0, 4095]": 12}


def test_a_dark_png_among_those_that_are_scaled_from_12_bits_is_read_like_them(tmp_path: Path) -> None:
    images = [ramp(0, 65520, np.uint16, seed) for seed in range(12)]
    images[0] = ramp(0, 4000, np.uint16)
    data = open_data(config_of(written(tmp_path, [png(image, significant=12) for image in images], ".png")))
    assert data.value_range == (0, 65535)


def test_files_whose_format_says_their_bits_need_no_range(tmp_path: Path) -> None:
    dark = [packed_12_bit_tiff([0, 273, 546 - 16 * index, 819]) for index in range(6)]
    deep = [b"P5\n2 1\n65535\n" + np.array([257 * index, 65535], ">u2").tobytes() for index in range(6)]
    pairs = [content for pair in zip(dark, deep, strict=True) for content in pair]
    data = open_data(config_of(written(tmp_path, pairs, ".pgm")))
    assert data.value_range is None
    assert set(data.value_ranges) == {
        "12-bit, 0 to 819 found, [0, 4095] stated, read as [0, 4095]",
        "16-bit, 0 to 65535 found, [0, 65535] stated, read as [0, 65535]",
    }
    decoded = pixels_by_name(data)
    assert decoded["00.pgm"].tolist() == [[0, 17, 34, 51]]
    assert decoded["01.pgm"].tolist() == [[0, 255]]


def test_files_of_8_bits_are_not_scaled_with_the_others(tmp_path: Path) -> None:
    deep = [png(ramp(0, 4095, np.uint16, seed)) for seed in range(6)]
    written(tmp_path, deep, ".png")
    shallow = np.arange(100, 244, dtype=np.uint8).reshape(12, 12)
    for index in range(6):
        Image.fromarray(np.roll(shallow, index)).save(tmp_path / "ab"[index % 2] / f"shallow-{index}.png")
    data = open_data(config_of(tmp_path))
    assert data.value_range == (0, 4095)
    assert np.array_equal(pixels_by_name(data)["shallow-0.png"], shallow)


def saved(folder: Path, images: list[Image.Image]) -> Path:
    for index, image in enumerate(images):
        path = folder / "ab"[index % 2] / f"{index:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
    return folder


@pytest.mark.parametrize(
    ("levels", "start"),
    [((0, 15), 0), ((0, 0), 0), ((241, 255), 239), ((120, 130), 114)],
    ids=["12 bits taken for 16", "black", "white", "one grey"],
)
def test_a_data_set_that_decodes_to_almost_nothing_is_refused(
    tmp_path: Path, levels: tuple[int, int], start: int
) -> None:
    """Of 8 bits already, as a wrong export leaves them; one bright pixel each and one whole image don't help."""
    images = [ramp(*levels, np.uint8, seed) for seed in range(40)]
    wide = [np.kron(image, np.ones((5, 5), np.uint8)) for image in images]
    for index, image in enumerate(wide):
        image[index, index] = 200
    wide[0] = ramp(0, 255, np.uint8)
    saved(tmp_path, [Image.fromarray(image) for image in wide])
    what = (
        f"the images decode to almost nothing: 39 of 40 lie between the grey levels {start} and {start + 16} of 255, "
        "but for 0.2 % of their pixels"
    )
    fix = "write the images again, so that their values fill 0 to 255"
    with pytest.raises(ToolkitError) as caught:
        open_data(config_of(tmp_path))
    assert (caught.value.what, caught.value.fix) == (what, fix)
    assert f"{what}; {fix}" in check_data(config_of(tmp_path))["problems"]


def test_a_wrong_range_is_found_by_what_it_decodes_to(tmp_path: Path) -> None:
    written(tmp_path, [png(ramp(0, 4095, np.uint16, seed)) for seed in range(12)], ".png")
    with pytest.raises(ToolkitError, match="almost nothing: 12 of 12 lie between the grey levels 0 and 16") as caught:
        open_data(config_of(tmp_path, (0, 65535)))
    assert caught.value.fix == (
        "set data.value_range='[low, high]' to black and white in the files; now: 16-bit, 0 to 4095 found, read as "
        "[0, 65535]"
    )
    with pytest.raises(ToolkitError, match="between the grey levels 239 and 255"):
        open_data(config_of(tmp_path, (-1000, -900)))


@pytest.mark.parametrize(
    "colors",
    [
        [(220, 40, 40), (30, 60, 220)],
        [(0, 0, 0), (255, 255, 255)],
        [(index, 0, 0) for index in range(12)],
        [(1, 2, 3), (4, 5, 6)],
    ],
    ids=str,
)
def test_images_of_single_colours_are_what_somebody_wanted(tmp_path: Path, colors: list[tuple[int, int, int]]) -> None:
    saved(tmp_path, [Image.new("RGB", (8 + index, 8), colors[index % len(colors)]) for index in range(12)])
    assert open_data(config_of(tmp_path)).value_range is None
    report = check_data(config_of(tmp_path))
    assert report["flatter_than_the_rest"]["count"] == 0
    assert not [problem for problem in report["problems"] if "nothing" in problem]


def test_drawings_of_few_pixels_on_black_are_something(tmp_path: Path) -> None:
    images = [np.zeros((60, 60), np.uint8) for _ in range(12)]
    for index, image in enumerate(images):
        image[index : index + 4, 30:34] = 255  # 16 of 3,600 pixels
    saved(tmp_path, [Image.fromarray(image) for image in images])
    assert open_data(config_of(tmp_path)).counts()


def test_darker_and_flatter_images_are_named_up_to_five(tmp_path: Path) -> None:
    images = [ramp(0, 240, np.uint8, seed) for seed in range(40)]
    for index in range(6):
        images[index] = ramp(0, 50, np.uint8, index)
        images[10 + index] = ramp(150, 190, np.uint8, index)
    saved(tmp_path, [Image.fromarray(image) for image in images])
    report = check_data(config_of(tmp_path))
    darker, flatter = report["darker_than_the_rest"], report["flatter_than_the_rest"]
    assert (darker["count"], len(darker["paths"]), flatter["count"]) == (6, 5, 12)
    assert {Path(path).stem for path in darker["paths"]} < {f"{index:02d}" for index in range(6)}
    assert report["problems"] == []


def test_an_image_with_nan_is_listed_as_unreadable(tmp_path: Path) -> None:
    contents = [tiff(ramp(0, 1, np.float32, seed)) for seed in range(12)]
    contents[3] = tiff(np.array([[0.5, np.nan]], np.float32))
    written(tmp_path, contents, ".tif")
    report = check_data(config_of(tmp_path))
    reason = "NaN or infinity among its values"
    assert report["unreadable"] == [{"path": str(tmp_path / "b" / "03.tif"), "reason": reason}]
    with pytest.raises(ToolkitError, match=reason):
        open_data(config_of(tmp_path))


@pytest.mark.parametrize("photometric", [0, 1])
def test_white_is_zero_counts_as_it_decodes(tmp_path: Path, photometric: int) -> None:
    """Nearly all values small: black pixels, or white ones where the smallest is white."""
    contents = [tiff(ramp(0, 4095, np.uint16, seed), photometric=photometric) for seed in range(12)]
    contents[0] = tiff(ramp(3900, 4095, np.uint16), photometric=photometric)
    written(tmp_path, contents, ".tif")
    assert check_data(config_of(tmp_path))["darker_than_the_rest"]["count"] == 1 - photometric
    whole = np.asarray(decode(contents[1], grey=True))
    assert np.array_equal(
        255 - whole, np.asarray(decode(tiff(ramp(0, 4095, np.uint16, 1), photometric=1 - photometric), grey=True))
    )


def test_the_command_prints_what_was_found(tmp_path: Path) -> None:
    images = [ramp(0, 4095, np.uint16, seed) for seed in range(12)]
    images[0] = ramp(0, 100, np.uint16)
    written(tmp_path, [png(image) for image in images], ".png")
    told = CliRunner().invoke(app, ["data", "check", str(tmp_path)])
    assert told.exit_code == 0, told.output
    assert "values: 16-bit, 0 to 4095 found, read as [0, 4095] (12)" in told.output
    assert f"darker than a quarter of the median image (1): {tmp_path / 'a' / '00.png'}" in told.output
    wrong = CliRunner().invoke(app, ["data", "check", str(tmp_path), "value_range=[0, 65535]", "--json"])
    assert wrong.exit_code == 1
    assert "almost nothing" in json.loads(wrong.stdout)["problems"][0]


@pytest.mark.parametrize("value", ["[4095, 0]", "[1, 1]", "[0]", "[0, 1, 2]", "4095", "[0, .inf]", "[a, b]", "12"])
def test_a_range_that_is_none_is_refused_in_words(color_data: Path, value: str) -> None:
    told = CliRunner().invoke(app, ["data", "check", str(color_data), f"value_range={value}"])
    assert isinstance(told.exception, ToolkitError)
    said = told.exception.what
    assert said.startswith("value_range: black and then white, two finite numbers, such as [0, 4095] (got ")


def test_numbers_that_yaml_takes_for_text_are_numbers(color_data: Path) -> None:
    assert load_data_config(color_data, ["value_range=[-1e3, 4e2]"]).value_range == (-1000, 400)
