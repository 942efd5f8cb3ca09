"""Parity of a finished bundle, again: on held-out images, or on any others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from export.change import BUNDLE, Target, change
from export.graph.external_data import read_shell
from export.parity.bisect import bisect
from export.parity.proof import Proof
from export.parity.prove import BATCH_SIZES
from export.parity.reference import Reference
from toolkit.data.labelled_image import UNLABELLED, LabelledImage
from toolkit.data.listing import WholeFile
from toolkit.files import sha256_of
from toolkit.progress import SILENT, Progress
from toolkit.runs.finished_run import Run
from toolkit.runtime.bundle import Bundle
from toolkit.runtime.image_files import expand
from toolkit.runtime.parity_file import write_parity
from toolkit.runtime.providers import require_precision, runnable

FEWEST_IMAGES = 256
"""Held-out images that parity uses where there are as many."""
REFERENCE = "transformers' forward pass and the head in PyTorch fp32, the training-time image processor"
BEHIND_TRUNK = (
    "the trunk that the run learned on, the groups that learned in PyTorch fp32, the training-time image processor"
)


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
    parity: dict[str, Any] = {"results": {}, "reference": reference_of(run)}
    for each in provable:
        session = bundle.session(
            provider=provider,
            threads=threads,
            precision=each,
            record_nodes=True,
            batch_size=None if bundle.tuned_for(provider, each) else max(BATCH_SIZES),
        )
        model = read_shell(bundle.path / bundle.graph_name(each))
        entry = (
            Proof.begin(session, model, bundle.preprocess, reference, samples, bundle.tokenizer)
            .outcome(source, progress)
            .entry
        )
        before = bundle.parity_results.get(each, {}).get(provider, {})
        parity["results"][each] = {provider: entry | {"temperature": before.get("temperature")}}
    if folder is None:
        parity = bundle.parity | parity
        for known, by_provider in bundle.parity_results.items():
            parity["results"][known] = by_provider | parity["results"].get(known, {})
    if to.wrote(parity) or folder is not None:
        return parity
    with change(bundle, to.key if all(_passed(parity)) else None) as (stage, manifest):
        write_parity(stage, parity)
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
    model = read_shell(bundle.path / bundle.graph_name(precision))
    session.close()
    samples, _ = samples_to_prove(run, None, folder)
    return bisect(session, model, bundle.preprocess, Reference(run), samples)


def samples_to_prove(run: Run, count: int | None, folder: Path | None) -> tuple[list[LabelledImage], str]:
    """Held-out images, or those of a folder, and where they come from in words."""
    if folder is not None:
        run.require_no_texts(folder)
        samples = [
            LabelledImage(path, UNLABELLED, WholeFile(str(path)), value_range=run.value_range)
            for path in expand([folder])
        ]
        return samples, str(folder)
    return run.held_out(count or FEWEST_IMAGES, exactly=count is not None), run.images_from


def reference_of(run: Run) -> str:
    """What the graphs are held against, in words."""
    return BEHIND_TRUNK if run.trunk else REFERENCE


def _passed(parity: dict[str, Any]) -> Iterator[bool]:
    return (entry["passed"] for by_provider in parity["results"].values() for entry in by_provider.values())
