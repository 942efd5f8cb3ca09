"""The fastest config that keeps a contract: whole forms first, then int8 with those matmuls float that it needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from export.graph.classifier_graph import GraphInput
from export.graph.config import GraphConfig
from export.latency.measure import MinSamples
from export.parity.agreement import Verdict
from export.precision.sensitivity import Sensitivity, sensitivities
from export.selection.candidate import Candidate, named
from export.selection.contract import MOST_IMAGES, Contract, loss_in_words, loss_of, speedup_of
from export.selection.fastest import latency_rows
from export.selection.search import RANKING_IMAGES, PrecisionSearch
from toolkit.data.samples import groups_of
from toolkit.errors import CheckFailed, ToolkitError
from toolkit.runtime.inputs import examples_in, part_of
from toolkit.sampling import evenly_spaced

LEAST = MinSamples(50, 0.5)
PART = 16
"""Images of a batch in PyTorch while matmuls are ranked."""


@dataclass(frozen=True)
class Kept:
    """The config that is to ship."""

    candidate: Candidate
    report: dict[str, Any]
    """``contract`` of ``parity.json``, as far as it is known."""

    @property
    def config(self) -> GraphConfig:
        """How its graph is said."""
        return self.candidate.config


def fastest_within_contract(
    searches: Sequence[PrecisionSearch], graph_input: GraphInput, contract: Contract, *, least: MinSamples = LEAST
) -> Kept:
    """The fastest config that keeps a contract on validation images.

    Every config is noted among its search's ``measured.tried`` as under a budget, with ``flips``, ``flips_at_most``,
    ``speedup`` and ``speedup_at_least`` beside that. Speed is that beside fp32 on the first provider.

    Args:
        searches: of a run, one for each provider.
        graph_input: what the graph is to take; latency is measured with it.
        contract: to be kept.
        least: what is counted of each config's latency.

    Raises:
        CheckFailed: nothing keeps it; with what comes nearest.
        ToolkitError: the contract can't be kept by anything, or the run has no images to hold it to.
    """
    contract.check()
    run = searches[0].run
    run.require_real_images("a contract is kept on images")
    if not run.data.splits["test"]:
        what, fix = "a contract is held to images of the test split, and there is none", "give data with a test split"
        raise ToolkitError(what, where=run.data.root, fix=fix)
    return _ContractSearch(searches, graph_input, contract, least).run()


@dataclass
class _ContractSearch:
    """One search, with what it found so far."""

    searches: Sequence[PrecisionSearch]
    graph_input: GraphInput
    contract: Contract
    least: MinSamples
    ranked: dict[str, list[Sensitivity]] = field(default_factory=dict)
    """Matmuls of int8 by provider, where they had to be told apart."""

    def run(self) -> Kept:
        """See :func:`fastest_within_contract`."""
        kept: list[Candidate] = []
        beside: list[Candidate] = []
        for search in self.searches:
            base = [Candidate(search, config) for config in search.configs.base()]
            here = [each for each in base if self._verdict(each) == "kept"]
            rounded = [each for each in base if each.config.precision == "int8"]
            best_rounded = max(rounded, key=_agreement, default=None)
            no_integers = all(each.config.precision != "int8" for each in here)
            if best_rounded is not None and no_integers and search.run.trunk is None and self._can_be_shown:
                mixed = self._with_float_matmuls(best_rounded)
                here += [mixed] if mixed else []
            beside += [best_rounded] if best_rounded is not None and best_rounded not in here else []
            kept += here
        self._measure_speed([*kept, *beside])
        fast = [each for each in kept if self.contract.fast_enough(each.metrics["speedup_at_least"])]
        if not fast:
            raise CheckFailed(self._refusal(kept))
        best = min(fast, key=lambda each: float(each.metrics["p50_ms"]))
        best.metrics["chosen"] = True
        return Kept(best, self._report(best))

    def _verdict(self, candidate: Candidate) -> Verdict:
        """Whether a config keeps the losses; noted."""
        loss = candidate.search.measured.loss(candidate.config)
        judged = self.contract.verdict(candidate.config.precision, loss)
        candidate.metrics.update(
            loss.as_json()
            | {"verdict": judged, "within_budget": judged == "kept", "p50_ms": None, "chosen": False}
            | {"speedup": None, "speedup_at_least": None}
        )
        return judged

    @property
    def _can_be_shown(self) -> bool:
        """Whether the validation images would show it of a config that decides all of them as PyTorch does."""
        images = self.searches[0].validation
        same = loss_of(images.run.decision, images.expected, images.expected, None, groups_of(images.examples))
        return self.contract.verdict("int8", same) == "kept"

    def _with_float_matmuls(self, candidate: Candidate) -> Candidate | None:
        """The config with the fewest matmuls left float that keeps the losses, by bisection.

        Those are left float first whose rounding costs most for an operation, since a matmul takes as long as it has
        operations. So each number of them that is tried takes one pass over the validation images.
        """
        search, config = candidate.search, candidate.config
        ranked = self.ranked[search.provider] = _ranked(candidate)
        best, too_few, enough = None, 0, len(ranked)
        while enough - too_few > 1:
            middle = (too_few + enough) // 2
            left = {each.matmul for each in ranked[:middle]}
            mixed = Candidate(search, search.configs.rounded(config.quantization.without(left), config.floats))
            if self._verdict(mixed) == "kept":
                best, enough = mixed, middle
            else:
                too_few = middle
        return best

    def _measure_speed(self, candidates: list[Candidate]) -> None:
        """Note the latency of configs and how many times as fast as fp32 they are, in one alternating run."""
        fp32 = Candidate(self.searches[0], self.searches[0].configs.plain("fp32"))
        runners = [fp32, *(each for each in candidates if each != fp32)]
        rows = latency_rows(runners, self.graph_input, self.least)
        for each, row in zip(runners, rows, strict=True):
            if each not in candidates:  # behind a trunk in another precision, fp32 is timed alone
                continue
            blocks, of_fp32 = row["block_p50_ms"], rows[0]["block_p50_ms"]
            speedup, at_least = (1.0, 1.0) if each == fp32 else speedup_of(of_fp32, blocks)
            each.metrics.update(
                {"p50_ms": row["p50_ms"], "fp32_p50_ms": rows[0]["p50_ms"]}
                | {"speedup": speedup, "speedup_at_least": at_least}
            )

    def _report(self, candidate: Candidate) -> dict[str, Any]:
        found, config, provider = candidate.metrics, candidate.config, candidate.search.provider
        rounded = set(config.quantization.matmuls)
        ranked = [
            {
                "matmul": each.matmul,
                "mean_squared_error": each.error,
                "operations": each.operations,
                "float": each.matmul not in rounded,
            }
            for each in self.ranked.get(provider, [])
        ]
        speed = ("p50_ms", "fp32_p50_ms", "speedup", "speedup_at_least")
        loss = candidate.search.measured.loss(config)
        latency = {"batch_size": 1, "fp32_provider": self.searches[0].provider}
        return self.contract.as_json() | {
            "form": found["form"],
            "precision": config.precision,
            "provider": provider,
            "validation": loss.as_json() | {"verdict": found["verdict"]},
            "latency": latency | {name: found[name] for name in speed},
            "sensitivity": ranked,
            "too_few_images": self._too_few(),
        }

    @property
    def _tried(self) -> list[dict[str, Any]]:
        return [each for search in self.searches for each in search.measured.tried]

    def _too_few(self) -> str | None:
        """A sentence that says what would decide over configs that may keep the contract, where some are open."""
        open_ones = [each for each in self._tried if each.get("verdict") == "undecided"]
        if not open_ones:
            return None
        nearest = min(open_ones, key=lambda each: (each["flips_at_most"], each["accuracy_drop_at_most"]))
        needed = self.contract.needed_images
        decide = f"{needed:,} would, if all of them are decided alike"
        if needed > MOST_IMAGES:
            decide = f"no more than {MOST_IMAGES:,} are looked at, so ask for 0.2 or more of each loss"
        return f"{nearest['images']:,} validation images can't show that {named(nearest)} keeps the contract; {decide}"

    def _refusal(self, kept: list[Candidate]) -> str:
        """Why nothing ships, and what came nearest: in speed, of what keeps the losses, and in losses."""
        images = len(self.searches[0].validation.examples)
        said = f"no config keeps the contract ({self.contract.in_words()}) on {images:,} validation images; nearest: "
        nearest = []
        if kept:
            fastest = max(kept, key=lambda each: float(each.metrics["speedup_at_least"]))
            nearest.append(f"{fastest.in_words()}, which keeps the rest and is {_speed(fastest.metrics)}")
        others = [each for each in self._tried if each.get("verdict") in ("undecided", "over")]
        timed = [each for each in others if each["speedup"] is not None]
        fast = [each for each in timed if self.contract.fast_enough(each["speedup_at_least"])]
        if candidates := fast or timed or others:
            first = min(candidates, key=lambda each: (each["flips_at_most"], each["accuracy_drop_at_most"]))
            speed = "" if first["speedup"] is None else f", {_speed(first)}"
            nearest.append(f"{named(first)}, with {loss_in_words(first)}{speed}")
        too_few = self._too_few()
        return said + "; ".join(nearest) + (f". {too_few}" if too_few else "")


def _speed(found: dict[str, Any]) -> str:
    return f"{found['speedup']:.2f}x as fast as fp32 (at least {found['speedup_at_least']:.2f}x)"


def _agreement(candidate: Candidate) -> tuple[float, float]:
    return float(candidate.metrics["top1_agreement"]), -float(candidate.metrics["mean_abs_logit"])


def _ranked(candidate: Candidate) -> list[Sensitivity]:
    search, quantization = candidate.search, candidate.config.quantization
    images = search.validation
    places = evenly_spaced(len(images.examples), RANKING_IMAGES)
    feed = part_of(images.inputs, places)
    parts = [part_of(feed, slice(first, first + PART)) for first in range(0, examples_in(feed), PART)]
    search.progress.stage(f"rounding each of {len(quantization.matmuls)} matmuls alone")
    return sensitivities(search.run.classifier, images.preprocess, quantization, parts, search.progress)
