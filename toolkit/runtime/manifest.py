"""What a bundle says of itself: ``manifest.json`` with the hash of every file, and which names a file may have."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from toolkit.errors import ToolkitError
from toolkit.files import sha256_of, write_bytes
from toolkit.regular_files import read_settings
from toolkit.runtime.label_thresholds import LabelThresholds
from toolkit.runtime.operating_point import OperatingPoint
from toolkit.strict_json import read_json, reason_in

FORMAT_VERSION: Literal[2] = 2
"""2 names the inputs of the golden images; bundles of format 1 are read as ever."""
MANIFEST = "manifest.json"
SIGNATURE = "signature.json"
"""Covers every other file, the manifest too, so that the manifest can't list it."""
STAGING, STAGED = ".staging", ".staged"
"""Folders in a bundle that hold its next state while it changes (:mod:`toolkit.runtime.staging`)."""
BLANK = "0" * 64
"""Stands in the manifest for its own hash while that is computed."""


class FileEntry(BaseModel):
    """What the manifest knows of one file: its hash and its size in bytes."""

    sha256: str
    size: int


class Manifest(BaseModel):
    """Content of ``manifest.json``; ``files`` holds every other file of the bundle but the signature."""

    model_config = ConfigDict(extra="forbid")

    format_version: Literal[1, 2] = FORMAT_VERSION
    toolkit_version: str
    created: str
    default: str = "model.onnx"
    task: str = "single-label"
    """What the bundle predicts."""
    operating_point: OperatingPoint | None = None
    """A threshold that decides; the likeliest class is said without."""
    thresholds: LabelThresholds | None = Field(None, exclude_if=lambda thresholds: thresholds is None)
    """From which logit on each label is said, where an image may have several."""
    files: dict[str, FileEntry] = {}
    provenance: dict[str, Any] = {}
    manifest_sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$")
    """SHA-256 of ``manifest.json`` itself with zeros in this one's place."""

    @field_validator("files")
    @classmethod
    def _inside_the_bundle(cls, files: dict[str, FileEntry]) -> dict[str, FileEntry]:
        for name in files:
            fault = name_fault(name)
            if fault:
                raise ValueError(f"the path {name!r} {fault}")
        return files


def name_fault(name: str) -> str | None:
    """Why a path can't be that of a listed file; None if it can."""
    path = PurePosixPath(name)
    if path.is_absolute() or PureWindowsPath(name).drive or ".." in path.parts or "\\" in name:
        return "leads out of the bundle"
    # ONNX Runtime names tensors in its own memory */_ORT_MEM_ADDR_/*
    if name != path.as_posix() or name == "." or "*" in name or not name.isprintable():
        return "is no plain relative path"
    return "can't be listed by the manifest" if name in (MANIFEST, SIGNATURE) else None


def read_manifest(path: Path) -> tuple[Manifest, bool]:
    """Read a bundle's manifest, and whether it is as it was written, byte for byte.

    Raises:
        ToolkitError: no bundle, a damaged manifest, or one of a newer format.
    """
    file = path / MANIFEST
    if not file.is_file() or file.is_symlink():
        missing = "a file, not a bundle" if path.is_file() else "there is no such folder"
        state = "a link" if file.is_symlink() else "missing"
        what = f"no bundle: {MANIFEST} is {state}" if path.is_dir() else missing
        raise ToolkitError(what, where=path, fix="give a folder that toolkit export wrote")
    try:
        written = read_settings(file)
        content = read_json(written)
        version = content.get("format_version") if isinstance(content, dict) else None
        if isinstance(version, int) and version > FORMAT_VERSION:
            raise ToolkitError(
                f"the bundle has format {version}, this version reads up to {FORMAT_VERSION}",
                where=file,
                fix="upgrade clip-toolkit",
            )
        manifest = Manifest.model_validate(content)
    except (ValueError, TypeError, OSError) as error:
        reason = reason_in(error)
        raise ToolkitError(f"damaged manifest: {reason}", where=file, fix="copy the bundle again") from error
    return manifest, _is_as_written(written, manifest.manifest_sha256)


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Fill in every file's hash and size and write ``manifest.json`` atomically.

    A signature that no longer fits is removed first.

    Raises:
        ToolkitError: the folder holds a link, or a file with a name that no manifest may list.
    """
    files, others = folder_entries(path)
    faults = others | {name: fault for name in files if (fault := name_fault(name))}
    for name, fault in sorted(faults.items()):
        raise ToolkitError(f"a bundle can't hold {name!r}: it {fault}", where=path, fix="remove or rename it")
    manifest.files = {
        name: FileEntry(sha256=sha256_of(path / name), size=(path / name).stat().st_size) for name in sorted(files)
    }
    content = _sealed(manifest)
    if not (path / MANIFEST).is_file() or (path / MANIFEST).read_bytes() != content:
        (path / SIGNATURE).unlink(missing_ok=True)
    write_bytes(path / MANIFEST, content)


def folder_entries(path: Path) -> tuple[set[str], dict[str, str]]:
    """What is in a bundle's folder, besides manifest, signature and a change under way.

    Returns:
        Names of the plain files, and what is wrong with everything that is neither file nor folder.
    """
    files: set[str] = set()
    others: dict[str, str] = {}
    folders = [path]
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                name = Path(entry.path).relative_to(path).as_posix()
                if entry.is_symlink():
                    others[name] = "is a link"
                elif entry.is_dir():
                    if name in (STAGING, STAGED):
                        continue
                    folders.append(Path(entry.path))
                elif entry.is_file():
                    files.add(name)
                else:
                    others[name] = "is no plain file"
    return files - {MANIFEST, SIGNATURE}, others


def _sealed(manifest: Manifest) -> bytes:
    """The manifest as JSON, with its own hash in its last field."""
    blank = manifest.model_copy(update={"manifest_sha256": BLANK}).model_dump()
    text = json.dumps(blank, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    before, _, after = text.rpartition(BLANK)
    manifest.manifest_sha256 = hashlib.sha256(text.encode()).hexdigest()
    return f"{before}{manifest.manifest_sha256}{after}".encode()


def _is_as_written(content: bytes, digest: str | None) -> bool:
    if digest is None:  # written before manifests held their own hash
        return True
    before, _, after = content.rpartition(digest.encode())
    return hashlib.sha256(before + BLANK.encode() + after).hexdigest() == digest
