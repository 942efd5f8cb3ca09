"""The validation images that configs are compared on, and what PyTorch gives of them."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from export.parity.reference import Reference
from export.precision.trunk import network_batches
from toolkit.data.labelled_image import LabelledImage
from toolkit.data.target import Label
from toolkit.models.processing import preprocess_from
from toolkit.runs.finished_run import Run
from toolkit.runtime.inputs import Feed
from toolkit.runtime.preprocess import Float32
from toolkit.sampling import evenly_spaced


class Validation:
    """Validation images of a run; they are read, and run by PyTorch in fp32, once, when that is first asked for.

    Args:
        run: a finished run.
        images: that are looked at, where there are as many.
    """

    def __init__(self, run: Run, images: int) -> None:
        self.run, self.most = run, images
        self.preprocess, self.reference = preprocess_from(run.processor), Reference(run)

    @cached_property
    def examples(self) -> list[LabelledImage]:
        """The images."""
        members = self.run.data.splits["validation"]
        return [members[place] for place in evenly_spaced(len(members), self.most)]

    @property
    def labels(self) -> list[Label]:
        """Label of each; PyTorch's decision where nobody labelled it."""
        if not self.run.labelled:
            decided: list[Any] = self.run.decision.decide(self.expected).tolist()
            return [tuple(map(int, label)) if isinstance(label, list) else label for label in decided]
        return [example.label for example in self.examples]

    @cached_property
    def inputs(self) -> Feed:
        """What the network takes of them."""
        parts = list(network_batches(self.preprocess, self.examples, self.reference.texts))
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    @cached_property
    def expected(self) -> Float32:
        """The reference's logits [images, classes]."""
        return self.reference.logits(self.inputs)
