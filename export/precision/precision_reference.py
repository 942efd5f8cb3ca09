"""PyTorch in a graph's precision: what that precision alone costs, and what the graph is held against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from export.graph.config import GraphConfig
from export.graph.preprocessing import PIXEL_VALUES
from export.precision.fake_quant import dithered, quantized_classifier
from export.precision.half_reference import half_reference
from toolkit.models.classifier import Classifier
from toolkit.runtime.inputs import Feed
from toolkit.runtime.preprocess import Float32, Preprocess

MULTIPLE = 8
"""Tolerances of reduced precisions in floors: a maximum over a few images stands for one over all."""
STEPS_MULTIPLE = 4
"""The same for a graph beside PyTorch with the very same rounding."""
BORDER = 1e-3
LEAST_AGREEMENT = {"fp16": 0.995, "bf16": 0.98, "int8": 0.98}
"""Top-1 agreement with fp32 that parity asks for: it fails where a lower one is certain (95 %)."""


@dataclass(frozen=True)
class PrecisionReference:
    """A classifier rounded as a graph's form says."""

    form: GraphConfig
    classifier: Classifier

    @classmethod
    def of(cls, classifier: Classifier, preprocess: Preprocess, form: GraphConfig) -> PrecisionReference:
        """Round a classifier; it stays as it is."""
        if form.precision == "int8":
            return cls(form, quantized_classifier(classifier, preprocess, form.quantization))
        assert form.precision in ("fp16", "bf16")
        return cls(form, half_reference(classifier, form.precision, form.keep_fp32))

    @property
    def own(self) -> bool:
        """Whether the classifier's own forward pass is to be run, which leaves out what the graph leaves out."""
        return self.form.precision == "int8"

    @torch.inference_mode()
    def logits(self, feed: Feed) -> Float32:
        """Logits [images, classes], all images in one batch."""
        run: Any = self.classifier if self.own else self.classifier.reference_logits
        logits: Float32 = run(torch.from_numpy(feed[PIXEL_VALUES])).numpy()
        return logits

    @torch.inference_mode()
    def steps(self, feed: Feed) -> float:
        """How far logits move where values at the border of two steps fall on the other side, as in another engine.

        Engines differ by far less than ``BORDER`` of a step, and faults by more than that makes.
        """
        with dithered(self.classifier, BORDER):
            moved = self.logits(feed)
        return float(np.abs(moved - self.logits(feed)).max())
