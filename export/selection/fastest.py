"""The config to ship under a budget of accuracy: every candidate measured on held-out images, the fastest taken."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from export.graph.classifier_graph import GraphInput, build_graph
from export.graph.subgraph import open_model
from export.latency.measure import MinSamples, measure
from export.latency.pool import Pool, same_shape
from export.latency.runner import Runner
from export.parity.agreement import verdict
from export.selection.candidate import Candidate
from export.selection.measurements import in_words
from export.selection.search import PrecisionSearch
from toolkit.errors import CheckFailed
from toolkit.runtime.inputs import Feed, examples_in

POOL = 32
"""Validation images that latency is measured on, those of the most frequent size."""
RUNS, SECONDS = 20, 0.5


def fastest_within_budget(searches: Sequence[PrecisionSearch], graph_input: GraphInput, budget: float) -> Candidate:
    """Measure all configs that the providers might run well; the fastest of those that keep the budget.

    A config keeps it where the upper bound of what it loses does. Where too few images leave that open for
    all, the one with the lowest bound is taken.

    Every one is noted among its search's ``measured.tried`` with ``accuracy_drop``, its 95 % interval and one-sided
    bound ``accuracy_drop_at_most`` in percentage points, ``verdict`` (kept, undecided, over), ``within_budget`` (kept),
    ``p50_ms`` at batch 1 where it isn't over, and ``chosen``.

    Args:
        searches: of a run, one for each provider.
        graph_input: what the graph is to take; latency is measured with it.
        budget: percentage points of accuracy on validation that may be lost against PyTorch in fp32.

    Raises:
        CheckFailed: none keeps the budget; with the one that comes nearest.
    """
    candidates = [Candidate(search, config) for search in searches for config in search.all_forms()]
    for each in candidates:
        drop = each.search.measured.accuracy_drop(each.config)
        judged = verdict(each.config.precision, 100 * drop.value, 100 * drop.at_most, budget)
        each.metrics.update(
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
    possible = [each for each in candidates if each.metrics["verdict"] != "over"]
    if not possible:
        nearest = min(candidates, key=lambda each: float(each.metrics["accuracy_drop"]))
        raise CheckFailed(
            f"no config keeps a budget of {budget:g} percentage points on {nearest.metrics['images']} validation "
            f"images; nearest: {nearest.in_words()}, which loses {nearest.metrics['accuracy_drop']:.2f}"
        )
    rows = latency_rows(possible, graph_input, MinSamples(RUNS, SECONDS))
    for each, row in zip(possible, rows, strict=True):
        each.metrics["p50_ms"] = float(row["p50_ms"])

    def preference(each: Candidate) -> tuple[float, float]:
        open_bound = 0.0 if each.metrics["within_budget"] else each.metrics["accuracy_drop_at_most"]
        return open_bound, each.metrics["p50_ms"]

    best = min(possible, key=preference)
    best.metrics["chosen"] = True
    return best


def latency_rows(candidates: Sequence[Candidate], graph_input: GraphInput, least: MinSamples) -> list[dict[str, Any]]:
    """A row of ``latency.json`` for each config at batch 1, measured in alternating blocks."""
    engines = []
    for each in candidates:
        search, config = each.search, each.config
        model = build_graph(search.run.classifier, search.validation.preprocess, {}, graph_input, config)
        session = open_model(model, provider=search.provider, threads=search.measured.threads)
        name = f"{in_words(config)}, on {search.provider}"
        engines.append(Runner(name, config.precision, search.provider, session.threads, session.run, session.input))
    first = candidates[0].search
    pool = Pool([], [_pool(first, graph_input)], "validation")
    first.progress.stage("measuring latency")
    return measure(engines, pool, [1], least)


def _pool(search: PrecisionSearch, graph_input: GraphInput) -> Feed:
    """Inputs of one shape."""
    examples, reference = search.validation.examples, search.validation.reference
    texts = reference.texts
    if not reference.takes_images:
        return {name: values[:POOL] for name, values in search.validation.inputs.items()}
    contents = (example.read() for example in examples)
    feed = same_shape(graph_input, search.validation.preprocess, contents, POOL)
    if texts is None:
        return feed
    tokens = texts([example.text for example in examples[: examples_in(feed)]])
    return {**feed, **{name: rows.numpy() for name, rows in tokens.items()}}
