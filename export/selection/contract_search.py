"""The fastest config that keeps a contract: whole forms first, then int8 with those matmuls float that it needs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from export.graph.classifier_graph import GraphInput
from export.graph.config import GraphConfig
from export.latency.measure import MinSamples
from export.parity.agreement import Verdict
from export.parity.reference import groups_of
from export.precision.sensitivity import Sensitivity, sensitivities
from export.selection.contract import MOST_IMAGES, Contract, loss_in_words, loss_of, speedup_of
from export.selection.fastest import latency_rows
from export.selection.measurements import in_words
from export.selection.search import RANKING_IMAGES, PrecisionSearch
from toolkit.errors import CheckFailed, ToolkitError
from toolkit.runtime.inputs import examples_in, part_of
from toolkit.sampling import evenly_spaced

LEAST = MinSamples(50, 0.5)
PART = 16
"""Images of a batch in PyTorch while matmuls are ranked."""


@dataclass(frozen=True)
class Kept:
    """The config that is to ship."""

    config: GraphConfig
    report: dict[str, Any]
    """``contract`` of ``parity.json``, as far as it is known."""


def fastest_within_contract(
    search: PrecisionSearch, graph_input: GraphInput, contract: Contract, *, least: MinSamples = LEAST
) -> Kept:
    """The fastest config that keeps a contract on validation images.

    Every config is noted among ``search.measured.tried`` as under a budget, with ``flips``, ``flips_at_most``,
    ``speedup`` and ``speedup_at_least`` beside that.

    Args:
        search: of a run.
        graph_input: what the graph is to take; latency is measured with it.
        contract: to be kept.
        least: what is counted of each config's latency.

    Raises:
        CheckFailed: nothing keeps it; with what comes nearest.
        ToolkitError: the contract can't be kept by anything, or the run has no images to hold it to.
    """
    contract.check()
    search.run.require_real_images("a contract is kept on images")
    if not search.run.data.splits["test"]:
        what, fix = "a contract is held to images of the test split, and there is none", "give data with a test split"
        raise ToolkitError(what, where=search.run.data.root, fix=fix)
    return _ContractSearch(search, graph_input, contract, least).run()


@dataclass
class _ContractSearch:
    """One search, with what it found so far."""

    search: PrecisionSearch
    graph_input: GraphInput
    contract: Contract
    least: MinSamples
    ranked: list[Sensitivity] = field(default_factory=list)
    """Matmuls of int8, where they had to be told apart."""

    def run(self) -> Kept:
        """See :func:`fastest_within_contract`."""
        base = self.search.configs.base()
        kept = [config for config in base if self._verdict(config) == "kept"]
        rounded = [config for config in base if config.precision == "int8"]
        best_rounded = max(rounded, key=self._agreement, default=None)
        no_integers = all(config.precision != "int8" for config in kept)
        if best_rounded is not None and no_integers and self.search.run.trunk is None and self._can_be_shown:
            mixed = self._with_float_matmuls(best_rounded)
            kept += [mixed] if mixed else []
        beside = [best_rounded] if best_rounded is not None and best_rounded not in kept else []
        self._measure_speed([*kept, *beside])
        fast = [config for config in kept if self.contract.fast_enough(self._of(config, "speedup_at_least"))]
        if not fast:
            raise CheckFailed(self._refusal(kept))
        best = min(fast, key=lambda config: self._of(config, "p50_ms"))
        self._metrics(best)["chosen"] = True
        return Kept(best, self._report(best))

    def _verdict(self, config: GraphConfig) -> Verdict:
        """Whether a config keeps the losses; noted."""
        loss = self.search.measured.loss(config)
        judged = self.contract.verdict(config.precision, loss)
        self._metrics(config).update(
            loss.as_json()
            | {"verdict": judged, "within_budget": judged == "kept", "p50_ms": None, "chosen": False}
            | {"speedup": None, "speedup_at_least": None}
        )
        return judged

    def _metrics(self, config: GraphConfig) -> dict[str, Any]:
        return self.search.measured.metrics(config)

    def _of(self, config: GraphConfig, name: str) -> float:
        return float(self._metrics(config)[name])

    def _agreement(self, config: GraphConfig) -> tuple[float, float]:
        return self._of(config, "top1_agreement"), -self._of(config, "mean_abs_logit")

    @property
    def _can_be_shown(self) -> bool:
        """Whether the validation images would show it of a config that decides all of them as PyTorch does."""
        measured = self.search.measured
        same = loss_of(
            self.search.run.decision, measured.expected, measured.expected, None, groups_of(measured.examples)
        )
        return self.contract.verdict("int8", same) == "kept"

    def _with_float_matmuls(self, config: GraphConfig) -> GraphConfig | None:
        """The config with the fewest matmuls left float that keeps the losses, by bisection.

        Those are left float first whose rounding costs most for an operation, since a matmul takes as long as it has
        operations. So each number of them that is tried takes one pass over the validation images.
        """
        self.ranked = self._ranked(config)
        best, too_few, enough = None, 0, len(self.ranked)
        while enough - too_few > 1:
            middle = (too_few + enough) // 2
            left = {each.matmul for each in self.ranked[:middle]}
            mixed = self.search.configs.rounded(config.quantization.without(left))
            if self._verdict(mixed) == "kept":
                best, enough = mixed, middle
            else:
                too_few = middle
        return best

    def _ranked(self, config: GraphConfig) -> list[Sensitivity]:
        measured, run = self.search.measured, self.search.run
        places = evenly_spaced(len(measured.examples), RANKING_IMAGES)
        feed = part_of(measured.inputs, places)
        parts = [part_of(feed, slice(first, first + PART)) for first in range(0, examples_in(feed), PART)]
        self.search.progress.stage(f"rounding each of {len(config.quantization.matmuls)} matmuls alone")
        return sensitivities(run.classifier, measured.preprocess, config.quantization, parts, self.search.progress)

    def _measure_speed(self, configs: list[GraphConfig]) -> None:
        """Note the latency of configs and how many times as fast as fp32 they are, in one alternating run."""
        fp32 = self.search.configs.plain("fp32")
        runners = [fp32, *(config for config in configs if config != fp32)]
        rows = latency_rows(self.search, runners, self.graph_input, self.least)
        for config, row in zip(runners, rows, strict=True):
            if config not in configs:  # behind a trunk in another precision, fp32 is timed alone
                continue
            blocks, of_fp32 = row["block_p50_ms"], rows[0]["block_p50_ms"]
            speedup, at_least = (1.0, 1.0) if config == fp32 else speedup_of(of_fp32, blocks)
            self._metrics(config).update(
                {"p50_ms": row["p50_ms"], "fp32_p50_ms": rows[0]["p50_ms"]}
                | {"speedup": speedup, "speedup_at_least": at_least}
            )

    def _report(self, config: GraphConfig) -> dict[str, Any]:
        found = self._metrics(config)
        rounded = set(config.quantization.matmuls)
        ranked = [
            {
                "matmul": each.matmul,
                "mean_squared_error": each.error,
                "operations": each.operations,
                "float": each.matmul not in rounded,
            }
            for each in self.ranked
        ]
        speed = ("p50_ms", "fp32_p50_ms", "speedup", "speedup_at_least")
        return self.contract.as_json() | {
            "form": found["form"],
            "precision": config.precision,
            "validation": self.search.measured.loss(config).as_json() | {"verdict": found["verdict"]},
            "latency": {"batch_size": 1} | {name: found[name] for name in speed},
            "sensitivity": ranked,
            "too_few_images": self._too_few(),
        }

    def _too_few(self) -> str | None:
        """A sentence that says what would decide over configs that may keep the contract, where some are open."""
        open_ones = [each for each in self.search.measured.tried if each.get("verdict") == "undecided"]
        if not open_ones:
            return None
        nearest = min(open_ones, key=lambda each: (each["flips_at_most"], each["accuracy_drop_at_most"]))
        needed = self.contract.needed_images
        decide = f"{needed:,} would, if all of them are decided alike"
        if needed > MOST_IMAGES:
            decide = f"no more than {MOST_IMAGES:,} are looked at, so ask for 0.2 or more of each loss"
        return f"{nearest['images']:,} validation images can't show that {nearest['form']} keeps the contract; {decide}"

    def _refusal(self, kept: list[GraphConfig]) -> str:
        """Why nothing ships, and what came nearest: in speed, of what keeps the losses, and in losses."""
        images = len(self.search.measured.examples)
        said = f"no config keeps the contract ({self.contract.in_words()}) on {images:,} validation images; nearest: "
        nearest = []
        if kept:
            fastest = max(kept, key=lambda config: self._of(config, "speedup_at_least"))
            nearest.append(f"{in_words(fastest)}, which keeps the rest and is {_speed(self._metrics(fastest))}")
        others = [each for each in self.search.measured.tried if each.get("verdict") in ("undecided", "over")]
        timed = [each for each in others if each["speedup"] is not None]
        fast = [each for each in timed if self.contract.fast_enough(each["speedup_at_least"])]
        if candidates := fast or timed or others:
            first = min(candidates, key=lambda each: (each["flips_at_most"], each["accuracy_drop_at_most"]))
            speed = "" if first["speedup"] is None else f", {_speed(first)}"
            nearest.append(f"{first['form']}, with {loss_in_words(first)}{speed}")
        too_few = self._too_few()
        return said + "; ".join(nearest) + (f". {too_few}" if too_few else "")


def _speed(found: dict[str, Any]) -> str:
    return f"{found['speedup']:.2f}x as fast as fp32 (at least {found['speedup_at_least']:.2f}x)"
