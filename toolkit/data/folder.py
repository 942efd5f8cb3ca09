"""Image folders: ``SPLIT/CLASS/image`` or, without splits, ``CLASS/image``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from toolkit.errors import ToolkitError
from toolkit.runtime.decode import EXTENSIONS, images_below

SPLITS = ("train", "validation", "test")
FOLDER_NAMES = {
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation"),
    "test": ("test",),
}
UNSPLIT = "all"


@dataclass(frozen=True)
class Listing:
    """Files of an image folder as found: ``files[split][class]``, sorted; ``UNSPLIT`` without split folders."""

    root: Path
    files: dict[str, dict[str, list[Path]]]

    @property
    def classes(self) -> list[str]:
        """Names of all classes, sorted."""
        return sorted({name for by_class in self.files.values() for name in by_class})


def list_folder(root: Path) -> Listing:
    """Find the splits, classes and image files below a folder.

    Raises:
        ToolkitError: the folder is missing, a file, or holds neither splits nor classes.
    """
    if not root.is_dir():
        what = "the data path is a file" if root.exists() else "there is no such data folder"
        fix = "give a folder of train/ val/ test/ with one folder a class (toolkit data digits DEST makes one)"
        raise ToolkitError(what, where=root, fix=fix)
    found = {}
    for split, names in FOLDER_NAMES.items():
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
    return Listing(root, found)


def check_classes(listing: Listing) -> None:
    """Raise unless there are two classes or more, each with images, and the same in every split."""
    classes = listing.classes
    if len(classes) < 2:
        what = f"a classifier needs two classes, the folder holds {len(classes)}: {', '.join(classes)}"
        raise ToolkitError(what, where=listing.root, fix="put images into one folder a class")
    for split, by_class in listing.files.items():
        name = "the folder" if split == UNSPLIT else f"split {split!r}"
        missing = [cls for cls in classes if cls not in by_class]
        if missing:
            others = [other for other, have in listing.files.items() if any(cls in have for cls in missing)]
            raise ToolkitError(
                f"{name} lacks classes that {' and '.join(map(repr, others))} has: {', '.join(missing)}",
                where=listing.root,
                fix="give every split the same class folders",
            )
        empty = [cls for cls, files in by_class.items() if not files]
        if empty:
            raise ToolkitError(
                f"{name} has classes without an image: {', '.join(empty)}",
                where=listing.root,
                fix=f"add images ({', '.join(sorted(EXTENSIONS))}) or remove the class folder from every split",
            )


def _classes_of(folder: Path) -> dict[str, list[Path]]:
    children = sorted(child for child in folder.iterdir() if child.is_dir() and not child.name.startswith("."))
    return {child.name: images_below(child) for child in children}
