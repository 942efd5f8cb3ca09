"""What is an image below a folder, what is left out, and what is never opened."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from toolkit.runtime.decode import FORMATS, UnreadableImageError, decode, suffix_of
from toolkit.runtime.image_files import (
    HIDDEN,
    LOOP,
    NO_IMAGE,
    SYSTEM_FOLDERS,
    has_image_suffix,
    image_suffixes,
    images_below,
    in_words,
    is_image,
    reason_against,
    suffix_in,
)

NEVER = {"EPS", "WMF", "PDF", "HDF5", "GRIB", "BUFR", "MPEG", "IPTC"}
"""Formats that start programs, hold other files or no pixels."""


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def encoded(kind: str) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 8, 3), dtype=np.uint8)).save(stream, kind)
    return stream.getvalue()


def relative(root: Path, names: list[str]) -> list[str]:
    return [os.path.relpath(name, root) for name in names]


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".avif", ".jp2", ".tga", ".webp", ".bmp"])
def test_suffixes_of_what_pillow_decodes_count_in_any_case_at_any_depth(tmp_path: Path, suffix: str) -> None:
    images = [f"a/one{suffix}", f"a/deep/er/two{suffix.upper()}"]
    touch(tmp_path, *images, "a/notes.txt")
    found = images_below(tmp_path)
    assert relative(tmp_path, found.names) == sorted(images, key=lambda name: Path(name).parts)
    assert found.left_out == {".txt": 1}


@pytest.mark.parametrize(
    "suffix", [".ps", ".eps", ".pdf", ".wmf", ".emf", ".h5", ".grib", ".bufr", ".mpg", ".mp4", ".txt"]
)
def test_what_starts_programs_or_holds_no_pixels_is_left_out(suffix: str) -> None:
    assert not has_image_suffix(f"a{suffix}")


def test_every_suffix_is_of_a_format_that_is_opened_and_of_no_other() -> None:
    known = Image.registered_extensions()
    assert set(FORMATS) <= set(Image.OPEN)
    assert not NEVER & set(FORMATS)
    assert image_suffixes() == {suffix for suffix, kind in known.items() if kind in {*FORMATS, "MPO"}}


@pytest.mark.parametrize(
    "content", [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", b"\x89HDF\r\n\x1a\n"]
)
def test_a_format_that_is_never_opened_is_no_image_whatever_its_name_says(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    with Image.open(tmp_path / "a.jpg") as image:
        assert image.format in NEVER
    with pytest.raises(UnreadableImageError, match="not an image that Pillow knows"):
        decode(tmp_path / "a.jpg")
    assert suffix_of(content) == ".jpg"
    assert not is_image(content)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "AVIF", "TIFF"])
def test_a_file_without_a_suffix_counts_by_its_first_bytes(tmp_path: Path, kind: str) -> None:
    (tmp_path / "image").write_bytes(encoded(kind))
    (tmp_path / "text").write_text("no image")
    (tmp_path / "empty").touch()
    found = images_below(tmp_path)
    assert relative(tmp_path, found.names) == ["image"]
    assert found.left_out == {NO_IMAGE: 2}


@pytest.mark.parametrize("folder", [*sorted(SYSTEM_FOLDERS), "@eaDir", "$RECYCLE.BIN", "System Volume Information"])
@pytest.mark.parametrize("above", ["", "a/", "a/b/"])
def test_folders_of_systems_are_left_out_by_name_at_any_depth(tmp_path: Path, folder: str, above: str) -> None:
    touch(tmp_path, "a/b/1.png", f"{above}{folder}/1.png", f"{above}{folder}/deep/2.png")
    found = images_below(tmp_path)
    assert relative(tmp_path, found.names) == ["a/b/1.png"]
    assert found.left_out == {folder: 2}


def test_hidden_files_and_folders_are_left_out_and_counted(tmp_path: Path) -> None:
    touch(tmp_path, "1.png", "._1.png", ".hidden/2.png", "a/.ipynb_checkpoints/3.png", "a/Thumbs.db", "a/desktop.ini")
    found = images_below(tmp_path)
    assert relative(tmp_path, found.names) == ["1.png"]
    assert found.left_out == {HIDDEN: 3, "Thumbs.db": 1, "desktop.ini": 1}


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    data = tmp_path / "data"
    touch(tmp_path, "elsewhere/deep/2.png", "data/a/1.png")
    (data / "a" / "linked").symlink_to(tmp_path / "elsewhere")
    (data / "a" / "3.png").symlink_to(tmp_path / "elsewhere" / "deep" / "2.png")
    (data / "a" / "loop").symlink_to(data)
    (data / "a" / "itself").symlink_to(data / "a")
    (data / "a" / "root").symlink_to("/")
    (tmp_path / "elsewhere" / "back").symlink_to(data)
    found = images_below(data)
    assert relative(data, found.names) == ["a/1.png", "a/3.png", "a/linked/deep/2.png"]
    assert found.left_out == {LOOP: 4}


def test_a_link_that_leads_nowhere_is_an_unreadable_image(tmp_path: Path) -> None:
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "self.png").symlink_to(tmp_path / "self.png")
    (tmp_path / "gone.txt").symlink_to(tmp_path / "nowhere.txt")
    found = images_below(tmp_path)
    assert relative(tmp_path, found.names) == ["gone.png", "self.png"]
    assert found.left_out == {".txt": 1}
    for name in found.names:
        with pytest.raises(UnreadableImageError):
            decode(Path(name))


def test_what_is_neither_file_nor_folder_is_left_out(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    os.mkfifo(tmp_path / "pipe")
    found = images_below(tmp_path)
    assert (found.names, found.left_out) == ([], {"no file": 1, NO_IMAGE: 1})


@pytest.mark.parametrize(
    ("name", "suffix"), [("a.PNG", ".png"), ("a.tar.gz", ".gz"), ("a", ""), (".png", ""), ("a.", ""), ("a.b/c", "")]
)
def test_a_suffix_is_what_follows_the_last_dot(name: str, suffix: str) -> None:
    assert suffix_in(name) == suffix


def test_only_some_names_are_no_part_of_data() -> None:
    assert [reason_against(name) for name in ("train", "a.png", "@eaDir", ".git")] == [None, None, "@eaDir", HIDDEN]


def test_what_was_left_out_is_said_most_frequent_first() -> None:
    assert in_words({".txt": 1}) == "1 file: 1 .txt"
    assert in_words({".txt": 2, "@eaDir": 1200, ".a": 2}, most=2) == "1,204 files: 1,200 @eaDir, 2 .a, 2 of other kinds"


@pytest.mark.parametrize(
    ("kind", "suffix"), [("AVIF", ".avif"), ("JPEG2000", ".jp2"), ("QOI", ".qoi"), ("JPEG", ".jpg")]
)
def test_a_suffix_fits_the_content(kind: str, suffix: str) -> None:
    assert suffix_of(encoded(kind), ".wrong") == suffix
    assert suffix_in(f"a{suffix}") in image_suffixes()
