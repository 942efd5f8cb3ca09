"""Kinds of encoder folders that users have, made from sound ones."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

Tensors = dict[str, Tensor]


def copy_of(folder: Path, target: Path, change: Callable[[Tensors], Tensors] | None = None, **config: Any) -> Path:
    """A copy of an encoder folder with changed tensors and keys of its configuration."""
    shutil.copytree(folder, target)
    if change is not None:
        save_file(change(load_file(folder / "model.safetensors")), target / "model.safetensors", {"format": "pt"})
    if config:
        set_json(target / "config.json", **config)
    return target


def set_json(path: Path, **keys: Any) -> None:
    """Set keys of a JSON file; None removes one."""
    content = json.loads(path.read_text()) | keys
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def prefixed(prefix: str) -> Callable[[Tensors], Tensors]:
    """Every name with something before it."""
    return lambda tensors: {prefix + name: tensor for name, tensor in tensors.items()}


def without(*parts: str) -> Callable[[Tensors], Tensors]:
    """No tensor whose name holds one of some parts."""
    return lambda tensors: {name: t for name, t in tensors.items() if not any(part in name for part in parts)}


def with_values(part: str, change: Callable[[Tensor], Tensor]) -> Callable[[Tensors], Tensors]:
    """Tensors whose names hold a part, changed."""
    return lambda tensors: {name: change(t) if part in name else t for name, t in tensors.items()}


def with_layer(number: int) -> Callable[[Tensors], Tensors]:
    """A copy of layer 0 under another number too."""

    def change(tensors: Tensors) -> Tensors:
        more = {
            name.replace("layers.0.", f"layers.{number}."): t.clone()
            for name, t in tensors.items()
            if "layers.0." in name and "text_model" not in name
        }
        return tensors | more

    return change


def with_lora(tensors: Tensors) -> Tensors:
    """PEFT's names of a model whose adapter was not merged."""
    changed: Tensors = {}
    for name, tensor in tensors.items():
        if name.endswith("q_proj.weight"):
            stem = "base_model.model." + name.removesuffix("weight")
            changed |= {
                f"{stem}base_layer.weight": tensor,
                f"{stem}lora_A.default.weight": torch.zeros(4, tensor.shape[1]),
                f"{stem}lora_B.default.weight": torch.zeros(tensor.shape[0], 4),
            }
        else:
            changed[f"base_model.model.{name}"] = tensor
    return changed


def as_type(dtype: torch.dtype, part: str = "") -> Callable[[Tensors], Tensors]:
    """Tensors whose names hold a part in another type."""
    return lambda tensors: {name: t.to(dtype) if part in name else t for name, t in tensors.items()}


def named_as_open_clip(tensors: Tensors) -> Tensors:
    """open_clip's names for the layers' norms, which is enough to know it by."""
    return {f"visual.transformer.resblocks.{index}.ln_1.weight": torch.ones(32) for index in range(3)} | {
        "visual.conv1.weight": torch.zeros(32, 3, 8, 8)
    }


def named_as_timm(tensors: Tensors) -> Tensors:
    """timm's names."""
    return {f"blocks.{index}.attn.qkv.weight": torch.zeros(96, 32) for index in range(3)} | {
        "patch_embed.proj.weight": torch.zeros(32, 3, 8, 8)
    }
