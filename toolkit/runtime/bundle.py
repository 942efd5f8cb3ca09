"""The bundle: one folder with a graph, all that serving it needs, and hashes of every file."""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from toolkit.errors import CheckFailed, ToolkitError
from toolkit.files import sha256_of, write_json
from toolkit.runtime.preprocess import Float32, Preprocess
from toolkit.runtime.session import Session

FORMAT_VERSION: Literal[1] = 1
MANIFEST = "manifest.json"
GRAPHS = {"fp32": "model.onnx"}
"""File of each precision."""


class FileEntry(BaseModel):
    """What the manifest knows of one file: its hash and its size in bytes."""

    sha256: str
    size: int


class Manifest(BaseModel):
    """Content of ``manifest.json``; ``files`` holds every other file of the bundle."""

    model_config = ConfigDict(extra="forbid")

    format_version: Literal[1] = FORMAT_VERSION
    toolkit_version: str
    created: str
    default: str = GRAPHS["fp32"]
    files: dict[str, FileEntry] = {}
    provenance: dict[str, Any] = {}


class Golden:
    """A few held-out images with what the reference model made of them.

    ``names`` [n] are image files in ``golden/``; ``pixel_values`` [n, 3, height, width] and
    ``logits`` [n, classes] come from the training-time processor and PyTorch.
    """

    FILE = "golden/reference.npz"

    def __init__(self, names: list[str], pixel_values: Float32, logits: Float32) -> None:
        self.names, self.pixel_values, self.logits = names, pixel_values, logits

    def save(self, bundle: Path) -> None:
        """Write the arrays into a bundle folder."""
        arrays = {"names": np.array(self.names), "pixel_values": self.pixel_values, "logits": self.logits}
        (bundle / self.FILE).parent.mkdir(exist_ok=True)
        np.savez(bundle / self.FILE, allow_pickle=False, **arrays)

    @classmethod
    def load(cls, bundle: Path) -> Golden:
        """Read the arrays from a bundle folder."""
        with np.load(bundle / cls.FILE, allow_pickle=False) as arrays:
            return cls(arrays["names"].tolist(), arrays["pixel_values"], arrays["logits"])


class Bundle:
    """An opened bundle. Files are read through it and compared with the manifest's hashes."""

    def __init__(self, path: Path) -> None:
        """Read and check the manifest.

        Raises:
            ToolkitError: no bundle, a damaged manifest, or one of a newer format.
        """
        self.path = path
        self.manifest = _read_manifest(path)

    @cached_property
    def labels(self) -> list[str]:
        """The classes, in the order of the logits."""
        labels: list[str] = json.loads(self.read("labels.json"))
        return labels

    @cached_property
    def preprocess(self) -> Preprocess:
        """What is between RGB pixels and ``pixel_values``."""
        return Preprocess.model_validate_json(self.read("preprocess.json"))

    def read(self, name: str) -> bytes:
        """Bytes of a file, after comparing them with the manifest.

        Raises:
            ToolkitError: the file is missing, unknown to the manifest, or was changed.
        """
        entry = self.manifest.files.get(name)
        if entry is None or not (self.path / name).is_file():
            what = "the bundle lacks a file" if entry else "the manifest does not list the file"
            raise ToolkitError(what, where=self.path / name, fix="copy the bundle again, or export it again")
        content = (self.path / name).read_bytes()
        if hashlib.sha256(content).hexdigest() != entry.sha256:
            raise ToolkitError(
                "the file differs from the manifest's SHA-256",
                where=self.path / name,
                fix="copy the bundle again, or export it again",
            )
        return content

    def graph_name(self, precision: str = "fp32") -> str:
        """File name of a precision's graph.

        Raises:
            ToolkitError: the bundle holds no such precision.
        """
        name = GRAPHS.get(precision)
        if name is None or name not in self.manifest.files:
            have = [known for known, file in GRAPHS.items() if file in self.manifest.files]
            raise ToolkitError(f"no {precision} graph", where=self.path, fix=f"choose from {', '.join(have)}")
        return name

    def session(self, *, provider: str = "cpu", threads: int | None = None, precision: str = "fp32") -> Session:
        """Load a graph after checking its hash."""
        return Session(self.read(self.graph_name(precision)), provider=provider, threads=threads)

    def golden(self) -> Golden:
        """The golden images' reference, after checking its hash."""
        self.read(Golden.FILE)
        return Golden.load(self.path)

    def differences(self) -> list[str]:
        """What on disk differs from the manifest, one sentence a file; empty for a whole bundle."""
        found = []
        for name, entry in self.manifest.files.items():
            path = self.path / name
            if not path.is_file():
                found.append(f"{name} is missing")
            elif path.stat().st_size != entry.size or sha256_of(path) != entry.sha256:
                found.append(f"{name} was changed")
        return found + [f"{name} is not in the manifest" for name in _file_names(self.path) - set(self.manifest.files)]

    def check_files(self) -> None:
        """Raise :class:`CheckFailed` if any file differs from the manifest."""
        found = self.differences()
        if found:
            raise CheckFailed(f"{self.path}: " + "; ".join(found))

    def update_manifest(self) -> None:
        """Hash all files anew and rewrite the manifest, atomically."""
        write_manifest(self.path, self.manifest)


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Fill in every file's hash and size and write ``manifest.json`` atomically."""
    files = {
        name: FileEntry(sha256=sha256_of(path / name), size=(path / name).stat().st_size)
        for name in sorted(_file_names(path))
    }
    manifest.files = files
    write_json(path / MANIFEST, manifest.model_dump())


def _file_names(path: Path) -> set[str]:
    names = {file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()}
    return names - {MANIFEST}


def _read_manifest(path: Path) -> Manifest:
    if not (path / MANIFEST).is_file():
        what = "no bundle: manifest.json is missing" if path.is_dir() else "there is no such folder"
        raise ToolkitError(what, where=path, fix="give a folder that toolkit export wrote")
    try:
        content = json.loads((path / MANIFEST).read_bytes())
        if isinstance(content, dict) and content.get("format_version", 0) > FORMAT_VERSION:
            raise ToolkitError(
                f"the bundle has format {content['format_version']}, this version reads up to {FORMAT_VERSION}",
                where=path / MANIFEST,
                fix="upgrade clip-toolkit",
            )
        return Manifest.model_validate(content)
    except (ValidationError, ValueError, TypeError) as error:
        raise ToolkitError(
            f"damaged manifest: {str(error).splitlines()[0]}", where=path / MANIFEST, fix="copy the bundle again"
        ) from error
