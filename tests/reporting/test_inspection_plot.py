"""The picture of an inspection holds the steps' own pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from toolkit.reporting.inspection_plot import SHOWN, Overlay, Panel, inspection_figure, plot_inspection

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (32, 32, 3), np.uint8)
PANELS = [Panel("decoded", "", RNG.integers(0, 256, (40, 60, 3), np.uint8), (4, 4, 32, 32)), Panel("seen", "", PIXELS)]


def drawn(figure: Any, place: int, image: int = 0) -> Any:
    return np.asarray(figure.axes[place].images[image].get_array())


def test_panels_show_the_very_pixels() -> None:
    figure = inspection_figure(PANELS, None, "title", "caption")
    assert np.array_equal(drawn(figure, 0), PANELS[0].pixels)
    assert np.array_equal(drawn(figure, 1), PIXELS)
    assert len(figure.axes) == 2


def test_attention_lies_where_its_patch_is() -> None:
    shares = np.full((4, 4), 0.02)
    shares[1, 2] = 0.7
    figure = inspection_figure(PANELS, Overlay(shares, "the class token's"), "title", "caption")
    over = drawn(figure, 2, 1)
    row, column = np.unravel_index(int(over.argmax()), over.shape)
    assert over.shape == (32, 32)
    assert (row // 8, column // 8) == (1, 2)


def test_even_attention_looks_even() -> None:
    shares = np.full((4, 4), 1 / 16)
    shares[0, 0] *= 1.001
    figure = inspection_figure(PANELS, Overlay(shares, ""), "title", "caption")
    colours = figure.axes[2].images[1].to_rgba(drawn(figure, 2, 1))
    assert float(np.ptp(colours[..., :3], axis=(0, 1)).max()) < 0.02


@pytest.mark.parametrize("shape", [(3000, 40, 3), (1, 1, 3), (1500, 1600, 3)])
def test_any_shape_is_drawn(shape: tuple[int, int, int], tmp_path: Path) -> None:
    panel = Panel("decoded", "$x$", np.zeros(shape, np.uint8))
    plot_inspection([panel, *PANELS], None, "n\x1b[2J" * 40, "c" * 400, tmp_path / "picture.png")
    with Image.open(tmp_path / "picture.png") as image:
        assert image.format == "PNG"
        assert max(image.size) < 4000
    assert max(drawn(inspection_figure([panel], None, "", ""), 0).shape) <= SHOWN
