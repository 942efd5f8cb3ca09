"""The bridge from transformers' tokenizers to the runtime's."""

from __future__ import annotations

import hashlib
from typing import Any, Literal

from transformers import PreTrainedTokenizerBase

from toolkit.errors import ToolkitError
from toolkit.models.load import quiet_transformers
from toolkit.runtime.tokenizer import Tokenizer, TokenizerSettings

PROBES = (
    "a photo of a cat",
    "",
    " \t\n ",
    "It's THE 2nd Größe, isn't it?",
    "e\N{COMBINING ACUTE ACCENT} é \N{FULLWIDTH LATIN CAPITAL LETTER A} \N{LATIN SMALL LIGATURE FI}",
    "\N{WOMAN}\N{ZERO WIDTH JOINER}\N{PERSONAL COMPUTER} \N{FACE WITH TEARS OF JOY}\N{VARIATION SELECTOR-16}",
    "שלום עולם \N{RIGHT-TO-LEFT OVERRIDE}abc \N{ZERO WIDTH NON-JOINER}",
    "\x00\x07\x1b[31m\x7f\N{REPLACEMENT CHARACTER}",
    "<|startoftext|> <|endoftext|> </s> <s> <pad> <unk> <eos>",
    "日本語のテキスト 한국어",
    "word " * 300,
    "x" * 5000,
)
"""Texts that the two must agree on before the runtime's is trusted; tests compare ten thousand more."""


def runtime_tokenizer(
    tokenizer: PreTrainedTokenizerBase,
    *,
    context_length: int,
    pads_texts: bool,
    long_texts: Literal["truncate", "refuse"] = "truncate",
    where: str | None = None,
) -> Tokenizer:
    """Express a CLIP, SigLIP or MetaCLIP 2 tokenizer as the runtime's; its ``files()`` go into a bundle.

    Args:
        tokenizer: of transformers.
        context_length: tokens that the text tower takes.
        pads_texts: whether the family fills every text to the context, as SigLIP was trained.
        long_texts: what a longer text does.
        where: what errors call the tokenizer; its class, if left out.

    Raises:
        ToolkitError: it runs in Python, has no padding token, or gives other ids than the runtime.
    """
    where = where or type(tokenizer).__name__
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        what = f"{type(tokenizer).__name__} runs in Python (sentencepiece), which the runtime has not"
        fix = "put tokenizer.json beside the encoder, and uninstall sentencepiece so that transformers reads it"
        raise ToolkitError(what, where=where, fix=fix)
    if tokenizer.pad_token_id is None:
        fix = "name its pad_token in tokenizer_config.json"
        raise ToolkitError("the tokenizer has no token to pad with", where=where, fix=fix)
    content = _plain(backend)
    settings = TokenizerSettings(
        context_length=context_length,
        padding="context" if pads_texts else "longest",
        padding_id=tokenizer.pad_token_id,
        padding_side=tokenizer.padding_side,
        long_texts=long_texts,
        truncation_side=tokenizer.truncation_side,
        sha256=hashlib.sha256(content).hexdigest(),
    )
    made = Tokenizer(settings, content, where=where)
    cutting = Tokenizer(settings.model_copy(update={"long_texts": "truncate"}), content, where=where)
    for text in PROBES:
        if list(cutting.encode(text).ids) != reference_ids(tokenizer, [text], context_length)[0]:
            what = f"the tokenizer gives other ids in transformers than by the library tokenizers, as for {text!r:.80}"
            raise ToolkitError(what, where=where, fix="use an encoder whose tokenizer.json says all of it")
    return made


def reference_ids(tokenizer: PreTrainedTokenizerBase, texts: list[str], context_length: int) -> list[list[int]]:
    """The ids of each text by transformers itself, cut to the context."""
    with quiet_transformers():
        found = tokenizer(texts, truncation=True, max_length=context_length, padding=False)
    ids: list[list[int]] = found["input_ids"]
    return ids


def _plain(backend: Any) -> bytes:
    """The library's file, without what earlier calls of transformers left in it of cutting and filling."""
    copy = type(backend).from_str(backend.to_str())
    copy.no_truncation()
    copy.no_padding()
    content: str = copy.to_str()
    return content.encode()
