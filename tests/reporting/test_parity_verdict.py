"""The verdict of parity says how many labels flip, and how many do at most."""

from __future__ import annotations

import pytest
from scipy.stats import beta

from export.parity.agreement import agreement
from toolkit.cli.parity import print_parity
from toolkit.reporting.model_card import parity_lines
from toolkit.reporting.parity_verdict import parity_verdict
from toolkit.tasks.task import SINGLE_LABEL


def entry_of(images: int, flips: int, *, passed: bool = True) -> dict[str, object]:
    import numpy as np

    expected = np.tile(np.float32([1, 0]), (images, 1))
    logits = expected.copy()
    logits[:flips] = [0, 1]
    metrics = agreement(SINGLE_LABEL.decision, expected, logits, [str(place) for place in range(images)])
    sizes = {"max_abs_logit": 0.1, "mean_abs_logit": 0.1, "tolerance": 1.0, "noise_floor": 0.1}
    stages = {"preprocess": {"max_pixel_value": 0.0}, "embedding_cosine": 1.0}
    return metrics | sizes | {"images": images, "batch_sizes": [1], "stages": stages, "passed": passed}


@pytest.mark.parametrize(("images", "flips"), [(72, 2), (72, 0), (256, 1), (3000, 30)])
def test_flips_and_their_exact_bound_stand_in_the_verdict(images: int, flips: int) -> None:
    most = beta.ppf(0.95, flips + 1, images - flips)  # Clopper and Pearson, one-sided
    said = parity_verdict(entry_of(images, flips))
    assert said == f"passed; {flips:,} of {images:,} labels flip, at most {most:.1%} with 95 % confidence"


def test_the_two_flips_of_72_labels() -> None:
    assert parity_verdict(entry_of(72, 2)) == "passed; 2 of 72 labels flip, at most 8.5% with 95 % confidence"
    assert parity_verdict(entry_of(72, 2, passed=False)).startswith("FAILED; 2 of 72 labels flip")


def test_a_file_of_an_older_version_still_tells_how_many_flip() -> None:
    older = {"passed": True, "images": 72, "top1_agreement": 70 / 72}
    assert parity_verdict(older) == "passed; 2 of 72 labels flip"


def test_the_verdict_stands_in_the_table_and_on_the_card(capsys: pytest.CaptureFixture[str]) -> None:
    parity = {"results": {"fp32": {"cpu": entry_of(72, 0)}, "int8": {"cpu": entry_of(72, 2)}}}
    print_parity(parity)
    printed = capsys.readouterr().out
    for entry in (entry_of(72, 0), entry_of(72, 2)):
        assert parity_verdict(entry) in printed
    assert any("int8 on cpu: passed; 2 of 72 labels flip, at most 8.5%" in line for line in parity_lines(parity))
