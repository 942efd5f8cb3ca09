"""An image tower and a text tower as one encoder: group by group it gives what transformers gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from toolkit.errors import ToolkitError
from toolkit.models.build import build_classifier, load_classifier, save_classifier
from toolkit.models.classifier import Classifier
from toolkit.models.fusion import Fusion
from toolkit.models.multimodal import MultimodalEncoder
from toolkit.models.text_inputs import text_inputs
from toolkit.recipe.model import FusionConfig, ModelConfig

FUSIONS = ("concat", "product", "gated", "cross-attention")
TEXTS = ["a red circle", "two blue squares beside each other", ""]


def built(encoder: Path, fusion: dict[str, Any], **model: Any) -> tuple[Classifier, ModelConfig, Any]:
    given = {"inputs": ["image", "text"], "encoder": str(encoder), "fusion": fusion, "head": {"type": "linear"}}
    config = ModelConfig.model_validate({"unfreeze_last": 1} | given | model)
    classifier, processor = build_classifier(config, ["a", "b", "c"], seed=0)
    return classifier.eval(), config, processor


def inputs_of(classifier: Classifier) -> dict[str, torch.Tensor]:
    texts = text_inputs(classifier.encoder)
    assert texts is not None
    pixel_values = torch.randn(len(TEXTS), 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return {"pixel_values": pixel_values} | texts(TEXTS)


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("family", ["clip", "metaclip_2", "siglip", "siglip2"])
@torch.no_grad()
def test_the_groups_give_what_transformers_own_passes_give(
    family: str, fusion: str, text_encoders: dict[str, Path]
) -> None:
    classifier, _, _ = built(text_encoders[family], {"type": fusion})
    inputs = inputs_of(classifier)
    logits, reference = classifier(inputs), classifier.reference_logits(inputs)
    assert float((logits - reference).abs().max()) <= 1e-5 * float(reference.abs().max())
    for cut in range(1, len(classifier.groups)):
        assert torch.equal(classifier(classifier(inputs, stop=cut), start=cut), logits)


def test_both_towers_end_together_and_the_last_layers_of_each_learn(text_encoders: dict[str, Path]) -> None:
    classifier, _, _ = built(text_encoders["clip"], {"type": "gated"})
    names = [group.name for group in classifier.groups]
    assert names[-6:] == ["image.post_norm", "text.post_norm", "image.projection", "text.projection", "fusion", "head"]
    assert names.index("text.layers.1") == names.index("image.layers.1") + 1
    learning = [group.name for group in classifier.groups if any(p.requires_grad for p in group.parameters())]
    assert learning == ["image.layers.1", "text.layers.1", "image.post_norm", "text.post_norm", "fusion", "head"]
    assert names[classifier.boundary] == "image.layers.1"
    named, _, _ = built(text_encoders["clip"], {"type": "gated"}, unfreeze_last=None, unfreeze=["text.layers.1"])
    assert named.groups[named.boundary].name == "text.layers.1"


@pytest.mark.parametrize("fusion", FUSIONS)
@torch.no_grad()
def test_a_saved_classifier_is_the_same_classifier(fusion: str, text_encoders: dict[str, Path], tmp_path: Path) -> None:
    classifier, config, processor = built(text_encoders["clip"], {"type": fusion, "modality_dropout": 0.2})
    inputs = inputs_of(classifier)
    save_classifier(tmp_path, classifier, config.head, processor)
    again, _ = load_classifier(tmp_path)
    assert torch.equal(again(inputs), classifier(inputs))
    texts = text_inputs(again.encoder)
    assert texts is not None
    assert torch.equal(texts(TEXTS)["input_ids"], inputs["input_ids"])


@pytest.mark.parametrize("fusion", FUSIONS)
@torch.no_grad()
def test_what_is_missing_has_no_say(fusion: str, text_encoders: dict[str, Path]) -> None:
    classifier, _, _ = built(text_encoders["clip"], {"type": fusion, "modality_dropout": 0.2})
    assert isinstance(classifier.encoder, MultimodalEncoder)
    for parameter in (classifier.encoder.fusion.missing_image, classifier.encoder.fusion.missing_text):
        assert parameter is not None
        torch.nn.init.normal_(parameter)
    inputs = inputs_of(classifier)
    other = inputs | {"pixel_values": inputs["pixel_values"] + 1}
    blind = {"image_mask": torch.tensor([1, 0, 0])}
    same = (classifier(inputs | blind) == classifier(other | blind)).all(dim=1)
    assert same.tolist() == [False, True, True]
    mute = {"attention_mask": inputs["attention_mask"] * torch.tensor([[1], [0], [0]])}
    others = {"input_ids": inputs["input_ids"].flip(0)}
    same = (classifier(inputs | mute) == classifier(inputs | mute | others)).all(dim=1)
    assert same.tolist() == [False, True, True]


def test_in_training_a_share_of_the_samples_loses_one_of_both_never_both() -> None:
    fusion = Fusion(FusionConfig(type="concat", modality_dropout=0.4), 3, 3)
    image, text = torch.ones(20_000, 3), torch.ones(20_000, 3)
    torch.manual_seed(0)
    fused = fusion(image, text)
    lost_image, lost_text = (fused[:, :3] == 0).all(1), (fused[:, 3:] == 0).all(1)
    assert not (lost_image & lost_text).any()
    for lost in (lost_image, lost_text):
        assert 0.18 < float(lost.float().mean()) < 0.22
    there = torch.tensor([[True, False]]).expand(20_000, 2)
    assert (fusion(image, text, there)[:, :3] != 0).all()
    assert (fusion.eval()(image, text) > 0.99).all()


def test_numbers_that_are_to_meet_need_one_width() -> None:
    with pytest.raises(ToolkitError) as caught:
        Fusion(FusionConfig(type="product"), 3, 4)
    assert caught.value.where == "model.fusion.type"
    assert "images have 3, texts 4" in caught.value.what


def test_an_encoder_without_texts_is_refused(encoders: dict[str, Path]) -> None:
    with pytest.raises(ToolkitError, match="no text tower"):
        built(encoders["dinov2"], {"type": "concat"}, embedding="pooled")
