"""Decode mutated image files of every format that is opened: each gives pixels or UnreadableImageError, nothing else.

    python tests/runtime/fuzz_images.py --count 10000 --seed 0 [--images FOLDER]

Prints one JSON object with the outcomes by format and reason; exits with 1 after any other exception. A decode that
takes longer than a minute ends the process with its stack. ``--images`` adds a folder's files to the images that are
mutated, such as Pillow's own ``Tests/images``.
"""

from __future__ import annotations

import argparse
import faulthandler
import io
import json
import re
import struct
import sys
import time
import traceback
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from toolkit.data.inspection import inspect_content
from toolkit.data.near_duplicates import perceptual_hasher
from toolkit.runtime.decode import UnreadableImageError, decode, open_image, suffix_of
from toolkit.runtime.image_files import is_image

WRITTEN: dict[str, tuple[tuple[str, dict[str, Any]], ...]] = {
    "AVIF": (("RGB", {}), ("RGBA", {})),
    "BLP": (("P", {}), ("P", {"blp_version": "BLP1"})),
    "BMP": (("RGB", {}), ("P", {}), ("1", {})),
    "DDS": (("RGB", {}), ("RGBA", {"pixel_format": "DXT1"}), ("RGBA", {"pixel_format": "DXT5"}), ("L", {})),
    "DIB": (("RGB", {}),),
    "GIF": (("P", {}), ("RGB", {})),
    "ICNS": (("RGBA", {}),),
    "ICO": (("RGBA", {}), ("RGBA", {"bitmap_format": "bmp"})),
    "IM": (("RGB", {}), ("L", {})),
    "JPEG": (("RGB", {}), ("RGB", {"progressive": True}), ("CMYK", {}), ("L", {})),
    "JPEG2000": (("RGB", {}), ("L", {}), ("RGB", {"tile_size": (16, 16)}), ("I;16", {})),
    "MSP": (("1", {}),),
    "PCX": (("RGB", {}), ("P", {}), ("1", {})),
    "PNG": (("RGB", {}), ("P", {}), ("I;16", {}), ("LA", {}), ("1", {})),
    "PPM": (("RGB", {}), ("L", {}), ("I;16", {}), ("1", {})),
    "QOI": (("RGB", {}), ("RGBA", {})),
    "SGI": (("RGB", {}), ("L", {}), ("RGB", {"bpc": 2})),
    "TGA": (("RGB", {}), ("P", {}), ("RGBA", {"compression": "tga_rle"})),
    "TIFF": (
        *(("RGB", {"compression": name}) for name in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")),
        *(("1", {"compression": "group4"}), ("I;16", {}), ("F", {}), ("CMYK", {}), ("LAB", {}), ("P", {})),
    ),
    "WEBP": (("RGB", {}), ("RGBA", {"lossless": True})),
    "XBM": (("1", {}),),
}
"""Modes and options in which Pillow writes each format."""
TOO_LARGE = frozenset({"PCD"})
"""An image of this format has 800 kB at least; a folder given with ``--images`` holds one."""
INTEGERS = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
LARGEST_SEED = 200_000
"""Bytes of a file that is mutated: ten thousand decodes are to take minutes."""
HANG_SECONDS = 60


@dataclass(frozen=True)
class InMemory:
    """Content that needs no file."""

    content: bytes

    def read(self) -> bytes:
        return self.content


def picture(mode: str, side: int = 32) -> Image.Image:
    """A gradient with some noise."""
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 200, side)
    pixels = np.stack(
        [ramp[None] + 0 * ramp[:, None], ramp[:, None] + 0 * ramp[None], rng.uniform(0, 255, (side, side))], -1
    )
    image = Image.fromarray(pixels.astype(np.uint8))
    if mode == "I;16":
        return Image.fromarray((pixels[..., 0] * 256).astype(np.uint16))
    return image.convert("P", palette=Image.Palette.ADAPTIVE) if mode == "P" else image.convert(mode)


def seeds() -> dict[str, list[bytes]]:
    """Whole images of every format but :data:`TOO_LARGE`."""
    found: dict[str, list[bytes]] = defaultdict(list)
    for kind, ways in WRITTEN.items():
        for mode, options in ways:
            stream = io.BytesIO()
            picture(mode).save(stream, kind, **options)
            found[kind].append(stream.getvalue())
    return dict(found) | {kind: [content] for kind, content in by_hand(found).items()}


def by_hand(written: dict[str, list[bytes]]) -> dict[str, bytes]:
    """An image of each format that Pillow reads and doesn't write."""
    rgb, grey = picture("RGB").tobytes(), picture("L").tobytes()
    icon = written["ICO"][1]
    cards = ("SIMPLE  =                    T", "BITPIX  = 8", "NAXIS   = 2", "NAXIS1  = 32", "NAXIS2  = 32", "END")
    indices = struct.pack("<IH", 6 + 32 * 32, 16) + picture("P").tobytes()
    palette = struct.pack("<IHHBB", 6 + 4 + 768, 4, 1, 0, 0) + bytes(range(256)) * 3
    frame = struct.pack("<IHH8x", 16 + len(palette) + len(indices), 0xF1FA, 2) + palette + indices
    planes = b"".join(band.tobytes() for band in picture("RGB").split())
    label = b"\200\350\000\000".ljust(416, b"\0") + struct.pack("<2H4x2H", 32, 32, 14, 2)
    rows = ",\n".join('"' + "ab" * 16 + '"' for _ in range(32))
    xpm = f'/* XPM */\nstatic char *x[] = {{\n"32 32 2 1",\n"a c #ff0000",\n"b c #0000ff",\n{rows}}};\n'
    return {
        "CUR": icon[:2] + b"\2" + icon[3:],
        "DCX": struct.pack("<3I", 0x3ADE68B1, 12, 0) + written["PCX"][0],
        "FITS": "".join(card.ljust(80) for card in cards).ljust(2880).encode() + grey,
        "FLI": struct.pack("<IHHHHHHI", 128 + len(frame), 0xAF12, 1, 32, 32, 8, 3, 70).ljust(128, b"\0") + frame,
        "FTEX": b"FTEX" + struct.pack("<8i", 0, 32, 32, 1, 1, 1, 32, len(rgb)) + rgb,
        "GBR": struct.pack(">5I", 28, 2, 32, 32, 1) + b"GIMP" + struct.pack(">I", 10) + grey,
        "PIXAR": label.ljust(1024, b"\0") + rgb,
        "PSD": b"8BPS" + struct.pack(">H6xHIIHH", 1, 3, 32, 32, 8, 3) + bytes(12) + b"\0\0" + planes,
        "SUN": struct.pack(">8I", 0x59A66A95, 32, 32, 24, len(rgb), 1, 0, 0) + rgb,
        "XPM": xpm.encode(),
    }


