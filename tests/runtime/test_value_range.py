"""Grey levels of files of more than 8 bits, worked out by hand: level = 255 * (value - black) / (white - black)."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from deep_files import ORDERS, packed_12_bit_tiff, png, tiff
from PIL import Image

from toolkit.runtime.decode import UnreadableImageError, decode
from toolkit.runtime.preprocess import Preprocess
from toolkit.runtime.value_range import Range, grey_levels, range_by_rule

THIRDS = [0, 85, 170, 255]
S_MIN_MAX = (340, 341)
FLOAT, SHORT = 11, 3


def row(*values: float, dtype: Any = np.uint16) -> npt.NDArray[Any]:
    return np.array([values], dtype)


def floats(*values: float) -> npt.NDArray[Any]:
    return row(*values, dtype=np.float32)


def stating(low: float, high: float, kind: int = SHORT, tags: tuple[int, int] = S_MIN_MAX) -> list[Any]:
    return [(tags[0], kind, [low]), (tags[1], kind, [high])]


def pgm(*values: int, maxval: int) -> bytes:
    return f"P5\n{len(values)} 1\n{maxval}\n".encode() + np.array(values, ">u2").tobytes()


def levels(content: bytes, value_range: Range | None = None) -> list[int]:
    pixels = np.asarray(decode(content, grey=True, value_range=value_range))
    assert np.array_equal(np.asarray(decode(content, value_range=value_range))[..., 0], pixels)
    found: list[int] = pixels.ravel().tolist()
    return found


BY_THE_FILE = {
    "float, 0 to 1": (tiff(floats(0, 1 / 3, 2 / 3, 1)), THIRDS),
    "float, 0 to 1, big-endian": (tiff(floats(0, 1 / 3, 2 / 3, 1), ">"), THIRDS),
    "float, 0 to 1, darker": (tiff(floats(0, 1 / 3, 0.2, 0.1)), [0, 85, 51, 26]),
    "float, 0 to 255": (tiff(floats(0, 84.6, 170.4, 255)), THIRDS),
    "float, -1 to 1, stated": (tiff(floats(-1, -1 / 3, 1 / 3, 1), extra=stating(-1, 1, FLOAT)), THIRDS),
    "float, 0 to 3000, stated 4095": (tiff(floats(0, 1365, 2730), extra=stating(0, 4095, FLOAT)), THIRDS[:3]),
    "12-bit in 16, TIFF": (tiff(row(0, 1365, 2730, 4095)), THIRDS),
    "12-bit in 16, TIFF, big-endian": (tiff(row(0, 1365, 2730, 4095), ">"), THIRDS),
    "12-bit in 16, TIFF, white is 0": (tiff(row(0, 1365, 2730, 4095), photometric=0), THIRDS[::-1]),
    "10-bit in 16, stated": (tiff(row(0, 100, 200), extra=stating(0, 1020)), [0, 25, 50]),
    "10-bit in 16, MaxSampleValue": (tiff(row(0, 100, 200), extra=stating(0, 1020, tags=(280, 281))), [0, 25, 50]),
    "a statement that a value contradicts": (tiff(row(0, 1365, 4095), extra=stating(0, 1000)), [0, 85, 255]),
    "a statement whose white is its black": (tiff(row(0, 1365, 4095), extra=stating(9, 9)), [0, 85, 255]),
    "12-bit in 16, PNG": (png(row(0, 1365, 2730, 4095)), THIRDS),
    "12-bit in 16, PNG, sBIT 12, dark": (png(row(0, 273, 546), significant=12), [0, 17, 34]),
    "12-bit in 16, PNG, sBIT 12, scaled": (png(row(0, 21845, 43690, 65535), significant=12), THIRDS),
    "packed 12-bit TIFF": (packed_12_bit_tiff([0, 1365, 2730, 4095]), THIRDS),
    "packed 12-bit TIFF, dark": (packed_12_bit_tiff([0, 273, 546, 0]), [0, 17, 34, 0]),
    "PGM, 12-bit": (pgm(0, 1365, 2730, 4095, maxval=4095), THIRDS),
    "PGM, 12-bit, dark": (pgm(0, 273, 546, maxval=4095), [0, 17, 34]),
    "PGM, 16-bit, dark": (pgm(0, 257, 514, maxval=65535), [0, 1, 2]),
    "10-bit in 16": (tiff(row(0, 341, 682, 1023)), THIRDS),
    "14-bit in 16": (tiff(row(0, 5461, 10922, 16383)), THIRDS),
    "8-bit in 16": (tiff(row(0, 1, 200, 255)), [0, 1, 200, 255]),
    "16-bit": (tiff(row(0, 21845, 43690, 65535)), THIRDS),
    "16-bit signed": (tiff(row(0, 1365, 2730, 4095, dtype=np.int16)), THIRDS),
    "16-bit signed, stated": (
        tiff(row(-1000, 0, 1000, 2000, dtype=np.int16), ">", extra=stating(-1000, 2000, 8)),
        THIRDS,
    ),
    "32-bit": (tiff(row(0, 1365, 2730, 4095, dtype=np.int32)), THIRDS),
    "32-bit unsigned": (tiff(row(0, 21845, 43690, 65535, dtype=np.uint32)), THIRDS),
    "8-bit signed": (tiff(row(0, 1, 127, dtype=np.int8)), [0, 1, 127]),
    "float64": (tiff(row(0, 1 / 3, 2 / 3, 1, dtype=np.float64)), THIRDS),
    "float64, big-endian, white is 0": (tiff(row(0, 0.6, 1, dtype=np.float64), ">", photometric=0), [255, 102, 0]),
    "32-bit unsigned, big-endian": (tiff(row(0, 21845, 65535, dtype=np.uint32), ">"), [0, 85, 255]),
    "16-bit, big-endian, white is 0": (tiff(row(0, 21845, 65535), ">", photometric=0), [255, 170, 0]),
    "black": (tiff(row(0, 0, 0)), [0, 0, 0]),
    "black, float": (tiff(floats(0, 0, 0)), [0, 0, 0]),
}


@pytest.mark.parametrize(("content", "expected"), BY_THE_FILE.values(), ids=BY_THE_FILE)
def test_a_file_alone_is_read_by_its_statement_or_by_the_rule(content: bytes, expected: list[int]) -> None:
    assert levels(content) == expected


BY_THE_RECIPE = {
    "CT, signed 16-bit": (
        tiff(row(-2000, -1000, -300, 400, 3071, dtype=np.int16)),
        (-1000, 400),
        [0, 0, 128, 255, 255],
    ),
    "CT, signed 32-bit": (tiff(row(-1000, -300, 400, dtype=np.int32), ">"), (-1000, 400), [0, 128, 255]),
    "CT, float": (tiff(floats(-1000, -300, 400, 1e9)), (-1000, 400), [0, 128, 255, 255]),
    "float, -1 to 1": (tiff(floats(-1, -1 / 3, 1 / 3, 1)), (-1, 1), THIRDS),
    "16-bit, dark": (tiff(row(0, 257, 514)), (0, 65535), [0, 1, 2]),
    "16-bit PNG": (png(row(0, 273, 546)), (0, 4095), [0, 17, 34]),
    "above a statement": (tiff(row(0, 1000), extra=stating(0, 1000)), (0, 2000), [0, 128]),
    "above the bits": (packed_12_bit_tiff([0, 100, 200, 4095]), (0, 300), [0, 85, 170, 255]),
    "above maxval, in its units": (pgm(0, 100, 200, 4095, maxval=4095), (0, 300), [0, 85, 170, 255]),
    "32-bit unsigned": (tiff(row(0, 2_000_000_000, 4_000_000_000, dtype=np.uint32)), (0, 4e9), [0, 128, 255]),
    "32-bit unsigned, big-endian": (tiff(row(0, 4_000_000_000, dtype=np.uint32), ">"), (0, 4e9), [0, 255]),
    "32-bit unsigned, compressed": (tiff(row(0, 4_000_000_000, dtype=np.uint32), ">", packed=True), (0, 4e9), [0, 255]),
    "8-bit signed": (tiff(row(-100, 0, 100, dtype=np.int8)), (-100, 100), [0, 128, 255]),
}


@pytest.mark.parametrize(("content", "value_range", "expected"), BY_THE_RECIPE.values(), ids=BY_THE_RECIPE)
def test_a_given_range_holds_for_every_file_of_more_than_8_bits(
    content: bytes, value_range: Range, expected: list[int]
) -> None:
    assert levels(content, value_range) == expected


@pytest.mark.parametrize("mode", ["L", "RGB", "P", "1"])
def test_a_given_range_leaves_files_of_8_bits_alone(mode: str) -> None:
    file = io.BytesIO()
    Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).convert(mode).save(file, "PNG")
    content = file.getvalue()
    assert np.array_equal(np.asarray(decode(content, value_range=(0, 4095))), np.asarray(decode(content)))


@pytest.mark.parametrize("order", ORDERS)
def test_values_of_16_bits_that_fill_them_are_divided_by_257(order: str) -> None:
    every_value = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    expected = (every_value.astype(int) + 128) // 257
    for content in (tiff(every_value, order), png(every_value)):
        for value_range in (None, (0.0, 65535.0)):
            assert np.array_equal(np.asarray(decode(content, grey=True, value_range=value_range)), expected)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.uint32, np.int32, np.float32, np.float64])
def test_compressed_values_are_those_that_are_not(dtype: Any, order: str) -> None:
    """libtiff turns the bytes to the machine's order, and Pillow would turn some of them again."""
    values = np.random.default_rng(0).integers(0, 4096, (9, 7)).astype(dtype)
    expected = np.rint(values.astype(np.float64) * 255 / 4095).ravel().tolist()
    for packed in (False, True):
        assert levels(tiff(values, order, packed=packed), (0, 4095)) == expected


