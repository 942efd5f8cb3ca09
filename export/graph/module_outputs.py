"""What every module of a classifier takes and gives, under the names that the graph gives the same tensors."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from export.graph.tensor_names import LOGITS
from toolkit.models.classifier import Classifier
from toolkit.models.families.tower import fold_layer_scales


@torch.inference_mode()
def module_outputs(classifier: Classifier, inputs: Any, *, own: bool = False) -> dict[str, Tensor]:
    """Run the reference forward pass and keep all tensors between its modules.

    Args:
        classifier: in eval mode, in whatever precision.
        inputs: what it takes, in the same precision.
        own: run the classifier's own pass, which leaves out tokens that nothing reads, in place of transformers'.

    Returns:
        ``NAME`` for a module's output, ``NAME/input`` for what it takes, ``NAME/MatMul`` for a
        linear layer's matmul without its bias, and ``logits``; of a module that runs twice, the first time.
    """
    tensors: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        def hook(module: nn.Module, taken: tuple[Any, ...], output: Any) -> None:
            if f"{name}/input" in tensors:  # BLIP's post norm runs again, for what nothing reads
                return
            given = output[0] if isinstance(output, tuple) else output
            if isinstance(given, Tensor):
                tensors[name] = given
            if taken and isinstance(taken[0], Tensor):
                tensors[f"{name}/input"] = taken[0]
                if isinstance(module, nn.Linear):
                    tensors[f"{name}/MatMul"] = nn.functional.linear(taken[0], module.weight)

        return hook

    hooks = [module.register_forward_hook(keep(name)) for name, module in classifier.named_modules() if name]
    try:
        tensors[LOGITS] = classifier(inputs) if own else classifier.reference_logits(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return tensors


def with_folded_scales(classifier: Classifier) -> Classifier:
    """The classifier, or a copy whose layer scales are folded into the matmuls before them, as the graph has them."""
    tower = classifier.encoder.tower
    if tower is None or all(block.attention_scale is block.mlp_scale is None for block in tower.blocks):
        return classifier
    folded = copy.deepcopy(classifier)
    fold_layer_scales(folded.encoder.tower)
    return folded


def aligned(reference: Tensor, shape: tuple[int, ...]) -> Tensor | None:
    """A captured tensor in the shape that the graph has it in, None if it is another.

    The graph leaves tokens out that nothing reads, drops axes of length one, and may have patches as rows,
    or planes where the reference has rows.
    """
    if reference.dim() == 4 and len(shape) == 3:
        reference = reference.flatten(2).transpose(1, 2)
    if reference.dim() == 3 and len(shape) == 4:
        reference = reference.transpose(1, 2)
    if tuple(reference.shape) == shape:
        return reference
    if reference.dim() == len(shape) == 3 and reference.shape[::2] == (shape[0], shape[2]):
        return reference[:, : shape[1]]
    return reference.reshape(shape) if reference.numel() == torch.Size(shape).numel() else None
