"""From a text to ``input_ids`` and ``attention_mask``, id for id as transformers' tokenizers, without transformers.

Two files hold all of it: ``tokenizer.json``, of the library ``tokenizers``, says which ids a text has, and
``tokenize.json`` what is made of them for the network: where long texts end, and how short ones are filled.
"""

# B batch, T tokens

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from toolkit.errors import ToolkitError
from toolkit.regular_files import read_regular, read_settings
from toolkit.strict_json import reason_in
from toolkit.text import for_terminal, is_utf8

TOKENIZER, TOKENIZE = "tokenizer.json", "tokenize.json"
MOST_BYTES = 256 << 20
"""Of ``tokenizer.json``; that of a vocabulary of 256,000 tokens takes 34 MB."""
LONGEST_CONTEXT = 1 << 16
"""Tokens; towers take 64 or 77."""
MOST_CHARACTERS = 1 << 17
"""Of a text; a context of 77 tokens holds some hundred. So many, of one word, take up to two seconds."""
SHOWN = 80
"""Characters of a text that a message shows."""
Int64 = npt.NDArray[np.int64]


class TokenizerSettings(BaseModel):
    """What is made of a text's ids, as one immutable value that travels with the model.

    ``context_length`` is the most tokens that the network takes, start and end among them; ``padding`` fills short
    texts with ``padding_id`` on ``padding_side``, to the ``longest`` of a batch or always to the ``context``;
    ``long_texts`` are cut on ``truncation_side``, start and end kept, or refused; ``sha256`` is that of
    ``tokenizer.json``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    context_length: int = Field(ge=1, le=LONGEST_CONTEXT)
    padding: Literal["longest", "context"]
    padding_id: int = Field(ge=0)
    padding_side: Literal["right", "left"] = "right"
    long_texts: Literal["truncate", "refuse"] = "truncate"
    truncation_side: Literal["right", "left"] = "right"
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


@dataclass(frozen=True, slots=True)
class TokenIds:
    """The ids of one text, no more than the context takes."""

    ids: tuple[int, ...]
    """Empty for a text that is missing."""
    truncated: bool = False
    """Whether the text was longer."""


MISSING = TokenIds(())


class UnusableTextError(ToolkitError):
    """A text that can't be given to the network; others beside it can."""


@dataclass(frozen=True)
class TokenBatch:
    """Texts as the network takes them."""

    input_ids: Int64
    """[B, T]"""
    attention_mask: Int64
    """[B, T]: 1 for a token of the text, 0 for padding; a missing text has none."""
    truncated: int
    """How many of the texts were longer than the context."""

    @property
    def inputs(self) -> dict[str, Int64]:
        """By the names that a graph has for them."""
        return {"input_ids": self.input_ids, "attention_mask": self.attention_mask}


