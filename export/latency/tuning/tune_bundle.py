"""What :mod:`export.latency.tuning.search` finds, from an opened bundle to the bundle with ``serving.json``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export.change import BUNDLE, Target, change
from export.latency.pool import find_pool
from export.latency.tuning.accuracy import accuracy_drops
from export.latency.tuning.photographs import find_photographs
from export.latency.tuning.reduced_jpeg import prove_reduced_jpeg
from export.latency.tuning.search import Effort, Search, tune, with_files
from toolkit.errors import CheckFailed
from toolkit.files import write_json
from toolkit.progress import SILENT, Progress
from toolkit.runtime.bundle import Bundle
from toolkit.runtime.providers import runnable, several_providers
from toolkit.runtime.serving import SERVING, Budget, Serving
from toolkit.runtime.verify import golden_figures, golden_problems, require_sound

if TYPE_CHECKING:
    from toolkit.runs.finished_run import Run

EFFORT = Effort()


@dataclass(frozen=True)
class Sources:
    """What is no longer where the export found it."""

    run: Path | None = None
    """Run folder, whose validation images tell what a precision loses."""
    data: Path | None = None
    """The run's data."""
    images: Path | None = None
    """Folder of images to measure latency on, in place of the run's held-out ones."""


AS_EXPORTED = Sources()


def tune_bundle(
    bundle: Bundle,
    budget: Budget,
    *,
    provider: str,
    sources: Sources = AS_EXPORTED,
    effort: Effort = EFFORT,
    reduced_jpeg: bool = False,
    to: Target = BUNDLE,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """Tune a bundle; see :func:`export.latency.tuning.search.tune`.

    Args:
        bundle: an opened bundle; every file is compared with the manifest first.
        budget: of latency and accuracy.
        provider: to run on; or several of ``cpu`` and ``openvino``, comma-separated, of which the best is taken.
        sources: where the run and images are. Without a run, accuracy is what parity.json holds.
        effort: how much to count.
        reduced_jpeg: decode JPEGs at the scale that the network needs, where images show with 95 % confidence that at
            least 99.5 % of decisions stay the same; see
            :func:`export.latency.tuning.reduced_jpeg.prove_reduced_jpeg`.
        to: where the choice is written.
        progress: told how it goes on.
    """
    require_sound(bundle)
    to.check(bundle)
    provider, *others = several_providers(provider)
    precisions = runnable(bundle.precisions, provider)
    further = {each: runnable(bundle.precisions, each) for each in others}
    of = _run(bundle, sources.run, sources.data)
    kind = bundle.session(provider=provider, precision=precisions[0]).input
    photographs = None
    if reduced_jpeg:
        validation = None if of is None or sources.images else of.data.splits["validation"]
        photographs = find_photographs(bundle, kind, validation, sources.images, progress)
    progress.stage("measuring accuracy")
    drops = accuracy_drops(bundle, of, precisions, provider)
    beside = {each: accuracy_drops(bundle, of, names, each) for each, names in further.items()}
    pool = find_pool(bundle, kind, of, sources.images)
    search = Search(bundle, pool, drops, provider, effort, progress=progress, beside=beside)
    outcome = tune(search, budget)
    serving = outcome.pop("serving")
    _require_golden(bundle, serving)
    if photographs is not None:
        proof = prove_reduced_jpeg(bundle, serving, photographs, progress)
        serving = serving.model_copy(update={"reduced_jpeg": proof})
    content = with_files(search, serving).model_dump(mode="json")
    outcome["chosen"] = content
    if not to.wrote(content):
        with change(bundle, to.key) as (folder, _):
            write_json(folder / SERVING, content)
    return outcome


def _require_golden(bundle: Bundle, chosen: Serving) -> None:
    """Raise :class:`CheckFailed` unless the choice, as it will run, gives what was exported."""
    session = bundle.session(
        provider=chosen.provider,
        precision=chosen.precision,
        threads=chosen.threads,
        session_options=chosen.session_options,  # type: ignore[arg-type]
        provider_options=chosen.provider_options,  # type: ignore[arg-type]
        batch_size=chosen.batch_size,
    )
    problems = golden_problems(chosen.precision, golden_figures(bundle, chosen.precision, session))
    if problems:
        raise CheckFailed(f"nothing was written: as it was chosen, {'; '.join(problems)}")


def _run(bundle: Bundle, given: Path | None, data: Path | None) -> Run | None:
    """The bundle's run, where it is and what it takes to read it is installed."""
    if given is None and data is None and not bundle.run.is_dir():
        return None
    from toolkit.runs.finished_run import run_of

    return run_of(bundle, given, data)
