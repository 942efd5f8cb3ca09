"""The formats that images come in: which one a path holds, and what it lists."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from toolkit.data import arrow, manifest, shards
from toolkit.data.folder import list_folder
from toolkit.data.listing import ABOUT, ListedImage, Listing, classes_of, named, refuse_half_split
from toolkit.data.name_groups import grouped_by_name
from toolkit.data.target import target_of
from toolkit.errors import ToolkitError
from toolkit.labels import label_text
from toolkit.recipe.data import DataConfig, DataFormat
from toolkit.regular_files import read_settings
from toolkit.strict_json import read_json, reason_in
from toolkit.text import for_terminal, is_utf8


def list_data(config: DataConfig) -> Listing:
    """List every image of a data set, whatever its format, without reading any.

    Raises:
        ToolkitError: nothing there, not of the format, rows, labels and indexes that are damaged, or groups twice over.
    """
    path = config.path
    if not path.exists():
        fix = "give images in one folder a class, a manifest or shards (toolkit data digits DEST writes a data set)"
        raise ToolkitError("there is no such data folder or manifest", where=path, fix=fix)
    try:
        items, names, left_out = _list(config, format_of(path) if config.format == "auto" else config.format)
    except OSError as error:
        fix = "check its permissions, or data.format"
        raise ToolkitError(f"can't read the data set: {error.strerror or error}", where=path, fix=fix) from error
    refuse_half_split(items, path)
    target = target_of(config.columns)
    if isinstance(config.columns.labels, list):  # in the order of the columns
        names = [label_text(name) for name in config.columns.labels]
    if target.kind == "number":
        names = [target.named_in("")[0]]
    elif config.classes is not None or names is None:
        names = classes_of(items, config.classes, path, target)
    _refuse_names_that_are_no_text(names, path)
    about = _read_about((path if path.is_dir() else path.parent) / ABOUT)
    pattern = config.group_pattern
    if pattern is not None:
        items = grouped_by_name(items, pattern, path)
    return Listing(path, items, names, about, left_out, groups_from_names=pattern is not None, target=target)


def _refuse_names_that_are_no_text(names: list[str], path: Path) -> None:
    """Raise if a class can't be named in any file that a run or a bundle writes.

    Raises:
        ToolkitError: with the name, escaped.
    """
    strange = [for_terminal(name) for name in names if not is_utf8(name)]
    if strange:
        what = f"class names must be UTF-8, and these are not: {named(strange)}"
        raise ToolkitError(what, where=path, fix="rename the folders, or write the labels anew in UTF-8")


def _list(config: DataConfig, found: DataFormat) -> tuple[list[ListedImage], list[str] | None, dict[str, int]]:
    """Every image of a data set of a known format, the class names where the format says them, and what is left out."""
    if found == "manifest":
        return manifest.list_manifest(config.path, config.columns), None, {}
    if found == "datasets":
        return *arrow.list_arrow(config.path, config.columns), {}
    if found == "webdataset":
        items, left_out = shards.list_shards(config.path, target_of(config.columns).kind)
        return items, None, left_out
    kind = target_of(config.columns).kind
    if kind != "class":
        what = f"an image folder says one class an image, and data.columns.{kind} asks for another thing"
        fix = "list the images in a manifest, CSV or Parquet"
        raise ToolkitError(what, where=config.path, fix=fix)
    folder = list_folder(config.path)
    return folder.items, folder.classes, folder.left_out


def format_of(path: Path) -> DataFormat:
    """Tell the format from what lies at the path.

    Raises:
        ToolkitError: a file that is no manifest and no shard.
    """
    if path.is_dir():
        if any((path / marker).is_file() for marker in arrow.MARKERS):
            return "datasets"
        return "webdataset" if shards.shards_in(path) or shards.indexes_in(path) else "folder"
    if path.suffix.lower() in manifest.EXTENSIONS:
        return "manifest"
    if path.suffix.lower() == ".tar":
        return "webdataset"
    fix = f"give a folder, a manifest ({', '.join(sorted(manifest.EXTENSIONS))}) or a shard (.tar)"
    raise ToolkitError("the data path is a file, but neither manifest nor shard", where=path, fix=fix)


def _read_about(path: Path) -> dict[str, Any]:
    try:
        content = read_json(read_settings(path)) if path.is_file() else {}
    except (ValueError, OSError) as error:
        what = f"dataset.json is no JSON: {getattr(error, 'strerror', None) or reason_in(error)}"
        raise ToolkitError(what, where=path, fix="mend or remove it") from error
    return content if isinstance(content, dict) else {}
