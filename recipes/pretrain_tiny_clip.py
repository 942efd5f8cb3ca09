"""Pre-train the embedded tiny CLIP on drawings with captions, from nothing.

    accelerate launch recipes/pretrain_tiny_clip.py --out tiny-clip

Both towers, a BPE tokenizer and the image processor are made here and saved as one folder
that ``CLIPModel.from_pretrained`` and ``CLIPProcessor.from_pretrained`` load. Everything is
seeded: the k-th drawing is a function of the seed and k.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from accelerate import Accelerator
from accelerate.utils import set_seed
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from tokenizers import Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPProcessor, CLIPTokenizer

from toolkit.data import drawings

CONTEXT = 32
VOCABULARY = 768
PROJECTION = 64
START, END = "<|startoftext|>", "<|endoftext|>"


class Drawings(Dataset[tuple[Tensor, str]]):
    """Drawings of one seed with their captions: uint8 [3, side, side] and text."""

    def __init__(self, seed: int, length: int) -> None:
        self.seed, self.length = seed, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Tensor, str]:
        image, caption, _ = drawings.drawing(self.seed, index)
        return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1), caption


def train_tokenizer(captions: Iterator[str]) -> CLIPTokenizer:
    """Learn byte-pair merges, laid out as CLIP's: bytes, bytes that end a word, merges, start, end."""
    learner = Tokenizer(BPE(end_of_word_suffix="</w>"))
    learner.normalizer = normalizers.Lowercase()
    learner.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(False)])
    learner.train_from_iterator(
        captions, BpeTrainer(vocab_size=VOCABULARY, end_of_word_suffix="</w>", min_frequency=20, show_progress=False)
    )
    merges: list[Any] = [tuple(merge) for merge in json.loads(learner.to_str())["model"]["merges"]]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*alphabet, *(f"{byte}</w>" for byte in alphabet), *("".join(merge) for merge in merges), START, END]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=CONTEXT)


def build_model(tokenizer: CLIPTokenizer) -> CLIPModel:
    """A CLIP of 1.4 million parameters: 6 vision layers 128 wide, 2 text layers 64 wide."""
    text = {
        "projection_dim": PROJECTION,
        "hidden_size": 64,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": CONTEXT,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {
        "projection_dim": PROJECTION,
        "hidden_size": 128,
        "intermediate_size": 512,
        "num_hidden_layers": 6,
        "num_attention_heads": 2,
        "image_size": drawings.SIDE,
        "patch_size": 8,
    }
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=PROJECTION))


