"""Inspect any image folder without training on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from toolkit.data.folder import UNSPLIT, Listing, list_folder
from toolkit.data.source import Example, duplicates_across, inspect_files


def check_folder(listing: Listing, advance: Callable[[], object] = lambda: None) -> dict[str, Any]:
    """Count, hash and decode every image of a folder.

    Returns:
        ``classes``; ``counts`` {split: {class: images}}; ``sizes`` and ``modes`` {value:
        images}; ``unreadable`` [{path, reason}]; ``duplicates_across_splits`` [[path, ...]];
        ``problems``, a sentence for each thing that would stop or bias a training.
    """
    files = [(split, cls, path) for split, by in listing.files.items() for cls, paths in by.items() for path in paths]
    inspected = inspect_files((path for _, _, path in files), advance)
    splits: dict[str, list[Example]] = {split: [] for split in listing.files}
    for (split, cls, path), result in zip(files, inspected, strict=True):
        if result.error:
            continue
        splits[split].append(Example(path, listing.classes.index(cls), result.sha256))
    unreadable = [
        {"path": str(path), "reason": result.error}
        for (_, _, path), result in zip(files, inspected, strict=True)
        if result.error
    ]
    report: dict[str, Any] = {
        "path": str(listing.root),
        "images": len(files),
        "classes": listing.classes,
        "counts": {
            split: {cls: len(by.get(cls, [])) for cls in listing.classes} for split, by in listing.files.items()
        },
        "sizes": _counted(f"{r.size[0]}x{r.size[1]}" for r in inspected if r.size),
        "modes": _counted(r.mode for r in inspected if r.mode),
        "unreadable": unreadable,
        "duplicates_across_splits": duplicates_across(splits),
    }
    return report | {"problems": _problems(report)}


def check_path(path: Path, advance: Callable[[], object] = lambda: None) -> dict[str, Any]:
    """:func:`check_folder` of the folder at ``path``."""
    return check_folder(list_folder(path), advance)


def _counted(values: Any) -> dict[str, int]:
    return dict(Counter(values).most_common())


def _problems(report: dict[str, Any]) -> list[str]:
    problems = []
    if len(report["classes"]) < 2:
        problems.append("a classifier needs two classes or more")
    for split, counts in report["counts"].items():
        empty = [name for name, count in counts.items() if not count]
        if empty:
            place = "" if split == UNSPLIT else f" in {split}"
            problems.append(f"no image{place} of: {', '.join(empty)}")
    if report["unreadable"]:
        problems.append(f"{len(report['unreadable'])} unreadable files")
    if report["duplicates_across_splits"]:
        problems.append(f"{len(report['duplicates_across_splits'])} images stand in more than one split")
    return problems
