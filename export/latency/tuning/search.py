"""The configuration to ship under a budget: searched, measured again, written into the bundle."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import count
from typing import Any, Self

import numpy as np

from export.duration import tune_seconds
from export.latency.measure import MinSamples
from export.latency.pool import SEED, Pool
from export.latency.runner import Runner, onnxruntime_engine
from export.latency.scenarios.concurrency import LayoutRuns, SessionLayout, concurrency, layouts_on, session_options
from export.latency.scenarios.server import Server, serve
from export.latency.system_monitor import monitored
from export.latency.tuning.accuracy import Drop
from export.latency.tuning.throughput import files_per_second
from export.parity.agreement import Verdict, verdict
from toolkit.errors import CheckFailed, ToolkitError
from toolkit.progress import SILENT, Progress
from toolkit.runtime.bundle import Bundle
from toolkit.runtime.machine import describe_machine, usable_cores
from toolkit.runtime.openvino_library import OPENVINO
from toolkit.runtime.serving import Budget, Expected, Serving

BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)
ROUGH, FINAL, SERVED, CONFIRM = MinSamples(20, 0.6), MinSamples(200, 8.0), MinSamples(200, 5.0), MinSamples(300, 15.0)
FILES = MinSamples(5, 5.0)
FINALISTS = 4
GROWTH = 1.03
"""What a batch twice as large must gain in throughput for the next to be tried."""
HEADROOM = 0.9
"""Share of the latency budget that the upper end of p99's interval may use: the machine is not always as quiet."""


@dataclass(frozen=True)
class Effort:
    """How much is counted."""

    rough: MinSamples = ROUGH
    """Of each configuration in the search."""
    final: MinSamples = FINAL
    """Of each finalist, over all rounds."""
    rounds: int = 5
    """Turns of the finalists, so that what disturbs the machine hits all of them."""
    served: MinSamples = SERVED
    """Of each finalist at the rate asked for."""
    confirm: MinSamples = CONFIRM
    """Of the choice, once more and apart."""
    files: MinSamples = FILES
    """Of the choice, from encoded files on."""


@dataclass(frozen=True)
class Configuration:
    """A precision, a batch size, sessions and threads."""

    precision: str
    batch_size: int
    layout: SessionLayout
    drop: Drop
    provider: str = "cpu"

    def judged(self, budget: Budget) -> Verdict:
        """Whether its precision keeps the accuracy budget."""
        return verdict(self.precision, self.drop.points, self.drop.at_most, budget.max_accuracy_drop)

    def describe(self) -> str:
        """The configuration in words."""
        layout = self.layout
        spinning = "" if layout.allow_spinning else ", pools that sleep"
        options = "".join(f", {name}={value}" for name, value in layout.provider_options.items())
        sessions = f"{layout.sessions} x {layout.threads} threads"
        runtime = " on OpenVINO" if self.provider == OPENVINO else ""
        return f"{self.precision}{runtime}, batch {self.batch_size}, {sessions}{spinning}{options}"


@dataclass(frozen=True)
class Measured:
    """What was measured of a configuration."""

    configuration: Configuration
    runs: LayoutRuns
    metrics: Mapping[str, Any]
    """The row of all its runs."""
    served: Mapping[str, Any] | None = None
    """At the rate asked for, if one was."""
    confirmed: bool | None = None
    """Whether it kept the budget when it was measured once more; None if it was not."""

    @classmethod
    def of(cls, configuration: Configuration, runs: LayoutRuns) -> Self:
        """A configuration with its runs."""
        return cls(configuration, runs, runs.row())

    @property
    def p99_ms(self) -> float:
        """Of a request, milliseconds."""
        measured = (self.served or {}).get("p99_ms", self.metrics.get("p99_ms"))
        return float("inf") if measured is None else float(measured)

    @property
    def p99_ms_at_most(self) -> float:
        """Upper end of p99's 95 % interval."""
        of = self.served if self.served is not None else self.metrics
        interval = (of.get("intervals") or {}).get("p99_ms")
        return float(interval[1]) if interval else self.p99_ms

    @property
    def throughput_ips(self) -> float:
        """Of all sessions, images a second."""
        return float(self.metrics.get("throughput_ips") or 0.0)

    def keeps_latency(self, budget: Budget) -> bool:
        """Whether p99 stays within the budget with some headroom, and the rate is kept up with."""
        saturated = self.served is not None and (self.served["saturated"] or self.served["dropped"] > 0)
        return not saturated and self.p99_ms_at_most <= HEADROOM * budget.p99_ms

    def row(self, budget: Budget, *, final: bool) -> dict[str, Any]:
        """For the table and the JSON."""
        of = self.configuration
        return {
            "provider": of.provider,
            "precision": of.precision,
            "batch_size": of.batch_size,
            "sessions": of.layout.sessions,
            "threads": of.layout.threads,
            "allow_spinning": of.layout.allow_spinning,
            "provider_options": dict(of.layout.provider_options),
            "p50_ms": self.metrics.get("p50_ms"),
            "p99_ms": None if self.p99_ms == float("inf") else self.p99_ms,
            "p99_ms_at_most": None if self.p99_ms_at_most == float("inf") else self.p99_ms_at_most,
            "throughput_ips": self.throughput_ips,
            "accuracy_drop": of.drop.points,
            "accuracy_drop_interval": list(of.drop.interval),
            "accuracy_drop_at_most": of.drop.at_most,
            "accuracy_verdict": of.judged(budget),
            "finalist": final,
            "within_budget": final
            and of.judged(budget) != "over"
            and self.keeps_latency(budget)
            and self.confirmed is not False,
            "confirmed": self.confirmed,
            "served": self.served,
            "note": self.runs.note,
        }


