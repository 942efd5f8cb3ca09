"""Images that this package draws itself, with captions: shapes, letters and digits.

They pre-train the embedded tiny CLIP (``recipes/pretrain_tiny_clip.py``) and test it: a
drawing is a pure function of ``(seed, index)``, so drawings held out by seed are unseen
ones, and nothing has to be stored or downloaded.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

SIDE = 64
"""Width and height of a drawing in pixels."""
SUPERSAMPLING = 2
"""Finer grid on which an object's outline is drawn before it is averaged down."""

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (220, 30, 35),
    "green": (35, 165, 60),
    "blue": (35, 75, 215),
    "yellow": (240, 220, 40),
    "purple": (140, 45, 170),
    "cyan": (50, 205, 215),
    "orange": (245, 135, 25),
    "pink": (250, 150, 195),
}
NEUTRALS: dict[str, tuple[int, int, int]] = {
    "black": (18, 18, 20),
    "gray": (128, 128, 130),
    "white": (240, 240, 238),
}
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring", "diamond", "heart", "moon", "arrow")
LETTERS = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SIZES = {"small": (0.26, 0.38), "medium": (0.42, 0.56), "large": (0.62, 0.86)}
"""Share of the drawing's side that the object covers."""
FEWEST_PIXELS = {"small": 28, "medium": 16, "large": 10}
"""Side in pixels down to which a drawing is coarsened while its object stays readable."""
PATTERNS = ("plain", "gradient", "striped", "checkered", "noisy", "scratched", "spotted")
FONTS = {
    "sans": ("DejaVuSans.ttf", "DejaVuSans-Bold.ttf", "cmss10.ttf"),
    "serif": ("DejaVuSerif.ttf", "DejaVuSerif-Bold.ttf", "STIXGeneral.ttf", "cmr10.ttf"),
    "mono": ("DejaVuSansMono.ttf", "DejaVuSansMono-Bold.ttf", "cmtt10.ttf"),
    "italic": ("DejaVuSans-Oblique.ttf", "STIXGeneralItalic.ttf", "DejaVuSansMono-Oblique.ttf"),
}
"""Font files that matplotlib ships, by the word that captions use for them."""


@dataclass(frozen=True)
class Scene:
    """What a drawing shows: one object on a background."""

    kind: str
    name: str
    color: str
    size: str
    position: str
    background: str
    pattern: str
    font: str

    @property
    def noun(self) -> str:
        """The object in words: ``circle``, ``letter k`` or ``digit seven``."""
        return self.name if self.kind == "shape" else f"{self.kind} {self.name.lower()}"


def sample_scene(rng: np.random.Generator) -> Scene:
    """Draw a scene's attributes: half shapes, the rest letters and digits."""
    kind = str(rng.choice(["shape", "digit", "letter"], p=[0.5, 0.25, 0.25]))
    names = {"shape": SHAPES, "digit": DIGITS, "letter": LETTERS}[kind]
    palette = list(COLORS) if kind == "shape" or rng.random() < 0.5 else list(NEUTRALS)
    color = str(rng.choice(palette))
    backgrounds = list(NEUTRALS) if rng.random() < 0.65 else [*COLORS, *NEUTRALS]
    background = str(rng.choice([name for name in backgrounds if name != color]))
    size = str(rng.choice(list(SIZES)))
    vertical = str(rng.choice(["top", "", "bottom"], p=[0.25, 0.5, 0.25]))
    horizontal = str(rng.choice(["left", "", "right"], p=[0.25, 0.5, 0.25]))
    position = "center" if size == "large" else (f"{vertical} {horizontal}".strip() or "center")
    pattern = str(rng.choice(PATTERNS, p=[0.34, 0.11, 0.11, 0.11, 0.11, 0.11, 0.11]))
    return Scene(kind, str(rng.choice(names)), color, size, position, background, pattern, str(rng.choice(list(FONTS))))


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """One of many true sentences about the scene; each attribute may be left out."""
    says = rng.random(6) < (0.85, 0.3, 0.35, 0.45, 0.3, 0.3)
    color, size, position, background, font, opening = says
    words = [scene.size] if size else []
    words += [scene.color] if color else []
    words.append(scene.noun)
    text = " ".join(words)
    if scene.kind in ("letter", "digit") and font:
        text += f" in {scene.font} type"
    if position:
        text += f" at the {scene.position}" if scene.position != "center" else " in the center"
    if background:
        kind = "" if scene.pattern == "plain" else f"{scene.pattern} "
        text += f" on a {kind}{scene.background} background"
    article = "an" if text[0] in "aeiou" else "a"
    if opening:
        return f"{rng.choice(['a photo of', 'a drawing of', 'a picture of', 'an image of'])} {article} {text}"
    return f"{article} {text}"


