"""Texts of every kind that a user may send, drawn by a seed."""

from __future__ import annotations

import random
from collections.abc import Callable

WORDS = (
    *("a", "photo", "of", "the", "red", "blue", "circle", "It's", "DON'T", "we'll", "2nd", "3.14", "Größe", "naïve"),
    *("café", "straße", "İstanbul", "ΣΊΣΥΦΟΣ", "ﬁne"),
)
EMOJI = (
    "\N{FACE WITH TEARS OF JOY}",
    "\N{WOMAN}\N{ZERO WIDTH JOINER}\N{PERSONAL COMPUTER}",
    "\N{MAN}\N{ZERO WIDTH JOINER}\N{WOMAN}\N{ZERO WIDTH JOINER}\N{GIRL}",
    "\N{WAVING HAND SIGN}\N{EMOJI MODIFIER FITZPATRICK TYPE-5}",
    "\N{HEAVY BLACK HEART}\N{VARIATION SELECTOR-16}",
    "\N{REGIONAL INDICATOR SYMBOL LETTER D}\N{REGIONAL INDICATOR SYMBOL LETTER E}",
)
SPECIAL = ("<|startoftext|>", "<|endoftext|>", "</s>", "<s>", "<pad>", "<unk>", "<eos>", "<bos>", "</w>", "▁", "Ġ")
BLANKS = " \t\n\r\v\f\x1c\x85\u00a0\u1680\u2003\u2028\u2029\u202f\u3000"


def _points(rng: random.Random, low: int, high: int, most: int = 30) -> str:
    return "".join(chr(rng.randint(low, high)) for _ in range(rng.randint(1, most)))


def _words(rng: random.Random) -> str:
    return rng.choice(BLANKS[:3]).join(rng.choices(WORDS, k=rng.randint(1, 12)))


def _any_plane(rng: random.Random) -> str:
    points = (rng.randrange(0x110000) for _ in range(rng.randint(1, 30)))
    return "".join(chr(point) for point in points if not 0xD800 <= point < 0xE000)


def _emoji(rng: random.Random) -> str:
    return "".join(rng.choices((*EMOJI, " ", "ok", "\N{ZERO WIDTH JOINER}"), k=rng.randint(1, 15)))


def _right_to_left(rng: random.Random) -> str:
    marks = ("", "\N{RIGHT-TO-LEFT OVERRIDE}", "\N{RIGHT-TO-LEFT MARK}", "\N{POP DIRECTIONAL ISOLATE}", " abc ")
    return "".join(_points(rng, *rng.choice(((0x590, 0x5FF), (0x600, 0x6FF))), 8) + rng.choice(marks) for _ in range(4))


def _combining(rng: random.Random) -> str:
    return "".join(rng.choice("aeEnoZ가") + _points(rng, 0x300, 0x36F, 5) for _ in range(rng.randint(1, 8)))


def _mixed(rng: random.Random) -> str:
    parts = (_words, _any_plane, _emoji, _control, _special, _blank)
    return rng.choice(("", " ")).join(rng.choice(parts)(rng) for _ in range(rng.randint(2, 5)))


def _control(rng: random.Random) -> str:
    return _words(rng)[:9] + _points(rng, 0x00, 0x1F) + rng.choice(("", "\x7f", "\x9b", "\0\0", "\x1b[31m"))


def _special(rng: random.Random) -> str:
    return rng.choice(("", " ")).join(rng.choices((*SPECIAL, "word"), k=rng.randint(1, 6)))


def _blank(rng: random.Random) -> str:
    return "".join(rng.choices(BLANKS, k=rng.randint(0, 12)))


KINDS: dict[str, tuple[int, Callable[[random.Random], str]]] = {
    "empty": (50, lambda rng: ""),
    "blanks": (350, _blank),
    "words": (2000, _words),
    "ascii": (1000, lambda rng: _points(rng, 0x20, 0x7E, 60)),
    "latin": (600, lambda rng: _points(rng, 0xA0, 0x24F)),
    "east asian": (600, lambda rng: _points(rng, *rng.choice(((0x3040, 0x30FF), (0x4E00, 0x9FFF), (0xAC00, 0xD7A3))))),
    "emoji": (1000, _emoji),
    "right to left": (900, _right_to_left),
    "combining marks": (800, _combining),
    "control characters": (800, _control),
    "any plane": (800, _any_plane),
    "names of special tokens": (500, _special),
    "compatibility forms": (200, lambda rng: _points(rng, 0xFB00, 0xFFEF)),
    "longer than the context": (300, lambda rng: " ".join(_words(rng) for _ in range(30))),
    "very long": (20, lambda rng: rng.choice(("x", "é ", "ab, ", "\N{SNOWMAN}")) * rng.randint(3000, 20000)),
    "mixed": (80, _mixed),
}


def many_texts(seed: int = 0) -> list[str]:
    """Ten thousand texts in a seeded order."""
    rng = random.Random(seed)
    texts = [draw(rng) for count, draw in KINDS.values() for _ in range(count)]
    assert len(texts) == 10_000
    rng.shuffle(texts)
    return texts
