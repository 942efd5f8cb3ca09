"""Is a new bundle slower than an old one? Both measured in alternation, so that the machine's drift cancels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from export.duration import baseline_seconds
from export.latency.bootstrap import bootstrap
from export.latency.measure import REWARM_RUNS, MinSamples, check_sizes, warm_until_steady
from export.latency.pool import Pool, find_pool
from export.latency.runner import Runner, onnxruntime_engine
from toolkit.errors import ToolkitError
from toolkit.progress import SILENT, Progress
from toolkit.runtime.bundle import Bundle
from toolkit.runtime.providers import require_precision, runnable
from toolkit.runtime.verify import require_sound

MAX_REGRESSION = 5.0
"""Percent that a new bundle may be slower."""
PAIRS = 24
"""Blocks of each of the two, in pairs; the order within a pair changes from one to the next."""
MOST_PAIRS = 96
"""Where the interval still holds the limit, pairs are added up to so many."""
RUNS_A_BLOCK = 4
"""Runs of one block, at least; its value is their median."""


@dataclass(frozen=True)
class Gate:
    """What is compared, and what may be lost."""

    provider: str
    batch_sizes: Sequence[int]
    least: MinSamples
    max_regression: float = MAX_REGRESSION
    precision: str | None = None
    threads: int | None = None
    images: Path | None = None
    """Folder of images to draw inputs from; the new bundle's golden ones, if None."""

    def check(self) -> None:
        """Raise unless the limit makes sense.

        Raises:
            ToolkitError: it is negative, or nothing is counted.
        """
        self.least.check()
        check_sizes(self.batch_sizes)
        if not self.max_regression >= 0:
            fix = "give percent, 0 or more"
            raise ToolkitError(f"a limit of {self.max_regression:g} %", where="--max-regression", fix=fix)


def against_baseline(
    new: Bundle,
    old: Bundle,
    gate: Gate,
    *,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """Measure both bundles' graphs of each precision that both hold; ``announce`` is told how long that takes, about.

    Returns:
        ``rows`` with ``precision``, ``batch_size``, ``new_p50_ms``, ``old_p50_ms``, ``ratio`` of the two,
        ``ratio_interval`` (95 %), ``pairs``, ``regression``; ``max_regression``; ``passed``.

    Raises:
        CheckFailed: a file of either differs from its manifest.
        ToolkitError: the bundles have no precision in common, or their graphs take other inputs.
    """
    gate.check()
    for bundle in (new, old):
        require_sound(bundle)
    precisions = [require_precision(gate.precision, gate.provider)] if gate.precision else _common(new, old, gate)
    rows: list[dict[str, Any]] = []
    for precision in precisions:
        engines = [
            onnxruntime_engine(each, provider=gate.provider, threads=gate.threads, precision=precision)
            for each in (new, old)
        ]
        if engines[0].input != engines[1].input:
            what = f"the new graph takes {engines[0].input}, the old {engines[1].input}"
            raise ToolkitError(what, where="--baseline", fix="compare bundles of one kind of input")
        sides = [each.preprocess.output_size for each in (new, old)]
        if sides[0] != sides[1]:
            what = f"the new network takes images of {_side(sides[0])} pixels, the old of {_side(sides[1])}"
            raise ToolkitError(what, where="--baseline", fix="compare bundles of one size of input")
        pool = find_pool(new, engines[0].input, None, gate.images)
        if not rows:
            smallest = min(gate.batch_sizes)
            one = max(engine.warm_up(pool.batches(smallest), 2)[1] for engine in engines) / smallest
            progress.expect(baseline_seconds(len(precisions), one, gate.batch_sizes, gate.least, PAIRS))
        for size in gate.batch_sizes:
            rows.append({"precision": precision, "provider": gate.provider, "batch_size": size})
            rows[-1] |= compare_engines(engines[0], engines[1], pool, size, gate, progress=progress)
    passed = not any(row["regression"] for row in rows)
    return {"baseline": str(old.path), "rows": rows, "max_regression": gate.max_regression, "passed": passed}


def compare_engines(
    new: Runner, old: Runner, pool: Pool, batch_size: int, gate: Gate, *, progress: Progress = SILENT
) -> dict[str, Any]:
    """Compare two engines at one batch size; a regression is a ratio past the limit that chance doesn't explain.

    The ratio is the median over pairs of neighbouring blocks, its interval a percentile bootstrap over the pairs.
    Where the interval still holds the limit, more pairs are measured, so that the verdict does not hang on luck.
    """
    limit = 1 + gate.max_regression / 100
    batches = pool.batches(batch_size)
    warm_ups = [warm_until_steady(engine, batches, max(0.2, gate.least.seconds)) for engine in (new, old)]
    one = max(each.run_seconds for each in warm_ups)
    a_block = max(RUNS_A_BLOCK, -(-max(gate.least.runs, round(gate.least.seconds / one)) // PAIRS))
    pairs: list[tuple[float, float]] = []
    counted: dict[str, list[float]] = {"new": [], "old": []}
    while len(pairs) < MOST_PAIRS:
        for _ in range(PAIRS):
            order = [("new", new), ("old", old)]
            for which, engine in order if len(pairs) % 2 == 0 else reversed(order):
                engine.warm_up(batches, REWARM_RUNS)
                counted[which] += engine.measure(batches, a_block, len(counted[which])).seconds
                progress.step()
            pairs.append((float(np.median(counted["new"][-a_block:])), float(np.median(counted["old"][-a_block:]))))
        ratio, interval = _ratio(np.array(pairs))
        if not interval[0] <= limit <= interval[1]:
            break
    return {
        "new_p50_ms": 1000 * float(np.median(counted["new"])),
        "old_p50_ms": 1000 * float(np.median(counted["old"])),
        "ratio": ratio,
        "ratio_interval": interval,
        "threads": new.threads,
        "pairs": len(pairs),
        "runs": len(counted["new"]),
        "regression": ratio > limit and interval[0] > 1,
    }


def _side(size: tuple[int, int] | None) -> str:
    return "x".join(map(str, size or ()))


def _ratio(pairs: npt.NDArray[np.float64]) -> tuple[float, list[float]]:
    """Median ratio new to old of the pairs [pairs, 2], and its 95 % interval."""
    ratios = pairs[:, 0] / pairs[:, 1]
    low, high = bootstrap(ratios, lambda part: np.median(part, axis=1))
    return float(np.median(ratios)), [float(low), float(high)]


def _common(new: Bundle, old: Bundle, gate: Gate) -> list[str]:
    """Precisions that both bundles hold and the provider runs."""
    both = [each for each in runnable(new.precisions, gate.provider) if each in old.precisions]
    if not both:
        what = f"the bundles share no precision: {', '.join(new.precisions)} and {', '.join(old.precisions)}"
        raise ToolkitError(what, where=old.path, fix="give a baseline that holds one of them")
    return both
