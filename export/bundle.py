"""A run becomes a bundle: graph, parity, golden images, card and report, whole or not at all."""

from __future__ import annotations

import datetime
import platform
import shutil
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from export.bisect import bisect, first_fault
from export.external_data import save_graph
from export.gate import check_nodes
from export.graph import GraphInput, build_graph
from export.parity import Advance, prove
from export.reference import Reference, Sample, samples_of, spread
from export.run import Run
from toolkit import __version__
from toolkit.data.source import Example
from toolkit.errors import CheckFailed, ToolkitError
from toolkit.files import sha256_of, staged_folder, write_json
from toolkit.models.processing import preprocess_from
from toolkit.reporting.describe import describe
from toolkit.runtime.bundle import GRAPHS, MANIFEST, Bundle, Golden, Manifest, write_manifest
from toolkit.runtime.decode import suffix_of
from toolkit.runtime.predict import expand, graph_input
from toolkit.runtime.session import Session
from toolkit.runtime.signature import sign as sign_bundle

FEWEST_IMAGES = 256
"""Held-out images that parity uses where there are as many."""
GOLDEN_IMAGES = 8
HELD_OUT = "held-out images of the run's data set, test split first"
REFERENCE = "transformers' forward pass and the head in PyTorch fp32, the training-time image processor"
LIBRARIES = ("torch", "transformers", "onnx", "numpy", "pillow")


def export_bundle(
    run: Run,
    out: Path,
    *,
    graph_input: GraphInput = "image",
    provider: str = "cpu",
    images: int | None = None,
    threads: int | None = None,
    sign: Path | None = None,
    force: bool = False,
    advance: Advance = lambda done: None,
) -> dict[str, Any]:
    """Export, prove and pack a run; ``out`` appears only if the graph runs fused and parity passed.

    Args:
        run: a finished run.
        out: folder to be.
        graph_input: what the graph takes.
        provider: the provider that parity runs on.
        images: held-out images that parity uses; ``FEWEST_IMAGES`` or all that there are, if left out.
        threads: threads of the session; the usable cores unless given.
        sign: private key to sign the bundle with.
        force: replace a bundle that is already there.
        advance: told how many images are proven.

    Returns:
        The content of ``parity.json``.

    Raises:
        CheckFailed: the graph is not fused, runs elsewhere than asked, or parity failed.
        ToolkitError: the run, its data or ``out`` is not usable.
    """
    preprocess = preprocess_from(run.processor)
    with staged_folder(out, what="bundle", marker=MANIFEST, replace=force) as stage:
        provenance = run.provenance() | {"export_libraries": _libraries()}
        graph = stage / GRAPHS["fp32"]
        model = build_graph(run.classifier, preprocess, provenance, graph_input)
        save_graph(model, graph)
        write_json(stage / "labels.json", run.classifier.labels)
        write_json(stage / "preprocess.json", preprocess.model_dump(mode="json"))
        examples = run.held_out(images or FEWEST_IMAGES, exactly=images is not None)
        session = Session(graph, provider=provider, threads=threads, record_nodes=True)
        parity = _proof(run, session, model, samples_of(examples), HELD_OUT, advance)
        _require_passed_or_explain(parity, run, session, model, samples_of(examples))
        write_json(stage / "parity.json", parity)
        _write_golden(stage, run, session, examples)
        provenance["parity_sha256"] = sha256_of(stage / "parity.json")
        created = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        manifest = Manifest(toolkit_version=__version__, created=created, provenance=provenance)
        for plot in sorted((run.path / "plots").glob("*.png")):
            (stage / "plots").mkdir(exist_ok=True)
            shutil.copyfile(plot, stage / "plots" / plot.name)
        describe(stage, manifest)
        write_manifest(stage, manifest)
        if sign:
            sign_bundle(stage, sign)
    return parity


def _proof(
    run: Run, session: Session, model: onnx.ModelProto, samples: Sequence[Sample], source: str, advance: Advance
) -> dict[str, Any]:
    """The content of ``parity.json`` for one session, which was opened with ``record_nodes``."""
    preprocess = preprocess_from(run.processor)
    first = graph_input(session.input, preprocess, samples[0].read())
    nodes = session.executed_nodes(first[None])
    fused = check_nodes(nodes, run.classifier, session.provider)
    entry = prove(session, model, preprocess, Reference(run), samples, advance)
    entry |= {"input": session.input, "images_from": source, "fused": fused, "executed_nodes": len(nodes)}
    return {"results": {"fp32": {session.provider: entry}}, "reference": REFERENCE}


