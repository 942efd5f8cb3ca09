"""The classifier: encoder and head in one module, with the temperature of its probabilities."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn

from toolkit.models.encoder import Group, is_layer
from toolkit.models.modalities import AnyEncoder
from toolkit.tasks.task import SINGLE_LABEL, Task


class Classifier(nn.Module):
    """Encoder, head and temperature; ``groups`` is the whole ordered list with ``head`` at its end."""

    temperature: Tensor
    """Of the probabilities [], or one for each class [classes], as the task has it."""

    def __init__(self, encoder: AnyEncoder, head: nn.Module, labels: list[str], task: Task = SINGLE_LABEL) -> None:
        super().__init__()
        self.encoder, self.head, self.labels, self.task = encoder, head, labels, task
        self.register_buffer("temperature", task.initial_temperature(len(labels)))
        layers = [group for group in encoder.groups if is_layer(group.name)]
        self._no_split_modules = sorted({type(module).__name__ for group in layers for module in group.modules})
        """Classes that FSDP makes a unit of, by the name that Accelerate asks for."""

    @property
    def groups(self) -> list[Group]:
        """Every group in the order of computation."""
        return [*self.encoder.groups, Group("head", (self.head,), self.head)]

    @property
    def boundary(self) -> int:
        """Place in ``groups`` of the first one that learns; those before it are the frozen trunk."""
        learns = [any(parameter.requires_grad for parameter in group.parameters()) for group in self.groups]
        return learns.index(True) if True in learns else len(learns)

    def trunk(self) -> Callable[[Any], Any] | None:
        """The frozen groups, from what the encoder takes to activations; None where none is frozen."""
        boundary = self.boundary
        return partial(self, stop=boundary) if boundary else None

    def train(self, mode: bool = True) -> Classifier:
        """Set the mode of what learns; the trunk stays in eval mode, so that it is a function of its input."""
        super().train(mode)
        for group in self.groups[: self.boundary]:
            for module in group.modules:
                module.eval()
        return self

    def forward(self, inputs: Any, start: int = 0, stop: int | None = None) -> Any:
        """Run the groups ``start`` to ``stop``; all of them turn what the encoder takes into logits [B, classes]."""
        groups = len(self.encoder.groups)
        hidden = self.encoder(inputs, start, stop) if start < groups else inputs
        return self.head(hidden) if stop is None or stop > groups else hidden

    def reference_logits(self, inputs: Any) -> Tensor:
        """Logits by transformers' own forward pass of the encoder: what parity compares with."""
        return self.head(self.encoder.reference(inputs))

    def probabilities(self, logits: Tensor) -> Tensor:
        """Calibrated probabilities [B, classes]."""
        return self.task.probabilities(logits, self.temperature)
