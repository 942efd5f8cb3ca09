"""LoRA: low-rank changes of the attention's matrices in the last layers, merged into the weights."""

from __future__ import annotations

import copy

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from toolkit.errors import ToolkitError
from toolkit.models.encoder import Encoder
from toolkit.models.head import CosineHead
from toolkit.recipe.model import HeadConfig
from toolkit.training.few_shot.features import Features
from toolkit.training.few_shot.method import Fitted, Method, best_on_validation, text_head_of
from toolkit.training.few_shot.shots import Shots

RANK, LAYERS, STEPS, BATCH_SIZE = 2, 2, 60, 32
LEARNING_RATES = (1e-3, 1e-2)
HEAD = HeadConfig(type="cosine", init="text")


class Lora(Method):
    """Rank 2 on query, key and value of the last two layers; zero-shot's head stays as it is."""

    name = "lora"
    source = "Zanella and Ben Ayed, Low-Rank Few-Shot Adaptation of Vision-Language Models (2024), arXiv 2405.18541"
    rule = "rank 2, 60 steps of AdamW in batches of 32 or fewer; the learning rate, 1e-3 or 1e-2, on validation"
    changes_layers = True

    def require(self, encoder: Encoder, text_head: CosineHead | None) -> None:
        """Raise unless the layers are described."""
        super().require(encoder, text_head)
        if encoder.tower is None:
            what = f"{self.name} changes attention, and {encoder.family.name} encoders have no description"
            raise ToolkitError(what, where="--methods", fix="use linear-probe")

    def fit(self, features: Features, shots: Shots) -> Fitted:
        """Train the low-rank matrices, and merge them."""
        tuned = {rate: _tuned(features, shots, rate) for rate in LEARNING_RATES}
        head, last = text_head_of(features), len(features.encoder.groups)

        def logits_of(rate: float, split: str) -> Tensor:
            with torch.inference_mode():
                return head(features.run(features.starts[split], features.start, last, tuned[rate]))

        chosen, logits = best_on_validation(
            tuned, lambda rate: logits_of(rate, "validation"), features.labels["validation"]
        )
        found = {"validation": logits, "test": logits_of(chosen, "test")}
        return Fitted(found, {"learning_rate": chosen}, HEAD, head, tuned[chosen].cpu().eval())


def first_changed(encoder: Encoder) -> int:
    """Place of the first group that :class:`Lora` changes."""
    layers = [place for place, name in enumerate(encoder.group_names) if name.startswith("layers.")]
    return layers[-LAYERS:][0]


def changed_layers(encoder: Encoder) -> list[nn.Module]:
    """The layers that :class:`Lora` changes."""
    tower = encoder.tower
    assert tower is not None  # Lora.require
    return list(tower.layers)[-LAYERS:]


def _tuned(features: Features, shots: Shots, rate: float) -> Encoder:
    """A copy of the encoder, trained on the drawn images, with what was learned in its weights."""
    encoder, head = copy.deepcopy(features.encoder), copy.deepcopy(text_head_of(features))
    head.to(features.device).requires_grad_(False)
    encoder.requires_grad_(False)
    torch.manual_seed(shots.seed)
    _inject(encoder, changed_layers(encoder))
    tokens, labels = features.starts["train"][shots.places], features.labels["train"][shots.places]
    _train(encoder, head, tokens, labels, features.start, rate)
    _merge(encoder)
    return encoder


def _inject(encoder: Encoder, layers: list[nn.Module]) -> None:
    """Put low-rank matrices beside query, key and value of layers."""
    tower = encoder.tower
    assert tower is not None
    attentions = [tower.block(layer).attention for layer in layers]
    wanted = {each.module for attention in attentions for each in (attention.query, attention.key, attention.value)}
    names = [name for name, module in encoder.model.named_modules() if module in wanted]
    inject_adapter_in_model(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=names), encoder.model)


def _train(encoder: Encoder, head: nn.Module, tokens: Tensor, labels: Tensor, start: int, rate: float) -> None:
    device = next(encoder.parameters()).device
    learned = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learned, rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    size = min(BATCH_SIZE, len(labels))
    order = torch.cat([torch.randperm(len(labels)) for _ in range(-(-STEPS * size // len(labels)))])
    for places in order[: STEPS * size].split(size):
        embeddings = encoder(tokens[places].to(device), start)
        optimizer.zero_grad()
        nn.functional.cross_entropy(head(embeddings), labels[places].to(device)).backward()
        optimizer.step()
        schedule.step()


def _merge(encoder: Encoder) -> None:
    """Add the low-rank matrices to the weights, and leave the plain layers."""
    for name, module in list(encoder.model.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge(safe_merge=True)
            parent, _, last = name.rpartition(".")
            setattr(encoder.model.get_submodule(parent), last, module.get_base_layer())
    encoder.requires_grad_(False)