@dataclass(frozen=True)
class Search:
    """Where configurations are looked for."""

    bundle: Bundle
    pool: Pool
    drops: dict[str, Drop]
    """What each precision that may be shipped loses."""
    provider: str
    effort: Effort = Effort()
    cores: int = field(default_factory=usable_cores)
    progress: Progress = SILENT
    beside: Mapping[str, dict[str, Drop]] = field(default_factory=dict)
    """The same of further providers, of which the best is taken."""

    def all_drops(self) -> dict[str, Drop]:
        """What each precision loses; on a further provider it is called ``int8 on openvino``."""
        others = {f"{name} on {on}": drop for on, drops in self.beside.items() for name, drop in drops.items()}
        return self.drops | others

    def eligible(self, budget: Budget) -> list[tuple[str, str, Drop]]:
        """Providers and precisions that keep the accuracy budget; where images are too few, those that may keep it."""
        found = [(on, each, drop) for on, drops in self._by_provider.items() for each, drop in drops.items()]
        most = budget.max_accuracy_drop
        judged = [verdict(precision, drop.points, drop.at_most, most) for _, precision, drop in found]
        wanted = "kept" if "kept" in judged else "undecided"
        return [each for each, verdict_of in zip(found, judged, strict=True) if verdict_of == wanted]

    @property
    def _by_provider(self) -> dict[str, dict[str, Drop]]:
        return {self.provider: self.drops, **self.beside}

    def expected_seconds(self, budget: Budget) -> float:
        """Seconds that the search and what follows it take at most, about, from the second run of each precision."""
        batches = self.pool.batches(1)
        runs = [
            onnxruntime_engine(self.bundle, provider=provider, threads=self.cores, precision=precision).warm_up(
                batches, 2
            )[1]
            for provider, precision, _ in self.eligible(budget)
        ]
        finals = [self.effort.final, *([self.effort.served] if budget.rate is not None else [])]
        return tune_seconds(
            runs,
            max(len(layouts_on(provider, self.cores)) for provider in self._by_provider),
            BATCH_SIZES,
            budget.p99_ms / 1000,
            rough=self.effort.rough,
            apart=[*finals * FINALISTS, self.effort.confirm, self.effort.files],
        )

    def opener(self, configuration: Configuration, kept: list[Runner] | None = None) -> Callable[[object], Runner]:
        """Opens a configuration's sessions one after the other, those that are kept first; keeps what it opens."""
        kept = [] if kept is None else kept
        opened = count()

        def open_session(_: object) -> Runner:
            place = next(opened)
            if place == len(kept):
                kept.append(
                    onnxruntime_engine(
                        self.bundle,
                        provider=configuration.provider,
                        threads=configuration.layout.threads,
                        precision=configuration.precision,
                        session_options=session_options(configuration.layout, configuration.provider),
                        provider_options=configuration.layout.provider_options,
                        batch_size=configuration.batch_size,
                    )
                )
            return kept[place]

        return open_session

    def measure(self, configuration: Configuration, least: MinSamples, *, kept: list[Runner] | None = None) -> Measured:
        """Count a configuration, over sessions that are kept if there are."""
        self.progress.stage(configuration.describe())
        (runs,) = concurrency(
            self.opener(configuration, kept),
            self.pool,
            [configuration.layout],
            least,
            batch_size=configuration.batch_size,
            blocks=1,
        )
        return Measured.of(configuration, runs)

    def candidates(self, budget: Budget) -> list[Measured]:
        """Every precision, sessions and threads, at batch sizes that grow until they are too slow or gain nothing."""
        found = []
        for provider, precision, drop in self.eligible(budget):
            for layout in layouts_on(provider, self.cores):
                best = 0.0
                kept: list[Runner] = []
                for batch_size in BATCH_SIZES:
                    if provider == "tensorrt":
                        kept = []  # its engine is built for the batch
                    configuration = Configuration(precision, batch_size, layout, drop, provider)
                    found.append(self.measure(configuration, self.effort.rough, kept=kept))
                    slow = not found[-1].metrics["p50_ms"] or found[-1].metrics["p50_ms"] > budget.p99_ms
                    if slow or found[-1].throughput_ips < GROWTH * best:
                        break
                    best = found[-1].throughput_ips
        return found

    def finals(self, finalists: Sequence[Measured], budget: Budget) -> list[Measured]:
        """The finalists measured again, in turns, and at the rate asked for."""
        rounds, final = self.effort.rounds, self.effort.final
        a_round = MinSamples(-(-final.runs // rounds), final.seconds / rounds)
        runs = [LayoutRuns(each.configuration.layout, each.configuration.batch_size) for each in finalists]
        for turn in range(rounds):
            places = range(len(finalists))
            for place in places if turn % 2 == 0 else reversed(places):
                runs[place] += self.measure(finalists[place].configuration, a_round).runs
        measured = [Measured.of(each.configuration, counted) for each, counted in zip(finalists, runs, strict=True)]
        if budget.rate is None:
            return measured
        served = self.effort.served
        return [
            replace(each, served=self.served(each.configuration, budget.rate, served, seed=SEED)) for each in measured
        ]

    def served(self, configuration: Configuration, rate: float, least: MinSamples, *, seed: int) -> dict[str, Any]:
        """Offer a configuration so many requests a second."""
        self.progress.stage(f"{configuration.describe()}, {rate:g} requests a second")
        opener = self.opener(configuration)
        engines = [opener(configuration) for _ in range(configuration.layout.sessions)]
        return serve(Server(engines, self.pool, configuration.batch_size), rate, least, seed=seed)

    def confirmed(self, best: Measured, budget: Budget) -> Measured:
        """Measure the best once more, later: what came out best of several looks better than it is.

        Returns:
            Both measurements together, ``confirmed`` if the budget is kept by the second alone and by both; at a
            rate the second alone, whose requests arrive at other times.
        """
        configuration = best.configuration
        if budget.rate is not None:
            served = self.served(configuration, budget.rate, self.effort.confirm, seed=SEED + 1)
            again = replace(best, served=served)
            return replace(again, confirmed=again.keeps_latency(budget))
        alone = self.measure(configuration, self.effort.confirm)
        both = Measured.of(configuration, best.runs + alone.runs)
        return replace(both, confirmed=alone.keeps_latency(budget) and both.keeps_latency(budget))


def tune(search: Search, budget: Budget) -> dict[str, Any]:
    """Search, measure the best again, and write the choice into the bundle.

    The choice is the highest throughput among the configurations whose p99, to the upper end of its interval, uses
    at most 90 % of the budget, once more in a measurement of its own, and whose precision loses no more accuracy than
    allowed, by the upper bound of its loss. With a rate, p99 is that of requests that arrive at random at that rate;
    without one, that of runs that follow each other.

    Returns:
        ``tried``: a row a configuration, Pareto-optimal ones marked; ``serving``: the choice;
        ``budget``; ``accuracy``; ``disturbances``, sentences about what slowed the machine down meanwhile.

    Raises:
        CheckFailed: nothing fits, with what comes nearest; the bundle is left as it was.
    """
    _require_accuracy(search, budget)
    with search.bundle.holding(), monitored(search.provider) as conditions:
        search = replace(search, progress=conditions.between_blocks(search.progress))
        search.progress.expect(search.expected_seconds(budget))
        found = search.candidates(budget)
        finalists: list[Measured] = []
        ranked, best = _ranked(found, budget), None
        while ranked and best is None:
            measured = search.finals(ranked[:FINALISTS], budget)
            order = sorted(range(len(measured)), key=lambda place: -measured[place].throughput_ips)
            for place in [place for place in order if measured[place].keeps_latency(budget)]:
                measured[place] = search.confirmed(measured[place], budget)
                if measured[place].confirmed:
                    best = measured[place]
                    break
            finalists, ranked = finalists + measured, ranked[FINALISTS:]
    disturbances = conditions.facts["throttled"]
    if best is None:
        raise nothing_keeps(budget, finalists, disturbances)
    serving = _serving(search, best, budget)
    newest = [next((final for final in finalists if final.configuration == each.configuration), each) for each in found]
    rows = [each.row(budget, final=each in finalists) for each in newest]
    # with a rate, only what was served at that rate has a p99 that may be compared
    optimal = pareto(
        [(row["p99_ms"] if row["finalist"] or budget.rate is None else None, row["throughput_ips"]) for row in rows]
    )
    for row, is_optimal, each in zip(rows, optimal, newest, strict=True):
        row |= {"pareto": is_optimal, "chosen": each is best}
    return {
        "bundle": str(search.bundle.path),
        "tried": rows,
        "serving": serving,
        "budget": budget.model_dump(mode="json"),
        "accuracy": {name: asdict(drop) for name, drop in search.all_drops().items()},
        "disturbances": disturbances,
    }


def nothing_keeps(budget: Budget, finalists: Sequence[Measured], disturbances: Sequence[str]) -> CheckFailed:
    """That nothing keeps the latency budget: what comes nearest, and what disturbed the machine meanwhile.

    Args:
        budget: that is not kept.
        finalists: what was measured to the end.
        disturbances: sentences of :func:`export.latency.system_monitor.monitored`.
    """
    nearest = min(finalists, key=lambda each: each.p99_ms_at_most)
    rate = f" at {budget.rate:g} requests a second" if budget.rate else ""
    said = (
        f"nothing keeps p99 within {budget.p99_ms:g} ms{rate}; nearest: {nearest.configuration.describe()}, p99 "
        f"{nearest.p99_ms:.1f} ms (to {nearest.p99_ms_at_most:.1f}, of which {HEADROOM:.0%} of the budget may be "
        f"used), {nearest.throughput_ips:.0f} images/s, accuracy {-nearest.configuration.drop.points:+.2f} points"
    )
    if disturbances:
        said += f"; meanwhile {', and '.join(disturbances)}: measure again without that before you give up the budget"
    return CheckFailed(said)


def _require_accuracy(search: Search, budget: Budget) -> None:
    """Raise :class:`CheckFailed` if no precision keeps the accuracy budget."""
    if not search.eligible(budget):
        precision, drop = min(search.all_drops().items(), key=lambda item: item[1].points)
        raise CheckFailed(
            f"no precision of the bundle loses at most {budget.max_accuracy_drop:g} percentage points; nearest: "
            f"{precision}, which loses {drop.points:.2f} ({drop.source})"
        )


def _ranked(found: Sequence[Measured], budget: Budget) -> list[Measured]:
    """What seems to fit, the highest throughput first, and then the quickest of all, measured again anyway."""
    usable = [each for each in found if each.metrics.get("p99_ms") is not None]
    if not usable:
        raise ToolkitError("no configuration fits in memory", where="toolkit tune", fix="free memory, or use int8")
    seem = [each for each in usable if each.metrics["p50_ms"] <= HEADROOM * budget.p99_ms]
    best = sorted(seem, key=lambda each: -each.throughput_ips)
    quickest = min(usable, key=lambda each: float(each.metrics["p50_ms"]))
    return best if quickest in best else [*best, quickest]


def with_files(search: Search, serving: Serving) -> Serving:
    """The choice, with what it gives from files on."""
    search.progress.stage("predicting files")
    files_ips = files_per_second(search.bundle, serving, search.pool.contents, search.effort.files)
    return serving.model_copy(update={"expected": serving.expected.model_copy(update={"files_ips": files_ips})})


def _serving(search: Search, best: Measured, budget: Budget) -> Serving:
    """The choice, as production reads it."""
    chosen = best.configuration
    return Serving(
        provider=chosen.provider,  # type: ignore[arg-type]
        precision=chosen.precision,  # type: ignore[arg-type]
        threads=chosen.layout.threads,
        sessions=chosen.layout.sessions,
        batch_size=chosen.batch_size,
        session_options=session_options(chosen.layout, chosen.provider),
        provider_options=dict(chosen.layout.provider_options),  # type: ignore[arg-type]
        expected=Expected(
            p50_ms=(best.served or best.metrics)["p50_ms"],
            p99_ms=best.p99_ms,
            p99_ms_at_most=best.p99_ms_at_most,
            throughput_ips=best.throughput_ips,
            accuracy_drop=chosen.drop.points,
            accuracy_drop_interval=chosen.drop.interval,
            accuracy_drop_at_most=chosen.drop.at_most,
        ),
        budget=budget,
        machine=describe_machine(),
    )


def pareto(points: Sequence[tuple[float | None, float]]) -> list[bool]:
    """Which points (latency, throughput) no other beats in both."""
    values = np.array([(np.inf if latency is None else latency, rate) for latency, rate in points])
    return [
        bool(np.isfinite(latency))
        and not ((values[:, 0] <= latency) & (values[:, 1] >= rate) & ((values != (latency, rate)).any(1))).any()
        for latency, rate in values
    ]
