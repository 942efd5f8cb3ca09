"""The proof that JPEGs may be decoded at the scale that the network needs: the served graph decides the same.

Images are compared as the served graph decides them, decoded in full and decoded smaller. What is held is agreement,
not accuracy, so images without labels serve: photographs as production sees them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from export.latency.measure import MinSamples, alternate
from export.latency.pool import SEED
from export.latency.runner import Runner
from export.parity.agreement import agreement
from toolkit.errors import CheckFailed, ToolkitError
from toolkit.metrics.intervals import images_needed
from toolkit.progress import SILENT, Progress
from toolkit.runtime.bundle import Bundle
from toolkit.runtime.decode import UnreadableImageError, read_encoded
from toolkit.runtime.examples import ExampleReader, ImageText
from toolkit.runtime.image_files import expand
from toolkit.runtime.inputs import stacked
from toolkit.runtime.preprocess import Float32
from toolkit.runtime.reduced_jpeg import ReducedJpeg, ReducedPreprocess
from toolkit.runtime.serving import Serving
from toolkit.sampling import evenly_spaced
from toolkit.serving.pool import BundlePool, open_pool
from toolkit.serving.predictor import Deferred, Predictor

if TYPE_CHECKING:
    from toolkit.runs.finished_run import Run

AGREEMENT = 0.995
"""Share of decisions that must stay, to the lower end of its confidence interval."""
MOST = 3000
"""Images that are compared."""
TIMED, LEAST = 64, MinSamples(40, 2.0)
"""Images that are timed, and how often."""
Photographs = dict[str, Deferred]
"""What reads each image and its text when its turn comes, by name."""


def prove_reduced_jpeg(
    bundle: Bundle, serving: Serving, run: Run | None, images: Path | None, progress: Progress = SILENT
) -> ReducedJpeg:
    """Compare decisions, and the milliseconds of a request.

    Args:
        bundle: opened.
        serving: provider, precision, sessions and batch size that are to be served.
        run: whose validation images are compared where no folder is given.
        images: a folder of images.
        progress: told how many images are compared.

    Raises:
        CheckFailed: fewer decisions than ``AGREEMENT`` stay the same.
        ToolkitError: too few images are JPEGs that decode smaller; a bundle of texts alone.
    """
    if not bundle.takes_images:
        raise ToolkitError("the bundle takes texts alone, and no image", where="--reduced-jpeg", fix="leave it out")
    progress.stage("decoding JPEGs smaller")
    with open_pool(bundle, serving=serving.model_copy(update={"reduced_jpeg": None})) as pool:
        full, reduced = (bundle.reader(pool.input, reduced_jpeg=smaller) for smaller in (False, True))
        source, found = _in_folder(full, bundle, images) if images else _held_out(full, run)
        photographs = _reducible(found, ReducedPreprocess.of(bundle.preprocess))
        _require_enough(photographs, source, bundle)
        expected = _logits(bundle, pool, full, photographs, progress)
        logits = _logits(bundle, pool, reduced, photographs, progress)
        same = agreement(bundle.decision, expected, logits, list(photographs))
        if same["top1_agreement_at_least"] < AGREEMENT:
            raise CheckFailed(
                f"nothing was written: {same['flip_count']:,} of {len(photographs):,} JPEGs of {source} get another "
                f"decision where they are decoded smaller, so agreement is at least "
                f"{same['top1_agreement_at_least']:.2%} with 95 % confidence, and {AGREEMENT:.1%} is asked; "
                f"leave --reduced-jpeg out"
            )
        full_ms, reduced_ms = _milliseconds(pool, (full, reduced), photographs)
    return ReducedJpeg(
        images=len(photographs),
        source=source,
        top1_agreement=same["top1_agreement"],
        top1_agreement_at_least=same["top1_agreement_at_least"],
        flip_count=same["flip_count"],
        largest_flip_margin=same["largest_flip_margin"],
        max_abs_logit=float(np.abs(expected - logits).max()),
        full_ms=full_ms,
        reduced_ms=reduced_ms,
    )


def _in_folder(reader: ExampleReader, bundle: Bundle, folder: Path) -> tuple[str, Photographs]:
    """Images of a folder in a seeded order; the golden texts beside them in turns, where the graph takes texts."""
    files = expand([folder])
    chosen = np.random.default_rng(SEED).permutation(len(files))[:MOST]
    texts = cycle(bundle.golden().texts or [None]) if reader.takes_text else cycle([None])

    def read(path: Path, text: str | None) -> ImageText:
        return ImageText(read_encoded(path), text)

    return str(folder), {str(files[place]): partial(read, files[place], next(texts)) for place in sorted(chosen)}


def _held_out(reader: ExampleReader, run: Run | None) -> tuple[str, Photographs]:
    if run is None:
        fix = "give photographs as production sees them with --images, or the run with --run"
        raise ToolkitError("the run is not here, and no folder is given", where="--reduced-jpeg", fix=fix)
    members = run.data.splits["validation"]
    chosen = [members[place] for place in evenly_spaced(len(members), MOST)]
    return "the validation split", {str(each.path): partial(each.taken_by, reader) for each in chosen}


def _reducible(found: Photographs, preprocess: ReducedPreprocess) -> Photographs:
    """The JPEGs that decode smaller; what can't be read is left out."""

    def is_reducible(source: Deferred) -> bool:
        try:
            given = source()
        except UnreadableImageError:
            return False
        return isinstance(given, ImageText) and isinstance(given.image, bytes) and preprocess.reduces(given.image)

    return {name: source for name, source in found.items() if is_reducible(source)}


def _require_enough(photographs: Photographs, source: str, bundle: Bundle) -> None:
    needed = images_needed(1 - AGREEMENT)
    if len(photographs) >= needed:
        return
    side = 2 * max(bundle.preprocess.size)
    what = (
        f"{len(photographs):,} JPEGs of {source} have {side} or more pixels on each side and so decode smaller; it "
        f"takes {needed:,} without another decision to prove that {AGREEMENT:.1%} stay"
    )
    raise ToolkitError(what, where="--reduced-jpeg", fix="give more photographs as production sees them with --images")


def _logits(
    bundle: Bundle, pool: BundlePool, reader: ExampleReader, photographs: Photographs, progress: Progress
) -> Float32:
    """Logits [images, classes]."""
    rows = []
    for predicted in Predictor(bundle, pool, reader)(photographs.values()):
        if isinstance(predicted, ToolkitError):
            raise predicted
        rows.append(predicted.logits)
        progress.done(len(rows), len(photographs))
    return np.stack(rows)


def _milliseconds(pool: BundlePool, readers: Sequence[ExampleReader], photographs: Photographs) -> list[float]:
    """Median of a request by each reader, from the encoded file to the logits, in alternating turns."""
    session = pool.sessions[0]

    def request(feed: Any, reader: ExampleReader) -> Any:
        return session.run(stacked([reader(feed["source"])]))

    contents: list[Any] = [{"source": source()} for source in list(photographs.values())[:TIMED]]
    precision, provider = pool.precision, session.provider
    engines = [Runner("", precision, provider, 1, partial(request, reader=reader)) for reader in readers]
    return [1000 * float(np.median(samples.seconds)) for samples in alternate(engines, contents, LEAST)]
