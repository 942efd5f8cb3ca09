"""The formats that images come in: which one a path holds, and what it lists."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from toolkit.config import DataConfig, DataFormat
from toolkit.data import arrow, manifest, shards
from toolkit.data.folder import list_folder
from toolkit.data.listing import Listing, classes_of
from toolkit.errors import ToolkitError


def list_data(config: DataConfig) -> Listing:
    """List every image of a data set, whatever its format, without reading any.

    Raises:
        ToolkitError: nothing there, not of the format, or rows, labels and indexes that are damaged.
    """
    path = config.path
    found = format_of(path) if config.format == "auto" else config.format
    names: list[str] | None = None
    if found == "manifest":
        items = manifest.list_manifest(path, config.columns)
    elif found == "datasets":
        items, names = arrow.list_arrow(path, config.columns)
    elif found == "webdataset":
        items = shards.list_shards(path)
    else:
        items, names = list_folder(path)
    if config.classes is not None or names is None:
        names = classes_of(items, config.classes, path)
    about = _read_about((path if path.is_dir() else path.parent) / "dataset.json")
    return Listing(path, items, names, about)


def format_of(path: Path) -> DataFormat:
    """Tell the format from what lies at the path.

    Raises:
        ToolkitError: nothing there, or a file that is no manifest and no shard.
    """
    if path.is_dir():
        if any((path / marker).is_file() for marker in arrow.MARKERS):
            return "datasets"
        return "webdataset" if shards.shards_in(path) else "folder"
    if not path.exists():
        fix = "give images in one folder a class, a manifest or shards (toolkit data digits DEST writes a data set)"
        raise ToolkitError("there is no such data folder or manifest", where=path, fix=fix)
    if path.suffix.lower() in manifest.EXTENSIONS:
        return "manifest"
    if path.suffix.lower() == ".tar":
        return "webdataset"
    fix = f"give a folder, a manifest ({', '.join(sorted(manifest.EXTENSIONS))}) or a shard (.tar)"
    raise ToolkitError("the data path is a file, but neither manifest nor shard", where=path, fix=fix)


def _read_about(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes()) if path.is_file() else {}
    except ValueError as error:
        raise ToolkitError(f"dataset.json is no JSON: {error}", where=path, fix="mend or remove it") from error
    return content if isinstance(content, dict) else {}
