"""A run becomes a bundle: graph, parity, golden images, card and report, whole or not at all."""

from __future__ import annotations

import datetime
import platform
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx
import onnxruntime

from export.golden_images import write_golden
from export.graph.classifier_graph import GraphInput, build_graph
from export.graph.config import GraphConfig
from export.graph.external_data import read_shell, save_graph
from export.parity.proof import Proof
from export.parity.prove import BATCH_SIZES, Proven
from export.prove_bundle import FEWEST_IMAGES, reference_of
from export.selection.candidate import Candidate
from export.selection.contract import Contract
from export.selection.contract_search import Kept, fastest_within_contract
from export.selection.fastest import fastest_within_budget
from export.selection.held_out import HeldOut
from export.selection.search import PrecisionSearch, validation_images_for
from toolkit import __version__
from toolkit.data.labelled_image import LabelledImage
from toolkit.errors import ToolkitError
from toolkit.files import sha256_of, staged_folder, write_json
from toolkit.models.encoder_origin import encoder_origin
from toolkit.models.families.traced import refuse_traced
from toolkit.models.modalities import image_tower_of, text_tower_of
from toolkit.models.processing import preprocess_from
from toolkit.models.text_inputs import context_of
from toolkit.models.text_tokenizer import runtime_tokenizer
from toolkit.progress import SILENT, Progress
from toolkit.recipe.recipe import Recipe
from toolkit.reporting.model_card import card_metadata
from toolkit.reporting.pages import write_pages
from toolkit.runs.finished_run import Run
from toolkit.runtime.bundle import MANIFEST, Manifest, write_manifest
from toolkit.runtime.open_session import open_session
from toolkit.runtime.parity_file import write_parity
from toolkit.runtime.precision import SPECS, Precision
from toolkit.runtime.preprocess import Preprocess
from toolkit.runtime.providers import require_precision, several_providers
from toolkit.runtime.signature import sign as sign_bundle
from toolkit.runtime.staging import changing
from toolkit.runtime.tensorrt import EngineBuild, require_compilable
from toolkit.runtime.tokenizer import Tokenizer

LIBRARIES = ("torch", "transformers", "onnx", "numpy", "pillow")


@dataclass(frozen=True)
class ExportOptions:
    """What a bundle is to hold, and which images decide over it."""

    graph_input: GraphInput = "image"
    precisions: Sequence[str] = ()
    """Of the graphs, the default first; that of the run's trunk, or fp32, if empty."""
    budget: float | None = None
    """Percentage points of accuracy that may be lost: measure every config that the provider might run well and
    ship the fastest that keeps it, in place of ``precisions``."""
    images: int | None = None
    """Held-out images that parity uses; ``FEWEST_IMAGES`` or all that there are, if None."""
    calibration_images: int | None = None
    """Training images that the ranges of activations are measured on."""
    embedding: bool = False
    """Whether the graphs also give the embedding, at length one."""
    contract: Contract | None = None
    """Ship the fastest config that keeps it, in place of ``precisions`` and ``budget``, or nothing."""


DEFAULT = ExportOptions()


