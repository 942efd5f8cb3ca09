"""A classifier's forward pass in float64 without a second copy of its weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from toolkit.models.classifier import Classifier


@contextmanager
def in_float64(classifier: Classifier) -> Iterator[None]:
    """While this is open, transformers' own forward pass computes in float64 on float64 images.

    The modules of a group are cast when the pass comes to them, and are float32 again, as they were, when it comes
    to the next; so is what the pass runs beside the groups. The first group is cast from the start, since some
    encoders look at its type before they run it.
    """
    single: dict[Tensor, Tensor] = {}

    def restore() -> None:
        for each, values in single.items():
            each.data = values
        single.clear()

    def cast(module: nn.Module, inputs: Any) -> None:
        restore()
        for each in (*module.parameters(), *module.buffers()):
            if each.is_floating_point():
                single[each] = each.data
                each.data = each.data.double()

    grouped = [module for group in classifier.groups for module in group.modules]
    inside = {part for module in grouped for part in module.modules()}
    beside = [module for module in classifier.modules() if module not in inside and has_own_parameters(module)]
    hooks = [module.register_forward_pre_hook(cast) for module in (*grouped, *beside)]
    cast(grouped[0], None)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        restore()


def has_own_parameters(module: nn.Module) -> bool:
    """Whether a module holds parameters that none of its parts does."""
    return next(module.parameters(recurse=False), None) is not None
