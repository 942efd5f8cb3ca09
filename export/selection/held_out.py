"""A contract held to the shipped file, on images that no search has seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from export.graph.config import GraphConfig
from export.parity.prove import compare
from export.parity.reference import Reference
from export.selection.contract import MOST_IMAGES, Contract, Loss, loss_in_words, loss_of
from export.selection.measurements import in_words
from toolkit.data.labelled_image import LabelledImage
from toolkit.data.samples import groups_of
from toolkit.errors import CheckFailed
from toolkit.progress import SILENT, Progress
from toolkit.runs.finished_run import Run
from toolkit.runtime.preprocess import Preprocess
from toolkit.runtime.session import Session
from toolkit.runtime.tokenizer import Tokenizer
from toolkit.sampling import evenly_spaced

SPLIT = "test"


@dataclass(frozen=True)
class HeldOut:
    """Test images of a run, up to ``MOST_IMAGES``, and PyTorch beside them."""

    run: Run
    reference: Reference
    preprocess: Preprocess
    """The bundle's."""
    tokenizer: Tokenizer | None = None
    """The bundle's, for a graph that takes texts."""
    progress: Progress = SILENT

    @property
    def examples(self) -> Sequence[LabelledImage]:
        """The images."""
        members = self.run.data.splits[SPLIT]
        return [members[place] for place in evenly_spaced(len(members), MOST_IMAGES)]

    def loss(self, session: Session) -> Loss:
        """What a graph loses on them, from the encoded file on."""
        examples = self.examples
        self.progress.stage(f"holding the contract to {len(examples)} test images")
        outcome = compare(
            session,
            self.preprocess,
            self.reference,
            examples,
            tokenizer=self.tokenizer,
            progress=self.progress,
        )
        expected, logits = np.concatenate(outcome.expected), np.nan_to_num(np.concatenate(outcome.logits))
        labels = np.array(outcome.labels) if self.run.labelled else None
        return loss_of(self.run.decision, expected, logits, labels, groups_of(examples))

    def hold(
        self, contract: Contract, config: GraphConfig, session: Session, validation: dict[str, Any]
    ) -> dict[str, Any]:
        """Hold a graph to a contract; what the images say of it, for ``parity.json``.

        The search chose among configs by their bounds on validation images, and the best of several looks better than
        it is. Here one config is judged, once, by its estimate; a search that went on from here would have seen these
        images too.

        Args:
            contract: that the config kept on validation images.
            config: of the graph.
            session: the shipped file as production opens it.
            validation: what the search found of it there.

        Raises:
            CheckFailed: it loses more than the contract allows.
        """
        loss = self.loss(session)
        judged = contract.verdict(config.precision, loss)
        if judged == "over":
            raise CheckFailed(
                f"{in_words(config)} keeps the contract ({contract.in_words()}) on {validation['images']:,} "
                f"validation images ({loss_in_words(validation)}), but not on {loss.images:,} test images that the "
                f"search did not see ({loss_in_words(loss.as_json())}): ask for a stricter contract, or give more "
                "validation images"
            )
        return loss.as_json() | {"verdict": judged, "images_from": f"{SPLIT} split, which the search did not see"}
