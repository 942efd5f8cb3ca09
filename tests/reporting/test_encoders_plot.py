"""The plot of compared encoders: names cover neither each other nor points, whatever lies where."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.text import Text
from PIL import Image

from toolkit.reporting.encoders_plot import encoders_figure, plot_encoders


def content(names: list[str], accuracy: list[float], times: list[float]) -> dict[str, Any]:
    encoders = [
        {
            "encoder": name,
            "accuracy": share,
            "interval": [max(0, share - 0.02), min(1, share + 0.01)],
            "latency": {"p50_ms": time, "threads": 2, "intervals": {"p50_ms": [0.97 * time, 1.04 * time]}},
        }
        for name, share, time in zip(names, accuracy, times, strict=True)
    ]
    encoders.sort(key=lambda each: -each["accuracy"])
    images = {"train": 100, "validation": 50}
    return {"encoders": encoders, "image_shape": [480, 640], "images": images, "classes": ["a", "b"]}


def random_content(seed: int, count: int, spread: float) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    names = [f"organisation/encoder-of-patch{number}-{'x' * int(rng.integers(0, 20))}" for number in range(count)]
    shares = (0.9 + spread * rng.uniform(-0.5, 0.5, count)).clip(0, 1).tolist()
    return content(names, shares, np.exp(rng.normal(3, 8 * spread, count)).tolist())


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("count", "spread"), [(2, 0.2), (6, 0.2), (9, 0.1), (8, 0.001)])
def test_names_overlap_neither_each_other_nor_points(seed: int, count: int, spread: float) -> None:
    figure, labels = encoders_figure(random_content(seed, count, spread))
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    for label in labels:
        label.update_positions(renderer)
    boxes = [Text.get_window_extent(label, renderer) for label in labels]  # without the lines that lead to them
    for one, other in combinations(boxes, 2):
        assert not one.overlaps(other)
    axes = figure.axes[0]
    points = [axes.transData.transform(label.xy) for label in labels]
    for box in boxes:
        assert not any(box.contains(*point) for point in points)
        assert axes.get_window_extent(renderer).padded(2).contains(box.x0, box.y0)
        assert axes.get_window_extent(renderer).padded(2).contains(box.x1, box.y1)


def test_every_encoder_is_named_with_its_metrics() -> None:
    _, labels = encoders_figure(content(["/a/clip", "/b/clip", "hub/vit"], [0.9, 0.8, 0.7], [3, 250, 5200]))
    assert [label.get_text() for label in labels] == [
        "/a/clip\n90.0 %, 3 ms",
        "/b/clip\n80.0 %, 250 ms",
        "vit\n70.0 %, 5,200 ms",
    ]


def test_the_dashed_line_goes_through_those_that_none_beats() -> None:
    figure, _ = encoders_figure(content(["a", "b", "c", "d"], [0.9, 0.8, 0.85, 0.7], [100, 10, 200, 1]))
    (line,) = [each for each in figure.axes[0].lines if each.get_linestyle() == "--"]
    assert np.allclose(line.get_xydata(), [(1, 70), (10, 80), (100, 90)])


@pytest.mark.parametrize(
    ("names", "accuracy", "times"),
    [
        (["tiny-clip"], [1.0], [1.7]),
        (["a", "b"], [0.5, 0.5], [2.0, 2.0]),
        (["n\x1b[2J" * 20, "$x$ <b>"], [0.0, 1.0], [0.01, 90000.0]),
    ],
)
def test_any_values_are_drawn(names: list[str], accuracy: list[float], times: list[float], tmp_path: Path) -> None:
    plot_encoders(content(names, accuracy, times), tmp_path / "plot.png")
    with Image.open(tmp_path / "plot.png") as picture:
        assert picture.format == "PNG"
