"""Damaged files of every format end as unreadable images, wherever an image is opened."""

from __future__ import annotations

import io

import pytest
from fuzz_images import TOO_LARGE, mutations, outcome_of, seeds
from PIL import Image

from toolkit.runtime.decode import FORMATS

MUTATED = 600


def test_every_format_that_is_opened_is_mutated_and_whole_at_first() -> None:
    originals = seeds()
    assert set(originals) | TOO_LARGE == set(FORMATS)
    for kind, files in originals.items():
        for content in files:
            with Image.open(io.BytesIO(content)) as image:
                assert image.format == kind
            assert outcome_of(content) == "decoded", kind


@pytest.mark.parametrize("seed", [1, 2])
def test_a_mutated_file_decodes_or_is_unreadable(seed: int) -> None:
    outcomes = [outcome_of(content) for _, content in mutations(MUTATED // 2, seed, seeds())]
    assert 0 < outcomes.count("decoded") < len(outcomes)
