"""The form to ship under a budget of accuracy: every candidate measured on held-out images, the fastest taken."""

from __future__ import annotations

from typing import Any

from export.graph.classifier_graph import GraphInput, build_graph
from export.graph.config import GraphConfig
from export.graph.subgraph import open_model
from export.latency.measure import MinSamples, measure
from export.latency.pool import Pool
from export.latency.runner import Runner
from export.parity.agreement import verdict
from export.selection.search import PrecisionSearch, in_words
from toolkit.errors import CheckFailed
from toolkit.runtime.examples import graph_input as as_input
from toolkit.runtime.inputs import Feed, places_by_shapes, stacked, windows

POOL = 32
"""Validation images that latency is measured on, those of the most frequent size."""
RUNS, SECONDS = 20, 0.5


def fastest_within_budget(candidates: PrecisionSearch, graph_input: GraphInput, budget: float) -> GraphConfig:
    """Measure all forms that the provider might run well; the fastest of those that keep the budget.

    A form keeps it where the upper bound of what it loses does. Where too few images leave that open for every form,
    the one with the lowest bound is taken.

    Every one is noted among ``candidates.tried`` with ``accuracy_drop``, its 95 % interval and one-sided bound
    ``accuracy_drop_at_most`` in percentage points, ``verdict`` (kept, undecided, over), ``within_budget`` (kept),
    ``p50_ms`` at batch 1 where it isn't over, and ``chosen``.

    Args:
        candidates: of a run.
        graph_input: what the graph is to take; latency is measured with it.
        budget: percentage points of accuracy on validation that may be lost against PyTorch in fp32.

    Raises:
        CheckFailed: none keeps the budget; with the one that comes nearest.
    """
    forms = candidates.all_forms()
    for form in forms:
        drop = candidates.accuracy_drop(form)
        judged = verdict(form.precision, 100 * drop.value, 100 * drop.at_most, budget)
        candidates.figures(form).update(
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
    possible = [form for form in forms if candidates.figures(form)["verdict"] != "over"]
    if not possible:
        nearest = min(forms, key=lambda form: float(candidates.figures(form)["accuracy_drop"]))
        figures = candidates.figures(nearest)
        raise CheckFailed(
            f"no form keeps a budget of {budget:g} percentage points on {figures['images']} validation images; "
            f"nearest: {in_words(nearest)}, which loses {figures['accuracy_drop']:.2f}"
        )
    for form, latency in zip(possible, _latencies(candidates, possible, graph_input), strict=True):
        candidates.figures(form)["p50_ms"] = latency

    def preference(form: GraphConfig) -> tuple[float, float]:
        figures = candidates.figures(form)
        open_bound = 0.0 if figures["within_budget"] else figures["accuracy_drop_at_most"]
        return open_bound, figures["p50_ms"]

    best = min(possible, key=preference)
    candidates.figures(best)["chosen"] = True
    return best


def _latencies(candidates: PrecisionSearch, forms: list[GraphConfig], graph_input: GraphInput) -> list[float]:
    """p50 in milliseconds of each form at batch 1, in alternating blocks."""
    engines = []
    for form in forms:
        model = build_graph(candidates.run.classifier, candidates.preprocess, {}, graph_input, form)
        session = open_model(model, provider=candidates.provider, threads=candidates.threads)
        engines.append(
            Runner(in_words(form), form.precision, candidates.provider, session.threads, session.run, session.input)
        )
    pool = Pool([], [_pool(candidates, graph_input)], "validation")
    candidates.progress.stage("measuring latency")
    rows: list[dict[str, Any]] = measure(engines, pool, [1], MinSamples(RUNS, SECONDS))
    return [float(row["p50_ms"]) for row in rows]


def _pool(candidates: PrecisionSearch, graph_input: GraphInput) -> Feed:
    """Inputs of one shape."""
    examples = (as_input(graph_input, candidates.preprocess, example.read()) for example in candidates.examples[:POOL])
    inputs = next(windows(examples, POOL))
    return stacked(inputs[place] for place in max(places_by_shapes(dict(enumerate(inputs))), key=len))
