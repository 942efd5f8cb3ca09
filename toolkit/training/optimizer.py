"""AdamW over the trainable groups, and the course of the learning rate."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from toolkit.models.encoder import Group, is_layer, tower_of
from toolkit.recipe.training import TrainingConfig


def build_optimizer(groups: list[Group], config: TrainingConfig) -> torch.optim.AdamW:
    """One or two parameter groups for each trainable group: weights of layers decay, all else does not.

    The head, and a fusion, learn at ``head_learning_rate``, the last layer that learns and what follows it at
    ``learning_rate``, and each layer before at ``layer_decay`` times the rate of the next one; the embeddings count as
    one more layer (Bao et al., "BEiT", 2021, appendix).
    """
    trainable = [group for group in groups if any(parameter.requires_grad for parameter in group.parameters())]
    depths = _layers_below_the_last([group.name for group in trainable])
    parameter_groups = []
    for group in trainable:
        if group.name in ("fusion", "head"):
            rate = config.head_learning_rate or config.learning_rate
        else:
            rate = config.learning_rate * config.layer_decay ** depths[group.name]
        parameters = [parameter for parameter in group.parameters() if parameter.requires_grad]
        spared = _without_decay(group)
        weights = [parameter for parameter in parameters if parameter not in spared]
        others = [parameter for parameter in parameters if parameter in spared]
        for members, decay in ((weights, config.weight_decay), (others, 0.0)):
            if members:
                parameter_groups.append({"params": members, "lr": rate, "weight_decay": decay, "name": group.name})
    return torch.optim.AdamW(parameter_groups, fused=True)


def _layers_below_the_last(names: Sequence[str]) -> dict[str, int]:
    """How many layers each group lies below its tower's last one that learns; 0 for what follows the layers."""
    depths = dict.fromkeys(names, 0)
    for tower in {tower_of(name) for name in names}:
        own = [name for name in names if tower_of(name) == tower]
        layers = {name: int(name.rpartition(".")[2]) for name in own if is_layer(name)}
        last = max(layers.values(), default=-1)
        depths |= {name: last - place for name, place in layers.items()}
        depths |= {name: last + 1 for name in own if name.rpartition(".")[2] == "embeddings"}
    return depths


def _without_decay(group: Group) -> set[nn.Parameter]:
    """Biases, norms, class tokens and learned queries, which are single vectors, and embedding tables."""
    tables = {
        parameter
        for module in group.modules
        for part in module.modules()
        if isinstance(part, nn.Embedding)
        for parameter in part.parameters()
    }
    vectors = {p for p in group.parameters() if p.ndim < 2 or p.numel() == p.shape[-1]}
    return tables | vectors


def learning_rate_factor(config: TrainingConfig, steps_per_epoch: int, step: int) -> float:
    """Factor on every group's rate at an optimiser step, from 0.

    Linear warm-up over ``warmup_share`` of the steps, then half a cosine to zero (Loshchilov and
    Hutter, "SGDR", 2017), reductions every ``step_epochs`` (StepLR), or nothing.
    """
    total = config.epochs * steps_per_epoch
    warmup = round(total * config.warmup_share)
    if step < warmup:
        return (step + 1) / warmup
    if config.scheduler == "cosine":
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))
    if config.scheduler == "step":
        return float(config.step_factor ** (step // (config.step_epochs * steps_per_epoch)))
    return 1.0


def set_schedule(scheduler: torch.optim.lr_scheduler.LambdaLR, steps: int) -> None:
    """Put a schedule, and its optimiser's rates, where they stand after a number of steps."""
    scheduler.last_epoch = steps
    pairs = zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
    scheduler._last_lr = [base * factor(steps) for base, factor in pairs]
    for group, rate in zip(scheduler.optimizer.param_groups, scheduler._last_lr, strict=True):
        group["lr"] = rate
