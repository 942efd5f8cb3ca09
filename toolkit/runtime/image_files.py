"""Which files below a folder are images, and why others are left out: the one walk of training and production."""

from __future__ import annotations

import errno
import io
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path

from PIL import Image

from toolkit.errors import ToolkitError
from toolkit.regular_files import open_regular, require_regular
from toolkit.runtime.decode import FORMATS, IN_MEMORY, MAX_BYTES, SIGNED_FORMATS, UnreadableImageError, decoding

SYSTEM_FOLDERS = frozenset(
    {
        *("@eadir", "@tmp", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", ".@__thumb"),  # Synology, QNAP
        *("__macosx", "network trash folder", "temporary items"),  # macOS, and what serves files to it
        *("$recycle.bin", "recycler", "system volume information"),  # Windows
        "lost+found",  # Linux
    }
)
"""Folders that file servers and systems make, with thumbnails, deleted files and copies; in lower case."""
SYSTEM_FILES = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"})
MOST_FOLDERS = 1000
"""A folder of the system is looked through for its number of files up to so many folders; snapshots hold millions."""
DEEPEST = 100
"""Folders in folders that are walked."""
HIDDEN = "hidden"
NO_IMAGE = "no suffix, no image"
LOOP = "link to a folder above it"


@dataclass(frozen=True)
class FoundImages:
    """Image files below a folder, sorted within each folder, and how many others lie there, by reason."""

    names: list[str]
    """As text: a list of millions of paths takes gigabytes."""
    left_out: Counter[str]
    """By suffix, name of a system's folder, or reason."""


def images_below(folder: Path) -> FoundImages:
    """Image files at any depth of a folder, through links too.

    A link with an image's name that leads nowhere counts as an image, which can't be read.

    Raises:
        OSError: a folder that can't be listed.
    """
    found = FoundImages([], Counter())
    _walk(str(folder), found, _with_all_above(folder))
    return found


def visible_folders(folder: Path) -> tuple[list[Path], Counter[str]]:
    """The folders in a folder, sorted, but for those that are hidden or a system's; what is left out, by reason."""
    kept, left_out, above = [], Counter[str](), _with_all_above(folder)
    for child in sorted(folder.iterdir()):
        if child.is_dir():
            reason = reason_against(child.name)
            if reason:
                left_out[reason] += _files_below(str(child))
            elif child.is_symlink() and _identity(str(child)) in above:
                left_out[LOOP] += 1
            else:
                kept.append(child)
    return kept, left_out


def files_in(folder: Path, but: frozenset[str] = frozenset()) -> FoundImages:
    """Images directly in a folder, and the other files there, without those of some names."""
    found = FoundImages([], Counter())
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if not _is_folder(entry) and entry.name not in but:
                _take(entry, found)
    return found


def reason_against(name: str) -> str | None:
    """Why a file or folder of this name is no part of a data set, None if it may be one."""
    if name.lower() in SYSTEM_FOLDERS:
        return name
    if name.startswith("."):
        return HIDDEN
    return name if name.lower() in SYSTEM_FILES else None


@cache
def image_suffixes() -> frozenset[str]:
    """Suffixes of the formats that are decoded, in lower case, from Pillow's own list."""
    known = Image.registered_extensions()
    return frozenset(suffix for suffix, kind in known.items() if kind in FORMATS) | {".mpo"}


def suffix_in(name: str) -> str:
    """A file name's suffix in lower case, ``.jpg``; empty without one."""
    stem, _, suffix = name.rpartition(".")
    return f".{suffix.lower()}" if stem and suffix and os.sep not in suffix else ""


def has_image_suffix(name: str) -> bool:
    """Whether a file's name says that it is an image."""
    return suffix_in(name) in image_suffixes()


def is_image(source: Path | bytes | str) -> bool:
    """Whether a file, or content, begins like an image; for files without a suffix."""
    try:
        with (
            io.BytesIO(source) if isinstance(source, bytes) else open_regular(Path(source)) as file,
            decoding(IN_MEMORY),
        ):
            # the plugins of some formats read a file to its end to identify it
            if isinstance(source, bytes) or require_regular(Path(source)) <= MAX_BYTES:
                with Image.open(file, formats=SIGNED_FORMATS):
                    return True
    except (OSError, UnreadableImageError):
        pass
    return False


def in_words(left_out: Mapping[str, int], most: int = 8) -> str:
    """What was left out, the most frequent reasons first: ``12 files: 9 .txt, 3 hidden``."""
    ranked = sorted(left_out.items(), key=lambda pair: (-pair[1], pair[0]))
    named = ", ".join(f"{count:,} {reason}" for reason, count in ranked[:most])
    more = f", {sum(count for _, count in ranked[most:]):,} of other kinds" if len(ranked) > most else ""
    total = sum(left_out.values())
    return f"{total:,} file{'s' if total != 1 else ''}: {named}{more}"


def _walk(folder: str, found: FoundImages, above: set[tuple[int, int]], depth: int = 0) -> None:
    if depth > DEEPEST:
        raise OSError(errno.ENAMETOOLONG, f"folders are nested more than {DEEPEST} deep", folder)
    with os.scandir(folder) as entries:
        ordered = sorted(entries, key=lambda entry: entry.name)
    for entry in ordered:
        if not _is_folder(entry):
            _take(entry, found)
            continue
        reason = reason_against(entry.name)
        place = _identity(entry.path)
        if reason:
            found.left_out[reason] += _files_below(entry.path)
        elif entry.is_symlink() and place in above:
            found.left_out[LOOP] += 1
        else:
            _walk(entry.path, found, above | {place}, depth + 1)


def _take(entry: os.DirEntry[str], found: FoundImages) -> None:
    """Put a file among the images, or count it as left out."""
    reason = reason_against(entry.name)
    if reason is None and not has_image_suffix(entry.name):
        suffix = suffix_in(entry.name)
        if suffix or not (_is_file(entry) and is_image(entry.path)):
            reason = suffix or NO_IMAGE
    elif reason is None and not (_is_file(entry) or entry.is_symlink()):
        reason = "no file"
    if reason is None:
        found.names.append(entry.path)
    else:
        found.left_out[reason] += 1


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:
        return False


def _identity(path: str) -> tuple[int, int]:
    status = Path(path).stat()
    return status.st_dev, status.st_ino


def _with_all_above(folder: Path) -> set[tuple[int, int]]:
    """A folder and all above it, as its path names them and as links resolve."""
    ways = (folder.absolute(), folder.resolve())
    return {_identity(str(path)) for way in ways for path in (way, *way.parents)}


def _files_below(folder: str) -> int:
    return sum(len(files) for _, _, files in islice(os.walk(folder), MOST_FOLDERS))


def expand(paths: list[Path]) -> list[Path]:
    """:func:`find_images` without what is left out."""
    return [Path(name) for name in find_images(paths).names]


def find_images(paths: list[Path]) -> FoundImages:
    """Files as given; a folder stands for the images below it, sorted, and what else lies there is counted.

    Raises:
        ToolkitError: a folder without images, or one that can't be listed.
    """
    files, left_out = list[str](), Counter[str]()
    for path in paths:
        if not os.path.isdir(path):  # noqa: PTH112 - Path.is_dir raises on names that are too long
            files.append(str(path))
            continue
        try:
            below = images_below(path)
        except OSError as error:
            what = f"can't list the folder: {error.strerror or error}"
            raise ToolkitError(what, where=error.filename or path, fix="check its permissions") from error
        if not below.names:
            others = f"; left out: {in_words(below.left_out)}" if below.left_out else ""
            fix = "give image files or a folder that holds some"
            raise ToolkitError(f"no images in the folder{others}", where=path, fix=fix)
        files += below.names
        left_out += below.left_out
    return FoundImages(files, left_out)


def require_images(folder: Path | None) -> None:
    """Raise unless images lie where ``--images`` says, before anything is measured.

    Args:
        folder: of images, or one image; nothing is asked of None.

    Raises:
        ToolkitError: nothing lies there, or no image.
    """
    if folder is None:
        return
    if not folder.exists():
        raise ToolkitError("no such file or folder", where=folder, fix="give a folder of images with --images")
    find_images([folder])
