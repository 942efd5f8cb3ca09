"""The bundle: one folder with a graph, all that serving it needs, and hashes of every file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from toolkit.errors import ToolkitError
from toolkit.runtime.bundle_files import BundleFiles
from toolkit.runtime.decision import Decision, at_point, at_thresholds, decision_of
from toolkit.runtime.examples import ExampleReader
from toolkit.runtime.golden import Golden
from toolkit.runtime.label_thresholds import DECISIONS, LabelThresholds
from toolkit.runtime.label_thresholds import METADATA as THRESHOLDS
from toolkit.runtime.manifest import (
    FORMAT_VERSION,
    MANIFEST,
    SIGNATURE,
    FileEntry,
    Manifest,
    write_manifest,
)
from toolkit.runtime.open_session import open_session
from toolkit.runtime.operating_point import METADATA, OperatingPoint
from toolkit.runtime.parity_file import read_parity
from toolkit.runtime.precision import SPECS
from toolkit.runtime.preprocess import Preprocess
from toolkit.runtime.reduced_jpeg import ReducedPreprocess
from toolkit.runtime.serving import SERVING, Serving
from toolkit.runtime.session import Session
from toolkit.runtime.tensorrt import EngineBuild
from toolkit.runtime.tokenizer import TOKENIZE, TOKENIZER, Tokenizer, TokenizerSettings
from toolkit.strict_json import read_json

__all__ = [
    "FORMAT_VERSION",
    "MANIFEST",
    "SIGNATURE",
    "Bundle",
    "FileEntry",
    "Golden",
    "Manifest",
    "write_manifest",
]


def temperature_in(value: Any) -> float | list[float]:
    """A temperature as it was written, of all classes or one for each."""
    return [float(each) for each in value] if isinstance(value, list) else float(value)


class Bundle(BundleFiles):
    """An opened bundle: what its files say, and sessions of its graphs."""

    @cached_property
    def labels(self) -> list[str]:
        """The classes, in the order of the logits."""
        with self.parsing("labels.json"):
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
        with self.parsing(MANIFEST):
            task = at_thresholds(decision_of(self.manifest.task), self.manifest.thresholds, self.labels)
            return at_point(task, self.manifest.operating_point, self.labels)

    @cached_property
    def preprocess(self) -> Preprocess:
        """What is between RGB pixels and ``pixel_values``."""
        with self.parsing("preprocess.json"):
            return Preprocess.model_validate_json(self.read("preprocess.json"))

    @cached_property
    def tokenizer(self) -> Tokenizer | None:
        """What makes tokens of texts; None for a bundle of images alone."""
        if TOKENIZE not in self.manifest.files:
            return None
        with self.parsing(TOKENIZE):
            settings = TokenizerSettings.model_validate_json(self.read(TOKENIZE))
        return Tokenizer(settings, self.read(TOKENIZER), where=self.path / TOKENIZER)

    @cached_property
    def run(self) -> Path:
        """The run folder that the bundle was exported from, as the manifest has it."""
        with self.parsing(MANIFEST):
            return Path(self.manifest.provenance["run"])

    @property
    def serving(self) -> Serving | None:
        """How the bundle is to be served, where that was tuned (``toolkit tune``)."""
        if SERVING not in self.manifest.files:
            return None
        with self.parsing(SERVING):
            return Serving.model_validate_json(self.read(SERVING))

    @property
    def parity(self) -> dict[str, Any]:
        """Content of ``parity.json``."""
        with self.parsing("parity.json"):
            return read_parity(self.read("parity.json"))

    @property
    def parity_results(self) -> dict[str, dict[str, dict[str, Any]]]:
        """What ``parity.json`` holds under ``results``: an entry for each precision and provider."""
        results: dict[str, dict[str, dict[str, Any]]] = self.parity["results"]
        return results

    def temperature(self, precision: str) -> float | list[float]:
        """What a precision's logits are divided by for its probabilities: the run's temperature, or one of its own.

        A list of one for each class where an image may have several labels.
        """
        with self.parsing("parity.json"):
            for entry in self.parity_results.get(precision, {}).values():
                own = entry.get("temperature")
                if own and own["kept"]:
                    return temperature_in(own["fitted"])
        with self.parsing(MANIFEST):
            return temperature_in(self.manifest.provenance["temperature"])

    @property
    def precisions(self) -> list[str]:
        """Precisions that the bundle has a graph of, the default first."""
        there = [known for known, spec in SPECS.items() if spec.file in self.manifest.files]
        return sorted(there, key=lambda precision: SPECS[precision].file != self.manifest.default)

    def graph_name(self, precision: str | None = None) -> str:
        """File name of a precision's graph; the default's unless one is asked for.

        Raises:
            ToolkitError: the bundle holds no such precision.
        """
        spec = SPECS.get(precision or "")
        name = self.manifest.default if precision is None else spec and spec.file
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
        """Load a graph after checking its hash, and that labels, preprocessing and operating point fit it.

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
        name = self.graph_name(precision)
        graph, data = self.read_graph(name)
        session = open_session(
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
        self._require_fitting(session, name)
        return session

    def _require_fitting(self, session: Session, name: str) -> None:
        """Raise :class:`ToolkitError` if labels, preprocessing or operating point are not those of the graph."""
        metadata, fix = session.metadata, "export it again"
        if session.classes != len(self.labels):
            gives = "an unknown number of" if session.classes is None else session.classes
            what = f"the graph gives {gives} logits, but labels.json names {len(self.labels)} classes"
            raise ToolkitError(what, where=self.path / name, fix=fix)
        if session.main_outputs != self.decision.outputs:
            what = f"the graph gives {' and '.join(session.main_outputs)}, which the task {self.manifest.task} does not"
            raise ToolkitError(what, where=self.path / name, fix=fix)
        with self.parsing(name):
            if read_json(metadata["labels"]) != self.labels:
                raise ToolkitError("labels.json differs from the graph's labels", where=self.path, fix=fix)
            if Preprocess.model_validate_json(metadata["preprocess"]) != self.preprocess:
                raise ToolkitError("preprocess.json differs from the graph's preprocessing", where=self.path, fix=fix)
            settings = None if self.tokenizer is None else self.tokenizer.settings
            stated = metadata.get(TOKENIZE)
            if (None if stated is None else TokenizerSettings.model_validate_json(stated)) != settings:
                raise ToolkitError(f"{TOKENIZE} differs from the graph's tokenizer", where=self.path, fix=fix)
            point = metadata.get(METADATA)
            if (None if point is None else OperatingPoint.model_validate_json(point)) != self.manifest.operating_point:
                what = "manifest.json differs from the graph's operating point"
                raise ToolkitError(what, where=self.path, fix=fix)
            stated = metadata.get(THRESHOLDS)
            known = None if stated is None else LabelThresholds.model_validate_json(stated)
            if known != self.manifest.thresholds:
                raise ToolkitError("manifest.json differs from the graph's thresholds", where=self.path, fix=fix)
            if (known is None) == (DECISIONS in session.outputs):
                what = f"the graph {'lacks' if known else 'has'} the output {DECISIONS}, against its own thresholds"
                raise ToolkitError(what, where=self.path / name, fix=fix)

    def tuned_for(self, provider: str | None = None, precision: str | None = None) -> Serving | None:
        """``serving.json``, if it was tuned for what is asked for; None stands for whatever was chosen."""
        tuned = self.serving
        fits = tuned and provider in (None, tuned.provider) and precision in (None, tuned.precision)
        return tuned if fits else None

    def reader(self, kind: str, *, reduced_jpeg: bool = False) -> ExampleReader:
        """What makes inputs of images, and of texts where the bundle takes some.

        Args:
            kind: how the graph takes its image, if at all; see :attr:`toolkit.runtime.session.Session.input`.
            reduced_jpeg: whether JPEGs are decoded at the scale that the network needs; see
                :mod:`toolkit.runtime.reduced_jpeg`.
        """
        preprocess = ReducedPreprocess.of(self.preprocess) if reduced_jpeg else self.preprocess
        return ExampleReader(kind, preprocess, self.tokenizer, self.takes_missing)

    @property
    def takes_images(self) -> bool:
        """Whether the graph takes images; a bundle of texts alone does not."""
        return "image" in self._model.get("inputs", ["image"])

    @property
    def takes_missing(self) -> bool:
        """Whether image or text may be missing, as the run was trained."""
        return bool(self._model.get("fusion", {}).get("modality_dropout"))

    @property
    def _model(self) -> Mapping[str, Any]:
        """The section ``model`` of the recipe, as the manifest has it."""
        return self.manifest.provenance.get("recipe", {}).get("model") or {}

    def golden(self) -> Golden:
        """The golden images' reference, after checking its hash."""
        with self.parsing(Golden.FILE):
            golden = Golden.parse(self.read(Golden.FILE))
            unlisted = [name for name in golden.names if f"golden/{name}" not in self.manifest.files]
            if unlisted:
                raise ValueError(f"the image {unlisted[0]!r} is not in the manifest")
            golden.require(len(self.labels), self.preprocess.output_size or (0, 0))
            return golden
