"""The files of a checkpoint, in a folder or on the hub: found, and looked at before a value is loaded from them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from safetensors import SafetensorError, safe_open
from transformers.utils.hub import cached_file

from toolkit.errors import ToolkitError
from toolkit.models.tensor_files import listed, reason_of
from toolkit.regular_files import read_settings

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLES = frozenset({".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth"})
"""Suffixes of weights that run code when they are read."""
WHOLE_FOLDER = (
    "give a folder that save_pretrained wrote, with config.json, model.safetensors and preprocessor_config.json"
)
CONVERT = (
    "pickles run code when they are read; in a place you trust, load them with transformers and write "
    "model.save_pretrained(FOLDER, safe_serialization=True), then give FOLDER"
)

KNOWN_BEGINNINGS = (
    (b"PK", "a pickle", CONVERT),
    (b"\x80", "a pickle", CONVERT),
    (b"version https://git-lfs", "a pointer of Git LFS", "fetch the file that it points to: git lfs pull"),
)
"""First bytes of files that are taken for safetensors."""


@dataclass(frozen=True)
class TensorEntry:
    """What a header says of a tensor."""

    dtype: str
    """As safetensors writes it: F32, BF16, I8."""
    shape: tuple[int, ...]
    file: Path


@dataclass(frozen=True)
class Source:
    """An encoder's or a run's files."""

    name: str
    """What the user wrote."""
    location: str
    """A folder, or a hub identifier."""
    key: str = "model.encoder"
    """The recipe's key that names it."""
    revision: str | None = None
    """Of a hub identifier: a commit, tag or branch; None for the newest."""

    @property
    def where(self) -> str:
        """The folder or file, as messages name it."""
        name = f"{self.name} at {self.revision}" if self.revision else self.name
        return f"{self.key}: {name}" if self.key else name

    @property
    def folder(self) -> Path | None:
        """The folder, if it is none of the hub's."""
        return Path(self.location) if Path(self.location).is_dir() else None

    def file(self, name: str) -> Path | None:
        """A file's path, fetched from the hub if it isn't in its cache yet; None where there is none.

        Raises:
            OSError: the hub is out of reach.
        """
        if self.folder is not None:
            return self.folder / name if (self.folder / name).is_file() else None
        found = cached_file(self.location, name, revision=self.revision, _raise_exceptions_for_missing_entries=False)
        return Path(found) if found is not None else None

    def json(self, name: str) -> dict[str, Any] | None:
        """A file that holds a JSON object; None where there is none.

        Raises:
            ToolkitError: it holds something else.
            OSError: the hub is out of reach.
        """
        path = self.file(name)
        if path is None:
            return None
        try:
            content = json.loads(read_settings(path))
        except (OSError, ValueError, RecursionError) as error:
            reason = "it is nested too deep" if isinstance(error, RecursionError) else " ".join(str(error).split())
            raise ToolkitError(f"{name} can't be read: {reason}", where=self.where, fix="copy it again") from error
        if not isinstance(content, dict):
            raise ToolkitError(f"{name} holds no JSON object", where=self.where, fix="copy it again")
        return content


def refuse_adapter(source: Source) -> None:
    """Raise if an adapter lies there in place of a model, such as PEFT writes.

    Raises:
        ToolkitError: it does.
    """
    if source.file("adapter_config.json") is None:
        return
    raise ToolkitError(
        "an adapter (adapter_config.json), no whole encoder",
        where=source.where,
        fix="merge it into its model: peft_model.merge_and_unload().save_pretrained(FOLDER), then give FOLDER",
    )


def weight_files(source: Source) -> list[Path]:
    """The safetensors files that hold a checkpoint's weights: one, or the shards that an index names.

    Raises:
        ToolkitError: there are none, pickles alone, or an index that is damaged or names other files.
        OSError: the hub is out of reach.
    """
    whole = source.file(WEIGHTS)
    if whole is not None:
        return [whole]
    index = source.json(INDEX)
    if index is None:
        raise _without_weights(source)
    names = _shards_of(index, source)
    found = {name: source.file(name) for name in names}
    absent = [name for name, path in found.items() if path is None]
    if absent:
        what = f"{INDEX} names {len(absent)} of {len(names)} files that are not there: {listed(absent)}"
        raise ToolkitError(what, where=source.where, fix="copy the missing files too")
    return [path for path in found.values() if path is not None]


def _without_weights(source: Source) -> ToolkitError:
    """What lies there in place of safetensors."""
    config = source.file("config.json")
    folder = source.folder or (config.parent if config else None)
    others = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES) if folder else []
    if others:
        return ToolkitError(f"the weights are pickles: {listed(others)}", where=source.where, fix=CONVERT)
    fix = WHOLE_FOLDER
    if source.folder is None:
        fix = f"use a repository that has {WEIGHTS}; if its weights are pickles (pytorch_model.bin): {CONVERT}"
    return ToolkitError(f"no {WEIGHTS} there", where=source.where, fix=fix)


def _shards_of(index: dict[str, Any], source: Source) -> list[str]:
    """The files that an index names, each inside its folder."""
    shards = index.get("weight_map")
    if (
        not isinstance(shards, dict)
        or not shards
        or not all(isinstance(name, str) and name for name in shards.values())
    ):
        what = f"{INDEX} has no weight_map from tensors to files"
        raise ToolkitError(what, where=source.where, fix="copy it again, or save the model anew with save_pretrained")
    names = sorted(set(shards.values()))
    outside = [name for name in names if PurePosixPath(name).is_absolute() or ".." in name.split("/") or "\\" in name]
    if outside:
        what = f"{INDEX} points out of its folder: {listed(outside)}"
        raise ToolkitError(what, where=source.where, fix="put the files beside it, and their bare names into it")
    others = [name for name in names if not name.endswith(".safetensors")]
    if others:
        fix = CONVERT if PurePosixPath(others[0]).suffix in PICKLES else "save the model anew with save_pretrained"
        what = f"{INDEX} names files that are not safetensors: {listed(others)}"
        raise ToolkitError(what, where=source.where, fix=fix)
    return names


def tensors_in(files: Sequence[Path], source: Source) -> dict[str, TensorEntry]:
    """What the headers of safetensors files say: type and shape of each tensor, no values.

    Raises:
        ToolkitError: a file that is damaged, is none, or holds a tensor that another one holds too.
    """
    found: dict[str, TensorEntry] = {}
    for path in files:
        try:
            with safe_open(path, "pt") as file:
                for name in file.keys():  # noqa: SIM118 - it is no mapping
                    part = file.get_slice(name)
                    if name in found:
                        what = f"{name} stands in {found[name].file.name} and in {path.name}"
                        fix = "save the model anew with save_pretrained, in a new folder"
                        raise ToolkitError(what, where=source.where, fix=fix)
                    found[name] = TensorEntry(str(part.get_dtype()), tuple(part.get_shape()), path)
        except (SafetensorError, OSError, ValueError) as error:
            raise _unreadable(path, reason_of(error), source) from error
    return found


def _unreadable(path: Path, reason: str, source: Source) -> ToolkitError:
    """What a file is that is no whole safetensors file."""
    with path.open("rb") as file:
        start = file.read(64)
    for beginning, what, fix in KNOWN_BEGINNINGS:
        if start.startswith(beginning):
            return ToolkitError(f"{path.name} is {what}, no safetensors file", where=source.where, fix=fix)
    what = f"{path.name} is damaged, or no safetensors file: {reason}" if start else f"{path.name} is empty"
    return ToolkitError(what, where=source.where, fix="copy it again, and compare its size")