def build_optimizer(
    model: CLIPModel, learning_rate: float, steps: int
) -> tuple[torch.optim.AdamW, torch.optim.lr_scheduler.LambdaLR]:
    """AdamW, and its warm-up over a twentieth of the steps followed by half a cosine."""
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.98))
    warmup = max(1, steps // 20)

    def factor(step: int) -> float:
        progress = (step - warmup) / max(1, steps - warmup)
        return min(1.0, (step + 1) / warmup) * 0.5 * (1 + math.cos(math.pi * max(0.0, progress)))

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def contrastive_loss(logits: Tensor, captions: list[str]) -> Tensor:
    """Symmetric InfoNCE over logits [images, captions]; equal captions are positives of each other.

    Source: Radford et al. 2021, figure 3; equal captions share the target as in Khosla et
    al., "Supervised Contrastive Learning" (2020).
    """
    numbers = {text: number for number, text in enumerate(dict.fromkeys(captions))}
    ids = torch.tensor([numbers[text] for text in captions], device=logits.device)
    targets = (ids[:, None] == ids[None, :]).float()
    targets = targets / targets.sum(-1, keepdim=True)
    cross_entropy = torch.nn.functional.cross_entropy
    return (cross_entropy(logits, targets) + cross_entropy(logits.T, targets)) / 2


def held_out(
    processor: CLIPImageProcessorPil, classes: list[str], kind: str, nouns: set[str], seed: int, count: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of ``count`` unseen drawings of one kind with the index of their class."""
    images, labels, index = [], [], 0
    while count:
        image, _, scene = drawings.drawing(seed, index)
        index += 1
        name = f"{scene.color} {scene.noun}" if kind == "shape" else scene.noun
        if scene.kind != kind or name not in nouns:
            continue
        images.append(image)
        labels.append(classes.index(name))
        count -= 1
        if len(images) == 200 or not count:
            yield processor(images, return_tensors="pt")["pixel_values"], torch.tensor(labels)
            images, labels = [], []


@torch.inference_mode()
def zero_shot_accuracy(
    model: CLIPModel, tokenizer: CLIPTokenizer, prompts: list[str], batches: Iterator[tuple[Tensor, Tensor]]
) -> float:
    """Share of drawings whose label's prompt has the largest ``logits_per_image``."""
    tokens = tokenizer(prompts, padding=True, return_tensors="pt").to(model.device)
    right = [
        model(pixel_values=pixel_values.to(model.device), **tokens).logits_per_image.argmax(-1).cpu() == labels
        for pixel_values, labels in batches
    ]
    return float(torch.cat(right).double().mean())


def evaluate(model: CLIPModel, processor: CLIPProcessor, seed: int, count: int) -> dict[str, Any]:
    """Zero-shot accuracy on drawings of an unused seed: colours and shapes, digits, letters."""
    model.eval()
    colors, shapes = list(drawings.COLORS), list(drawings.SHAPES)
    sets = {
        "color_shape_36": ("shape", [f"{c} {s}" for c in colors[:6] for s in shapes[:6]]),
        "color_shape_80": ("shape", [f"{c} {s}" for c in colors for s in shapes]),
        "digits_10": ("digit", [f"digit {name}" for name in drawings.DIGITS]),
        "letters_26": ("letter", [f"letter {name.lower()}" for name in drawings.LETTERS]),
    }
    metrics: dict[str, Any] = {"images_per_set": count, "seed": seed}
    for name, (kind, classes) in sets.items():
        prompts = [f"{'an' if text[0] in 'aeiou' else 'a'} {text}" for text in classes]
        batches = held_out(processor.image_processor, classes, kind, set(classes), seed, count)
        metrics[name] = zero_shot_accuracy(model, processor.tokenizer, prompts, batches)
    return metrics


def main(
    out: Annotated[Path, typer.Option(help="Folder to write the model to.")],
    steps: Annotated[int, typer.Option(help="Optimiser steps.")] = 2600,
    batch_size: Annotated[int, typer.Option(help="Drawings a step and process.")] = 256,
    learning_rate: Annotated[float, typer.Option(help="Peak learning rate.")] = 1.5e-3,
    mixed_precision: Annotated[str, typer.Option(help="no or bf16.")] = "bf16",
    seed: Annotated[int, typer.Option(help="Seed of weights and drawings.")] = 0,
    held_out_images: Annotated[int, typer.Option(help="Unseen drawings a zero-shot figure.")] = 4000,
) -> None:
    """Pre-train, evaluate on unseen drawings, save."""
    accelerator = Accelerator(mixed_precision=mixed_precision)
    set_seed(seed)
    started = time.perf_counter()
    tokenizer = train_tokenizer(drawings.drawing(seed + 1, index)[1] for index in range(20_000))
    side = {"height": drawings.SIDE, "width": drawings.SIDE}
    images = CLIPImageProcessorPil(size={"shortest_edge": drawings.SIDE}, crop_size=side)
    processor = CLIPProcessor(image_processor=images, tokenizer=tokenizer)
    model = build_model(tokenizer)
    model.set_attn_implementation("eager")  # 1.6x faster than sdpa under bf16 on a CPU at this width

    optimizer, scheduler = build_optimizer(model, learning_rate, steps)
    world = accelerator.num_processes
    loader = DataLoader(Drawings(seed, steps * batch_size * world), batch_size, num_workers=1, prefetch_factor=4)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    mean, std = (
        torch.tensor(v, device=accelerator.device)[:, None, None] for v in (images.image_mean, images.image_std)
    )

    log: list[dict[str, float]] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, disable=not accelerator.is_main_process) as progress:
        task = progress.add_task("pre-training", total=steps)
        for step, (pixels, captions) in enumerate(loader):
            tokens = tokenizer(list(captions), padding=True, return_tensors="pt").to(accelerator.device)
            with accelerator.autocast():
                logits = model(pixel_values=(pixels / 255 - mean) / std, **tokens).logits_per_image
            loss = contrastive_loss(logits.float(), list(captions))
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            with torch.no_grad():
                accelerator.unwrap_model(model).logit_scale.clamp_(max=math.log(100))
            if step % 50 == 0 or step + 1 == steps:
                seconds = time.perf_counter() - started
                log.append({"step": step, "loss": round(loss.item(), 4), "seconds": round(seconds, 1)})
                progress.console.print(f"step {step}  loss {loss.item():.3f}  {seconds:.0f} s")
            progress.advance(task)

    if accelerator.is_main_process:
        trained = accelerator.unwrap_model(model)
        trained.set_attn_implementation("sdpa")
        metrics = {
            "zero_shot": evaluate(trained, processor, seed + 1000, held_out_images),
            "parameters": sum(p.numel() for p in trained.parameters()),
            "drawings": steps * batch_size * world,
            "seconds": round(time.perf_counter() - started, 1),
            "cores": os.cpu_count(),
            "torch": torch.__version__,
            "settings": {
                "steps": steps,
                "batch_size": batch_size,
                "learning_rate": learning_rate,
                "mixed_precision": mixed_precision,
                "seed": seed,
            },
            "log": log,
        }
        trained.save_pretrained(out)
        processor.save_pretrained(out)
        (out / "pretraining.json").write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
        print(json.dumps({key: value for key, value in metrics.items() if key != "log"}, indent=2))
    accelerator.end_training()


if __name__ == "__main__":
    typer.run(main)
