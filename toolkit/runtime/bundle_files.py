"""The files of a bundle: each is read through the manifest's hashes, and nothing else may lie beside them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from toolkit.errors import CheckFailed, ToolkitError
from toolkit.files import sha256_of
from toolkit.regular_files import read_regular
from toolkit.runtime.manifest import (
    MANIFEST,
    SIGNATURE,
    FileEntry,
    folder_entries,
    name_fault,
    read_manifest,
    write_manifest,
)
from toolkit.runtime.onnx_file import external_files, operators
from toolkit.runtime.staging import settle
from toolkit.strict_json import reason_in

AGAIN = "copy the bundle again, or export it again"


class BundleFiles:
    """An opened folder whose files are compared with the manifest's hashes as they are read."""

    def __init__(self, path: Path) -> None:
        """Read and check the manifest.

        Raises:
            ToolkitError: no bundle, a damaged manifest, or one of a newer format.
        """
        self.path = path
        settle(path)
        self.reopen()
        self.signed = (path / SIGNATURE).is_file()
        self._held: dict[str, bytes] | None = None

    def reopen(self) -> None:
        """Read the manifest again, after a change."""
        self.manifest, self._manifest_is_whole = read_manifest(self.path)

    @property
    def lost_signature(self) -> bool:
        """Whether the bundle was signed when it was opened and no longer is."""
        return self.signed and not (self.path / SIGNATURE).is_file()

    @contextmanager
    def holding(self) -> Iterator[None]:
        """While this is open, memory holds each file from its first use on: it is read and hashed once."""
        self._held = {}
        try:
            yield
        finally:
            self._held = None

    def read(self, name: str) -> bytes:
        """Bytes of a file, after comparing them with the manifest.

        Raises:
            ToolkitError: the file is missing, unknown to the manifest, or was changed.
        """
        if self._held is not None and name in self._held:
            return self._held[name]
        entry = self._entry(name)
        path = self.path / name
        content = read_regular(path, entry.size) if path.stat().st_size == entry.size else b""
        self._require_hash(name, hashlib.sha256(content).hexdigest())
        if self._held is not None:
            self._held[name] = content
        return content

    def read_graph(self, name: str) -> tuple[bytes, dict[str, bytes]]:
        """A graph and its external data by location, after comparing every file of the bundle with the manifest.

        Raises:
            ToolkitError: the folder holds a changed file, a link, or anything that the manifest does not list;
                the graph points to anything but a listed file.
        """
        if not self._manifest_is_whole:
            raise ToolkitError("the manifest was changed", where=self.path / MANIFEST, fix=AGAIN)
        strangers = self._strangers()
        if strangers:
            more = f" (and {len(strangers) - 1} more)" if len(strangers) > 1 else ""
            raise ToolkitError(f"{strangers[0]}{more}", where=self.path, fix=f"remove it, or {AGAIN}")
        graph = self.read(name)
        with self.parsing(name):
            faults = self._graph_faults(name, graph)
            files = {location: self._target(name, location) for location in external_files(graph)}
        if faults:
            raise ToolkitError(faults[0], where=self.path / name, fix=f"don't use it; {AGAIN}")
        data = {location: self.read(file) for location, file in files.items()}
        for other in self.manifest.files:
            if other not in {name, *files.values()}:
                self._compare(other)
        return graph, data

    def differences(self) -> list[str]:
        """What on disk differs from the manifest, one sentence a file; empty for a whole bundle."""
        found = [] if self._manifest_is_whole else [f"{MANIFEST} was changed"]
        for name in self.manifest.files:
            found += self._faults_of(name)
        return found + self._strangers()

    def check_files(self) -> None:
        """Raise :class:`CheckFailed` if any file differs from the manifest."""
        found = self.differences()
        if found:
            raise CheckFailed(f"{self.path}: " + "; ".join(found))

    def update_manifest(self) -> None:
        """Hash all files anew and rewrite the manifest, atomically; a signature that it makes stale is removed."""
        write_manifest(self.path, self.manifest)
        self._manifest_is_whole = True

    @contextmanager
    def parsing(self, name: str) -> Iterator[None]:
        """Content of a file that is not as it must be becomes a :class:`ToolkitError`."""
        try:
            yield
        except (ValueError, TypeError, KeyError) as error:
            reason = reason_in(error)
            raise ToolkitError(f"damaged content: {reason}", where=self.path / name, fix=AGAIN) from error

    def _compare(self, name: str) -> None:
        """Like :meth:`read`, for a file whose content is not needed now."""
        if self._held is not None:
            self.read(name)
        else:
            self._entry(name)
            self._require_hash(name, sha256_of(self.path / name))

    def _entry(self, name: str) -> FileEntry:
        """What the manifest knows of a file that is there, itself and not as a link."""
        path, entry = self.path / name, self.manifest.files.get(name)
        if entry is None or not self._is_plain_file(name):
            what = "the bundle lacks the file" if entry else "the manifest does not list the file"
            raise ToolkitError(what, where=path, fix=AGAIN)
        return entry

    def _is_plain_file(self, name: str) -> bool:
        """Whether a file is there, and neither it nor a folder on the way to it is a link."""
        path = self.path / name
        on_the_way = [path, *path.parents][: len(PurePosixPath(name).parts)]
        return path.is_file() and not any(step.is_symlink() for step in on_the_way)

    def _require_hash(self, name: str, sha256: str) -> None:
        if sha256 != self.manifest.files[name].sha256:
            what = "the file differs from the manifest's SHA-256"
            raise ToolkitError(what, where=self.path / name, fix=AGAIN)

    def _faults_of(self, name: str) -> list[str]:
        if (self.path / name).is_symlink():
            return []  # a stranger
        if not self._is_plain_file(name):
            return [f"{name} is missing"]
        try:
            if name.endswith(".onnx"):
                return self._graph_faults(name, self.read(name))
            self._compare(name)
        except ToolkitError:
            return [f"{name} was changed"]
        except ValueError as error:
            return [f"{name} is damaged: {error}"]
        return []

    def _strangers(self) -> list[str]:
        """What is in the folder and must not be: unlisted files, links, pipes."""
        files, others = folder_entries(self.path)
        return [f"{name} {fault}" for name, fault in sorted(others.items())] + [
            f"{name} is not in the manifest" for name in sorted(files - set(self.manifest.files))
        ]

    def _graph_faults(self, name: str, graph: bytes) -> list[str]:
        """External data that is no listed file of the bundle, and engines."""
        faults = []
        for location in sorted(external_files(graph)):
            fault = name_fault(location)
            if fault is None and self._target(name, location) not in self.manifest.files:
                fault = "is not in the manifest"
            if fault:
                faults.append(f"{name} points to {location!r}, which {fault}")
        if any(operator == "EPContext" for _, operator in operators(graph)):
            faults.append(f"{name} holds a compiled engine, which is code (EPContext)")
        return faults

    @staticmethod
    def _target(name: str, location: str) -> str:
        """The file of the bundle that a graph calls ``location``."""
        return (PurePosixPath(name).parent / location).as_posix()