@pytest.mark.parametrize("bits", [9, 10, 12, 14])
def test_jpeg_2000_is_read_by_its_depth(bits: int) -> None:
    """Pillow writes 16 bits; a decoder adds 2 ** (bits - 1) to what is stored, so fewer are a byte of the header."""
    values = np.arange(0, 1 << bits, (1 << bits) // 256, dtype=np.int64).reshape(16, 16)
    file = io.BytesIO()
    stored = (values + (1 << 15) - (1 << bits - 1)).astype(np.uint16)
    Image.fromarray(stored).save(file, "JPEG2000", no_jp2=True)
    content = bytearray(file.getvalue())
    content[content.index(b"\xff\x51") + 40] = bits - 1
    expected = np.rint(values * 255 / ((1 << bits) - 1)).astype(int)
    assert levels(bytes(content)) == expected.ravel().tolist()
    dark = np.rint(np.clip(values, 0, 200) * 255 / 200).astype(int)
    assert levels(bytes(content), (0, 200)) == dark.ravel().tolist()


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("channels", [3, 4])
def test_colours_of_16_bits_are_read_with_both_bytes(order: str, channels: int) -> None:
    color = np.random.default_rng(0).integers(0, 4096, (9, 7, 3), dtype=np.uint16)
    color[0, 0] = 4095
    alpha = np.full((9, 7, channels - 3), 65535, np.uint16)
    pixels = np.concatenate([color, alpha], axis=-1)
    expected = np.rint(color * (255 / 4095)).astype(int)
    extra = [(338, SHORT, [2])] * (channels - 3)
    contents = [png(pixels), *(tiff(pixels, order, photometric=2, extra=extra, packed=each) for each in (False, True))]
    for content in contents:
        assert np.array_equal(np.asarray(decode(content)), expected)
        assert np.array_equal(np.asarray(decode(content, value_range=(0, 4095))), expected)
        assert np.array_equal(np.asarray(decode(content, value_range=(0, 65535))), color >> 8)


def test_greys_of_16_bits_with_alpha_are_read_with_both_bytes() -> None:
    pixels = np.array([[[0, 65535], [1365, 65535], [4095, 65535], [9, 0]]], np.uint16)
    for value_range in (None, (0.0, 4095.0)):
        assert np.asarray(decode(png(pixels), value_range=value_range))[0, :, 0].tolist() == [0, 85, 255, 255]
    with Image.open(io.BytesIO(png(pixels))) as image:
        as_pillow = np.where(np.asarray(image)[..., 3:] == 0, 255, np.asarray(image)[..., :3])
    assert np.array_equal(np.asarray(decode(png(pixels), value_range=(0, 65535))), as_pillow)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_value_of_16_bits_that_a_png_calls_transparent_is_white(channels: int) -> None:
    values = np.array([[1000, 1001, 4095]], np.uint16)
    pixels = values if channels == 1 else np.repeat(values[..., None], 3, axis=-1)
    decoded = np.asarray(decode(png(pixels, transparent=1000)))[0, :, 0]
    assert decoded.tolist() == [255, 62, 255]


def test_colours_of_16_bits_that_fill_them_are_pillows() -> None:
    pixels = np.random.default_rng(0).integers(0, 65536, (9, 7, 3), dtype=np.uint16)
    with Image.open(io.BytesIO(png(pixels))) as image:
        assert np.array_equal(np.asarray(decode(png(pixels))), np.asarray(image))


@pytest.mark.parametrize("value_range", [None, (0.0, 1.0)])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_value_that_is_no_finite_number_makes_an_image_unreadable(value: float, value_range: Range | None) -> None:
    with pytest.raises(UnreadableImageError, match="NaN or infinity among its values"):
        decode(tiff(floats(0, 0.5, value)), value_range=value_range)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (floats(-1, 0), r"values from -1 to 0 \(float\)"),
        (floats(0, 256), r"values from 0 to 256 \(float\)"),
        (row(-5, 300, dtype=np.int16), r"values from -5 to 300 \(16-bit signed\)"),
        (row(0, 65536, dtype=np.int32), r"values from 0 to 65536 \(32-bit\)"),
        (row(-5, 100, dtype=np.int8), r"values from -5 to 100 \(8-bit signed\)"),
    ],
    ids=str,
)
def test_values_that_no_rule_fits_are_unreadable_without_a_range(values: npt.NDArray[Any], said: str) -> None:
    with pytest.raises(UnreadableImageError, match=f"{said} have no defined scale; .*data.value_range"):
        decode(tiff(values))


