"""All few-shot methods there are."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from toolkit.errors import ToolkitError
from toolkit.models.encoder import Encoder
from toolkit.models.head import CosineHead
from toolkit.training.few_shot.linear_probe import LinearProbe
from toolkit.training.few_shot.lora import Lora
from toolkit.training.few_shot.method import Method
from toolkit.training.few_shot.prolip import ProLip
from toolkit.training.few_shot.text_cosine import TextCosine
from toolkit.training.few_shot.tip_adapter import TipAdapter, TipAdapterF

METHODS: dict[str, Method] = {
    method.name: method for method in (LinearProbe(), TextCosine(), TipAdapter(), TipAdapterF(), ProLip(), Lora())
}


def allowed(encoder: Encoder, text_head: CosineHead | None) -> list[Method]:
    """The methods that an encoder has what they need for."""
    possible = []
    for method in METHODS.values():
        with suppress(ToolkitError):
            method.require(encoder, text_head)
            possible.append(method)
    return possible


def methods_named(names: Sequence[str]) -> list[Method]:
    """Methods by their names.

    Raises:
        ToolkitError: there is none of a name, or a name stands there twice.
    """
    unknown = [name for name in names if name not in METHODS]
    if unknown or not names:
        what = f"no few-shot method {unknown[0]!r}" if unknown else "no method is named"
        raise ToolkitError(what, where="--methods", fix=f"choose from {', '.join(METHODS)}")
    if len(set(names)) < len(names):
        raise ToolkitError("a method stands there twice", where="--methods", fix="name each once")
    return [METHODS[name] for name in names]
