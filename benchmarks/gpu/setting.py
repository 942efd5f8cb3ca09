"""What the stages share: the encoders, images, runs and bundles, made once, and small ones where it is rehearsed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ENCODERS = {
    "vit-b-32": {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
    | {"patch_size": 32},
    "vit-b-16": {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
    | {"patch_size": 16},
    "vit-l-14": {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
    | {"patch_size": 14},
}
"""CLIP's vision towers at 224 pixels, by name; weights are random, which speed and exactness don't depend on."""
SMALL = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 2}
"""In their place where the stages are rehearsed: as many pixels and patches, so that the graphs are cut alike."""
CLASSES = ("first", "second", "third")
IMAGE_SIZE = (640, 480)
"""Width and height."""


class StageError(Exception):
    """A check that failed, with what was found until then."""

    def __init__(self, what: str, found: dict[str, Any]) -> None:
        super().__init__(what)
        self.found = found


@dataclass(frozen=True)
class Setting:
    """Where the stages work, and on what."""

    work: Path
    dry: bool

    @property
    def provider(self) -> str:
        """What ONNX Runtime runs on."""
        return "cpu" if self.dry else "cuda"

    @property
    def device(self) -> str:
        """What torch runs on."""
        return "cpu" if self.dry else "cuda"

    @property
    def precisions(self) -> list[str]:
        """Of graphs that the provider can run."""
        return ["fp32", "fp16"] if self.dry else ["fp32", "fp16", "bf16"]

    def of(self, dry: Any, real: Any) -> Any:
        """A value for the rehearsal or for the GPU."""
        return dry if self.dry else real

    def encoder(self, name: str = "vit-b-32") -> Path:
        """A CLIP checkpoint of that size."""
        import torch
        from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

        folder = self.work / name
        if not (folder / "config.json").exists():
            torch.manual_seed(0)
            sizes = ENCODERS[name] | (SMALL if self.dry else {})
            text = {"num_hidden_layers": 1} | (SMALL | {"num_hidden_layers": 1} if self.dry else {})
            CLIPModel(CLIPConfig(vision_config=sizes, text_config=text)).save_pretrained(folder)
            CLIPImageProcessorPil().save_pretrained(folder)
        return folder

    @cached_property
    def data(self) -> Path:
        """JPEGs of three classes that differ in colour, 480x640, or a quarter of that."""
        folder, rng = self.work / "data", np.random.default_rng(0)
        counts = {"train": self.of(8, 256), "validation": self.of(4, 64), "test": self.of(4, 96)}
        width, height = (side // self.of(4, 1) for side in IMAGE_SIZE)
        if folder.exists():
            return folder
        for split, count in counts.items():
            for place, label in enumerate(CLASSES):
                (folder / split / label).mkdir(parents=True)
                for number in range(count):
                    coarse = rng.integers(0, 128, (12, 16, 3), dtype=np.uint8)
                    coarse[..., place] += 100
                    image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
                    image.save(folder / split / label / f"{number:05d}.jpg", quality=90)
        return folder

    def images(self, count: int) -> np.ndarray[Any, Any]:
        """Images as decoded, uint8 [count, height, width, 3]."""
        from toolkit.runtime.decode import decode

        files = sorted((self.data / "test").rglob("*.jpg"))
        return np.stack([decode(files[place % len(files)]) for place in range(count)])

    def recipe(self, encoder: str = "vit-b-32", training: dict[str, Any] | None = None, last: int = 2) -> Any:
        """A recipe on the data."""
        from toolkit.recipe.recipe import Recipe

        config = {"epochs": 1, "batch_size": self.of(8, 64), "learning_rate": 1e-3, "loader_workers": self.of(0, 12)}
        return Recipe.model_validate(
            {
                "data": {"path": str(self.data), "augment": []},
                "model": {"encoder": str(self.encoder(encoder)), "unfreeze_last": last},
                "training": config | (training or {}),
                "tracking": {"trackers": [], "plots": False},
            }
        )

    def run(self, encoder: str = "vit-b-32") -> Any:
        """A finished run whose head has learned for an epoch."""
        from recipes.finetune import finetune
        from toolkit.runs.finished_run import Run

        folder = self.work / f"run-{encoder}"
        if not (folder / "summary.json").exists():
            finetune(self.recipe(encoder, {"boundary_cache": {"enabled": True}}, last=0), folder, force=True)
        return Run(folder)

    def bundle(self, graph_input: str, encoder: str = "vit-b-32", precisions: Sequence[str] = ()) -> Any:
        """A bundle of that run for the provider, proven on it."""
        from export.bundle import ExportOptions, export_bundle
        from toolkit.runtime.bundle import Bundle

        wanted = list(precisions or self.precisions)
        folder = self.work / f"bundle-{encoder}-{graph_input}-{'-'.join(wanted)}"
        if not folder.exists():
            options = ExportOptions(graph_input, wanted, images=self.of(12, 128 if encoder == "vit-b-32" else 32))  # type: ignore[arg-type]
            export_bundle(self.run(encoder), folder, options, provider=self.provider)
        return Bundle(folder)
