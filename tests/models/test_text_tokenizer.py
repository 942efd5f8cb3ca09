"""The runtime's tokenizer gives what transformers' gives, for any text."""

from __future__ import annotations

import json
import string
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from many_texts import WORDS, many_texts
from tokenizers import Regex, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Library
from transformers import (
    CLIPTokenizer,
    GemmaTokenizer,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Siglip2Tokenizer,
    XLMRobertaTokenizer,
)

from toolkit.errors import ToolkitError
from toolkit.models.load import EMBEDDED, resolve, source_of
from toolkit.models.text_encoder import open_tokenizer
from toolkit.models.text_tokenizer import reference_ids, runtime_tokenizer
from toolkit.runtime.tokenizer import Tokenizer, TokenizerSettings

LETTERS = string.ascii_letters + string.digits + string.punctuation + "éößıσςπ日本語テ가שלום"
PIECES = ["▁", *LETTERS, *(f"▁{word}" for word in WORDS), "▁a▁photo", "ing", "er", "ed", "▁th"]


def unigram() -> list[tuple[str, float]]:
    """Pieces as sentencepiece scores them: the longer one costs less than its letters."""
    return [(piece, -float(3 + len(piece))) for piece in dict.fromkeys(PIECES)]


def clip() -> tuple[PreTrainedTokenizerBase, int, bool]:
    return CLIPTokenizer.from_pretrained(resolve(EMBEDDED)), 32, False


def siglip() -> tuple[PreTrainedTokenizerBase, int, bool]:
    """A unigram tokenizer with SigLIP's rules: lower case, no punctuation, blanks made one, an end and no start."""
    library = Library(models.Unigram([("<unk>", 0.0), ("</s>", 0.0), *unigram()], unk_id=0, byte_fallback=False))
    punctuation = "".join(rf"\{character}" for character in string.punctuation)
    library.normalizer = normalizers.Sequence(
        [
            normalizers.Lowercase(),
            normalizers.Replace(Regex(f"[{punctuation}]"), ""),
            normalizers.Replace(Regex(r"\s+"), " "),
            normalizers.Strip(),
            normalizers.NFKC(),
        ]
    )
    library.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    library.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    names = {"eos_token": "</s>", "pad_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=library, model_max_length=64, **names), 64, True


def metaclip2() -> tuple[PreTrainedTokenizerBase, int, bool]:
    named = [(name, 0.0) for name in ("<s>", "<pad>", "</s>", "<unk>")]
    return XLMRobertaTokenizer(vocab=[*named, *unigram(), ("<mask>", 0.0)]), 77, False


def gemma(tokenizer: type[Any]) -> tuple[PreTrainedTokenizerBase, int, bool]:
    names = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *LETTERS]
    vocabulary = {name: place for place, name in enumerate(dict.fromkeys([*names, "th", "the", "▁the"]))}
    return tokenizer(vocab=vocabulary, merges=[("t", "h"), ("th", "e"), ("▁", "the")]), 64, True


MAKERS: dict[str, Callable[[], tuple[PreTrainedTokenizerBase, int, bool]]] = {
    "clip": clip,
    "siglip": siglip,
    "metaclip_2": metaclip2,
    "siglip2": lambda: gemma(Siglip2Tokenizer),
    "siglip2 of one resolution": lambda: gemma(GemmaTokenizer),
}
every_family = pytest.mark.parametrize(
    "make",
    [pytest.param(make, marks=[pytest.mark.slow] * ("of one resolution" in name)) for name, make in MAKERS.items()],
    ids=MAKERS,
)


def batches(texts: list[str], size: int = 32) -> Iterator[list[str]]:
    return (texts[first : first + size] for first in range(0, len(texts), size))


@pytest.mark.parametrize("every", [5, pytest.param(1, marks=pytest.mark.slow)])
@every_family
def test_ten_thousand_texts_have_the_ids_and_masks_of_transformers(
    make: Callable[[], tuple[PreTrainedTokenizerBase, int, bool]], every: int
) -> None:
    """All of them with --slow, and every fifth without."""
    theirs, context, pads = make()
    ours, compared, cut, lengths = runtime_tokenizer(theirs, context_length=context, pads_texts=pads), 0, 0, set()
    padding = "max_length" if pads else "longest"
    chosen = many_texts()[::every]
    for texts in batches(chosen):
        found = ours(texts)
        expected = theirs(
            texts, padding=padding, truncation=True, max_length=context, return_attention_mask=True, return_tensors="np"
        )
        assert found.input_ids.dtype == found.attention_mask.dtype == np.int64
        np.testing.assert_array_equal(found.input_ids, expected["input_ids"])
        np.testing.assert_array_equal(found.attention_mask, expected["attention_mask"])
        compared += len(texts)
        cut += found.truncated
        lengths.add(found.input_ids.shape[1])
    assert compared == len(chosen) == 10_000 // every
    whole = [len(ids) for ids in theirs(chosen, truncation=False)["input_ids"]]
    assert cut == sum(length > context for length in whole) > 300 // every
    assert lengths == {context} if pads else max(lengths) == context