def draw(scene: Scene, rng: np.random.Generator) -> Image.Image:
    """Render a scene as an RGB image of ``SIDE`` pixels; details are drawn from ``rng``."""
    canvas = _background(scene, SIDE, rng)
    side = SIDE * SUPERSAMPLING
    low, high = SIZES[scene.size]
    extent = side * rng.uniform(low, high)
    center = [_place(scene.position, axis, extent, side, rng) for axis in ("left right", "top bottom")]
    mask = _mask(scene, side, extent, center, rng).reduce(SUPERSAMPLING)
    canvas.paste(_jitter(_rgb(scene.color), 18, rng), mask=mask)
    return _degrade(canvas, FEWEST_PIXELS[scene.size], rng)


def drawing(seed: int, index: int) -> tuple[Image.Image, str, Scene]:
    """The ``index``-th drawing of a seed: image, caption and scene."""
    rng = np.random.default_rng((seed, index))
    scene = sample_scene(rng)
    return draw(scene, rng), caption(scene, rng), scene


def _rgb(color: str) -> tuple[int, int, int]:
    return COLORS[color] if color in COLORS else NEUTRALS[color]


def _jitter(rgb: tuple[int, int, int], amount: float, rng: np.random.Generator) -> tuple[int, int, int]:
    red, green, blue = np.clip(np.array(rgb) + rng.uniform(-amount, amount, 3), 0, 255).astype(int).tolist()
    return red, green, blue


def _place(position: str, axis: str, extent: float, side: int, rng: np.random.Generator) -> float:
    before, after = axis.split()
    middle = side / 2
    room = max(0.0, middle - extent / 2)
    if before in position.split():
        return middle - room * rng.uniform(0.6, 0.95)
    if after in position.split():
        return middle + room * rng.uniform(0.6, 0.95)
    return middle + room * rng.uniform(-0.25, 0.25)


def _background(scene: Scene, side: int, rng: np.random.Generator) -> Image.Image:
    base = np.array(_jitter(_rgb(scene.background), 18, rng), dtype=np.float32)
    shift = rng.uniform(18, 42) * (1 if base.mean() < 128 else -1)
    weight = np.clip(_pattern(scene.pattern, side, rng), -1, 1)[..., None]
    return Image.fromarray(np.clip(base + shift * weight, 0, 255).astype(np.uint8))


