from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from alpha import composites_alpha
from PIL import Image, ImageOps
from transformers.image_transforms import convert_to_rgb

from toolkit.errors import ToolkitError
from toolkit.runtime.decode import MAX_PIXELS, UnreadableImageError, decode, to_rgb

ORIENTATION = 0x0112
Transpose = Image.Transpose
STORED_AS = {
    1: None,
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_90,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_270,
}


def noise(height: int = 24, width: int = 31, channels: int = 3) -> Image.Image:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))


def encoded(image: Image.Image, format: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def assert_same_pixels(one: Image.Image, other: Image.Image) -> None:
    assert one.mode == other.mode == "RGB"
    assert np.array_equal(np.asarray(one), np.asarray(other))


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[ORIENTATION] = orientation
    return tags


def blank_png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    rows = zlib.compress(bytes((1 + (width + 7) // 8) * height))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM"])
def test_a_file_and_its_bytes_decode_to_the_same_pixels(tmp_path: Path, format: str) -> None:
    path = tmp_path / "image"
    path.write_bytes(encoded(noise(), format))
    assert_same_pixels(decode(path), decode(path.read_bytes()))
    with Image.open(path) as image:
        assert_same_pixels(decode(path), image.convert("RGB"))


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
@pytest.mark.parametrize("orientation", STORED_AS)
def test_an_image_stored_in_any_orientation_decodes_upright(orientation: int, format: str) -> None:
    upright = noise()
    method = STORED_AS[orientation]
    stored = upright if method is None else upright.transpose(method)
    decoded = decode(encoded(stored, format, exif=exif(orientation)))
    assert_same_pixels(decoded, upright)
    assert decoded.getexif().get(ORIENTATION, 1) == 1


@pytest.mark.parametrize("format", ["JPEG", "WEBP"])
@pytest.mark.parametrize("orientation", [*STORED_AS, 0, 9])
def test_orientation_is_applied_as_pillow_applies_it(orientation: int, format: str) -> None:
    content = encoded(noise(), format, exif=exif(orientation))
    with Image.open(io.BytesIO(content)) as image:
        assert_same_pixels(decode(content), ImageOps.exif_transpose(image))


def test_an_exif_entry_of_the_wrong_type_does_not_hide_the_pixels() -> None:
    width_as_text = struct.pack("<HHI4s", 256, 2, 4, b"abc\0")
    rotated = struct.pack("<HHIHH", ORIENTATION, 3, 1, 6, 0)
    entries = b"II*\0" + struct.pack("<IH", 8, 2) + width_as_text + rotated + bytes(4)
    expected = decode(encoded(noise(), "PNG", exif=exif(6)))
    assert_same_pixels(decode(encoded(noise(), "PNG", exif=b"Exif\0\0" + entries)), expected)


def test_a_tiff_whose_offset_is_a_fraction_is_unreadable() -> None:
    content = encoded(noise(), "TIFF")
    offset_as_integer, offset_as_fraction = (struct.pack("<HHI", 273, kind, 1) for kind in (4, 5))
    assert content.count(offset_as_integer) == 1
    with pytest.raises(UnreadableImageError):
        decode(content.replace(offset_as_integer, offset_as_fraction))


def test_a_tiff_whose_offset_is_too_large_to_seek_is_unreadable() -> None:
    content = encoded(noise(), "TIFF")
    entry = content.index(struct.pack("<HHI", 273, 4, 1))
    in_eight_bytes = struct.pack("<HHII", 273, 16, 1, len(content))
    with pytest.raises(UnreadableImageError):
        decode(content[:entry] + in_eight_bytes + content[entry + 12 :] + b"\xff" * 8)


@pytest.mark.parametrize(
    ("mode", "format"), [("I;16", "PNG"), ("I;16", "TIFF"), ("I;16B", "TIFF"), ("I;16", "PPM")], ids=str
)
def test_a_16_bit_grey_is_scaled_to_8_bits(mode: str, format: str) -> None:
    every_value = np.arange(65536).reshape(256, 256)
    raw = every_value.astype(">u2" if mode.endswith("B") else "<u2").tobytes()
    decoded = np.asarray(decode(encoded(Image.frombytes(mode, (256, 256), raw), format)))
    nearest = np.rint(every_value / 257).astype(np.uint8)  # 65535 / 255 = 257
    assert np.array_equal(decoded, np.repeat(nearest[..., None], 3, axis=-1))


@pytest.mark.parametrize(("mode", "format"), [("RGBA", "PNG"), ("RGBA", "WEBP"), ("LA", "PNG"), ("RGBA", "TIFF")])
def test_alpha_is_laid_over_white(mode: str, format: str) -> None:
    channels = {"RGBA": 4, "LA": 2}[mode]
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, channels), dtype=np.uint8)
    pixels[0, ..., -1], pixels[1, ..., -1] = 0, 255
    options = {"lossless": True, "exact": True} if format == "WEBP" else {}
    decoded = np.asarray(decode(encoded(Image.fromarray(pixels, mode), format, **options))).astype(int)
    color, alpha = pixels[..., :-1].astype(float), pixels[..., -1:] / 255
    assert (decoded[0] == 255).all()
    assert (decoded[1] == color[1]).all()
    # alpha_composite rounds once, the expectation is exact
    assert np.abs(decoded - (alpha * color + (1 - alpha) * 255)).max() <= 1


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "I;16"])
def test_the_color_that_a_png_declares_transparent_becomes_white(mode: str) -> None:
    # three shades beside each other, of which the file calls the darkest transparent
    shades = np.repeat(np.array([[0, 90, 180]], dtype=np.uint8), 4, axis=0)
    if mode == "I;16":
        image = Image.fromarray(shades.astype(np.uint16) * 257)
    elif mode == "P":
        image = Image.fromarray(np.repeat(np.array([[0, 1, 2]], dtype=np.uint8), 4, axis=0), "P")
        image.putpalette([channel for shade in (0, 90, 180) for channel in (shade, shade, shade)])
    else:
        image = Image.fromarray(shades).convert(mode, dither=Image.Dither.NONE)
    opaque = np.asarray(decode(encoded(image, "PNG")))
    decoded = decode(encoded(image, "PNG", transparency=(0, 0, 0) if mode == "RGB" else 0))
    assert np.array_equal(np.asarray(decoded), np.where(opaque == 0, 255, opaque))
    assert decoded.info.get("transparency") is None


