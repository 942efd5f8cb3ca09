"""The golden images' reference: a few arrays in ``golden/reference.npz``, read as if a stranger had written them."""

from __future__ import annotations

import io
import json
import tokenize
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from toolkit.runtime.inputs import IMAGE_MASK, INPUT_IDS, RAGGED, Feed
from toolkit.runtime.preprocess import Float32
from toolkit.strict_json import read_json

UNREADABLE = (ValueError, TypeError, KeyError, EOFError, RecursionError, MemoryError)
"""What numpy raises on damaged arrays, beside what it is told by zipfile and, of a header, by Python's tokenizer."""


GOLDEN_TEXT = ".txt"
"""Suffix of a golden example that is a text, in UTF-8."""


class Golden:
    """A few held-out images with what the reference model made of them.

    ``names`` [n] are image files in ``golden/``, of a bundle of texts alone text files in UTF-8; ``texts`` [n] what
    stands beside them, if anything, or what they hold; ``inputs`` {name: [n, ...]} (``pixel_values`` [n, 3, height,
    width] of images; ``input_ids`` and ``attention_mask`` int64 [n, context] of texts) and ``logits`` [n, classes]
    come from the training-time processor, tokenizer and PyTorch, ``outputs`` {precision: logits [n, classes]} from the
    shipped graphs on the machine that exported them.
    """

    FILE = "golden/reference.npz"
    _INPUTS, _OUTPUTS = "input ", "logits of "

    def __init__(
        self,
        names: list[str],
        inputs: Feed,
        logits: Float32,
        outputs: dict[str, Float32] | None = None,
        texts: list[str] | None = None,
    ) -> None:
        self.names, self.inputs, self.logits, self.outputs = names, dict(inputs), logits, outputs or {}
        self.texts = texts

    def save(self, bundle: Path) -> None:
        """Write the arrays into a bundle folder."""
        arrays = {"names": np.array(self.names), "logits": self.logits}
        if self.texts is not None:
            arrays["texts"] = np.frombuffer(json.dumps(self.texts).encode(), np.uint8)  # as long as each of them is
        arrays |= {f"{self._INPUTS}{name}": values for name, values in self.inputs.items()}
        arrays |= {f"{self._OUTPUTS}{precision}": logits for precision, logits in self.outputs.items()}
        (bundle / self.FILE).parent.mkdir(exist_ok=True)
        np.savez(bundle / self.FILE, allow_pickle=False, **arrays)

    @classmethod
    def parse(cls, content: bytes) -> Golden:
        """Read the arrays from the bytes of the file; nothing in it is ever executed or unpacked to more than it is.

        Raises:
            ValueError: the file is damaged, or its arrays are not of one another's sizes.
        """
        arrays = _arrays_in(content)
        inputs = _named(arrays, cls._INPUTS)
        if "pixel_values" in arrays:  # bundles of format 1
            inputs["pixel_values"] = arrays["pixel_values"]
        missing = [name for name in ("names", "logits") if name not in arrays]
        missing += [] if {"pixel_values", INPUT_IDS} & set(inputs) else ["pixel_values"]
        if missing:
            raise ValueError(f"no array {', '.join(sorted(missing))}")
        names = arrays["names"]
        if names.dtype.kind != "U" or names.ndim != 1 or not len(names):
            raise ValueError("its names are no list of texts")
        texts = _texts_in(arrays["texts"], len(names)) if "texts" in arrays else None
        golden = cls(names.tolist(), inputs, arrays["logits"], _named(arrays, cls._OUTPUTS), texts)
        for name, array in {**golden.inputs, "logits": golden.logits, **golden.outputs}.items():
            dimensions = {"pixel_values": 4, IMAGE_MASK: 1}.get(name, 2)
            dtype = np.int64 if name in (*RAGGED, IMAGE_MASK) else np.float32
            if array.dtype != dtype or array.ndim != dimensions or len(array) != len(names):
                raise ValueError(f"{name} is {array.dtype} {list(array.shape)} for {len(names)} images")
            if not np.isfinite(array).all():
                raise ValueError(f"{name} holds a number that is not finite")
        return golden

    def require(self, classes: int, size: tuple[int, int]) -> None:
        """Raise :class:`ValueError` unless the arrays fit a classifier.

        Args:
            classes: its number of classes.
            size: [height, width] of its ``pixel_values``, where it takes images.
        """
        shape = self.inputs["pixel_values"].shape if "pixel_values" in self.inputs else None
        if shape and shape[1:] != (3, *size):
            raise ValueError(f"pixel_values is {list(shape)}, and the preprocessing gives {size}")
        for logits in (self.logits, *self.outputs.values()):
            if logits.shape[1] != classes:
                raise ValueError(f"logits of {logits.shape[1]} classes, and labels.json names {classes}")


def _texts_in(array: Any, count: int) -> list[str]:
    """The texts that an array holds as JSON."""
    if array.dtype != np.uint8 or array.ndim != 1:
        raise ValueError("its texts are no bytes")
    texts = read_json(array.tobytes())
    if not isinstance(texts, list) or len(texts) != count or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"its texts are none of {count} images")
    return texts


def _named(arrays: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def _arrays_in(content: bytes) -> Mapping[str, Any]:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            packed = [entry.filename for entry in archive.infolist() if entry.compress_type != zipfile.ZIP_STORED]
            if packed:  # a bomb: numpy's savez stores arrays as they are
                raise ValueError(f"{packed[0]} is compressed")
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (*UNREADABLE, zipfile.BadZipFile, tokenize.TokenError) as error:
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from error
    except RuntimeError as error:  # zipfile's word for what is encrypted
        raise ValueError(f"no plain archive: {error}") from error