def _pattern(pattern: str, side: int, rng: np.random.Generator) -> np.ndarray:
    """Weight [side, side] with which the second shade is mixed in."""
    y, x = np.mgrid[0:side, 0:side].astype(np.float32) / side
    angle = rng.uniform(0, math.pi)
    along = x * math.cos(angle) + y * math.sin(angle)
    period = rng.uniform(0.1, 0.3)
    if pattern == "gradient":
        return np.asarray(along - along.min())
    if pattern == "striped":
        return np.asarray((along / period % 1 < 0.5).astype(np.float32))
    if pattern == "checkered":
        return np.asarray(((x // period + y // period) % 2).astype(np.float32))
    if pattern == "noisy":
        return rng.normal(0, 1, (side, side)).astype(np.float32)
    if pattern in ("scratched", "spotted"):
        image = Image.new("F", (side, side), 0.0)
        pen = ImageDraw.Draw(image)
        for _ in range(int(rng.integers(3, 9))):
            x0, y0, x1, y1 = rng.uniform(0, side, 4).tolist()
            if pattern == "scratched":
                pen.line((x0, y0, x1, y1), fill=1.0, width=int(rng.integers(1, 3)))
            else:
                radius = rng.uniform(0.02, 0.08) * side
                pen.ellipse((x0 - radius, y0 - radius, x0 + radius, y0 + radius), fill=1.0)
        return np.asarray(image)
    return np.zeros((side, side), dtype=np.float32)


def _mask(scene: Scene, side: int, extent: float, center: list[float], rng: np.random.Generator) -> Image.Image:
    mask = Image.new("L", (side, side), 0)
    pen = ImageDraw.Draw(mask)
    if scene.kind == "shape":
        _draw_shape(pen, scene.name, extent / 2, center, rng)
        return mask
    glyph = str(DIGITS.index(scene.name)) if scene.kind == "digit" else scene.name
    path = str(rng.choice(FONTS[scene.font]))
    pen.text(
        (center[0], center[1]),
        glyph,
        fill=255,
        font=_font(path, round(extent * 1.15)),
        anchor="mm",
        stroke_width=int(rng.integers(0, 1 + round(extent * 0.05))),
    )
    turn, shear = rng.normal(0, 8), rng.normal(0, 0.12)
    mask = mask.rotate(turn, Image.Resampling.BILINEAR, center=(center[0], center[1]))
    matrix = (1, shear, -shear * center[1], 0, 1, 0)
    return mask.transform(mask.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)


@lru_cache(maxsize=4096)
def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    import matplotlib

    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)


def _draw_shape(
    pen: ImageDraw.ImageDraw, name: str, radius: float, center: list[float], rng: np.random.Generator
) -> None:
    cx, cy = center
    turn = rng.uniform(-12, 12)
    if name in ("circle", "ring"):
        pen.ellipse((cx - radius, cy - radius, cx + radius, cy + radius), fill=255)
        if name == "ring":
            inner = radius * rng.uniform(0.5, 0.65)
            pen.ellipse((cx - inner, cy - inner, cx + inner, cy + inner), fill=0)
        return
    if name == "moon":
        pen.ellipse((cx - radius, cy - radius, cx + radius, cy + radius), fill=255)
        bite, offset = radius * 0.9, radius * 0.55
        pen.ellipse((cx + offset - bite, cy - bite, cx + offset + bite, cy + bite), fill=0)
        return
    outline = np.array(OUTLINES[name]) * radius
    cos, sin = math.cos(math.radians(turn)), math.sin(math.radians(turn))
    turned = outline @ np.array([[cos, sin], [-sin, cos]]) + np.array([cx, cy])
    pen.polygon([(float(x), float(y)) for x, y in turned], fill=255)


def _star() -> list[tuple[float, float]]:
    angles = [(math.pi / 5 * k - math.pi / 2, 1.0 if k % 2 == 0 else 0.42) for k in range(10)]
    return [(radius * math.cos(angle), radius * math.sin(angle)) for angle, radius in angles]


def _cross(arm: float = 0.33) -> list[tuple[float, float]]:
    quarter = [(-arm, -1), (arm, -1), (arm, -arm)]
    turns = ((1, 0), (0, 1), (-1, 0), (0, -1))
    return [(x * cos - y * sin, x * sin + y * cos) for cos, sin in turns for x, y in quarter]


def _heart() -> list[tuple[float, float]]:
    steps = [2 * math.pi * k / 40 for k in range(40)]
    heights = [13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t) for t in steps]
    return [(math.sin(t) ** 3, -height / 16) for t, height in zip(steps, heights, strict=True)]


OUTLINES: dict[str, list[tuple[float, float]]] = {
    "square": [(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)],
    "diamond": [(0, -1), (0.72, 0), (0, 1), (-0.72, 0)],
    "triangle": [(0, -1), (1, 0.85), (-1, 0.85)],
    "star": _star(),
    "cross": _cross(),
    "arrow": [(-1, -0.28), (0.1, -0.28), (0.1, -0.8), (1, 0), (0.1, 0.8), (0.1, 0.28), (-1, 0.28)],
    "heart": _heart(),
}
"""Corners of the shapes with straight or sampled outlines, within the unit circle's box, y pointing down."""


def _degrade(image: Image.Image, fewest: int, rng: np.random.Generator) -> Image.Image:
    """What cameras and scanners do: few pixels, blur, sensor noise."""
    if rng.random() < 0.25:
        few = int(rng.integers(fewest, 40))
        enlarge = Image.Resampling.BICUBIC if rng.random() < 0.7 else Image.Resampling.BILINEAR
        image = image.resize((few, few), Image.Resampling.BOX).resize(image.size, enlarge)
    elif rng.random() < 0.2:
        image = image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.3, 1.3))))
    noise = rng.uniform(0, 8) if rng.random() < 0.5 else 0.0
    if noise:
        pixels = np.asarray(image, dtype=np.float32) + rng.normal(0, noise, (SIDE, SIDE, 1))
        image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    return image
