from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from transformers import CLIPModel, CLIPProcessor

from toolkit.data.captioned import BLOCKS, COLUMN, MANIFEST, samples_of, write_captioned
from toolkit.data.check import check_data
from toolkit.data.drawings import COLORS, SHAPES
from toolkit.data.source import DataSource, open_data
from toolkit.files import sha256_of
from toolkit.models.load import EMBEDDED, resolve
from toolkit.recipe.data import ColumnsConfig, DataConfig

Embeddings = dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]
"""By split: of the images [N, P], of the texts [N, P], and the labels [N]."""


def config_of(folder: Path) -> DataConfig:
    return DataConfig(path=folder / MANIFEST, columns=ColumnsConfig(text=COLUMN))


@pytest.fixture(scope="module")
def captioned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    dest = tmp_path_factory.mktemp("captioned") / "captioned"
    return dest, write_captioned(dest)


@pytest.fixture(scope="module")
def source(captioned: tuple[Path, dict[str, Any]]) -> DataSource:
    return open_data(config_of(captioned[0]))


@pytest.fixture(scope="module")
def embeddings(source: DataSource) -> Embeddings:
    """By the embedded model, of length one, as it was pre-trained."""
    folder = resolve(EMBEDDED)
    model, processor = CLIPModel.from_pretrained(folder).eval(), CLIPProcessor.from_pretrained(folder)
    found = {}
    for split, examples in source.splits.items():
        texts = processor.tokenizer([each.text or "" for each in examples], padding=True, return_tensors="pt")
        pixels = processor.image_processor([each.decode() for each in examples], return_tensors="pt")
        with torch.inference_mode():
            given = model(**texts, **pixels)
        found[split] = (given.image_embeds.numpy(), given.text_embeds.numpy(), source.labels(split))
    return found


@pytest.mark.parametrize("split", BLOCKS)
def test_what_is_shown_and_what_is_said_are_as_often_of_either_label(split: str) -> None:
    samples = list(samples_of(split, BLOCKS[split], np.random.default_rng(3)))
    for part in ("shown", "said"):
        counts = Counter((getattr(sample, part), sample.label) for sample in samples)
        assert set(counts.values()) == {BLOCKS[split]}
        assert len(counts) == 2 * len(COLORS) * len(SHAPES)
    wrong = [sample for sample in samples if sample.label == "mismatch"]
    differ = Counter((each.shown[0] != each.said[0], each.shown[1] != each.said[1]) for each in wrong)
    assert set(differ.values()) == {len(wrong) // 3}
    assert len(differ) == 3


def test_the_data_set_says_of_itself_what_it_holds(captioned: tuple[Path, dict[str, Any]], source: DataSource) -> None:
    folder, about = captioned
    assert json.loads((folder / "dataset.json").read_text()) == about
    assert (
        about["counts"]
        == source.counts()
        == {split: {"match": 80 * blocks, "mismatch": 80 * blocks} for split, blocks in BLOCKS.items()}
    )
    assert (about["images"], about["fingerprint"]) == (3360, source.fingerprint)
    report = check_data(config_of(folder))
    assert (report["problems"], report["unreadable"], report["texts"]["missing"]) == ([], [], 0)


def test_a_seed_gives_the_same_bytes(captioned: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    folder, about = captioned
    again = write_captioned(tmp_path / "again")
    assert again == about
    names = sorted(path.relative_to(folder) for path in folder.rglob("*.*"))
    assert [sha256_of(folder / name) for name in names] == [sha256_of(tmp_path / "again" / name) for name in names]


@pytest.mark.slow
def test_another_seed_gives_other_bytes(captioned: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    assert write_captioned(tmp_path / "other", seed=1)["fingerprint"] != captioned[1]["fingerprint"]


def accuracy(features: dict[str, np.ndarray], embeddings: Embeddings) -> float:
    probe = LogisticRegression(C=10.0, max_iter=2000).fit(features["train"], embeddings["train"][2])
    return float(probe.score(features["test"], embeddings["test"][2]))


@pytest.mark.slow
def test_either_input_alone_is_at_chance_and_their_product_far_above(embeddings: Embeddings) -> None:
    """By the embedded encoder's frozen features, on 960 test samples."""
    images = {split: image for split, (image, _, _) in embeddings.items()}
    texts = {split: text for split, (_, text, _) in embeddings.items()}
    products = {split: 8 * image * text for split, (image, text, _) in embeddings.items()}
    both = {split: np.concatenate([image, text], axis=1) for split, (image, text, _) in embeddings.items()}
    chance = 3.5 * np.sqrt(0.25 / len(embeddings["test"][2]))
    assert abs(accuracy(images, embeddings) - 0.5) < chance
    assert abs(accuracy(texts, embeddings) - 0.5) < chance
    assert abs(accuracy(both, embeddings) - 0.5) < chance  # a sum of what each says is nothing either
    assert accuracy(products, embeddings) > 0.8
