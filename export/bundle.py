"""A run becomes a bundle: graph, parity, golden images, card and report, whole or not at all."""

from __future__ import annotations

import datetime
import platform
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from export.change import BUNDLE, Target, change
from export.graph.classifier_graph import GraphInput, build_graph
from export.graph.config import config_of
from export.graph.external_data import save_graph
from export.graph.fusion_check import check_nodes
from export.parity.bisect import bisect, first_fault
from export.parity.prove import BATCH_SIZES, prove
from export.parity.reference import Reference, spread
from export.selection.fastest import fastest_within_budget
from export.selection.search import PrecisionSearch, validation_images_for
from toolkit import __version__
from toolkit.data.listing import WholeFile
from toolkit.data.source import UNLABELLED, LabelledImage
from toolkit.errors import CheckFailed
from toolkit.files import sha256_of, staged_folder, write_json
from toolkit.models.processing import preprocess_from
from toolkit.progress import SILENT, Progress
from toolkit.reporting.model_card import card_metadata
from toolkit.reporting.pages import write_pages
from toolkit.runs.finished_run import Run
from toolkit.runtime.bundle import GRAPHS, MANIFEST, Bundle, Golden, Manifest, write_manifest
from toolkit.runtime.decode import suffix_of
from toolkit.runtime.examples import graph_input
from toolkit.runtime.image_files import expand
from toolkit.runtime.inputs import stacked
from toolkit.runtime.preprocess import Float32, Preprocess
from toolkit.runtime.session import Session, require_precision, runnable
from toolkit.runtime.signature import sign as sign_bundle
from toolkit.runtime.staging import changing
from toolkit.runtime.tensorrt import EngineBuild

FEWEST_IMAGES = 256
"""Held-out images that parity uses where there are as many."""
GOLDEN_IMAGES = 8
HELD_OUT = "held-out images of the run's data set, test split first"
REFERENCE = "transformers' forward pass and the head in PyTorch fp32, the training-time image processor"
BEHIND_TRUNK = (
    "the trunk that the run learned on, the groups that learned in PyTorch fp32, the training-time image processor"
)
NO_FUSION_CHECK = "not made: the encoder was traced by torch.onnx, which says nothing of its layers"
LIBRARIES = ("torch", "transformers", "onnx", "numpy", "pillow")


