"""Run by test_sharding.py, as two processes: a step on a sharded classifier beside one on a whole copy of it."""

from __future__ import annotations

import copy
import os
import socket
import sys
from pathlib import Path

import torch
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from toolkit.models.build import build_classifier
from toolkit.models.classifier import Classifier
from toolkit.recipe.model import HeadConfig, ModelConfig
from toolkit.recipe.training import TrainingConfig
from toolkit.training.checkpoints import OPTIMIZER, WEIGHTS, optimizer_state, restore, trainable_state
from toolkit.training.optimizer import build_optimizer


def shard(classifier: Classifier) -> torch.optim.Optimizer:
    """Shard as Accelerate's FSDP 2 does: each layer a unit, the rest at the root."""
    for module in classifier.modules():
        if type(module).__name__ in classifier._no_split_modules:
            fully_shard(module)
    fully_shard(classifier)
    return build_optimizer(classifier.groups, TrainingConfig(epochs=1))


def step(classifier: Classifier, optimizer: torch.optim.Optimizer, pixel_values: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        hidden = classifier(pixel_values, stop=classifier.boundary)
    logits = classifier(hidden, start=classifier.boundary)
    logits.logsumexp(-1).mean().backward()
    optimizer.step()
    optimizer.zero_grad()
    return logits.detach()


def main(encoder: str) -> None:
    torch.distributed.init_process_group("gloo")
    config = ModelConfig(encoder=encoder, unfreeze_last=1, head=HeadConfig(dropout=0.0))
    whole, _ = build_classifier(config, ["a", "b"], 0)
    sharded, fresh = copy.deepcopy(whole), copy.deepcopy(whole)
    sharded_optimizer, fresh_optimizer = shard(sharded), shard(fresh)
    optimizer = build_optimizer(whole.groups, TrainingConfig(epochs=1))
    assert all(isinstance(parameter, DTensor) for parameter in sharded.parameters())
    pixel_values = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for _ in range(2):
        expected = step(whole, optimizer, pixel_values)
        torch.testing.assert_close(step(sharded, sharded_optimizer, pixel_values), expected)
    weights, moments = trainable_state(sharded), optimizer_state(sharded, sharded_optimizer)
    for mine, theirs in ((weights, trainable_state(whole)), (moments, optimizer_state(whole, optimizer))):
        assert mine.keys() == theirs.keys()
        for name, tensor in mine.items():
            torch.testing.assert_close(tensor, theirs[name], atol=1e-5, rtol=1e-4)
    restore(Path("checkpoint"), {WEIGHTS: weights, OPTIMIZER: moments}, fresh, fresh_optimizer, steps=1)
    again, goes_on = (step(*pair, pixel_values) for pair in ((fresh, fresh_optimizer), (sharded, sharded_optimizer)))
    assert torch.equal(again, goes_on)
    final = trainable_state(sharded)
    assert all(torch.equal(tensor, final[name]) for name, tensor in trainable_state(fresh).items())
    torch.distributed.barrier()  # gloo aborts the process whose partner leaves within a collective operation
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    other = os.fork()  # before anything was computed, so that no thread is left behind
    os.environ["RANK"] = "0" if other else "1"
    main(sys.argv[1])
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(other, 0)[1]) if other else 0)
