"""The bundle: one folder with a graph, all that serving it needs, and hashes of every file."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from toolkit.errors import CheckFailed, ToolkitError
from toolkit.files import sha256_of
from toolkit.regular_files import read_regular
from toolkit.runtime.decision import Decision, decision_of
from toolkit.runtime.golden import Golden
from toolkit.runtime.manifest import (
    FORMAT_VERSION,
    MANIFEST,
    SIGNATURE,
    FileEntry,
    Manifest,
    folder_entries,
    name_fault,
    read_manifest,
    write_manifest,
)
from toolkit.runtime.onnx_file import external_files, operators
from toolkit.runtime.parity_file import read_parity
from toolkit.runtime.preprocess import Preprocess
from toolkit.runtime.serving import SERVING, Serving
from toolkit.runtime.session import Session
from toolkit.runtime.staging import settle
from toolkit.runtime.tensorrt import EngineBuild
from toolkit.strict_json import read_json, reason_in

__all__ = [
    "FORMAT_VERSION",
    "GRAPHS",
    "MANIFEST",
    "SIGNATURE",
    "Bundle",
    "FileEntry",
    "Golden",
    "Manifest",
    "write_manifest",
]
AGAIN = "copy the bundle again, or export it again"
GRAPHS: dict[str, str] = {
    "fp32": "model.onnx",
    "fp16": "model.fp16.onnx",
    "bf16": "model.bf16.onnx",
    "int8": "model.int8.onnx",
}
"""File of each precision."""


class Bundle:
    """An opened bundle. Files are read through it and compared with the manifest's hashes."""

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

    @cached_property
    def labels(self) -> list[str]:
        """The classes, in the order of the logits."""
        with self._parsing("labels.json"):
            labels = read_json(self.read("labels.json"))
            if (
                not isinstance(labels, list)
                or not labels
                or not all(isinstance(label, str) and label for label in labels)
            ):
                raise ValueError("no list of names")
            twice = sorted(label for label, count in Counter(labels).items() if count > 1)
            if twice:
                raise ValueError(f"the label {twice[0]!r} stands there twice")
            return labels

    @cached_property
    def decision(self) -> Decision:
        """What is decided of an image from its logits."""
        return decision_of(self.manifest.task)

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
    def serving(self) -> Serving | None:
        """How the bundle is to be served, where that was tuned (``toolkit tune``)."""
        if SERVING not in self.manifest.files:
            return None
        with self._parsing(SERVING):
            return Serving.model_validate_json(self.read(SERVING))

    @property
    def parity(self) -> dict[str, Any]:
        """Content of ``parity.json``."""
        with self._parsing("parity.json"):
            return read_parity(self.read("parity.json"))

    @property
    def parity_results(self) -> dict[str, dict[str, dict[str, Any]]]:
        """What ``parity.json`` holds under ``results``: an entry for each precision and provider."""
        results: dict[str, dict[str, dict[str, Any]]] = self.parity["results"]
        return results

    @contextmanager
    def _parsing(self, name: str) -> Iterator[None]:
        try:
            yield
        except (ValueError, TypeError, KeyError) as error:
            reason = reason_in(error)
            raise ToolkitError(f"damaged content: {reason}", where=self.path / name, fix=AGAIN) from error

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

    @property
    def precisions(self) -> list[str]:
        """Precisions that the bundle has a graph of, the default first."""
        there = [known for known, file in GRAPHS.items() if file in self.manifest.files]
        return sorted(there, key=lambda precision: GRAPHS[precision] != self.manifest.default)

    def graph_name(self, precision: str | None = None) -> str:
        """File name of a precision's graph; the default's unless one is asked for.

        Raises:
            ToolkitError: the bundle holds no such precision.
        """
        name = self.manifest.default if precision is None else GRAPHS.get(precision)
        if name is None or name not in self.manifest.files:
            have = self.precisions
            fix = f"choose from {', '.join(have)}" if have else "export it again"
            raise ToolkitError(
                f"no {'default' if precision is None else precision or 'such'} graph", where=self.path, fix=fix
            )
        return name

    def session(
        self,
        *,
        provider: str | None = None,
        threads: int | None = None,
        precision: str | None = None,
        record_nodes: bool = False,
        session_options: Mapping[str, str] | None = None,
        provider_options: Mapping[str, str] | None = None,
        batch_size: int | None = None,
    ) -> Session:
        """Load a graph after checking its hash, and that labels and preprocessing fit it.

        What is not asked for is as ``serving.json`` has it, where it was tuned for the same provider; else the
        CPU, the default precision, and as many threads as there are cores. ``batch_size`` is the most images that a
        run will be given, for which TensorRT builds its engine. ``provider_options``, if given, stand for all of
        those that ``serving.json`` has.

        Every file of the bundle is compared with the manifest first. ONNX Runtime gets the very bytes that were
        hashed, of the graph and of its external data, and opens no file itself.

        Raises:
            ToolkitError: the folder holds a changed file, a link, or anything that the manifest does not list;
                the graph points to anything but a listed file; it can't be loaded.
        """
        tuned = self.tuned_for(provider, precision)
        if tuned:
            provider, precision, threads = tuned.provider, tuned.precision, threads or tuned.threads_here()
            batch_size = batch_size or tuned.batch_size
            session_options = tuned.session_options | dict(session_options or {})
            if provider_options is None:
                provider_options = tuned.provider_options  # type: ignore[assignment]
        if not self._manifest_is_whole:
            raise ToolkitError("the manifest was changed", where=self.path / MANIFEST, fix=AGAIN)
        name = self.graph_name(precision)
        strangers = self._strangers()
        if strangers:
            more = f" (and {len(strangers) - 1} more)" if len(strangers) > 1 else ""
            raise ToolkitError(f"{strangers[0]}{more}", where=self.path, fix=f"remove it, or {AGAIN}")
        graph = self.read(name)
        with self._parsing(name):
            faults = self._graph_faults(name, graph)
            files = {location: self._target(name, location) for location in external_files(graph)}
        if faults:
            raise ToolkitError(faults[0], where=self.path / name, fix=f"don't use it; {AGAIN}")
        data = {location: self.read(file) for location, file in files.items()}
        for other in self.manifest.files:
            if other not in {name, *files.values()}:
                self._compare(other)
        session = Session(
            graph,
            provider=provider or "cpu",
            threads=threads,
            where=self.path / name,
            external_data=data,
            record_nodes=record_nodes,
            session_options=session_options,
            provider_options=provider_options,
            build=EngineBuild(batch_size, keep=True),
        )
        metadata, fix = session.metadata, "export it again"
        if session.classes != len(self.labels):
            gives = "an unknown number of" if session.classes is None else session.classes
            what = f"the graph gives {gives} logits, but labels.json names {len(self.labels)} classes"
            raise ToolkitError(what, where=self.path / name, fix=fix)
        with self._parsing(name):
            if read_json(metadata["labels"]) != self.labels:
                raise ToolkitError("labels.json differs from the graph's labels", where=self.path, fix=fix)
            if Preprocess.model_validate_json(metadata["preprocess"]) != self.preprocess:
                raise ToolkitError("preprocess.json differs from the graph's preprocessing", where=self.path, fix=fix)
        return session

    def tuned_for(self, provider: str | None = None, precision: str | None = None) -> Serving | None:
        """``serving.json``, if it was tuned for what is asked for; None stands for whatever was chosen."""
        tuned = self.serving
        fits = tuned and provider in (None, tuned.provider) and precision in (None, tuned.precision)
        return tuned if fits else None

    def golden(self) -> Golden:
        """The golden images' reference, after checking its hash."""
        with self._parsing(Golden.FILE):
            golden = Golden.parse(self.read(Golden.FILE))
            unlisted = [name for name in golden.names if f"golden/{name}" not in self.manifest.files]
            if unlisted:
                raise ValueError(f"the image {unlisted[0]!r} is not in the manifest")
            golden.require(len(self.labels), self.preprocess.output_size or (0, 0))
            return golden

    def differences(self) -> list[str]:
        """What on disk differs from the manifest, one sentence a file; empty for a whole bundle."""
        found = [] if self._manifest_is_whole else [f"{MANIFEST} was changed"]
        for name in self.manifest.files:
            found += self._faults_of(name)
        return found + self._strangers()

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

    def check_files(self) -> None:
        """Raise :class:`CheckFailed` if any file differs from the manifest."""
        found = self.differences()
        if found:
            raise CheckFailed(f"{self.path}: " + "; ".join(found))

    def update_manifest(self) -> None:
        """Hash all files anew and rewrite the manifest, atomically; a signature that it makes stale is removed."""
        write_manifest(self.path, self.manifest)
        self._manifest_is_whole = True