@every_family
def test_a_long_text_keeps_its_end_or_is_refused(
    make: Callable[[], tuple[PreTrainedTokenizerBase, int, bool]],
) -> None:
    theirs, context, pads = make()
    text = "the red circle " * 100
    whole = theirs(text, truncation=False)["input_ids"]
    cut = runtime_tokenizer(theirs, context_length=context, pads_texts=pads)(["the", text])
    assert cut.truncated == 1
    ids = cut.input_ids[1].tolist()
    assert len(ids) == context
    if whole[-1] == theirs.eos_token_id:  # Gemma's, as these tests build it, has none
        assert ids[-1] == theirs.eos_token_id
        assert ids[:-1] == whole[: context - 1]
    refusing = runtime_tokenizer(theirs, context_length=context, pads_texts=pads, long_texts="refuse")
    short = theirs(["the"], **padded(pads, context))["input_ids"]
    np.testing.assert_array_equal(refusing(["the"]).input_ids, short)
    what = f"a text of {len(whole)} tokens, where the network takes {context}"
    with pytest.raises(ToolkitError, match=what) as caught:
        refusing([text])
    assert "the red circle" in caught.value.where


def padded(pads: bool, context: int) -> dict[str, Any]:
    return {"padding": "max_length", "max_length": context} if pads else {"padding": True}


def test_a_missing_text_is_padding_alone_and_an_empty_one_is_not() -> None:
    theirs, context, _ = clip()
    ours = runtime_tokenizer(theirs, context_length=context, pads_texts=False)
    found = ours([None, "", "a red circle"])
    assert found.attention_mask.sum(axis=1).tolist() == [0, 2, 5]
    assert set(found.input_ids[0].tolist()) == {theirs.pad_token_id}
    assert ours([None]).input_ids.shape == (1, 1)  # a network takes no text of no tokens
    assert set(found.inputs) == {"input_ids", "attention_mask"}


def test_padding_stands_on_the_side_that_the_tokenizer_says() -> None:
    theirs, context, _ = clip()
    theirs.padding_side = "left"
    found = runtime_tokenizer(theirs, context_length=context, pads_texts=False)(["a", "a red circle on green"])
    expected = theirs(["a", "a red circle on green"], padding=True, return_tensors="np")
    np.testing.assert_array_equal(found.input_ids, expected["input_ids"])
    np.testing.assert_array_equal(found.attention_mask, expected["attention_mask"])


def test_what_transformers_was_asked_before_changes_no_byte() -> None:
    theirs, context, _ = clip()
    before = runtime_tokenizer(theirs, context_length=context, pads_texts=False).files()
    theirs(["a", "some text"], padding="max_length", truncation=True, max_length=7)
    assert runtime_tokenizer(theirs, context_length=context, pads_texts=False).files() == before


def test_the_two_files_are_read_again_and_give_the_same(tmp_path: Path) -> None:
    theirs, context, pads = siglip()
    made = runtime_tokenizer(theirs, context_length=context, pads_texts=pads, long_texts="refuse")
    for name, content in made.files().items():
        (tmp_path / name).write_bytes(content)
    read = Tokenizer.read(tmp_path)
    assert read.settings == made.settings
    assert read.settings == TokenizerSettings(
        context_length=64, padding="context", padding_id=1, long_texts="refuse", sha256=made.settings.sha256
    )
    np.testing.assert_array_equal(read(["a photo"]).input_ids, made(["a photo"]).input_ids)
    assert read.files() == made.files()


@pytest.mark.skipif(find_spec("sentencepiece") is not None, reason="transformers' own class reads it then")
def test_without_sentencepiece_siglip_s_tokenizer_json_is_read(tmp_path: Path) -> None:
    theirs, context, pads = siglip()
    theirs.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "siglip"}')
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text()) | {"tokenizer_class": "SiglipTokenizer"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    opened = open_tokenizer(source_of(str(tmp_path), None))
    made = runtime_tokenizer(opened, context_length=context, pads_texts=pads)
    expected = runtime_tokenizer(theirs, context_length=context, pads_texts=pads)
    assert made.settings == expected.settings
    np.testing.assert_array_equal(made(many_texts()[:500]).input_ids, expected(many_texts()[:500]).input_ids)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(ToolkitError, match="no tokenizer that can be read"):
        open_tokenizer(source_of(str(tmp_path), None))


def test_a_tokenizer_that_runs_in_python_is_refused_by_name() -> None:
    class SlowTokenizer(PreTrainedTokenizerBase):
        pass

    with pytest.raises(ToolkitError, match="SlowTokenizer runs in Python"):
        runtime_tokenizer(SlowTokenizer(), context_length=8, pads_texts=True)


def test_a_tokenizer_that_transformers_changes_on_the_way_is_refused() -> None:
    theirs, context, _ = clip()
    theirs.split_special_tokens = True  # which tokenizer.json has no word for
    with pytest.raises(ToolkitError, match=r"other ids in transformers .*<\|startoftext\|>"):
        runtime_tokenizer(theirs, context_length=context, pads_texts=False)


def test_a_tokenizer_without_padding_is_refused() -> None:
    library = Library(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    with pytest.raises(ToolkitError, match="no token to pad with"):
        runtime_tokenizer(PreTrainedTokenizerFast(tokenizer_object=library), context_length=8, pads_texts=True)


def test_the_reference_is_cut_as_the_context_says() -> None:
    theirs, _, _ = clip()
    assert [len(ids) for ids in reference_ids(theirs, ["a red circle", "a"], 4)] == [4, 3]