def test_a_damaged_statement_does_not_cost_the_image() -> None:
    text = tiff(row(0, 1365, 4095), extra=[(341, 2, [ord("x")])])
    assert levels(text) == [0, 85, 255]
    assert levels(png(row(0, 1365, 4095), significant=0)) == [0, 85, 255]


@pytest.mark.parametrize(
    ("high", "white"), [(0, 255), (255, 255), (256, 1023), (1024, 4095), (16383, 16383), (16384, 65535)]
)
def test_white_is_the_least_that_holds_the_values(high: int, white: int) -> None:
    assert range_by_rule(0, high, whole_numbers=True) == (0, white)


def test_the_table_of_16_bits_gives_what_the_formula_gives() -> None:
    values = np.arange(0, 65536, 7, dtype=np.uint16)
    for value_range in ((0.0, 4095.0), (100.0, 101.0), (-1000.0, 400.5), (0.0, 65535.0)):
        assert np.array_equal(grey_levels(values, value_range), grey_levels(values.astype(np.int32), value_range))


def test_preprocessing_carries_the_range_and_its_absence_is_none() -> None:
    without = Preprocess(resize="squash", size=(2, 2))
    assert without.value_range is None
    known = without.model_dump(mode="json")
    assert Preprocess.model_validate({name: value for name, value in known.items() if name != "value_range"}) == without
    carried = Preprocess(resize=None, size=(1, 4), crop=(1, 4), resample="nearest", value_range=(0, 300))
    assert Preprocess.model_validate_json(carried.model_dump_json()) == carried
    content = tiff(row(0, 100, 200, 4095))
    assert np.array_equal(carried.batch([content])[0, 0, 0], np.array(THIRDS, np.float64).astype(np.float32) / 255)


@pytest.mark.parametrize("value_range", [(1, 1), (2, 1), (float("-inf"), 0), (float("nan"), 1)])
def test_preprocessing_refuses_a_range_that_is_none(value_range: Range) -> None:
    with pytest.raises(ValueError, match=r"two finite numbers, the smaller one first|should be a finite number"):
        Preprocess(resize="squash", size=(2, 2), value_range=value_range)
