"""What :mod:`export.latency.tune` finds, from an opened bundle to the bundle with ``serving.json``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export.change import change
from export.latency.accuracy import accuracy_drops
from export.latency.pool import find_pool
from export.latency.tune import Effort, Search, tune
from toolkit.errors import CheckFailed
from toolkit.files import write_bytes
from toolkit.reporting.describe import pages
from toolkit.runtime.bundle import Bundle
from toolkit.runtime.serving import SERVING, Budget, Serving
from toolkit.runtime.session import runnable
from toolkit.runtime.staging import require_writable
from toolkit.runtime.verify import golden_figures, golden_problems, require_sound

if TYPE_CHECKING:
    from export.run import Run

EFFORT = Effort()


def tune_bundle(
    bundle: Bundle,
    budget: Budget,
    *,
    provider: str,
    run: Path | None = None,
    data: Path | None = None,
    images: Path | None = None,
    effort: Effort = EFFORT,
    sign: Path | None = None,
    advance: Callable[[str], object] = lambda what: None,
    announce: Callable[[float], object] = lambda seconds: None,
) -> dict[str, Any]:
    """Tune a bundle; see :func:`export.latency.tune.tune`.

    Args:
        bundle: an opened bundle; every file is compared with the manifest first.
        budget: of latency and accuracy.
        provider: to run on.
        run: the run folder, if it is no longer where the export found it. Without one, accuracy is what parity.json
            holds.
        data: where the run's data is, if it is no longer where its recipe says.
        images: a folder of images to measure latency on.
        effort: how much to count.
        sign: private key to sign the changed bundle with.
        advance: told what is measured.
        announce: told before the search starts how many seconds it will take at most, about.
    """
    require_writable(bundle.path)
    require_sound(bundle)
    pages(bundle.path, bundle.manifest)
    precisions = runnable(bundle.precisions, provider)
    of = _run(bundle, run, data)
    advance("measuring accuracy")
    drops = accuracy_drops(bundle, of, precisions, provider)
    kind = bundle.session(provider=provider, precision=precisions[0]).input
    pool = find_pool(bundle, kind, of, images)
    outcome = tune(Search(bundle, pool, drops, provider, effort, advance=advance, announce=announce), budget)
    serving = outcome.pop("serving")
    _require_golden(bundle, serving)
    with change(bundle, sign) as (folder, _):
        write_bytes(folder / SERVING, (serving.model_dump_json(indent=2) + "\n").encode())
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
    from export.bundle import run_of

    return run_of(bundle, given, data)
