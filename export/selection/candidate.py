"""A config on a provider, which a search weighs against others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from export.graph.config import GraphConfig
from export.selection.search import PrecisionSearch


@dataclass(frozen=True)
class Candidate:
    """A config, and the search that measures it on its provider."""

    search: PrecisionSearch
    config: GraphConfig

    @property
    def metrics(self) -> dict[str, Any]:
        """What it gives on the validation images; noted among those that were tried."""
        return self.search.measured.metrics(self.config)

    def in_words(self) -> str:
        """The config in a few words, and where it runs unless that is ONNX Runtime's CPU provider."""
        return named(self.metrics)


def named(metrics: Mapping[str, Any]) -> str:
    """A config that was tried, as :meth:`Candidate.in_words` has it."""
    form, provider = str(metrics["form"]), metrics["provider"]
    return form if provider == "cpu" else f"{form}, on {provider}"