@dataclass(frozen=True)
class ExportOptions:
    """What a bundle is to hold, and which images decide over it."""

    graph_input: GraphInput = "image"
    precisions: Sequence[str] = ()
    """Of the graphs, the default first; that of the run's trunk, or fp32, if empty."""
    budget: float | None = None
    """Percentage points of accuracy that may be lost: measure every form that the provider might run well and
    ship the fastest that keeps it, in place of ``precisions``."""
    images: int | None = None
    """Held-out images that parity uses; ``FEWEST_IMAGES`` or all that there are, if None."""
    calibration_images: int | None = None
    """Training images that the ranges of activations are measured on."""


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
        provider: the provider that the graphs are made for and that parity runs on.
        threads: threads of a session; the usable cores unless given.
        sign: private key to sign the bundle with.
        force: replace a bundle that is already there.
        progress: told how it goes on.

    Returns:
        The content of ``parity.json``.

    Raises:
        CheckFailed: a graph is not fused, runs elsewhere than asked, or parity failed; no form keeps the budget.
        ToolkitError: the run, its data or ``out`` is not usable, or the provider can't run a precision.
    """
    preprocess = preprocess_from(run.processor)
    for each in wanted.precisions:
        run.require_trunk(each)
    precisions = [require_precision(each, provider) for each in wanted.precisions or [run.precision]]
    replaced = force and (out / MANIFEST).is_file()
    with changing(out, empty=True) if replaced else staged_folder(out, what="bundle", marker=MANIFEST) as stage:
        provenance = run.provenance() | {"export_libraries": _libraries()}
        provenance["card_metadata"] = card_metadata(provenance, run.classifier.labels)
        write_json(stage / "labels.json", run.classifier.labels)
        write_json(stage / "preprocess.json", preprocess.model_dump(mode="json"))
        examples = run.held_out(wanted.images or FEWEST_IMAGES, exactly=wanted.images is not None)
        candidates = PrecisionSearch(
            run,
            provider=provider,
            threads=threads,
            calibration_images=wanted.calibration_images,
            validation_images=validation_images_for(wanted.budget),
            progress=progress,
        )
        if wanted.budget is None:
            forms = [candidates.form(precision) for precision in dict.fromkeys(precisions)]
        else:
            forms = [fastest_within_budget(candidates, wanted.graph_input, wanted.budget)]
        parity: dict[str, Any] = {"results": {}, "reference": BEHIND_TRUNK if run.trunk else REFERENCE}
        golden: dict[str, Float32] = {}
        for chosen in forms:
            form, temperature = candidates.calibrated(chosen)
            model = build_graph(run.classifier, preprocess, provenance, wanted.graph_input, form)
            save_graph(model, stage / GRAPHS[form.precision])
            session = Session(
                stage / GRAPHS[form.precision],
                provider=provider,
                threads=threads,
                record_nodes=True,
                build=EngineBuild(max(BATCH_SIZES)),
            )
            proof = Proof(session, model, preprocess, candidates.reference)
            entry = proof.entry(examples, HELD_OUT, progress)
            parity["results"][form.precision] = {provider: entry | {"temperature": temperature}}
            proof.require_passed(entry, examples)
            golden[form.precision] = _golden_outputs(session, preprocess, examples)
        if candidates.tried:
            parity["tried"] = candidates.tried
        write_json(stage / "parity.json", parity)
        _write_golden(stage, candidates.reference, examples, golden)
        provenance["parity_sha256"] = sha256_of(stage / "parity.json")
        _finish(stage, run, GRAPHS[forms[0].precision], provenance)
        if sign:
            sign_bundle(stage, sign)
    return parity


def _finish(stage: Path, run: Run, default: str, provenance: dict[str, Any]) -> None:
    """Plots, pages and manifest."""
    created = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    task = run.classifier.task.name
    manifest = Manifest(toolkit_version=__version__, created=created, default=default, task=task, provenance=provenance)
    for plot in sorted((run.path / "plots").glob("*.png")):
        (stage / "plots").mkdir(exist_ok=True)
        shutil.copyfile(plot, stage / "plots" / plot.name)
    write_pages(stage, manifest)
    write_manifest(stage, manifest)


@dataclass(frozen=True)
class Proof:
    """One shipped graph beside its reference."""

    session: Session
    """Opened with ``record_nodes``."""
    model: onnx.ModelProto
    preprocess: Preprocess
    reference: Reference

    def entry(self, samples: Sequence[LabelledImage], source: str, progress: Progress) -> dict[str, Any]:
        """The graph's entry of ``parity.json``."""
        form = config_of(self.model)
        first = graph_input(self.session.input, self.preprocess, samples[0].read())
        nodes = self.session.executed_nodes(stacked([first]))
        fused = check_nodes(nodes, self.reference.classifier, self.session.provider, form)
        progress.stage(f"proving {form.precision}")
        entry = prove(
            self.session,
            self.model,
            self.preprocess,
            self.reference,
            samples,
            progress,
        )
        return entry | {
            "input": self.session.input,
            "images_from": source,
            "fused": fused,
            "fusion_check": "passed" if self.reference.classifier.encoder.tower else NO_FUSION_CHECK,
            "executed_nodes": len(nodes),
        }

    def require_passed(self, entry: dict[str, Any], samples: Sequence[LabelledImage]) -> None:
        """Raise :class:`CheckFailed` after a failure, with the first node that leaves the tolerance."""
        if entry["passed"]:
            return
        fault = first_fault(bisect(self.session, self.model, self.preprocess, self.reference, samples))
        precision = config_of(self.model).precision
        raise CheckFailed(f"parity failed for {precision} on {self.session.provider}: {_figures(entry)}; {fault}")


