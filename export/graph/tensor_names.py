"""What the tensors of a fused graph are called: after the modules that give them.

A tensor bears the name of the module that gives it, with ``/input`` behind it where it is what that
module takes; everything else has an operator's name at its end. A matmul bears the name of its linear
layer, or of the attention whose projections share it.
"""

from __future__ import annotations

from torch import nn

from toolkit.models.classifier import Classifier
from toolkit.models.encoder import Group
from toolkit.models.families.tower import Attention, AttentionPooling, Projection, Transformer

LOGITS, PROBABILITIES, EMBEDDING, VALUE = "logits", "probabilities", "embedding", "value"
POOLED = "head/input"
"""The embedding of an encoder without a projection: no module of PyTorch's gives it."""


FUSION = "encoder.fusion"
"""What a fusion makes of an image's embedding and a text's."""


class TensorNames:
    """Names in the graph of a module that holds a tower."""

    def __init__(self, root: nn.Module, *towers: Transformer) -> None:
        self._names = {module: name for name, module in root.named_modules()}
        self._blocks = [self._names[block.module] for tower in towers for block in tower.blocks]

    def of(self, module: nn.Module) -> str:
        """A module's dotted name, and that of what it gives."""
        return self._names[module]

    def taken_by(self, module: nn.Module) -> str:
        """What a module takes, where no module gives it."""
        return f"{self.of(module)}/input"

    def mixed_values(self, attention: Attention) -> str:
        """What attention gives before its output projection; queries, keys, values and scores stay inside it."""
        return self.taken_by(attention.output.module)

    def joint_matmul(self, attention: Attention, parts: str) -> str:
        """The matmul of some projections of an attention: ``qkv``, ``kv``, or ``q`` of one module for all."""
        return f"{self.of(attention.module)}.{parts}"

    def query_matmul(self, attention: Attention) -> str:
        """The matmul of the queries alone."""
        return self.of(attention.query.module) if attention.query.rows is None else self.joint_matmul(attention, "q")

    def joint_matmuls(self, attentions: list[Attention]) -> dict[str, tuple[Projection, ...]]:
        """All matmuls of some of an attention's projections, with these."""
        joint: dict[str, tuple[Projection, ...]] = {}
        for each in attentions:
            joint[self.query_matmul(each)] = (each.query,)
            joint[self.joint_matmul(each, "qkv")] = (each.query, each.key, each.value)
            joint[self.joint_matmul(each, "kv")] = (each.key, each.value)
        return joint

    def block_of(self, matmul: str) -> str:
        """The layer that a matmul belongs to, or the matmul itself."""
        return next((block for block in self._blocks if matmul.startswith(f"{block}.")), matmul)


def names_of(classifier: Classifier) -> TensorNames:
    """Names in the graph of a classifier."""
    return TensorNames(classifier, *classifier.encoder.towers)


def tensor_after(classifier: Classifier, group: Group) -> str:
    """The graph's tensor that holds what a group gives."""
    if group.name == "fusion":
        return FUSION
    tower = classifier.encoder.tower
    if tower is None and group.name == classifier.encoder.group_names[-1]:
        return POOLED
    pooled = tower is not None and tower.projection is None and not isinstance(tower.pooling, AttentionPooling)
    if pooled and group.name == classifier.encoder.group_names[-1]:
        return POOLED
    return next(name for name, module in classifier.named_modules() if module is group.modules[-1])
