"""The text tower beside an encoder: prompts to embeddings in the space that the images share."""

# N prompts, P width of the embedding

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from toolkit.errors import ToolkitError
from toolkit.models.checkpoint import Source, TensorEntry, refuse_adapter, tensors_in, weight_files
from toolkit.models.examine import family_at
from toolkit.models.families.family import Family
from toolkit.models.hub import hub_once
from toolkit.models.load import in_words, quiet_transformers, source_of
from toolkit.models.tensor_files import listed, not_finite

BATCH_SIZE = 256
SHOWN = 120
"""Characters of a prompt that a message shows."""
SCALE, BIAS = "logit_scale", "logit_bias"
"""Tensors of a whole model that turn cosines into logits."""


@dataclass(frozen=True)
class TextEncoder:
    """A text tower with its tokenizer, and what turns cosines into logits."""

    family: Family
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    logit_scale: float
    """Natural logarithm of what cosines are multiplied with."""
    logit_bias: float
    """What is added behind it; 0 where the model has none."""
    where: str

    @property
    def context_length(self) -> int:
        """Tokens that a prompt may have."""
        tower = self.family.text_tower(self.model)
        assert tower is not None  # it was loaded as one
        return tower.context_length

    def tokens(self, prompts: Sequence[str]) -> Tensor:
        """Token ids int64 [N, T].

        Raises:
            ToolkitError: a prompt is longer than the context, or empty.
        """
        context = self.context_length
        padding = {"padding": "max_length", "max_length": context} if self.family.pads_texts else {"padding": True}
        with quiet_transformers():  # it warns of what is refused below
            rows = self.tokenizer(list(prompts), truncation=False)["input_ids"]
        for prompt, row in zip(prompts, rows, strict=True):
            if len(row) > context:
                said = prompt if len(prompt) <= SHOWN else f"{prompt[:SHOWN]}..."
                what = f"a prompt of {len(row)} tokens, where the text encoder takes {context}: {said!r}"
                raise ToolkitError(what, where=self.where, fix="shorten the template or the label")
            if not prompt.strip():
                raise ToolkitError(
                    "an empty prompt", where=self.where, fix="write a template such as 'a photo of a {}.'"
                )
        return self.tokenizer(list(prompts), return_tensors="pt", truncation=False, **padding)["input_ids"]

    @torch.inference_mode()
    def embeddings(self, prompts: Sequence[str]) -> Tensor:
        """Unit-length embeddings [N, P] of prompts."""
        ids = self.tokens(prompts)
        parts = [self.family.embed_text(self.model, part) for part in ids.split(BATCH_SIZE)]
        return torch.nn.functional.normalize(torch.cat(parts), dim=-1)


def has_texts(source: str, revision: str | None = None) -> bool:
    """Whether a text tower lies beside an encoder.

    Args:
        source: as :func:`toolkit.models.load.load_encoder` takes it.
        revision: of a hub identifier.
    """
    place = source_of(source, revision)
    with quiet_transformers(), in_words(place), hub_once(place):
        family = family_at(place)
        tensors = tensors_in(weight_files(place), place)
    return family.text_model_class is not None and any(in_text_tower(name, family) for name in tensors)


def load_text_encoder(source: str, revision: str | None = None) -> TextEncoder:
    """Load the text tower of an encoder in float32, with its tokenizer.

    Args:
        source: as :func:`toolkit.models.load.load_encoder` takes it.
        revision: of a hub identifier.

    Raises:
        ToolkitError: the family has no texts, the checkpoint no text tower, or no tokenizer; or what
            :func:`~toolkit.models.load.load_encoder` raises.
    """
    place = source_of(source, revision)
    with quiet_transformers(), in_words(place), hub_once(place):
        refuse_adapter(place)
        family = family_at(place)
        if family.text_model_class is None:
            fix = "use a CLIP or SigLIP encoder with both towers, such as tiny-clip or openai/clip-vit-base-patch32"
            raise ToolkitError(f"{family.name} encoders have no text tower", where=place.where, fix=fix)
        tensors = tensors_in(weight_files(place), place)
        config = family.text_config(
            AutoConfig.from_pretrained(place.location, revision=place.revision, trust_remote_code=False)
        )
        if config is None or not any(in_text_tower(name, family) for name in tensors):
            fix = "give the checkpoint of both towers, such as transformers' CLIPModel saves it"
            raise ToolkitError("the checkpoint holds no text tower", where=place.where, fix=fix)
        model, report = family.text_model_class.from_pretrained(
            place.location,
            revision=place.revision or "main",
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
        scale, bias = _scalar(SCALE, tensors, place), _scalar(BIAS, tensors, place)
        tokenizer = open_tokenizer(place)
    _check_report(report, family, place)
    bad = not_finite(model.state_dict())
    if bad:
        what = f"{len(bad)} tensors hold values that are not finite (NaN or infinity): {listed(bad)}"
        raise ToolkitError(what, where=place.where, fix="give a checkpoint from before the training broke down")
    if scale is None:
        fix = "give the checkpoint of both towers, such as transformers' CLIPModel saves it"
        raise ToolkitError(f"the checkpoint has no {SCALE}", where=place.where, fix=fix)
    return TextEncoder(family, model.eval(), tokenizer, scale, bias or 0.0, place.where)


def in_text_tower(name: str, family: Family) -> bool:
    """Whether a tensor of a checkpoint is the text tower's."""
    return name.startswith(f"{family.text_tower_name}.")


def open_tokenizer(place: Source) -> PreTrainedTokenizerBase:
    """The tokenizer of an encoder's files.

    SigLIP's own class runs in Python and needs sentencepiece; without that, ``tokenizer.json`` beside it is read.

    Raises:
        ToolkitError: none, or one that can't be read.
    """
    location, revision = place.location, place.revision or "main"
    try:
        try:
            tokenizer: Any = AutoTokenizer.from_pretrained(location, revision=revision, trust_remote_code=False)
        except ImportError:
            tokenizer = PreTrainedTokenizerFast.from_pretrained(location, revision=revision, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        fix = "copy tokenizer.json and tokenizer_config.json from where the encoder comes from"
        raise ToolkitError(f"no tokenizer that can be read: {reason}", where=place.where, fix=fix) from error
    return tokenizer


def _scalar(name: str, tensors: dict[str, TensorEntry], place: Source) -> float | None:
    """A tensor of one number; None where there is none."""
    if name not in tensors:
        return None
    with safe_open(tensors[name].file, "pt") as file:
        value = file.get_tensor(name).float()
    if value.numel() != 1 or not bool(torch.isfinite(value).all()):
        what = f"{name} is no finite number"
        raise ToolkitError(what, where=place.where, fix="copy the checkpoint again")
    return float(value)


def _check_report(report: dict[str, Any], family: Family, place: Source) -> None:
    """Refuse a text tower that the checkpoint does not fill."""
    names = sorted({*report["missing_keys"], *(str(entry[0]) for entry in report["mismatched_keys"])})
    left_over = [name for name in report["unexpected_keys"] if in_text_tower(name, family)]
    left_over = [name for name in left_over if not name.endswith("position_ids")]
    if names or left_over or report["error_msgs"]:
        said = listed(names or left_over or [" ".join(text.split()) for text in report["error_msgs"]])
        what = f"the checkpoint does not fill the text tower: {said}"
        raise ToolkitError(what, where=place.where, fix="use the config.json that the checkpoint was saved with")
