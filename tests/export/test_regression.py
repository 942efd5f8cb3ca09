from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

from export.latency.measure import MinSamples
from export.latency.pool import Pool
from export.latency.runner import Runner
from export.regression import MOST_PAIRS, PAIRS, Gate, against_baseline, compare_engines
from toolkit.errors import CheckFailed, ToolkitError
from toolkit.runtime.bundle import Bundle
from toolkit.runtime.session import Session

POOL = Pool([], [{"pixel_values": np.zeros((4, 3, 2, 2), np.float32)}], "here")


class Clock(Runner):
    """An engine whose runs take what a list of seconds says, on a clock of its own."""

    def __init__(self, seconds: Any) -> None:
        super().__init__("clock", "fp32", "cpu", 1, lambda batch: None)
        self.seconds = iter(seconds)

    def timed(self, batch: Any) -> float:
        return float(next(self.seconds))


def drifting(factor: float, seed: int) -> Any:
    """Seconds of an engine on a machine that slows down and recovers, with noise and outliers."""
    rng = np.random.default_rng(seed)
    step = 0
    while True:
        drift = 1 + 0.5 * np.sin(step / 400)
        outlier = 5 if rng.random() < 0.02 else 1
        yield 0.01 * factor * drift * outlier * rng.normal(1, 0.05)
        step += 1


@pytest.mark.parametrize(("factor", "expected"), [(1.1, True), (1.0, False), (0.8, False)])
def test_a_slowdown_is_told_from_drift_and_noise(factor: float, expected: bool) -> None:
    for seed in range(10):
        new, old = Clock(drifting(factor, seed)), Clock(drifting(1.0, seed + 100))
        row = compare_engines(new, old, POOL, 1, Gate("cpu", [1], MinSamples(50, 0)))
        assert row["regression"] == expected
        assert row["ratio_interval"][0] <= row["ratio"] <= row["ratio_interval"][1]
        assert row["ratio"] == pytest.approx(factor, rel=0.04)


def test_more_pairs_are_measured_where_the_interval_holds_the_limit() -> None:
    """At the limit itself no count is enough; far from it the first is."""
    at_the_limit = compare_engines(
        Clock(drifting(1.05, 1)), Clock(drifting(1, 2)), POOL, 1, Gate("cpu", [1], MinSamples(50, 0))
    )
    far = compare_engines(Clock(drifting(2, 1)), Clock(drifting(1, 2)), POOL, 1, Gate("cpu", [1], MinSamples(50, 0)))
    assert at_the_limit["pairs"] > PAIRS == far["pairs"]
    assert at_the_limit["pairs"] <= MOST_PAIRS


def test_the_same_bundle_is_no_regression_and_nothing_is_written(finished_bundle: Path, tmp_path: Path) -> None:
    new = Path(shutil.copytree(finished_bundle, tmp_path / "new"))
    outcome = against_baseline(Bundle(new), Bundle(finished_bundle), Gate("cpu", [1], MinSamples(5, 0), 100.0))
    (row,) = outcome["rows"]
    assert outcome["passed"]
    assert row["new_p50_ms"] > 0
    assert not (new / "latency.json").exists()


def test_inputs_come_from_the_folder_that_was_asked_for(finished_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    Image.fromarray(np.zeros((90, 70, 3), np.uint8)).save(tmp_path / "images" / "a.png")
    seen = set()
    real = Session.run

    def run(self: Session, feed: Any) -> Any:
        seen.add(feed["image"].shape)
        return real(self, feed)

    gate = Gate("cpu", [2], MinSamples(1, 0), 10_000.0, images=tmp_path / "images")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Session, "run", run)
        against_baseline(Bundle(finished_bundle), Bundle(finished_bundle), gate)
    assert seen == {(2, 90, 70, 3)}


def test_networks_of_other_sides_are_not_compared(finished_bundle: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(finished_bundle, tmp_path / "other"))
    model = onnx.load(other / "model.onnx")
    preprocess = json.loads((other / "preprocess.json").read_text())
    preprocess |= {"size": [64, 64]} | ({"crop": [64, 64]} if preprocess.get("crop") else {})
    for entry in model.metadata_props:
        if entry.key == "preprocess":
            entry.value = json.dumps(preprocess)
    onnx.save(model, other / "model.onnx")
    (other / "preprocess.json").write_text(json.dumps(preprocess))
    Bundle(other).update_manifest()
    with pytest.raises(ToolkitError, match="the new network takes images of 32x32 pixels, the old of 64x64"):
        against_baseline(Bundle(finished_bundle), Bundle(other), Gate("cpu", [1], MinSamples(1, 0)))


def test_a_real_slowdown_is_called_one(finished_bundle: Path) -> None:
    bundle = Bundle(finished_bundle)
    session = bundle.session(threads=1)

    def slow(batch: Any) -> None:
        session.run(batch)
        time.sleep(0.02)

    engines = [Runner("e", "fp32", "cpu", 1, run, session.input) for run in (slow, session.run)]
    pool = Pool([], [{"image": np.zeros((4, 40, 40, 3), np.uint8)}], "here")
    assert compare_engines(*engines, pool, 1, Gate("cpu", [1], MinSamples(5, 0)))["regression"]


def test_bundles_that_cannot_be_compared(finished_bundle: Path, pixel_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(ToolkitError, match="image"):
        against_baseline(Bundle(finished_bundle), Bundle(pixel_bundle), Gate("cpu", [1], MinSamples(1, 0)))
    changed = Path(shutil.copytree(finished_bundle, tmp_path / "changed"))
    (changed / "labels.json").write_text("[]")
    with pytest.raises(CheckFailed, match=r"labels.json"):
        against_baseline(Bundle(finished_bundle), Bundle(changed), Gate("cpu", [1], MinSamples(1, 0)))
    with pytest.raises(ToolkitError, match="batch size"):
        against_baseline(Bundle(finished_bundle), Bundle(finished_bundle), Gate("cpu", [0], MinSamples(1, 0)))
    with pytest.raises(ToolkitError, match="--max-regression"):
        against_baseline(Bundle(finished_bundle), Bundle(finished_bundle), Gate("cpu", [1], MinSamples(1, 0), -1))
