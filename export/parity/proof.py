"""A graph that is shipped beside its reference: the entry of ``parity.json``, and the verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import onnx

from export.graph.config import config_of
from export.graph.fusion_check import check_nodes
from export.parity.bisect import bisect, first_fault
from export.parity.prove import prove
from export.parity.reference import Reference
from toolkit.data.source import LabelledImage
from toolkit.errors import CheckFailed
from toolkit.progress import Progress
from toolkit.runtime.examples import graph_input
from toolkit.runtime.inputs import stacked
from toolkit.runtime.preprocess import Preprocess
from toolkit.runtime.session import Session

NO_FUSION_CHECK = "not made: the encoder was traced by torch.onnx, which says nothing of its layers"


@dataclass(frozen=True)
class Proof:
    """One shipped graph beside its reference."""

    session: Session
    """Opened with ``record_nodes``."""
    model: onnx.ModelProto
    preprocess: Preprocess
    reference: Reference

    def entry(self, samples: Sequence[LabelledImage], source: str, progress: Progress) -> dict[str, Any]:
        """The graph's entry of ``parity.json``."""
        config = config_of(self.model)
        first = graph_input(self.session.input, self.preprocess, samples[0].read())
        nodes = self.session.executed_nodes(stacked([first]))
        fused = check_nodes(nodes, self.reference.classifier, self.session.provider, config)
        progress.stage(f"proving {config.precision}")
        entry = prove(
            self.session,
            self.model,
            self.preprocess,
            self.reference,
            samples,
            progress,
        )
        return entry | {
            "input": self.session.input,
            "images_from": source,
            "fused": fused,
            "fusion_check": "passed" if self.reference.classifier.encoder.tower else NO_FUSION_CHECK,
            "executed_nodes": len(nodes),
        }

    def require_passed(self, entry: dict[str, Any], samples: Sequence[LabelledImage]) -> None:
        """Raise :class:`CheckFailed` after a failure, with the first node that leaves the tolerance."""
        if entry["passed"]:
            return
        fault = first_fault(bisect(self.session, self.model, self.preprocess, self.reference, samples))
        precision = config_of(self.model).precision
        raise CheckFailed(f"parity failed for {precision} on {self.session.provider}: {_in_words(entry)}; {fault}")


def require_passed(parity: dict[str, Any]) -> None:
    """Raise :class:`CheckFailed` with the metrics of the first precision and provider that failed."""
    for precision, by_provider in parity["results"].items():
        for provider, entry in by_provider.items():
            if not entry["passed"]:
                raise CheckFailed(f"parity failed for {precision} on {provider}: {_in_words(entry)}")


def _in_words(entry: dict[str, Any]) -> str:
    text = (
        f"max |logit difference| {entry['max_abs_logit']:.2e} (tolerance {entry['tolerance']:.1e}), "
        f"top-1 agreement {entry['top1_agreement']:.2%} on {entry['images']} images"
    )
    same = entry.get("same_rounding")
    if same and not same["passed"]:
        text += f"; {same['max_abs_logit']:.2e} off PyTorch with the same rounding (tolerance {same['tolerance']:.1e})"
    least = entry.get("least_agreement")
    return f"{text}; at least {least:.1%} is asked for" if least and entry["top1_agreement"] < least else text