def mutated(content: bytes, others: list[bytes], rng: np.random.Generator) -> bytes:
    """One to four changes: bytes, integers of the header, a cut, a part removed, doubled or of another file."""
    data = bytearray(content)
    for _ in range(int(rng.integers(1, 5))):
        if len(data) < 8:
            break
        # headers decide more than pixels do
        end = len(data) if rng.random() < 0.4 else min(len(data), int(rng.choice([32, 128, 1024])))
        at, kind = int(rng.integers(0, end)), int(rng.integers(0, 7))
        length = int(rng.integers(1, 64))
        if kind <= 1:
            data[at] = int(rng.integers(0, 256))
        elif kind == 2:
            order, size = ("<", ">")[int(rng.integers(2))], int(rng.choice([2, 4]))
            value = int(rng.choice(INTEGERS)) & (1 << 8 * size) - 1
            data[at : at + size] = struct.pack(order + {2: "H", 4: "I"}[size], value)
        elif kind == 3:
            del data[at : (len(data) if rng.random() < 0.5 else at + length)]
        elif kind == 4:
            data[at:at] = data[at : at + length]
        elif kind == 5:
            other = others[int(rng.integers(len(others)))]
            data[at : at + length] = other[at : at + length]
        else:
            data[at : at + length] = rng.integers(0, 256, length, dtype=np.uint8).tobytes()
    return bytes(data)


def mutations(count: int, seed: int, originals: dict[str, list[bytes]]) -> Iterator[tuple[str, bytes]]:
    """``count`` mutated files, the formats in turn."""
    rng = np.random.default_rng(seed)
    kinds = sorted(originals)
    for number in range(count):
        kind = kinds[number % len(kinds)]
        files = originals[kind]
        yield kind, mutated(files[int(rng.integers(len(files)))], files, rng)


def outcome_of(content: bytes) -> str:
    """``decoded``, or the reason why not, without its numbers and quotations, after all that opens an image."""
    is_image(content)
    suffix_of(content)
    inspected = inspect_content(InMemory(content), perceptual_hasher())
    try:
        decode(content)
    except UnreadableImageError as error:
        said = re.sub(r"""b?['"].*""", "...", error.reason)
        return re.sub(r"0?x[0-9a-f]+|\d[\d,.]*", "N", said)
    if inspected.error is not None and "scale" not in inspected.error:
        raise AssertionError(f"decoded, but inspected as: {inspected.error}")
    return "decoded"


def in_folder(folder: Path) -> dict[str, list[bytes]]:
    """Images of a folder that open, by format."""
    found: dict[str, list[bytes]] = defaultdict(list)
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = path.read_bytes()
        if len(content) <= LARGEST_SEED or path.suffix == ".pcd":
            try:
                with open_image(content) as image:
                    kind = "JPEG" if image.format == "MPO" else str(image.format)
            except Exception:
                continue
            found[kind].append(content)
    return dict(found)


def main() -> None:
    parser = argparse.ArgumentParser(description="Decode mutated image files.")
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--images", type=Path, help="a folder of further images to mutate")
    asked = parser.parse_args()
    originals = seeds()
    for kind, files in (in_folder(asked.images) if asked.images else {}).items():
        originals[kind] = originals.get(kind, []) + files
    outcomes: dict[str, Counter[str]] = defaultdict(Counter)
    failures, slowest = Counter[str](), (0.0, "")
    for kind, content in mutations(asked.count, asked.seed, originals):
        faulthandler.dump_traceback_later(HANG_SECONDS, exit=True)
        started = time.perf_counter()
        try:
            outcomes[kind][outcome_of(content)] += 1
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            failures[f"{kind}: {type(error).__name__}: {error} ({where.filename}:{where.lineno})"] += 1
        slowest = max(slowest, (time.perf_counter() - started, kind))
    faulthandler.cancel_dump_traceback_later()
    total = sum(outcomes.values(), Counter())
    report = {
        "files": asked.count,
        "seed": asked.seed,
        "originals": {kind: len(files) for kind, files in sorted(originals.items())},
        "outcomes": dict(total.most_common()),
        "by_format": {
            kind: {"decoded": found["decoded"], "unreadable": found.total() - found["decoded"]}
            for kind, found in sorted(outcomes.items())
        },
        "other_exceptions": dict(failures.most_common()),
        "peak_mb": _peak_mb(),
        "slowest_seconds": round(slowest[0], 1),
        "slowest_format": slowest[1],
    }
    sys.stdout.write(json.dumps(report, indent=2) + "\n")
    sys.exit(bool(failures))


def _peak_mb() -> int | None:
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
