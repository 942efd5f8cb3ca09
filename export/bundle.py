"""A run becomes a bundle: graph, parity, golden images, card and report, whole or not at all."""

from __future__ import annotations

import datetime
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from export.graph import export_graph
from export.parity import (
    FEWEST_IMAGES,
    compare,
    noise_floor,
    reference_inputs,
    reference_logits,
)
from export.run import Run
from toolkit import __version__
from toolkit.data.source import Example
from toolkit.errors import CheckFailed, ToolkitError
from toolkit.files import staged_folder, write_json
from toolkit.models.processing import preprocess_from
from toolkit.reporting.describe import describe
from toolkit.runtime.bundle import GRAPHS, MANIFEST, Bundle, Golden, Manifest, write_manifest
from toolkit.runtime.decode import decode, suffix_of
from toolkit.runtime.predict import expand
from toolkit.runtime.preprocess import Float32
from toolkit.runtime.session import Session

GOLDEN_IMAGES = 8
HELD_OUT = "held-out images of the run's data set, test split first"


def export_bundle(
    run: Run,
    out: Path,
    *,
    provider: str = "cpu",
    images: int = FEWEST_IMAGES,
    threads: int | None = None,
    force: bool = False,
) -> dict[str, Any]:
    """Export, prove and pack a run; ``out`` appears only if parity passed.

    Args:
        run: a finished run.
        out: folder to be.
        provider: the provider that parity runs on.
        images: held-out images that parity uses at least, where the data set has as many.
        threads: threads of the session; the usable cores unless given.
        force: replace a bundle that is already there.

    Returns:
        The content of ``parity.json``.

    Raises:
        CheckFailed: parity failed.
        ToolkitError: the run, its data or ``out`` is not usable.
    """
    classifier, processor = run.classifier, run.processor
    preprocess = preprocess_from(processor)
    with staged_folder(out, what="bundle", marker=MANIFEST, replace=force) as stage:
        provenance = run.provenance()
        graph = stage / GRAPHS["fp32"]
        export_graph(classifier, preprocess, provenance, graph)
        write_json(stage / "labels.json", classifier.labels)
        write_json(stage / "preprocess.json", preprocess.model_dump(mode="json"))
        examples = run.held_out(images)
        session = Session(graph, provider=provider, threads=threads)
        labels = [example.label for example in examples]
        parity, pixel_values, logits = prove(run, session, (example.decode() for example in examples), labels, HELD_OUT)
        require_passed(parity)
        write_json(stage / "parity.json", parity)
        _write_golden(stage, examples, pixel_values, logits)
        created = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        manifest = Manifest(toolkit_version=__version__, created=created, provenance=provenance)
        for plot in sorted((run.path / "plots").glob("*.png")):
            (stage / "plots").mkdir(exist_ok=True)
            shutil.copyfile(plot, stage / "plots" / plot.name)
        describe(stage, manifest)
        write_manifest(stage, manifest)
    return parity


def prove(
    run: Run, session: Session, images: Iterable[Image.Image], labels: Sequence[int] | None, source: str
) -> tuple[dict[str, Any], Float32, Float32]:
    """Compare a session with the run's PyTorch model on real images.

    Args:
        run: where the reference model and its image processor come from.
        session: the shipped graph, opened as production opens it.
        images: decoded images.
        labels: their classes, where known.
        source: where the images come from, in words.

    Returns:
        The content of ``parity.json``, and the reference's ``pixel_values`` and logits.
    """
    pixel_values = reference_inputs(run.processor, images)
    expected = reference_logits(run.classifier, pixel_values)
    floor = noise_floor(run.classifier, pixel_values, expected)
    entry = compare(session, pixel_values, expected, "fp32", floor) | {"images_from": source}
    if labels is not None:
        entry["reference_accuracy"] = float((expected.argmax(-1) == np.array(labels)).mean())
    reference = "transformers' forward pass and the head in PyTorch fp32, the training-time image processor"
    return {"results": {"fp32": {session.provider: entry}}, "reference": reference}, pixel_values, expected


def prove_again(
    bundle: Bundle,
    run: Run,
    *,
    provider: str,
    threads: int | None,
    count: int = FEWEST_IMAGES,
    folder: Path | None = None,
) -> dict[str, Any]:
    """Run parity on a finished bundle and, on held-out images, write the outcome into it.

    After a failure that was written, the bundle fails ``verify`` too; a look at other images
    leaves the bundle as it is.

    Args:
        bundle: an opened bundle; every file is compared with the manifest first.
        run: the run it was exported from.
        provider: the provider to prove.
        threads: threads of the session; the usable cores unless given.
        count: held-out images to use, where there are as many.
        folder: images to use in place of the held-out ones.

    Returns:
        The content of ``parity.json``, passed or not; :func:`require_passed` judges it.

    Raises:
        CheckFailed: a file differs from the manifest.
    """
    bundle.check_files()
    session = bundle.session(provider=provider, threads=threads)
    if folder is not None:
        return prove(run, session, map(decode, expand([folder])), None, str(folder))[0]
    examples = run.held_out(count)
    labels = [example.label for example in examples]
    parity, _, _ = prove(run, session, (example.decode() for example in examples), labels, HELD_OUT)
    for precision, by_provider in bundle.parity_results.items():
        parity["results"][precision] = by_provider | parity["results"].get(precision, {})
    write_json(bundle.path / "parity.json", parity)
    describe(bundle.path, bundle.manifest)
    bundle.update_manifest()
    return parity


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
                    f"(tolerance {entry['tolerance']:.0e}), top-1 agreement {entry['top1_agreement']:.2%} "
                    f"on {entry['images']} images"
                )


def _write_golden(stage: Path, examples: Sequence[Example], pixel_values: Float32, logits: Float32) -> None:
    chosen = np.linspace(0, len(examples) - 1, min(GOLDEN_IMAGES, len(examples))).round().astype(int)
    (stage / "golden").mkdir()
    names = []
    for number, index in enumerate(chosen):
        content = examples[index].read()
        names.append(f"{number:03d}{suffix_of(content)}")
        (stage / "golden" / names[-1]).write_bytes(content)
    Golden(names, pixel_values[chosen], logits[chosen]).save(stage)
