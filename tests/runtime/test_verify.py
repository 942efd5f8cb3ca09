"""Verification: the golden images on this machine."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tiny_bundle import FILES, GOLDEN_NAMES, PARITY_TOLERANCE, flip_a_byte
from tiny_graph import rounding

from toolkit.files import write_json
from toolkit.runtime.bundle import Bundle, Golden
from toolkit.runtime.verify import OTHER_MACHINES, verify

TOLERANCE = OTHER_MACHINES * PARITY_TOLERANCE


def change_golden(path: Path, change: Callable[[Golden], None]) -> None:
    bundle = Bundle(path)
    golden = bundle.golden()
    change(golden)
    golden.save(path)
    bundle.update_manifest()


def test_verification_passes_on_a_whole_bundle(bundle: Path) -> None:
    report = verify(bundle, threads=1)
    assert report["passed"] is True
    assert report["problems"] == []
    assert (report["files"], report["images"]) == (len(FILES), len(GOLDEN_NAMES))
    assert report["preprocessing_identical"] is True
    assert report["top1_agreement"] == 1
    assert report["max_abs_logit"] <= 2 * rounding(Bundle(bundle).golden().inputs["pixel_values"]) < TOLERANCE
    assert json.loads(json.dumps(report)) == report


def other_labels(golden: Golden) -> None:
    golden.logits = np.roll(golden.logits, 1, axis=-1)


def other_logits(golden: Golden) -> None:
    golden.logits = golden.logits + np.float32(2 * TOLERANCE)


def other_pixel(golden: Golden) -> None:
    golden.inputs["pixel_values"][0, 0, 0, 0] = np.nextafter(golden.inputs["pixel_values"][0, 0, 0, 0], np.float32(2))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (other_labels, "another label"),
        (other_logits, "logits differ"),
        (other_pixel, "other pixel_values"),
    ],
)
def test_verification_fails_when_this_machine_gives_something_else(
    bundle: Path, change: Callable[[Golden], None], problem: str
) -> None:
    change_golden(bundle, change)
    report = verify(bundle, threads=1)
    assert report["passed"] is False
    assert any(problem in sentence for sentence in report["problems"])


def test_verification_fails_when_parity_had_failed(bundle: Path) -> None:
    results = {"fp32": {p: {"passed": p == "cpu", "tolerance": PARITY_TOLERANCE} for p in ("cpu", "cuda")}}
    write_json(bundle / "parity.json", {"results": results})
    Bundle(bundle).update_manifest()
    report = verify(bundle, threads=1)
    assert (report["passed"], report["problems"]) == (False, ["parity.json says that fp32 failed on cuda"])


@pytest.mark.parametrize("damage", [flip_a_byte, Path.unlink], ids=["flipped", "missing"])
@pytest.mark.parametrize("name", FILES)
def test_verification_names_each_file_that_differs(bundle: Path, name: str, damage: Callable[[Path], None]) -> None:
    damage(bundle / name)
    report = verify(bundle, threads=1)
    assert report["passed"] is False
    assert [sentence.split()[0] for sentence in report["problems"]] == [name]
