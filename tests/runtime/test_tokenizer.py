"""The tokenizer of the runtime by itself, with a tokenizer.json made here."""

from __future__ import annotations

import hashlib
import json
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer as Library
from tokenizers import models, pre_tokenizers, processors

from toolkit.errors import ToolkitError
from toolkit.runtime.tokenizer import MOST_CHARACTERS, TOKENIZE, TOKENIZER, Tokenizer, TokenizerSettings

WORDS = {"[PAD]": 0, "[START]": 1, "[END]": 2, "[UNK]": 3, "red": 4, "blue": 5, "green": 6}


@pytest.fixture(scope="module")
def content() -> bytes:
    library = Library(models.WordLevel(WORDS, unk_token="[UNK]"))
    library.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    ends = [("[START]", 1), ("[END]", 2)]
    library.post_processor = processors.TemplateProcessing(single="[START] $A [END]", special_tokens=ends)
    return library.to_str().encode()


def settings_of(content: bytes, **changes: Any) -> TokenizerSettings:
    given = {"context_length": 5, "padding": "longest", "padding_id": 0, "sha256": hashlib.sha256(content).hexdigest()}
    return TokenizerSettings.model_validate(given | changes)


def made(content: bytes, **changes: Any) -> Tokenizer:
    return Tokenizer(settings_of(content, **changes), content)


def test_a_batch_is_as_long_as_its_longest_text_or_the_context(content: bytes) -> None:
    texts = ["red", "blue red", None]
    found = made(content)(texts)
    assert found.input_ids.tolist() == [[1, 4, 2, 0], [1, 5, 4, 2], [0, 0, 0, 0]]
    assert found.attention_mask.tolist() == [[1, 1, 1, 0], [1, 1, 1, 1], [0, 0, 0, 0]]
    assert made(content, padding="context", padding_side="left")(texts).input_ids.tolist() == [
        [0, 0, 1, 4, 2],
        [0, 1, 5, 4, 2],
        [0, 0, 0, 0, 0],
    ]


@pytest.mark.parametrize(("side", "ids"), [("right", [1, 4, 5, 6, 2]), ("left", [1, 6, 4, 5, 2])])
def test_long_texts_are_cut_between_start_and_end_and_counted(content: bytes, side: str, ids: list[int]) -> None:
    found = made(content, truncation_side=side)(["red blue green red blue", "red", "red blue green"])
    assert (found.input_ids[0].tolist(), found.truncated) == (ids, 1)


def test_texts_that_are_none_are_refused_by_name(content: bytes) -> None:
    tokenizer = made(content)
    with pytest.raises(ToolkitError, match="half of a surrogate pair") as caught:
        tokenizer(["red", "red \ud83d\x1b[2J"])
    assert caught.value.where == "text 'red \\ud83d\\x1b[2J'"
    with pytest.raises(ToolkitError, match=f"a text of {MOST_CHARACTERS + 1:,} characters") as caught:
        tokenizer(["x" * (MOST_CHARACTERS + 1)])
    assert len(caught.value.where) < 120
    with pytest.raises(ToolkitError, match="a text of 7 tokens, where the network takes 5"):
        made(content, long_texts="refuse")(["red blue green red blue"])


def test_threads_and_copies_give_the_same(content: bytes) -> None:
    tokenizer = made(content)
    texts = [" ".join(list(WORDS)[place % 7] for place in range(count % 9)) for count in range(400)]
    alone = tokenizer(texts).input_ids
    with ThreadPoolExecutor(8) as pool:
        encoded = list(pool.map(tokenizer.encode, texts))
    np.testing.assert_array_equal(tokenizer.batch(encoded).input_ids, alone)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(tokenizer))(texts).input_ids, alone)


def test_no_text_at_all_is_an_empty_batch(content: bytes) -> None:
    assert made(content)([]).input_ids.shape == (0, 1)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"sha256": "0" * 64}, "is not the file that"),
        ({"context_length": 2}, "no room for a text"),
        ({"padding_id": 7}, "pads with the id 7"),
    ],
)
def test_files_that_do_not_fit_are_refused(content: bytes, changes: dict[str, Any], what: str) -> None:
    with pytest.raises(ToolkitError, match=what):
        made(content, **changes)


@pytest.mark.parametrize("damaged", [b"{}", b"no JSON", b"\xff\xfe", b'{"model": {"type": "Unknown"}}'])
def test_a_damaged_tokenizer_is_one_line(damaged: bytes) -> None:
    with pytest.raises(ToolkitError, match="damaged tokenizer"):
        made(damaged)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ('{"context_length": 5}', "lacks padding, padding_id, sha256"),
        ("[]", "damaged"),
        ('{"context_length": 0, "padding": "longest", "padding_id": 0, "sha256": ""}', "context_length"),
    ],
)
def test_damaged_settings_are_one_line(content: bytes, tmp_path: Path, text: str, what: str) -> None:
    (tmp_path / TOKENIZER).write_bytes(content)
    (tmp_path / TOKENIZE).write_text(text)
    with pytest.raises(ToolkitError, match=what) as caught:
        Tokenizer.read(tmp_path)
    assert caught.value.where == str(tmp_path / TOKENIZE)


def test_a_folder_without_a_tokenizer_says_which_file_is_missing(content: bytes, tmp_path: Path) -> None:
    (tmp_path / TOKENIZE).write_text(json.dumps(settings_of(content).model_dump()))
    with pytest.raises(ToolkitError, match="No such file") as caught:
        Tokenizer.read(tmp_path)
    assert caught.value.where == str(tmp_path / TOKENIZER)


def test_without_the_library_it_says_what_to_install(content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ToolkitError, match="tokenizers is not installed") as caught:
        made(content)
    assert "clip-toolkit[text]" in caught.value.fix


def test_it_needs_neither_torch_nor_transformers(content: bytes, tmp_path: Path) -> None:
    for name, data in made(content).files().items():
        (tmp_path / name).write_bytes(data)
    program = (
        "import sys; from pathlib import Path; from toolkit.runtime.tokenizer import Tokenizer; "
        "print(Tokenizer.read(Path(sys.argv[1]))(['red']).input_ids.tolist(), "
        "sorted({'torch', 'transformers', 'huggingface_hub'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[[1, 4, 2]] []", done.stderr