class Tokenizer:
    """Texts to ids; any number of threads may use it at once.

    Args:
        settings: content of ``tokenize.json``.
        content: of ``tokenizer.json``.
        where: what errors call the file.

    Raises:
        ToolkitError: ``tokenizers`` isn't installed, or the two files don't fit or are damaged.
    """

    def __init__(self, settings: TokenizerSettings, content: bytes, *, where: Path | str = TOKENIZER) -> None:
        self.settings, self.content = settings, content
        again = "copy it again, or export the bundle again"
        if hashlib.sha256(content).hexdigest() != settings.sha256:
            what = f"{TOKENIZER} is not the file that {TOKENIZE} is of (SHA-256)"
            raise ToolkitError(what, where=where, fix=again)
        self._encoder = _opened(content, where)
        added = self._encoder.num_special_tokens_to_add(False)
        if settings.context_length <= added:
            what = f"a context of {settings.context_length} tokens has no room for a text beside {added} of every text"
            raise ToolkitError(what, where=where, fix=again)
        if settings.padding_id >= self._encoder.get_vocab_size():
            what = f"{TOKENIZE} pads with the id {settings.padding_id}, and there are {self._encoder.get_vocab_size()}"
            raise ToolkitError(what, where=where, fix=again)
        self._encoder.no_padding()
        if settings.long_texts == "truncate":
            self._encoder.enable_truncation(settings.context_length, direction=settings.truncation_side)
        else:
            self._encoder.no_truncation()

    @classmethod
    def read(cls, folder: Path) -> Tokenizer:
        """The tokenizer whose two files lie in a folder.

        Raises:
            ToolkitError: they are not there, damaged, or don't fit.
        """
        path = folder / TOKENIZE
        fix = "copy the folder again, or export the bundle again"
        try:
            settings = TokenizerSettings.model_validate_json(read_settings(path))
            path = folder / TOKENIZER
            content = read_regular(path, MOST_BYTES)
        except ValidationError as error:
            raise ToolkitError(f"damaged: {reason_in(error)}", where=path, fix=fix) from error
        except OSError as error:
            raise ToolkitError(f"can't read it: {error.strerror or error}", where=path, fix=fix) from error
        return cls(settings, content, where=path)

    def files(self) -> dict[str, bytes]:
        """The two files by name."""
        settings = self.settings.model_dump_json(indent=2) + "\n"
        return {TOKENIZER: self.content, TOKENIZE: settings.encode()}

    def encode(self, text: str | None) -> TokenIds:
        """A text's ids, start and end among them; none of a missing text.

        Raises:
            UnusableTextError: half of a surrogate pair, too many characters, or more tokens than the context where
                that is refused.
        """
        if text is None:
            return MISSING
        if len(text) > MOST_CHARACTERS:
            what = f"a text of {len(text):,} characters, over the limit of {MOST_CHARACTERS:,}"
            raise UnusableTextError(what, where=_shown(text), fix="shorten it")
        if not is_utf8(text):
            what = "a text with half of a surrogate pair is no Unicode text"
            raise UnusableTextError(what, where=_shown(text), fix="read the text anew as UTF-8")
        found = self._encoder.encode(text)  # one by one: a batch would start threads of its own beside the network's
        context = self.settings.context_length
        if len(found.ids) > context:
            what = f"a text of {len(found.ids)} tokens, where the network takes {context}"
            raise UnusableTextError(what, where=_shown(text), fix="shorten it, or train with model.long_texts=truncate")
        return TokenIds(tuple(found.ids), bool(found.overflowing))

    def batch(self, texts: Sequence[TokenIds]) -> TokenBatch:
        """Texts side by side, filled up to one length."""
        settings = self.settings
        longest = max((len(text.ids) for text in texts), default=0)
        length = settings.context_length if settings.padding == "context" else max(1, longest)
        input_ids = np.full((len(texts), length), settings.padding_id, np.int64)
        mask = np.zeros_like(input_ids)
        for row, text in enumerate(texts):
            count = len(text.ids)
            place = slice(0, count) if settings.padding_side == "right" else slice(length - count, length)
            input_ids[row, place] = text.ids
            mask[row, place] = 1
        return TokenBatch(input_ids, mask, sum(text.truncated for text in texts))

    def truncated(self, texts: Iterable[str | None]) -> int:
        """How many of the texts lose their end; one that is refused loses nothing."""
        cut = 0
        for text in texts:
            with suppress(UnusableTextError):
                cut += self.encode(text).truncated
        return cut

    def __call__(self, texts: Sequence[str | None]) -> TokenBatch:
        """Texts as the network takes them; see :meth:`encode` for what raises."""
        return self.batch([self.encode(text) for text in texts])


def _opened(content: bytes, where: Path | str) -> Any:
    """The library's tokenizer."""
    try:
        import tokenizers
    except ModuleNotFoundError as error:
        fix = 'pip install "clip-toolkit[text]"'
        raise ToolkitError("tokenizers is not installed", where=where, fix=fix) from error
    try:
        return tokenizers.Tokenizer.from_str(content.decode())
    except Exception as error:  # the library raises no kind of its own
        reason = " ".join(str(error).split())
        fix = "copy it again, or export the bundle again"
        raise ToolkitError(f"damaged tokenizer: {reason}", where=where, fix=fix) from error


def _shown(text: str) -> str:
    short = text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
    return f"text '{for_terminal(short)}'"
