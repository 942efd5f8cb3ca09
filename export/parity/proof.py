"""A graph that is shipped beside its reference: the entry of ``parity.json``, and the verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import onnx

from export.graph.config import config_of
from export.graph.fusion_check import check_nodes
from export.parity.bisect import bisect, first_fault
from export.parity.prove import Proven, prove
from export.parity.reference import Reference
from toolkit.data.labelled_image import LabelledImage
from toolkit.errors import CheckFailed
from toolkit.progress import Progress
from toolkit.runtime.examples import ExampleReader
from toolkit.runtime.inputs import stacked
from toolkit.runtime.preprocess import Preprocess
from toolkit.runtime.session import Session
from toolkit.runtime.tokenizer import Tokenizer

NO_FUSION_CHECK = "not made: the encoder was traced by torch.onnx, which says nothing of its layers"


@dataclass(frozen=True)
class Proof:
    """One shipped graph beside its reference."""

    session: Session
    model: onnx.ModelProto
    """The same graph, to look inside it."""
    preprocess: Preprocess
    reference: Reference
    samples: Sequence[LabelledImage]
    fused: dict[str, int]
    """How many operators of each kind of fusion ran."""
    executed_nodes: int
    tokenizer: Tokenizer | None = None
    """The bundle's, for a graph that takes texts."""

    @classmethod
    def begin(
        cls,
        session: Session,
        model: onnx.ModelProto,
        preprocess: Preprocess,
        reference: Reference,
        samples: Sequence[LabelledImage],
        tokenizer: Tokenizer | None = None,
    ) -> Proof:
        """Run a session for the first time, one that was opened with ``record_nodes``.

        Raises:
            CheckFailed: the graph does not run fused, or elsewhere than asked.
        """
        reader = ExampleReader(session.input, preprocess, tokenizer, session.takes_missing)
        first = samples[0].inputs_for(reader)
        nodes = session.executed_nodes(stacked([first]))
        fused = check_nodes(nodes, reference.classifier, session.provider, config_of(model))
        return cls(session, model, preprocess, reference, samples, fused, len(nodes), tokenizer)

    def outcome(self, source: str, progress: Progress) -> Proven:
        """What the proof found; closes the session."""
        progress.stage(f"proving {config_of(self.model).precision}")
        proven = prove(
            self.session, self.model, self.preprocess, self.reference, self.samples, progress, self.tokenizer
        )
        entry = proven.entry | {
            "input": self.session.input,
            "images_from": source,
            "fused": self.fused,
            "fusion_check": "passed" if self.reference.classifier.encoder.tower else NO_FUSION_CHECK,
            "executed_nodes": self.executed_nodes,
        }
        return replace(proven, entry=entry)

    def require_passed(self, entry: dict[str, Any]) -> None:
        """Raise :class:`CheckFailed` after a failure, with the first node that leaves the tolerance."""
        if entry["passed"]:
            return
        fault = first_fault(bisect(self.session, self.model, self.preprocess, self.reference, self.samples))
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
    if not entry.get("decisions_identical", True):
        text += "; the graph decides otherwise than its own logits at the thresholds"
    same = entry.get("same_rounding")
    if same and not same["passed"]:
        text += f"; {same['max_abs_logit']:.2e} off PyTorch with the same rounding (tolerance {same['tolerance']:.1e})"
    least = entry.get("least_agreement")
    return f"{text}; at least {least:.1%} is asked for" if least and entry["top1_agreement"] < least else text
