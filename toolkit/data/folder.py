"""Image folders: ``SPLIT/CLASS/image`` or, without splits, ``CLASS/image``."""

from __future__ import annotations

from pathlib import Path

from toolkit.data.listing import SPLIT_NAMES, UNSPLIT, Item, WholeFile, in_natural_order
from toolkit.errors import ToolkitError
from toolkit.runtime.decode import image_names_below


def list_folder(root: Path) -> tuple[list[Item], list[str]]:
    """Every image below a folder, by split, class and path, and the names of all class folders, also of empty ones.

    Raises:
        ToolkitError: the folder holds neither splits nor classes, or two folders for one split.
    """
    found = {}
    for split, names in SPLIT_NAMES.items():
        folders = [root / name for name in names if (root / name).is_dir()]
        if len(folders) > 1:
            both = " and ".join(folder.name for folder in folders)
            raise ToolkitError(f"two folders for one split: {both}", where=root, fix="keep one of them")
        if folders:
            found[split] = _classes_of(folders[0])
    if not found:
        found[UNSPLIT] = _classes_of(root)
    if not any(found.values()):
        raise ToolkitError(
            "the data folder holds no class folders", where=root, fix="put images into one folder a class"
        )
    items = [
        Item(split, label, name, WholeFile(name))
        for split, by_class in found.items()
        for label, names in by_class.items()
        for name in names
    ]
    return items, sorted({name for by_class in found.values() for name in by_class}, key=in_natural_order)


def _classes_of(folder: Path) -> dict[str, list[str]]:
    children = sorted(child for child in folder.iterdir() if child.is_dir() and not child.name.startswith("."))
    return {child.name: list(image_names_below(str(child))) for child in children}