def prove_again(
    bundle: Bundle,
    run: Run,
    *,
    provider: str,
    threads: int | None,
    count: int | None = None,
    folder: Path | None = None,
    advance: Advance = lambda done: None,
) -> dict[str, Any]:
    """Run parity on a finished bundle and, on held-out images, write the outcome into it.

    After a failure that was written, the bundle fails ``verify`` too; a look at other images
    leaves the bundle as it is.

    Args:
        bundle: an opened bundle; every file is compared with the manifest first.
        run: the run it was exported from.
        provider: the provider to prove.
        threads: threads of the session; the usable cores unless given.
        count: held-out images to use; ``FEWEST_IMAGES`` or all that there are, if left out.
        folder: images to use in place of the held-out ones.
        advance: told how many images are proven.

    Returns:
        The content of ``parity.json``, passed or not; :func:`require_passed` judges it.

    Raises:
        CheckFailed: a file differs from the manifest, or the graph does not run as it must.
    """
    bundle.check_files()
    session = bundle.session(provider=provider, threads=threads, record_nodes=True)
    model = onnx.load(bundle.path / bundle.graph_name())
    samples, source = samples_to_prove(run, count, folder)
    parity = _proof(run, session, model, samples, source, advance)
    if folder is not None:
        return parity
    for precision, by_provider in bundle.parity_results.items():
        parity["results"][precision] = by_provider | parity["results"].get(precision, {})
    write_json(bundle.path / "parity.json", parity)
    bundle.manifest.provenance["parity_sha256"] = sha256_of(bundle.path / "parity.json")
    describe(bundle.path, bundle.manifest)
    bundle.update_manifest()
    return parity


def bisect_bundle(
    bundle: Bundle, run: Run, *, provider: str, threads: int | None, folder: Path | None = None
) -> dict[str, Any]:
    """Find the first node of a bundle's graph that leaves the tolerance; see :func:`export.bisect.bisect`."""
    session = bundle.session(provider=provider, threads=threads)
    model = onnx.load(bundle.path / bundle.graph_name())
    samples, _ = samples_to_prove(run, None, folder)
    return bisect(session, model, bundle.preprocess, Reference(run), samples)


def samples_to_prove(run: Run, count: int | None, folder: Path | None) -> tuple[list[Sample], str]:
    """Held-out images, or those of a folder, and where they come from in words."""
    if folder is not None:
        return [Sample(str(path), path.read_bytes) for path in expand([folder])], str(folder)
    return samples_of(run.held_out(count or FEWEST_IMAGES, exactly=count is not None)), HELD_OUT


def run_of(bundle: Bundle, given: Path | None) -> Run:
    """The run a bundle was exported from, or the one given, if it holds the same checkpoint.

    Raises:
        ToolkitError: it is gone, or another checkpoint than the bundle's.
    """
    path = given or bundle.run
    if not path.is_dir():
        raise ToolkitError("the run folder of the bundle is not here", where=path, fix="give it with --run RUN")
    run = Run(path)
    if run.provenance()["checkpoint_sha256"] != bundle.manifest.provenance.get("checkpoint_sha256"):
        fix = "export the run again, or give the run the bundle was made from with --run"
        raise ToolkitError("the run's best checkpoint is not the one in the bundle", where=path, fix=fix)
    return run


def require_passed(parity: dict[str, Any]) -> None:
    """Raise :class:`CheckFailed` with the figures of the first precision and provider that failed."""
    for precision, by_provider in parity["results"].items():
        for provider, entry in by_provider.items():
            if not entry["passed"]:
                raise CheckFailed(
                    f"parity failed for {precision} on {provider}: max |logit difference| {entry['max_abs_logit']:.2e} "
                    f"(tolerance {entry['tolerance']:.1e}), top-1 agreement {entry['top1_agreement']:.2%} "
                    f"on {entry['images']} images"
                )


def _require_passed_or_explain(
    parity: dict[str, Any], run: Run, session: Session, model: onnx.ModelProto, samples: Sequence[Sample]
) -> None:
    """:func:`require_passed`; a failure comes with the first node that leaves the tolerance."""
    try:
        require_passed(parity)
    except CheckFailed as failure:
        fault = first_fault(bisect(session, model, preprocess_from(run.processor), Reference(run), samples))
        raise CheckFailed(f"{failure}; {fault}") from failure


def _libraries() -> dict[str, str]:
    """Versions that the graph and its proof depend on."""
    found = {name: version(name) for name in LIBRARIES}
    return found | {"onnxruntime": onnxruntime.__version__, "python": platform.python_version()}


def _write_golden(stage: Path, run: Run, session: Session, examples: Sequence[Example]) -> None:
    """A few images as files, with what the reference and the shipped graph make of them."""
    chosen = [examples[place] for place in spread(len(examples), GOLDEN_IMAGES)]
    reference = Reference(run)
    pixel_values = reference.pixel_values([example.decode() for example in chosen])
    (stage / "golden").mkdir()
    names, outputs = [], []
    for number, example in enumerate(chosen):
        content = example.read()
        names.append(f"{number:03d}{suffix_of(content)}")
        (stage / "golden" / names[-1]).write_bytes(content)
        inputs = graph_input(session.input, preprocess_from(run.processor), content)
        outputs.append(session.run(inputs[None])[0])
    Golden(names, pixel_values, reference.logits(pixel_values), {"fp32": np.concatenate(outputs)}).save(stage)
