"""An opened data set: every split's files with labels, hashed, decoded once, and fingerprinted."""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from toolkit.config import DataConfig
from toolkit.data.folder import SPLITS, UNSPLIT, check_classes, list_folder
from toolkit.data.splits import hold_out_splits
from toolkit.errors import ToolkitError
from toolkit.runtime.decode import UnreadableImageError, decode
from toolkit.runtime.machine import usable_cores


@dataclass(frozen=True)
class Example:
    """One image file with its label, an index into the classes, and, once it was read, its content's SHA-256."""

    path: Path
    label: int
    sha256: str = ""


@dataclass(frozen=True)
class DataSource:
    """The splits of a data set, ready to train on."""

    root: Path
    classes: list[str]
    splits: dict[str, list[Example]]
    fingerprint: str
    """SHA-256 over every image's split, class and content, in order."""
    skipped: list[dict[str, str]] = field(default_factory=list)
    """Unreadable files that were left out: path and reason."""
    duplicates: list[list[str]] = field(default_factory=list)
    """Groups of identical files that stand in more than one split."""
    about: dict[str, Any] = field(default_factory=dict)
    """Content of the folder's ``dataset.json``, if there is one."""

    def labels(self, split: str) -> torch.Tensor:
        """Labels [images] of a split, as indices into the classes."""
        return torch.tensor([example.label for example in self.splits[split]])

    def order(self, split: str) -> str:
        """SHA-256 over the contents of a split's images in their order: what an index means."""
        return hashlib.sha256("\n".join(example.sha256 for example in self.splits[split]).encode()).hexdigest()

    def counts(self) -> dict[str, dict[str, int]]:
        """Images a split and class."""
        counted = {split: Counter(example.label for example in examples) for split, examples in self.splits.items()}
        return {split: {name: count[i] for i, name in enumerate(self.classes)} for split, count in counted.items()}


@dataclass(frozen=True)
class Inspected:
    """What reading one file showed: its content's hash, and why it can't be decoded if it can't."""

    sha256: str
    size: tuple[int, int] | None = None
    mode: str | None = None
    error: str | None = None


def inspect_file(path: Path) -> Inspected:
    """Hash a file and decode it fully."""
    try:
        content = path.read_bytes()
    except OSError as error:
        return Inspected("", error=error.strerror)
    digest = hashlib.sha256(content).hexdigest()
    try:
        decode(content)
    except UnreadableImageError as error:
        return Inspected(digest, error=error.reason)
    with Image.open(io.BytesIO(content)) as image:
        return Inspected(digest, size=image.size, mode=image.mode)


def inspect_files(paths: Iterable[Path], advance: Callable[[], object] = lambda: None) -> list[Inspected]:
    """Inspect files on all usable cores, in order; ``advance`` is called after each."""
    results = []
    with ThreadPoolExecutor(usable_cores()) as pool:
        for result in pool.map(inspect_file, paths):
            results.append(result)
            advance()
    return results


def open_data(config: DataConfig, advance: Callable[[], object] = lambda: None) -> DataSource:
    """List, split, hash and decode a data set once, before anything is trained on it.

    Raises:
        ToolkitError: nothing there, classes that don't fit, or an unreadable image where
            ``on_bad_image`` is ``error``.
    """
    listing = list_folder(config.path)
    check_classes(listing)
    classes = listing.classes
    found = {
        split: [Example(path, classes.index(name)) for name, paths in sorted(by_class.items()) for path in paths]
        for split, by_class in listing.files.items()
    }
    examples = [(split, example) for split, members in found.items() for example in members]
    inspected = inspect_files((example.path for _, example in examples), advance)
    digests = {example.path: result.sha256 for (_, example), result in zip(examples, inspected, strict=True)}
    bad = {example.path: result.error for (_, example), result in zip(examples, inspected, strict=True) if result.error}
    if bad and config.on_bad_image == "error":
        first, reason = next(iter(bad.items()))
        more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
        fix = "replace or remove the file, or set data.on_bad_image=skip; toolkit data check lists all"
        raise ToolkitError(f"unreadable image: {reason}{more}", where=first, fix=fix)
    kept = {
        split: [replace(example, sha256=digests[example.path]) for example in members if example.path not in bad]
        for split, members in found.items()
    }
    splits = _complete(kept, config)
    _check_splits(splits, classes, config.path)
    return DataSource(
        root=config.path,
        classes=classes,
        splits=splits,
        fingerprint=fingerprint(splits, classes),
        skipped=[{"path": str(path), "reason": str(reason)} for path, reason in bad.items()],
        duplicates=duplicates_across(splits),
        about=_read_about(config.path / "dataset.json"),
    )


def _read_about(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes()) if path.is_file() else {}
    except ValueError as error:
        raise ToolkitError(f"dataset.json is no JSON: {error}", where=path, fix="mend or remove it") from error
    return content if isinstance(content, dict) else {}


def fingerprint(splits: dict[str, list[Example]], classes: list[str]) -> str:
    """SHA-256 over (split, class, content) of every image, whatever the files are called."""
    lines = sorted(
        f"{split}\t{classes[example.label]}\t{example.sha256}"
        for split, examples in splits.items()
        for example in examples
    )
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def duplicates_across(splits: dict[str, list[Example]]) -> list[list[str]]:
    """Groups of files with the same content that stand in more than one split."""
    places: dict[str, list[tuple[str, Path]]] = defaultdict(list)
    for split, examples in splits.items():
        for example in examples:
            places[example.sha256].append((split, example.path))
    return [[str(path) for _, path in group] for group in places.values() if len({split for split, _ in group}) > 1]


def _complete(found: dict[str, list[Example]], config: DataConfig) -> dict[str, list[Example]]:
    """Make the splits that the folder does not hold: test and validation from what else there is."""
    splits = dict(found)
    rest = splits.pop(UNSPLIT, None) or splits.get("train")
    if rest is None:
        raise ToolkitError(
            "no training images: train/ is missing", where=config.path, fix="add train/ with one folder a class"
        )
    if "test" not in splits and "validation" in splits:
        raise ToolkitError(
            "val/ is there, but no test/", where=config.path, fix="add test/, or keep class folders alone"
        )
    shares = {"test": config.test_share, "validation": config.validation_share}
    missing = {split: share for split, share in shares.items() if split not in splits}
    rest, held = hold_out_splits(rest, lambda example: example.label, missing, config.split_seed, config.path)
    splits |= held
    splits["train"] = rest
    return {split: splits[split] for split in SPLITS}


def _check_splits(splits: dict[str, list[Example]], classes: list[str], where: Path) -> None:
    for split, examples in splits.items():
        present = {example.label for example in examples}
        empty = [name for index, name in enumerate(classes) if index not in present]
        if empty:
            what = f"split {split!r} has no readable image of {', '.join(empty)}"
            raise ToolkitError(what, where=where, fix="add images of these classes")