def export_bundle(
    run: Run,
    out: Path,
    wanted: ExportOptions = DEFAULT,
    *,
    provider: str = "cpu",
    threads: int | None = None,
    sign: Path | None = None,
    force: bool = False,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """Export, prove and pack a run; ``out`` appears only if each graph runs fused and its parity passed.

    Args:
        run: a finished run.
        out: folder to be.
        wanted: which graphs, proven on which images.
        provider: the provider that the graphs are made for and that parity runs on; or with a budget or a contract
            ``cpu,openvino``, of which the faster one is taken.
        threads: threads of a session; the usable cores unless given.
        sign: private key to sign the bundle with.
        force: replace a bundle that is already there.
        progress: told how it goes on.

    Returns:
        The content of ``parity.json``.

    Raises:
        CheckFailed: a graph is not fused, runs elsewhere than asked, or parity failed; no config keeps the budget,
            or the contract, there or on test images.
        ToolkitError: the run, its data or ``out`` is not usable, or the provider can't run a precision.
    """
    preprocess = preprocess_from(run.processor)
    provider, *others = several_providers(provider)
    if provider == "tensorrt" and image_tower_of(run.classifier.encoder) is not None:
        require_compilable([wanted.graph_input])
    for each in wanted.precisions:
        run.require_trunk(each)
        refuse_traced(run.classifier.encoder.family, each)
    auto = wanted.contract is not None or wanted.budget is not None
    if others and not auto:
        what = "several providers are for --precision auto, which chooses among them"
        raise ToolkitError(what, where="--provider", fix="add --precision auto, or give one provider")
    precisions = [require_precision(each, provider) for each in wanted.precisions or [run.precision]]
    replaced = force and (out / MANIFEST).is_file()
    with changing(out, empty=True) if replaced else staged_folder(out, what="bundle", marker=MANIFEST) as stage:
        provenance = run.provenance() | {"export_libraries": _libraries()}
        provenance["encoder"] = encoder_origin(run.recipe.model, run.classifier.encoder.family.name)
        provenance["card_metadata"] = card_metadata(provenance, run.classifier.labels)
        write_json(stage / "labels.json", run.classifier.labels)
        write_json(stage / "preprocess.json", preprocess.model_dump(mode="json"))
        tokenizer = tokenizer_of(run)
        for name, content in (tokenizer.files() if tokenizer else {}).items():
            (stage / name).write_bytes(content)
        examples = run.held_out(wanted.images or FEWEST_IMAGES, exactly=wanted.images is not None)
        search = PrecisionSearch(
            run,
            provider=provider,
            threads=threads,
            calibration_images=wanted.calibration_images,
            validation_images=wanted.contract.images if wanted.contract else validation_images_for(wanted.budget),
            progress=progress,
        )
        searches = [search, *(search.beside(each) for each in others)]
        contract = wanted.contract
        kept = fastest_within_contract(searches, wanted.graph_input, contract) if contract else None
        chosen = [kept.candidate] if kept else _candidates(searches, wanted, precisions)
        search = chosen[0].search
        export = _Export(stage, run, preprocess, provenance, search, examples, progress, tokenizer)
        shipped = {str(each.config.precision): export.proven(each.config, wanted, threads) for each in chosen}
        parity: dict[str, Any] = {
            "provider": search.provider,
            "results": {precision: {search.provider: graph.entry} for precision, graph in shipped.items()},
            "reference": reference_of(run),
        }
        if tried := [each for of in searches for each in of.measured.tried]:
            parity["tried"] = tried
        if kept and contract:
            held_out = export.held_out(contract, kept, threads)
            parity["contract"] = kept.report | {"held_out": held_out}
        write_parity(stage, parity)
        logits = {precision: graph.logits for precision, graph in shipped.items()}
        write_golden(stage, search.validation.reference, examples, logits)
        provenance["parity_sha256"] = sha256_of(stage / "parity.json")
        _finish(stage, run, SPECS[chosen[0].config.precision].file, provenance)
        if sign:
            sign_bundle(stage, sign)
    return parity


def _candidates(
    searches: Sequence[PrecisionSearch], wanted: ExportOptions, precisions: Sequence[Precision]
) -> list[Candidate]:
    """Configs of the graphs to ship, the default first."""
    if wanted.budget is not None:
        return [fastest_within_budget(searches, wanted.graph_input, wanted.budget)]
    return [Candidate(searches[0], searches[0].config(precision)) for precision in dict.fromkeys(precisions)]


@dataclass(frozen=True)
class _Export:
    """What all graphs of one export share."""

    stage: Path
    run: Run
    preprocess: Preprocess
    provenance: dict[str, Any]
    search: PrecisionSearch
    examples: Sequence[LabelledImage]
    """Images that parity uses."""
    progress: Progress
    tokenizer: Tokenizer | None

    def proven(self, config: GraphConfig, wanted: ExportOptions, threads: int | None) -> Proven:
        """Write a graph into the bundle and prove it as it lies there.

        Raises:
            CheckFailed: it is not fused, runs elsewhere than asked, or its parity failed.
        """
        config, temperature = self.search.measured.calibrated(config)
        file = self.stage / SPECS[config.precision].file
        save_graph(self._graph(config, wanted), file)
        session = open_session(
            file,
            provider=self.search.provider,
            threads=threads,
            record_nodes=True,
            build=EngineBuild(max(BATCH_SIZES)),
        )
        reference = self.search.validation.reference
        proof = Proof.begin(session, read_shell(file), self.preprocess, reference, self.examples, self.tokenizer)
        proven = proof.outcome(self.run.images_from, self.progress)
        proof.require_passed(proven.entry)
        return replace(proven, entry=proven.entry | {"temperature": temperature})

    def held_out(self, contract: Contract, kept: Kept, threads: int | None) -> dict[str, Any]:
        """What test images say of the graph that was written for a contract.

        Raises:
            CheckFailed: it loses more there than the contract allows.
        """
        file = self.stage / SPECS[kept.config.precision].file
        build = EngineBuild(max(BATCH_SIZES))
        reference = self.search.validation.reference
        images = HeldOut(self.run, reference, self.preprocess, self.tokenizer, self.progress)
        session = open_session(file, provider=self.search.provider, threads=threads, build=build)
        return images.hold(contract, kept.config, session, kept.report["validation"])

    def _graph(self, config: GraphConfig, wanted: ExportOptions) -> onnx.ModelProto:
        return build_graph(
            self.run.classifier,
            self.preprocess,
            self.provenance,
            wanted.graph_input,
            config,
            embedding=wanted.embedding,
            operating_point=self.run.operating_point,
            tokenizer=self.tokenizer.settings if self.tokenizer else None,
            thresholds=self.run.thresholds,
        )


def tokenizer_of(run: Run) -> Tokenizer | None:
    """The runtime's tokenizer of a run's classifier; None for one of images alone.

    Raises:
        ToolkitError: it gives other ids than the tokenizer of training.
    """
    text = text_tower_of(run.classifier.encoder)
    if text is None:
        return None
    recipe = run.recipe
    return runtime_tokenizer(
        text.tokenizer,
        context_length=context_of(text),
        pads_texts=text.family.pads_texts,
        long_texts=recipe.model.long_texts if isinstance(recipe, Recipe) else "truncate",
        where=str(run.path / "best"),
    )


def _finish(stage: Path, run: Run, default: str, provenance: dict[str, Any]) -> None:
    """Plots, pages and manifest."""
    created = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    manifest = Manifest(
        toolkit_version=__version__,
        created=created,
        default=default,
        task=run.classifier.task.name,
        operating_point=run.operating_point,
        thresholds=run.thresholds,
        provenance=provenance,
    )
    for plot in sorted((run.path / "plots").glob("*.png")):
        (stage / "plots").mkdir(exist_ok=True)
        shutil.copyfile(plot, stage / "plots" / plot.name)
    write_pages(stage, manifest)
    write_manifest(stage, manifest)


def _libraries() -> dict[str, str]:
    """Versions that the graph and its proof depend on."""
    found = {name: version(name) for name in LIBRARIES}
    return found | {"onnxruntime": onnxruntime.__version__, "python": platform.python_version()}