def prove_again(
    bundle: Bundle,
    run: Run,
    *,
    provider: str,
    threads: int | None,
    precision: str | None = None,
    count: int | None = None,
    folder: Path | None = None,
    to: Target = BUNDLE,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """Run parity on a finished bundle and, on held-out images, write the outcome into it.

    After a failure that was written, the bundle fails ``verify`` too; a look at other images
    leaves the bundle as it is.

    Args:
        bundle: an opened bundle; every file is compared with the manifest first.
        run: the run it was exported from.
        provider: the provider to prove.
        threads: threads of the session; the usable cores unless given.
        precision: the graph to prove; each that the provider runs, if left out.
        count: held-out images to use; ``FEWEST_IMAGES`` or all that there are, if left out.
        folder: images to use in place of the held-out ones.
        to: where the outcome is written; no key signs a graph that failed, since nobody vouches for it.
        progress: told how it goes on.

    Returns:
        The content of ``parity.json``, passed or not; :func:`require_passed` judges it.

    Raises:
        CheckFailed: a file differs from the manifest, or the graph does not run as it must.
    """
    bundle.check_files()
    if to.file or folder is None:
        to.check(bundle)
    provable = [require_precision(precision, provider)] if precision else runnable(bundle.precisions, provider)
    samples, source = samples_to_prove(run, count, folder)
    reference = Reference(run)
    parity: dict[str, Any] = {"results": {}, "reference": BEHIND_TRUNK if run.trunk else REFERENCE}
    for each in provable:
        session = bundle.session(
            provider=provider,
            threads=threads,
            precision=each,
            record_nodes=True,
            batch_size=None if bundle.tuned_for(provider, each) else max(BATCH_SIZES),
        )
        model = onnx.load(bundle.path / bundle.graph_name(each))
        entry = Proof(session, model, bundle.preprocess, reference).entry(samples, source, progress)
        before = bundle.parity_results.get(each, {}).get(provider, {})
        parity["results"][each] = {provider: entry | {"temperature": before.get("temperature")}}
    if folder is None:
        parity = bundle.parity | parity
        for known, by_provider in bundle.parity_results.items():
            parity["results"][known] = by_provider | parity["results"].get(known, {})
    if to.wrote(parity) or folder is not None:
        return parity
    with change(bundle, to.key if all(_passed(parity)) else None) as (stage, manifest):
        write_json(stage / "parity.json", parity)
        manifest.provenance["parity_sha256"] = sha256_of(stage / "parity.json")
    return parity


def bisect_bundle(
    bundle: Bundle,
    run: Run,
    *,
    provider: str,
    threads: int | None,
    precision: str | None = None,
    folder: Path | None = None,
) -> dict[str, Any]:
    """Find the first node of a bundle's graph that leaves the tolerance; see :func:`export.parity.bisect.bisect`."""
    session = bundle.session(provider=provider, threads=threads, precision=precision)
    model = onnx.load(bundle.path / bundle.graph_name(precision))
    samples, _ = samples_to_prove(run, None, folder)
    return bisect(session, model, bundle.preprocess, Reference(run), samples)


def samples_to_prove(run: Run, count: int | None, folder: Path | None) -> tuple[list[LabelledImage], str]:
    """Held-out images, or those of a folder, and where they come from in words."""
    if folder is not None:
        samples = [
            LabelledImage(path, UNLABELLED, WholeFile(str(path)), value_range=run.value_range)
            for path in expand([folder])
        ]
        return samples, str(folder)
    return run.held_out(count or FEWEST_IMAGES, exactly=count is not None), HELD_OUT


def require_passed(parity: dict[str, Any]) -> None:
    """Raise :class:`CheckFailed` with the figures of the first precision and provider that failed."""
    for precision, by_provider in parity["results"].items():
        for provider, entry in by_provider.items():
            if not entry["passed"]:
                raise CheckFailed(f"parity failed for {precision} on {provider}: {_figures(entry)}")


def _passed(parity: dict[str, Any]) -> Iterator[bool]:
    return (entry["passed"] for by_provider in parity["results"].values() for entry in by_provider.values())


def _figures(entry: dict[str, Any]) -> str:
    said = (
        f"max |logit difference| {entry['max_abs_logit']:.2e} (tolerance {entry['tolerance']:.1e}), "
        f"top-1 agreement {entry['top1_agreement']:.2%} on {entry['images']} images"
    )
    same = entry.get("same_rounding")
    if same and not same["passed"]:
        said += f"; {same['max_abs_logit']:.2e} off PyTorch with the same rounding (tolerance {same['tolerance']:.1e})"
    least = entry.get("least_agreement")
    return f"{said}; at least {least:.1%} is asked for" if least and entry["top1_agreement"] < least else said


def _libraries() -> dict[str, str]:
    """Versions that the graph and its proof depend on."""
    found = {name: version(name) for name in LIBRARIES}
    return found | {"onnxruntime": onnxruntime.__version__, "python": platform.python_version()}


def _golden_examples(examples: Sequence[LabelledImage]) -> list[LabelledImage]:
    return [examples[place] for place in spread(len(examples), GOLDEN_IMAGES)]


def _golden_outputs(session: Session, preprocess: Preprocess, examples: Sequence[LabelledImage]) -> Float32:
    """What a shipped graph makes of the golden images, one by one."""
    inputs = (graph_input(session.input, preprocess, example.read()) for example in _golden_examples(examples))
    return np.concatenate([session.run(stacked([each]))["logits"] for each in inputs])


def _write_golden(
    stage: Path, reference: Reference, examples: Sequence[LabelledImage], outputs: dict[str, Float32]
) -> None:
    """A few images as files, with what the reference and each shipped graph make of them."""
    chosen = _golden_examples(examples)
    feed = reference.inputs(example.decode() for example in chosen)
    (stage / "golden").mkdir()
    names = []
    for number, example in enumerate(chosen):
        content = example.read()
        names.append(f"{number:03d}{suffix_of(content)}")
        (stage / "golden" / names[-1]).write_bytes(content)
    Golden(names, feed, reference.logits(feed), outputs).save(stage)
