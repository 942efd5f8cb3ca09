"""The embedded model is what its README says."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import CLIPModel, CLIPProcessor, CLIPTokenizer

from recipes.pretrain_tiny_clip import contrastive_loss, held_out, zero_shot_accuracy
from toolkit.data import drawings
from toolkit.models.families.clip import Clip
from toolkit.models.load import EMBEDDED, load_processor, resolve

FOLDER = Path(resolve(EMBEDDED))


def test_transformers_loads_the_model_and_the_processor() -> None:
    model, processor = CLIPModel.from_pretrained(FOLDER), CLIPProcessor.from_pretrained(FOLDER)
    image, caption, _ = drawings.drawing(7, 0)
    inputs = processor(text=[caption, "a red circle"], images=image, return_tensors="pt", padding=True)
    assert inputs["pixel_values"].shape == (1, 3, 64, 64)
    assert model(**inputs).logits_per_image.shape == (1, 2)
    assert (FOLDER / "model.safetensors").stat().st_size <= 6_000_000


def test_the_tokenizer_is_byte_level_so_that_no_text_is_unknown() -> None:
    tokenizer = CLIPTokenizer.from_pretrained(FOLDER)
    for text in ("a red circle", "zürich 漢字 🙂", "Ω≈ç√∫"):
        ids = tokenizer(text)["input_ids"]
        assert (ids[0], ids[-1]) == (tokenizer.bos_token_id, tokenizer.eos_token_id)
        assert tokenizer.eos_token_id not in ids[1:-1]
        assert tokenizer.decode(ids[1:-1]).replace(" ", "") == text.lower().replace(" ", "")
    assert len(tokenizer("a red circle")["input_ids"]) == 5  # its own words are single tokens


def test_zero_shot_on_drawings_of_an_unused_seed() -> None:
    """The README's figure is 95 % on 4,000 drawings; 400 leave a standard error of 1.1 points."""
    model, tokenizer = CLIPModel.from_pretrained(FOLDER).eval(), CLIPTokenizer.from_pretrained(FOLDER)
    classes = [f"{color} {shape}" for color in list(drawings.COLORS)[:6] for shape in drawings.SHAPES[:6]]
    batches = held_out(load_processor(EMBEDDED, Clip()), classes, "shape", set(classes), 4321, 400)
    assert zero_shot_accuracy(model, tokenizer, [f"a {name}" for name in classes], batches) > 0.95 - 3 * 0.011


def test_equal_captions_pull_as_positives_and_others_push() -> None:
    def gradient(captions: list[str]) -> torch.Tensor:
        logits = torch.zeros(3, 3, requires_grad=True)
        contrastive_loss(logits, captions).backward()
        assert logits.grad is not None
        return logits.grad

    shared, apart = gradient(["a", "a", "b"]), gradient(["a", "c", "b"])
    assert shared[0, 1] == shared[0, 0] < 0 < shared[0, 2]
    assert apart[0, 0] < 0 < apart[0, 1]
    perfect = torch.full((3, 3), -20.0).fill_diagonal_(20.0)
    assert contrastive_loss(perfect, ["a", "b", "c"]) < 1e-6
