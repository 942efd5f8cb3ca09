"""AdamW over the trainable groups, and the course of the learning rate."""

from __future__ import annotations

import math

import torch

from toolkit.config import TrainingConfig
from toolkit.models.encoder import Group


def build_optimizer(groups: list[Group], config: TrainingConfig) -> torch.optim.AdamW:
    """One or two parameter groups for each trainable group: matrices decay, vectors do not.

    The head learns at ``head_learning_rate``; an encoder group k places below the topmost one
    at ``learning_rate * layer_decay ** k`` (Bao et al., "BEiT", 2021, appendix).
    """
    trainable = [group for group in groups if any(parameter.requires_grad for parameter in group.parameters())]
    encoder = [group.name for group in groups if group.name != "head"]
    parameter_groups = []
    for group in trainable:
        if group.name == "head":
            rate = config.head_learning_rate or config.learning_rate
        else:
            rate = config.learning_rate * config.layer_decay ** (len(encoder) - 1 - encoder.index(group.name))
        parameters = [parameter for parameter in group.parameters() if parameter.requires_grad]
        matrices = [parameter for parameter in parameters if parameter.ndim >= 2]
        vectors = [parameter for parameter in parameters if parameter.ndim < 2]
        for members, decay in ((matrices, config.weight_decay), (vectors, 0.0)):
            if members:
                parameter_groups.append({"params": members, "lr": rate, "weight_decay": decay, "name": group.name})
    return torch.optim.AdamW(parameter_groups, fused=True)


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