@pytest.mark.parametrize(("format", "options"), [("GIF", {}), ("WEBP", {"lossless": True}), ("PNG", {})])
def test_an_animation_gives_its_first_frame(format: str, options: dict[str, Any]) -> None:
    frames = [Image.new("RGB", (20, 10), color) for color in ("red", "lime", "blue")]
    frames[0].putpixel((3, 4), (255, 255, 255))
    moving = encoded(frames[0], format, save_all=True, append_images=frames[1:], **options)
    with Image.open(io.BytesIO(moving)) as image:
        assert getattr(image, "n_frames", 1) == 3
    assert_same_pixels(decode(moving), frames[0])


@composites_alpha
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "LAB", "I", "F"])
def test_every_other_mode_converts_as_in_transformers(mode: str) -> None:
    image = noise().convert("L").convert(mode) if mode in ("I", "F", "PA", "LAB") else noise().convert(mode)
    if mode == "LAB":
        image = Image.merge("LAB", noise().split())
    assert np.array_equal(np.asarray(to_rgb(image)), convert_to_rgb(image, return_numpy=True))


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "PPM"])
def test_a_truncated_file_is_unreadable(tmp_path: Path, format: str) -> None:
    path = tmp_path / "image"
    content = encoded(noise(64, 64), format)
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(UnreadableImageError, match="unreadable image") as caught:
        decode(path)
    assert caught.value.where == str(path)
    assert caught.value.reason


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "TIFF"])
def test_a_file_cut_anywhere_is_an_image_or_unreadable(format: str) -> None:
    content = encoded(noise(9, 7), format)
    size = Image.open(io.BytesIO(content)).size
    refused = 0
    for length in range(len(content)):
        try:
            assert decode(content[:length]).size == size
        except UnreadableImageError:
            refused += 1
    assert refused > len(content) / 2


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("empty.jpg", b"", "the file is empty"),
        ("text.jpg", b"these are words, not pixels\n" * 50, "not an image that Pillow knows"),
        ("page.png", b"<!DOCTYPE html><html></html>", "not an image that Pillow knows"),
    ],
)
def test_a_file_that_is_no_image_is_unreadable(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    for source in (path, content):
        with pytest.raises(UnreadableImageError) as caught:
            decode(source)
        assert caught.value.reason == reason
        assert isinstance(caught.value, ToolkitError)


def test_a_file_that_is_not_there_is_unreadable(tmp_path: Path) -> None:
    with pytest.raises(UnreadableImageError, match="No such file"):
        decode(tmp_path / "missing.jpg")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(("width", "height"), [(20_000, 20_000), (MAX_PIXELS // 10_000 + 1, 10_000)])
def test_a_small_file_of_too_many_pixels_is_refused(width: int, height: int) -> None:
    content = blank_png(width, height)
    assert len(content) < 100_000
    with pytest.raises(UnreadableImageError, match="limit"):
        decode(content)


def test_an_image_within_the_limit_decodes_without_a_warning(tmp_path: Path) -> None:
    """In a process of its own: pytest sets its own filters of warnings."""
    (tmp_path / "large.png").write_bytes(blank_png(9_900, 9_900))
    program = (
        "import sys, pathlib; from toolkit.runtime.decode import decode; print(decode(pathlib.Path(sys.argv[1])).size)"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "large.png")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("(9900, 9900)\n", "")


def damaged(kind: str) -> bytes:
    """A file on which Pillow raises RuntimeError (AVIF), NotImplementedError (DDS) or its own error (BLP)."""
    stream = io.BytesIO()
    noise().convert("P" if kind == "BLP" else "RGB").save(stream, kind)
    content = bytearray(stream.getvalue())
    if kind == "AVIF":
        del content[-20:]
    elif kind == "DDS":
        content[80:88] = struct.pack("<I4s", 4, b"????")  # a compression that nobody has
    else:
        content[4:8] = struct.pack("<i", 99)
    return bytes(content)


@pytest.mark.parametrize("suffix", [".jpg", ".png", "", None])
@pytest.mark.parametrize("kind", ["AVIF", "DDS", "BLP"])
def test_damage_is_unreadable_whatever_pillow_raises_and_the_file_is_called(
    kind: str, suffix: str | None, tmp_path: Path
) -> None:
    path = tmp_path / f"photo{f'.{kind.lower()}' if suffix is None else suffix}"
    path.write_bytes(damaged(kind))
    with pytest.raises(UnreadableImageError) as caught:
        decode(path)
    assert "\n" not in caught.value.as_line()
    assert caught.value.where == str(path)


def tiled_tiff(side: int, tile: int) -> bytes:
    """A grey TIFF of one deflated tile of zeros, which may be far larger than its image."""
    compressor = zlib.compressobj()
    rows = b"".join(compressor.compress(bytes(tile)) for _ in range(tile))
    data = rows + compressor.flush()
    entries = [(256, side), (257, side), (258, 8), (259, 8), (262, 1), (277, 1), (322, tile), (323, tile)]
    entries += [(324, 8 + 2 + 12 * 10 + 4), (325, len(data))]
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + directory + bytes(4) + data


def test_a_small_tiff_in_a_giant_tile_is_refused_before_it_is_decoded() -> None:
    assert np.asarray(decode(tiled_tiff(20, 32))).shape == (20, 20, 3)
    content = tiled_tiff(20, 16384)  # 268 MB of pixels in 300 kB
    assert len(content) < 1 << 20
    with pytest.raises(UnreadableImageError, match="20x20 pixels in tiles of 268,435,456"):
        decode(content)


def test_what_pillow_logs_and_warns_of_does_not_reach_the_terminal(tmp_path: Path) -> None:
    stream = io.BytesIO()
    noise().save(stream, "TIFF")
    content = bytearray(stream.getvalue())
    at = content.index(struct.pack("<HHI", 277, 3, 1))
    content[at + 8 : at + 10] = struct.pack("<H", 9999)
    (tmp_path / "samples.tif").write_bytes(content)
    script = "import sys; from pathlib import Path; from toolkit.runtime.decode import decode, UnreadableImageError\n"
    script += "try:\n    decode(Path(sys.argv[1]))\nexcept UnreadableImageError:\n    pass\nelse:\n    sys.exit(1)\n"
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "samples.tif")], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
