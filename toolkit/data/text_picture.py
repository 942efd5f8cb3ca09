"""A text as a picture, for pages and plots that show samples."""

from __future__ import annotations

import textwrap

from PIL import Image, ImageDraw, ImageFont

SIDE = 160
"""Pixels."""
SIZE = 14
"""Of the letters, in pixels."""
COLUMNS, LINES = 20, 9
"""That a picture holds; what is longer loses its end."""


def text_picture(text: str) -> Image.Image:
    """The beginning of a text, black on white; letters that Pillow's own font lacks are boxes."""
    picture = Image.new("RGB", (SIDE, SIDE), "white")
    lines = textwrap.wrap(text, COLUMNS, max_lines=LINES, placeholder=" ...")
    ImageDraw.Draw(picture).multiline_text((6, 6), "\n".join(lines), "black", ImageFont.load_default(SIZE))
    return picture
