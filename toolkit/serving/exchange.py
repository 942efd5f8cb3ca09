"""One request to a model from its parsed form to its answer, whichever protocol it came by."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from toolkit.runtime.examples import ImageText
from toolkit.serving.by_stage import PredictedByStage, predict_by_stage
from toolkit.serving.metrics import Metrics
from toolkit.serving.predictor import Decided, Prediction
from toolkit.serving.protocol import InferRequest, Tensor, WantedOutput, answer, examples_of, wanted_outputs
from toolkit.serving.refusal import Refused
from toolkit.serving.repository import BundlePlace, Loaded, Repository
from toolkit.serving.served_model import Example, ServedModel


@dataclass(frozen=True)
class Answered:
    """An answer of the Open Inference Protocol."""

    model: ServedModel
    wanted: Sequence[WantedOutput]
    tensors: Sequence[Tensor]


@dataclass(frozen=True)
class Exchange:
    """What answers requests: models, and who counts."""

    repository: Repository
    metrics: Metrics

    async def infer(
        self, name: str, version: str, request: InferRequest, arrived: float, timeout: float | None = None
    ) -> Answered:
        """Answer a request of the Open Inference Protocol.

        Args:
            name: of the model.
            version: of the model; the newest if empty.
            request: what is asked.
            arrived: when the request began, by :func:`time.monotonic`.
            timeout: seconds that the client waits at most, by other means than the request's own.

        Raises:
            Refused: whatever is wrong with it, or stands in its way.
        """
        model = self.repository.get(name, version)
        wanted = wanted_outputs(model, request)
        examples = examples_of(model, request)
        outputs = await model.outputs_of(examples, _deadline(model, arrived, request.timeout, timeout))
        tensors, decided = answer(model, wanted, outputs)
        self._count(model, decided)
        return Answered(model, wanted, tensors)

    async def predict(
        self, name: str, images: Sequence[Example], arrived: float, timeout: float | None = None
    ) -> tuple[ServedModel, list[Prediction | Refused]]:
        """Predict images, each by itself.

        Raises:
            Refused: no such model, or no place for the request.
        """
        model = self.repository.get(name)
        outputs = await model.outputs_of(images, _deadline(model, arrived, timeout))
        found: list[Prediction | Refused] = []
        for each in outputs:
            try:
                found.append(each if isinstance(each, Refused) else model.prediction(each))
            except Refused as refused:
                found.append(refused)
        self._count(model, [each for each in found if isinstance(each, Prediction)])
        return model, found

    async def predict_by_stage(
        self, name: str, example: ImageText, arrived: float
    ) -> tuple[ServedModel, PredictedByStage]:
        """Predict one image, text, or both, and say what each stage took.

        Raises:
            Refused: no such model, not what it takes, or no place for the request.
        """
        model = self.repository.get(name)
        found = await predict_by_stage(model, example, _deadline(model, arrived))
        self.metrics.decision(model.name, found.prediction)
        return model, found

    async def load(self, name: str) -> list[tuple[BundlePlace, Loaded]]:
        """Load a model's versions anew; see :meth:`toolkit.serving.repository.Repository.load`."""
        outcomes = await self.repository.load(name, self.metrics.batches_of(name))
        for _, outcome in outcomes:
            self.metrics.loaded(name, good=outcome.good)
        return outcomes

    def _count(self, model: ServedModel, decided: Sequence[Decided]) -> None:
        for each in decided:
            self.metrics.decision(model.name, each)


def _deadline(model: ServedModel, arrived: float, *timeouts: float | None) -> float:
    """When a request must be answered: the server's limit, or what the client has, if that is less."""
    return arrived + min([model.limits.seconds, *(each for each in timeouts if each is not None)])


def seconds_since(start: float) -> float:
    """Seconds since a time of :func:`time.monotonic`."""
    return time.monotonic() - start
