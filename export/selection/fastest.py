"""The config to ship under a budget of accuracy: every candidate measured on held-out images, the fastest taken."""

from __future__ import annotations

from typing import Any

from export.graph.classifier_graph import GraphInput, build_graph
from export.graph.config import GraphConfig
from export.graph.subgraph import open_model
from export.latency.measure import MinSamples, measure
from export.latency.pool import Pool, same_shape
from export.latency.runner import Runner
from export.parity.agreement import verdict
from export.selection.measurements import in_words
from export.selection.search import PrecisionSearch
from toolkit.errors import CheckFailed
from toolkit.runtime.inputs import Feed, examples_in

POOL = 32
"""Validation images that latency is measured on, those of the most frequent size."""
RUNS, SECONDS = 20, 0.5


def fastest_within_budget(candidates: PrecisionSearch, graph_input: GraphInput, budget: float) -> GraphConfig:
    """Measure all configs that the provider might run well; the fastest of those that keep the budget.

    A config keeps it where the upper bound of what it loses does. Where too few images leave that open for
    all, the one with the lowest bound is taken.

    Every one is noted among ``candidates.measured.tried`` with ``accuracy_drop``, its 95 % interval and one-sided bound
    ``accuracy_drop_at_most`` in percentage points, ``verdict`` (kept, undecided, over), ``within_budget`` (kept),
    ``p50_ms`` at batch 1 where it isn't over, and ``chosen``.

    Args:
        candidates: of a run.
        graph_input: what the graph is to take; latency is measured with it.
        budget: percentage points of accuracy on validation that may be lost against PyTorch in fp32.

    Raises:
        CheckFailed: none keeps the budget; with the one that comes nearest.
    """
    configs = candidates.all_forms()
    for config in configs:
        drop = candidates.measured.accuracy_drop(config)
        judged = verdict(config.precision, 100 * drop.value, 100 * drop.at_most, budget)
        candidates.measured.metrics(config).update(
            {
                "accuracy_drop": 100 * drop.value,
                "accuracy_drop_interval": [100 * end for end in drop.interval],
                "accuracy_drop_at_most": 100 * drop.at_most,
                "verdict": judged,
                "within_budget": judged == "kept",
                "p50_ms": None,
                "chosen": False,
            }
        )
    possible = [config for config in configs if candidates.measured.metrics(config)["verdict"] != "over"]
    if not possible:
        nearest = min(configs, key=lambda config: float(candidates.measured.metrics(config)["accuracy_drop"]))
        metrics = candidates.measured.metrics(nearest)
        raise CheckFailed(
            f"no config keeps a budget of {budget:g} percentage points on {metrics['images']} validation images; "
            f"nearest: {in_words(nearest)}, which loses {metrics['accuracy_drop']:.2f}"
        )
    rows = latency_rows(candidates, possible, graph_input, MinSamples(RUNS, SECONDS))
    for config, row in zip(possible, rows, strict=True):
        candidates.measured.metrics(config)["p50_ms"] = float(row["p50_ms"])

    def preference(config: GraphConfig) -> tuple[float, float]:
        metrics = candidates.measured.metrics(config)
        open_bound = 0.0 if metrics["within_budget"] else metrics["accuracy_drop_at_most"]
        return open_bound, metrics["p50_ms"]

    best = min(possible, key=preference)
    candidates.measured.metrics(best)["chosen"] = True
    return best


def latency_rows(
    candidates: PrecisionSearch, configs: list[GraphConfig], graph_input: GraphInput, least: MinSamples
) -> list[dict[str, Any]]:
    """A row of ``latency.json`` for each config at batch 1, measured in alternating blocks."""
    engines = []
    for config in configs:
        model = build_graph(candidates.run.classifier, candidates.measured.preprocess, {}, graph_input, config)
        session = open_model(model, provider=candidates.provider, threads=candidates.measured.threads)
        engines.append(
            Runner(in_words(config), config.precision, candidates.provider, session.threads, session.run, session.input)
        )
    pool = Pool([], [_pool(candidates, graph_input)], "validation")
    candidates.progress.stage("measuring latency")
    return measure(engines, pool, [1], least)


def _pool(candidates: PrecisionSearch, graph_input: GraphInput) -> Feed:
    """Inputs of one shape."""
    examples, reference = candidates.measured.examples, candidates.measured.reference
    texts = reference.texts
    if not reference.takes_images:
        return {name: values[:POOL] for name, values in candidates.measured.inputs.items()}
    contents = (example.read() for example in examples)
    feed = same_shape(graph_input, candidates.measured.preprocess, contents, POOL)
    if texts is None:
        return feed
    tokens = texts([example.text for example in examples[: examples_in(feed)]])
    return {**feed, **{name: rows.numpy() for name, rows in tokens.items()}}
