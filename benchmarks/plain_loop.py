"""The Accelerate loop that everybody copies, to compare with: one epoch after the other, nothing kept.

As transformers' run_image_classification_no_trainer.py sets it up: DataLoader with shuffle and
without workers, the image processor called an image, AdamW, accelerator.prepare of everything.
The encoder, the frozen layers and the head are those of the recipe it is compared with.

    accelerate launch benchmarks/plain_loop.py ENCODER DATA --unfreeze-last 2 --epochs 2
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from accelerate import Accelerator
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader
from transformers import CLIPImageProcessorPil, CLIPVisionModelWithProjection, get_scheduler


class Net(nn.Module):
    """transformers' vision model and an MLP head."""

    def __init__(self, encoder: str, classes: int, unfreeze_last: int | None) -> None:
        super().__init__()
        self.encoder = CLIPVisionModelWithProjection.from_pretrained(
            encoder, dtype=torch.float32, trust_remote_code=False
        )
        self.head = nn.Sequential(
            nn.Linear(self.encoder.config.projection_dim, 256), nn.GELU(), nn.Dropout(0.1), nn.Linear(256, classes)
        )
        if unfreeze_last is not None:
            vision = self.encoder.vision_model
            self.encoder.requires_grad_(False)
            if unfreeze_last:
                vision.post_layernorm.requires_grad_(True)
                for layer in vision.encoder.layers[-unfreeze_last:]:
                    layer.requires_grad_(True)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Logits [batch, classes]."""
        return self.head(self.encoder(pixel_values=pixel_values).image_embeds)


def main() -> None:
    """Train, and print the seconds of each epoch as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("encoder")
    parser.add_argument("data", type=Path)
    parser.add_argument("--unfreeze-last", type=int, help="left out: everything learns")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--mixed-precision", default="no")
    parser.add_argument("--threads", type=int, help="of torch, on CPUs")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    accelerator = Accelerator(mixed_precision=arguments.mixed_precision)
    torch.manual_seed(0)
    processor = CLIPImageProcessorPil.from_pretrained(arguments.encoder, trust_remote_code=False)
    classes = sorted(folder.name for folder in (arguments.data / "train").iterdir())
    examples = {
        split: [(path, label) for label, name in enumerate(classes) for path in sorted((root / name).iterdir())]
        for split, root in (("train", arguments.data / "train"), ("val", arguments.data / "val"))
    }

    def collate(members: list[tuple[Path, int]]) -> dict[str, torch.Tensor]:
        pixels = [
            processor(Image.open(path).convert("RGB"), return_tensors="pt")["pixel_values"][0] for path, _ in members
        ]
        return {"pixel_values": torch.stack(pixels), "labels": torch.tensor([label for _, label in members])}

    loader, validation = (
        DataLoader(members, shuffle=split == "train", collate_fn=collate, batch_size=arguments.batch_size)  # type: ignore[arg-type]
        for split, members in examples.items()
    )
    model = Net(arguments.encoder, len(classes), arguments.unfreeze_last)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    scheduler = get_scheduler("cosine", optimizer, 0, arguments.epochs * len(loader))
    model, optimizer, loader, validation, scheduler = accelerator.prepare(
        model, optimizer, loader, validation, scheduler
    )
    seconds, validating, right = [], [], 0
    for _ in range(arguments.epochs):
        model.train()
        started = time.perf_counter()
        for batch in loader:
            loss = nn.functional.cross_entropy(model(batch["pixel_values"]), batch["labels"])
            accelerator.backward(loss)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            loss.item()  # shown in the progress bar
        seconds.append(time.perf_counter() - started)
        model.eval()
        started, right = time.perf_counter(), 0
        with torch.no_grad():
            for batch in validation:
                right += int((model(batch["pixel_values"]).argmax(-1) == batch["labels"]).sum())
        validating.append(time.perf_counter() - started)
    print(json.dumps({"epoch_seconds": seconds, "validation_seconds": validating, "right": right}))


if __name__ == "__main__":
    main()
