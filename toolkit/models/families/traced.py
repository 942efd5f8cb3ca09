"""Any vision encoder of transformers that no family describes: one group, and a graph that torch.onnx traces."""

from __future__ import annotations

from typing import Any

import transformers
from torch import Tensor
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES  # type: ignore[attr-defined]
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES, MODEL_MAPPING

from toolkit.errors import ToolkitError
from toolkit.models.families.family import Family
from toolkit.runtime.precision import SPECS


class Traced(Family):
    """An encoder whose embedding [B, P] is its pooled output, or the mean over all that its last layer gives."""

    kind = "traced"
    any_size = True
    example = "facebook/convnextv2-tiny-1k-224"
    mark = ""

    def __init__(self, model_type: str) -> None:
        self.name = f"{self.kind}:{model_type}"
        self.model_types = frozenset({model_type})
        names = MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES.get(model_type, ())
        self.classifiers = dict.fromkeys((names,) if isinstance(names, str) else names, "pooled")
        self.processor_class = getattr(transformers, IMAGE_PROCESSOR_MAPPING_NAMES[model_type]["pil"])

    def tower(self, model: Any) -> None:
        """Nothing is known of it."""
        return

    def embed(self, model: Any, pixel_values: Tensor) -> Tensor:
        """The embedding [B, P] by transformers' own forward pass."""
        output = model(pixel_values=pixel_values)
        if getattr(output, "pooler_output", None) is not None:
            return output.pooler_output.flatten(1)
        hidden = output.last_hidden_state  # [B, T, D], or [B, D, rows, columns]
        return hidden.mean(dim=1) if hidden.dim() == 3 else hidden.flatten(2).mean(dim=2)

    def embedding_size(self, model: Any) -> int:
        """P, which the last stage of a model of several has."""
        config = model.config
        found = getattr(config, "hidden_sizes", None) or getattr(config, "embed_dim", None)
        if isinstance(found, (list, tuple)):
            return int(found[-1])
        return int(config.hidden_size)


def traced(model_type: str) -> Traced | None:
    """The family of a ``model_type`` that transformers has an encoder and an image processor for, else None."""
    config = CONFIG_MAPPING[model_type] if model_type in CONFIG_MAPPING else None  # noqa: SIM401  it is lazy
    processors = IMAGE_PROCESSOR_MAPPING_NAMES.get(model_type)
    if config is None or config not in MODEL_MAPPING or not (processors and processors.get("pil")):
        return None
    return Traced(model_type)


def refuse_traced(family: Family, precision: str) -> None:
    """Refuse a precision that needs a description of the encoder.

    Raises:
        ToolkitError: it does, and there is none.
    """
    if isinstance(family, Traced) and precision in SPECS and SPECS[precision].needs_description:
        what = f"{family.name} encoders have no description here, and {precision} needs one"
        raise ToolkitError(what, where="--precision", fix="use fp32 or fp16")
