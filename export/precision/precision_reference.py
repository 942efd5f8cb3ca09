"""PyTorch in a graph's precision: what that precision alone costs, and what the graph is held against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from export.graph.config import GraphConfig
from export.graph.given import given
from export.graph.half import TORCH_TYPES
from export.precision.fake_quant import QuantizedLinear, QuantizedPatches, dithered, quantized_classifier
from export.precision.half_reference import half_reference, round_modules
from toolkit.models.classifier import Classifier
from toolkit.runtime.inputs import Feed, batches_of
from toolkit.runtime.preprocess import Float32, Preprocess

MULTIPLE = 8
"""Tolerances of reduced precisions in floors: a maximum over a few images stands for one over all."""
STEPS_MULTIPLE = 4
"""The same for a graph beside PyTorch with the very same rounding."""
BORDER = 1e-3
BATCH_SIZE = 32
"""Images that a reference takes at once."""


@dataclass(frozen=True)
class PrecisionReference:
    """A classifier rounded as a graph's config says."""

    config: GraphConfig
    classifier: Classifier

    @classmethod
    def of(cls, classifier: Classifier, preprocess: Preprocess, config: GraphConfig) -> PrecisionReference:
        """Round a classifier; it stays as it is."""
        if config.precision == "int8":
            rounded = quantized_classifier(classifier, preprocess, config.quantization)
            if config.floats != "fp32":
                round_modules(rounded, TORCH_TYPES[config.floats], keep=(QuantizedLinear, QuantizedPatches))
            return cls(config, rounded)
        assert config.precision in ("fp16", "bf16")
        rounded = half_reference(
            classifier, config.precision, config.keep_fp32, patches_as_matmul=config.patches_as_matmul
        )
        return cls(config, rounded)

    @property
    def own(self) -> bool:
        """Whether the classifier's own forward pass is to be run, which leaves out what the graph leaves out."""
        return self.config.precision == "int8"

    @torch.inference_mode()
    def logits(self, feed: Feed) -> Float32:
        """Logits [images, classes], in batches of ``BATCH_SIZE``."""
        run: Any = self.classifier if self.own else self.classifier.reference_logits
        batches = (given(self.classifier, batch) for batch in batches_of(feed, BATCH_SIZE))
        logits: Float32 = torch.cat([run(batch) for batch in batches]).numpy()
        return logits

    @torch.inference_mode()
    def steps(self, feed: Feed) -> float:
        """How far logits move where values at the border of two steps fall on the other side, as in another engine.

        Engines differ by far less than ``BORDER`` of a step, and faults by more than that makes.
        """
        with dithered(self.classifier, BORDER):
            moved = self.logits(feed)
        return float(np.abs(moved - self.logits(feed)).max())
