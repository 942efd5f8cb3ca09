"""A head of text embeddings gives what transformers' own model of both towers gives."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, GemmaTokenizer

from toolkit.errors import ToolkitError
from toolkit.models.build import build_classifier, load_classifier, save_classifier
from toolkit.models.families.siglip2 import cut
from toolkit.models.text_encoder import load_text_encoder
from toolkit.models.zero_shot import class_embeddings
from toolkit.recipe.model import HeadConfig, ModelConfig
from toolkit.recipe.recipe import Recipe
from toolkit.training.averaging import interpolate, pretrained_weights

LABELS = ["red circle", "blue square", "digit_seven"]
IMAGES = torch.from_numpy(np.random.default_rng(0).normal(0, 1, (5, 3, 32, 32)).astype(np.float32))
EPSILON = float(np.finfo(np.float32).eps)


def model_config(encoder: Path | str, *templates: str, **texts: str) -> ModelConfig:
    head = HeadConfig(type="cosine", init="text", templates=list(templates) or ["a {}"], texts=texts)
    return ModelConfig(encoder=str(encoder), unfreeze_last=0, head=head)


@pytest.mark.parametrize("family", ["clip", "metaclip_2", "siglip", "siglip2"])
def test_logits_are_those_per_image(text_encoders: dict[str, Path], family: str) -> None:
    classifier, _ = build_classifier(model_config(text_encoders[family], "a photo of a {}."), LABELS, seed=0)
    whole, encoder = AutoModel.from_pretrained(text_encoders[family]), load_text_encoder(str(text_encoders[family]))
    ids = encoder.tokens([f"a photo of a {label.replace('_', ' ')}." for label in LABELS])
    with torch.inference_mode():
        images: dict[str, torch.Tensor] = {"pixel_values": IMAGES}
        if family == "siglip2":
            mask, shapes = torch.ones(5, 16, dtype=torch.int64), torch.tensor([[4, 4]] * 5)
            images = {"pixel_values": cut(IMAGES, 8), "pixel_attention_mask": mask, "spatial_shapes": shapes}
        theirs = whole.eval()(input_ids=ids, **images).logits_per_image
        ours = classifier.eval().reference_logits(IMAGES)
    scale = whole.logit_scale.exp().item()
    assert theirs.std() > 100 * scale * EPSILON  # the images differ
    assert (ours - theirs).abs().max() <= 32 * scale * EPSILON


def test_siglip_2_of_one_resolution_is_a_siglip_with_gemma_s_tokenizer(
    text_encoders: dict[str, Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(text_encoders["siglip"], tmp_path / "siglip2"))
    for path in folder.glob("*token*"):
        path.unlink()
    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *"abcdefghijklmnopqrstuvwxyz."]
    GemmaTokenizer(vocab={piece: number for number, piece in enumerate(pieces)}, merges=[]).save_pretrained(folder)
    encoder = load_text_encoder(str(folder))
    ids = encoder.tokens(["red", "a blue one."])
    assert ids.shape == (2, encoder.context_length)
    assert build_classifier(model_config(folder, "{}"), ["red", "blue"], seed=0)[0].eval()(IMAGES).isfinite().all()


def test_several_templates_are_averaged_at_length_one(text_encoders: dict[str, Path]) -> None:
    encoder = load_text_encoder(str(text_encoders["clip"]))
    templates = ["a {}.", "the {} here"]
    together = class_embeddings(encoder, LABELS, templates)
    alone = torch.stack([class_embeddings(encoder, LABELS, [each]) for each in templates])
    expected = torch.nn.functional.normalize(alone.mean(0), dim=-1)
    assert torch.allclose(together, expected, atol=4 * EPSILON)
    assert torch.allclose(together.norm(dim=-1), torch.ones(3), atol=4 * EPSILON)


def test_texts_stand_in_place_of_labels(text_encoders: dict[str, Path]) -> None:
    encoder = load_text_encoder(str(text_encoders["clip"]))
    said = class_embeddings(encoder, ["7", "8"], ["a {}"], {"7": "red circle"})
    assert torch.allclose(said[0], class_embeddings(encoder, ["red circle"], ["a {}"])[0], atol=16 * EPSILON)


def test_a_saved_head_is_the_same(text_encoders: dict[str, Path], tmp_path: Path) -> None:
    config = model_config(text_encoders["siglip"])
    classifier, processor = build_classifier(config, LABELS, seed=0)
    save_classifier(tmp_path, classifier, config.head, processor)
    again, _ = load_classifier(tmp_path)
    assert torch.equal(classifier.eval()(IMAGES), again(IMAGES))


def test_wise_ft_goes_back_to_zero_shot(text_encoders: dict[str, Path]) -> None:
    classifier, _ = build_classifier(model_config(text_encoders["clip"]), LABELS, seed=0)
    before = classifier.eval()(IMAGES)
    original = pretrained_weights(classifier, head=True)
    assert set(original) == {"head.weight", "head.logit_scale"}
    with torch.no_grad():
        for parameter in classifier.head.parameters():
            parameter.add_(torch.rand_like(parameter))
    tuned = pretrained_weights(classifier, head=True)
    changed = classifier(IMAGES)
    interpolate(classifier, original, tuned, 0.5)
    assert not torch.equal(classifier(IMAGES), changed)
    interpolate(classifier, original, tuned, 0.0)
    assert torch.equal(classifier(IMAGES), before)


@pytest.mark.parametrize(
    ("encoder", "config", "what"),
    [
        ("clip", {"templates": [f"a {'very ' * 20}{{}}"]}, "takes 16: 'a very"),
        ("clip", {"texts": {"cat": "a cat"}}, "texts for labels that there are not: cat"),
        ("dinov2", {}, "dinov2 encoders have no text tower"),
        ("siglip of images", {}, "holds no text tower"),
    ],
)
def test_what_no_text_can_be_made_for_is_refused(
    text_encoders: dict[str, Path], encoders: dict[str, Path], encoder: str, config: dict[str, object], what: str
) -> None:
    folder = text_encoders.get(encoder) or encoders[encoder.partition(" ")[0]]
    head = HeadConfig.model_validate({"type": "cosine", "init": "text"} | config)
    with pytest.raises(ToolkitError, match=what):
        build_classifier(ModelConfig(encoder=str(folder), unfreeze_last=0, head=head), LABELS, seed=0)


def test_the_pooled_embedding_has_no_texts(text_encoders: dict[str, Path]) -> None:
    config = model_config(text_encoders["clip"]).model_copy(update={"embedding": "pooled"})
    with pytest.raises(ToolkitError, match="no pooled embedding"):
        build_classifier(config, LABELS, seed=0)


@pytest.mark.parametrize(
    ("head", "what"),
    [
        ({"type": "linear", "init": "text"}, "needs type: cosine"),
        ({"type": "cosine", "templates": ["a {}"]}, "are for init: text"),
        ({"type": "cosine", "init": "text", "templates": "a photo"}, "no place for the class"),
    ],
)
def test_a_head_that_makes_no_sense_is_refused(
    make_recipe: Callable[..., Recipe], head: dict[str, object], what: str
) -> None:
    with pytest.raises(ValueError, match=what):
        make_recipe("clip", model={"head": head})
