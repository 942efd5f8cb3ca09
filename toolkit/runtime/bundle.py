"""The bundle: one folder with a graph, all that serving it needs, and hashes of every file."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

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

    @field_validator("files")
    @classmethod
    def _inside_the_bundle(cls, files: dict[str, FileEntry]) -> dict[str, FileEntry]:
        for name in files:
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or "\\" in name:
                raise ValueError(f"the path {name!r} leads out of the bundle")
        return files


class Golden:
    """A few held-out images with what the reference model made of them.

    ``names`` [n] are image files in ``golden/``; ``pixel_values`` [n, 3, height, width] and
    ``logits`` [n, classes] come from the training-time processor and PyTorch, ``outputs``
    {precision: logits [n, classes]} from the shipped graphs on the machine that exported them.
    """

    FILE = "golden/reference.npz"
    _OUTPUTS = "logits of "

    def __init__(
        self, names: list[str], pixel_values: Float32, logits: Float32, outputs: dict[str, Float32] | None = None
    ) -> None:
        self.names, self.pixel_values, self.logits, self.outputs = names, pixel_values, logits, outputs or {}

    def save(self, bundle: Path) -> None:
        """Write the arrays into a bundle folder."""
        arrays = {"names": np.array(self.names), "pixel_values": self.pixel_values, "logits": self.logits}
        arrays |= {f"{self._OUTPUTS}{precision}": logits for precision, logits in self.outputs.items()}
        (bundle / self.FILE).parent.mkdir(exist_ok=True)
        np.savez(bundle / self.FILE, allow_pickle=False, **arrays)

    @classmethod
    def parse(cls, content: bytes) -> Golden:
        """Read the arrays from the bytes of the file; nothing in it is ever executed."""
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            outputs = {
                name.removeprefix(cls._OUTPUTS): arrays[name] for name in arrays.files if name.startswith(cls._OUTPUTS)
            }
            return cls(arrays["names"].tolist(), arrays["pixel_values"], arrays["logits"], outputs)


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
        with self._parsing("labels.json"):
            labels = json.loads(self.read("labels.json"))
            if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
                raise ValueError("no list of names")
            return labels

    @cached_property
    def preprocess(self) -> Preprocess:
        """What is between RGB pixels and ``pixel_values``."""
        with self._parsing("preprocess.json"):
            return Preprocess.model_validate_json(self.read("preprocess.json"))

    @cached_property
    def run(self) -> Path:
        """The run folder that the bundle was exported from, as the manifest has it."""
        with self._parsing(MANIFEST):
            return Path(self.manifest.provenance["run"])

    @property
    def parity_results(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Content of ``parity.json`` under ``results``: an entry for each precision and provider."""
        with self._parsing("parity.json"):
            results: dict[str, dict[str, dict[str, Any]]] = json.loads(self.read("parity.json"))["results"]
            for by_provider in results.values():
                for entry in by_provider.values():
                    entry["passed"], entry["tolerance"]
            return results

    @contextmanager
    def _parsing(self, name: str) -> Iterator[None]:
        try:
            yield
        except (ValueError, TypeError, KeyError, AttributeError, EOFError, zipfile.BadZipFile) as error:
            reason = str(error).splitlines()[0]
            fix = "copy the bundle again, or export it again"
            raise ToolkitError(f"damaged content: {reason}", where=self.path / name, fix=fix) from error

    def read(self, name: str) -> bytes:
        """Bytes of a file, after comparing them with the manifest.

        Raises:
            ToolkitError: the file is missing, unknown to the manifest, or was changed.
        """
        entry = self.manifest.files.get(name)
        if entry is None or not (self.path / name).is_file() or (self.path / name).is_symlink():
            what = "the bundle lacks the file" if entry else "the manifest does not list the file"
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
            fix = f"choose from {', '.join(have)}" if have else "export it again"
            raise ToolkitError(f"no {precision} graph", where=self.path, fix=fix)
        return name

    def session(
        self,
        *,
        provider: str = "cpu",
        threads: int | None = None,
        precision: str = "fp32",
        record_nodes: bool = False,
    ) -> Session:
        """Load a graph after checking its hash, and that labels and preprocessing fit it."""
        name = self.graph_name(precision)
        session = Session(
            self.read(name), provider=provider, threads=threads, where=self.path / name, record_nodes=record_nodes
        )
        metadata, fix = session.metadata, "export it again"
        with self._parsing(name):
            if json.loads(metadata["labels"]) != self.labels:
                raise ToolkitError("labels.json differs from the graph's labels", where=self.path, fix=fix)
            if Preprocess.model_validate_json(metadata["preprocess"]) != self.preprocess:
                raise ToolkitError("preprocess.json differs from the graph's preprocessing", where=self.path, fix=fix)
        return session

    def golden(self) -> Golden:
        """The golden images' reference, after checking its hash."""
        with self._parsing(Golden.FILE):
            return Golden.parse(self.read(Golden.FILE))

    def differences(self) -> list[str]:
        """What on disk differs from the manifest, one sentence a file; empty for a whole bundle."""
        found = []
        for name, entry in self.manifest.files.items():
            path = self.path / name
            if path.is_symlink():
                found.append(f"{name} is a link")
            elif not path.is_file():
                found.append(f"{name} is missing")
            elif path.stat().st_size != entry.size or sha256_of(path) != entry.sha256:
                found.append(f"{name} was changed")
        unknown = _file_names(self.path) - set(self.manifest.files)
        return found + [f"{name} is not in the manifest" for name in sorted(unknown)]

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
        missing = "a file, not a bundle" if path.is_file() else "there is no such folder"
        what = "no bundle: manifest.json is missing" if path.is_dir() else missing
        raise ToolkitError(what, where=path, fix="give a folder that toolkit export wrote")
    try:
        content = json.loads((path / MANIFEST).read_bytes())
        version = content.get("format_version") if isinstance(content, dict) else None
        if isinstance(version, int) and version > FORMAT_VERSION:
            raise ToolkitError(
                f"the bundle has format {version}, this version reads up to {FORMAT_VERSION}",
                where=path / MANIFEST,
                fix="upgrade clip-toolkit",
            )
        return Manifest.model_validate(content)
    except (ValidationError, ValueError, TypeError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error).splitlines()[0]
        raise ToolkitError(f"damaged manifest: {reason}", where=path / MANIFEST, fix="copy the bundle again") from error
