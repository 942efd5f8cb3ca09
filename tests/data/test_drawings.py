from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image

from toolkit.data.drawings import (
    COLORS,
    DIGITS,
    FEWEST_PIXELS,
    FONTS,
    LETTERS,
    NEUTRALS,
    PATTERNS,
    SHAPES,
    SIDE,
    SIZES,
    Scene,
    caption,
    draw,
    drawing,
    sample_scene,
)

DISC = Scene("shape", "circle", "black", "medium", "center", "white", "plain", "sans")
POSITIONS = ["", "left", "right", "top", "top left", "top right", "bottom", "bottom left", "bottom right"]
OBJECTS = {"shape": SHAPES, "letter": LETTERS, "digit": DIGITS}
NOUNS = [(kind, name) for kind, names in OBJECTS.items() for name in names]
ALL_COLORS = {**COLORS, **NEUTRALS}


def scenes(count: int = 300) -> list[Scene]:
    return [sample_scene(np.random.default_rng(seed)) for seed in range(count)]


def dark_pixels(image: Image.Image) -> np.ndarray:
    """Indices [n, 2] of the pixels nearer to black than to white, as row and column."""
    return np.argwhere(np.asarray(image.convert("L")) < 128)


def test_a_drawing_is_a_function_of_seed_and_index() -> None:
    for seed, index in ((0, 0), (0, 1), (7, 123)):
        (image, text, scene), (again, text_again, scene_again) = drawing(seed, index), drawing(seed, index)
        assert image.tobytes() == again.tobytes()
        assert (text, scene) == (text_again, scene_again)
        assert (image.mode, image.size) == ("RGB", (SIDE, SIDE))


def test_drawings_of_other_seeds_and_indices_are_others() -> None:
    images = {drawing(seed, index)[0].tobytes() for seed in range(5) for index in range(10)}
    assert len(images) == 50


def test_sampled_scenes_cover_every_attribute_and_hide_no_object() -> None:
    sampled = scenes(2000)
    assert {(scene.kind, scene.name) for scene in sampled} == set(NOUNS)
    assert {scene.color for scene in sampled} == {scene.background for scene in sampled} == set(ALL_COLORS)
    assert {scene.size for scene in sampled} == set(SIZES)
    assert {scene.pattern for scene in sampled} == set(PATTERNS)
    assert {scene.font for scene in sampled} == set(FONTS)
    assert {scene.position for scene in sampled} == {position or "center" for position in POSITIONS}
    assert all(scene.color != scene.background for scene in sampled)


def test_a_caption_says_nothing_that_is_not_in_the_scene() -> None:
    said = 0
    for seed, scene in enumerate(scenes()):
        text = caption(scene, np.random.default_rng(seed))
        assert scene.noun in text
        article, first = re.sub(r"^(a|an) \w+ of ", "", text).split()[:2]
        assert article == ("an" if first[0] in "aeiou" else "a")
        body, _, background = text.partition(" on a ")
        body, _, position = body.replace(" in the center", " at the center").partition(" at the ")
        body, _, font = body.partition(" in ")
        assert background in ("", f"{scene.background} background", f"{scene.pattern} {scene.background} background")
        assert position in ("", scene.position)
        assert font in ("", f"{scene.font} type")
        qualities = body.removesuffix(scene.noun).split()
        assert set(qualities) - {scene.size, scene.color} <= {"a", "an", "of", "photo", "drawing", "picture", "image"}
        said += bool(background) + bool(position) + bool(font)
    assert said


@pytest.mark.parametrize("position", POSITIONS)
def test_the_object_stands_where_the_scene_says(position: str) -> None:
    scene = dataclasses.replace(DISC, position=position or "center", size="small")
    # off the centre by six tenths of its room at least, or by a quarter of it at most; a pixel is left to the raster
    room_at_least, room_at_most = ((1 - extent) / 2 for extent in reversed(SIZES["small"]))
    aside, centred = 0.6 * room_at_least - 1 / SIDE, 0.25 * room_at_most + 1 / SIDE
    assert centred < aside
    for seed in range(5):
        row, column = dark_pixels(draw(scene, np.random.default_rng(seed))).mean(axis=0) / (SIDE - 1) - 0.5
        for offset, before, after in ((row, "top", "bottom"), (column, "left", "right")):
            if before in position:
                assert offset <= -aside
            elif after in position:
                assert offset >= aside
            else:
                assert abs(offset) <= centred


@pytest.mark.parametrize("size", SIZES)
def test_the_object_covers_the_share_of_the_side_that_its_size_says(size: str) -> None:
    for seed in range(5):
        where = dark_pixels(draw(dataclasses.replace(DISC, size=size), np.random.default_rng(seed)))
        extents = (where.max(axis=0) - where.min(axis=0) + 1) / SIDE
        low, high = SIZES[size]
        # an edge lies in the next pixel at most, of the raster and of the coarsest one that a drawing is reduced to
        slack = 2 / SIDE + 2 / FEWEST_PIXELS[size]
        assert (extents >= low - slack).all()
        assert (extents <= high + slack).all()


@pytest.mark.parametrize(("kind", "name"), NOUNS)
def test_every_object_can_be_seen_and_told_from_a_bare_background(kind: str, name: str) -> None:
    scene = dataclasses.replace(DISC, kind=kind, name=name, size="large")
    for font in FONTS if kind != "shape" else ("sans",):
        covered = len(dark_pixels(draw(dataclasses.replace(scene, font=font), np.random.default_rng(0)))) / SIDE**2
        assert 0.02 < covered < 0.9


@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_background_can_be_drawn(pattern: str) -> None:
    plain = draw(DISC, np.random.default_rng(3))
    patterned = draw(dataclasses.replace(DISC, pattern=pattern), np.random.default_rng(3))
    assert (patterned.mode, patterned.size) == (plain.mode, plain.size)
    assert (patterned.tobytes() == plain.tobytes()) == (pattern == "plain")


@pytest.mark.parametrize("name", sorted({name for names in FONTS.values() for name in names}))
def test_every_font_ships_with_matplotlib(name: str) -> None:
    assert (Path(mpl.get_data_path()) / "fonts" / "ttf" / name).is_file()
