"""Text that strangers chose, wherever it goes: shown as it is, obeyed by nothing."""

from __future__ import annotations

import io
import json
import os
import random
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote_to_bytes, urlsplit

import pytest
from markdown_it import MarkdownIt
from rich.table import Table
from rich.text import Text

from toolkit.strict_json import print_json, read_json
from toolkit.terminal import SafeConsole
from toolkit.text import for_html, for_markdown, for_terminal, is_utf8, markdown_code, path_text

HOSTILE = (
    *("\x1b[2J", "\x1b]0;title\x07", "\x9b31m", "a\nb", "a\r", "\u202egpj.exe", "\u2066x", "\0", "\udcff", "\ud800"),
    *("<script>", "&amp;", "[x](y)", "![x](y)", "`code`", "``", "*b*", "_i_", "a|b", "# h", "1. x", "- x", "+ x"),
    *("1) x", "=", "---", ":x", "~~~", "> q", "$x$", "\\", "[/]", "[red]x", "{x}", "<!-- x -->", "http", "\t", " "),
)
WORDS = ("café", "naïve", "日本", "نمی‌خواهم", "👩‍🔬", "two words")


def texts() -> list[str]:
    """Each hostile piece alone, and 300 seeded mixtures of them with words."""
    rng = random.Random(0)
    pieces = [*HOSTILE, *WORDS]
    return [*pieces, *("".join(rng.choices(pieces, k=rng.randint(2, 6))) for _ in range(300))]


def commands_in(shown: str) -> list[str]:
    """Characters that a terminal obeys, and those that can't be written."""
    return [each for each in shown if not (each.isprintable() or each in "\u200c\u200d") or not is_utf8(each)]


@pytest.mark.parametrize("text", texts())
def test_a_terminal_gets_nothing_to_obey(text: str) -> None:
    assert commands_in(for_terminal(text)) == []


@pytest.mark.parametrize("word", WORDS)
def test_words_stay_as_they_are(word: str) -> None:
    assert for_terminal(word) == word


def test_escapes_say_which_character_it_was() -> None:
    assert for_terminal("a\x1b\n\u202e\udcff\U000e0001") == "a\\x1b\\n\\u202e\\xff\\U000e0001"


@pytest.mark.parametrize("text", texts())
def test_every_way_into_the_console_is_escaped(text: str) -> None:
    file = io.StringIO()
    console = SafeConsole(file=file, width=400, markup=False, highlight=False)
    table = Table(title=text)
    table.add_column(text)
    table.add_row(text)
    for renderable in (text, table, Text(text)):
        console.print(renderable)
    assert commands_in(file.getvalue().replace("\n", "")) == []


class Shown(HTMLParser):
    """The words of a page, and its elements."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.words, self.elements = "", list[str]()
        self.feed(page)
        self.close()

    def handle_data(self, data: str) -> None:
        self.words += data

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.elements.append(tag)


@pytest.mark.parametrize("text", [text for text in texts() if text.strip()])
def test_markdown_and_html_show_the_text_and_nothing_else(text: str) -> None:
    shown = " ".join(for_terminal(text).split())
    markdown = MarkdownIt("gfm-like", {"linkify": False, "html": True})
    paragraph = Shown(markdown.render(for_markdown(text)))
    assert (paragraph.elements, " ".join(paragraph.words.split())) == (["p"], shown)
    cell = Shown(markdown.render(f"| a | b |\n| --- | --- |\n| {for_markdown(text)} | end |"))
    assert cell.elements == ["table", "thead", "tr", "th", "th", "tbody", "tr", "td", "td"]
    assert cell.words.split() == ["a", "b", *shown.split(), "end"]
    code = Shown(markdown.render(f"x {markdown_code(text)} y"))
    assert code.elements == ["p", "code"]
    assert "".join(code.words.split()) == f"x{''.join(shown.split())}y"
    element = Shown(f'<i title="{for_html(text)}">{for_html(text)}</i>')
    assert (element.elements, element.words) == (["i"], for_terminal(text))


@pytest.mark.parametrize("name", [b"a.png", "é.png".encode(), b"\xff\xfe.png", b"a\x1b[31m%.png", b"\xed\xb3\xbf"])
def test_a_path_as_text_says_which_file_it_is(name: bytes, tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(name)
    path.write_bytes(b"content")
    text = path_text(path)
    text.encode()
    found = unquote_to_bytes(urlsplit(text).path) if text.startswith("file://") else os.fsencode(text)
    assert found == os.fsencode(path)
    assert Path(os.fsdecode(found)).read_bytes() == b"content"


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1", "cp1252"])
def test_printed_json_is_json_in_any_encoding(encoding: str) -> None:
    written = io.BytesIO()
    stream = io.TextIOWrapper(written, encoding=encoding, errors="backslashreplace")
    print_json({"é日\udcff": ["\x1b", "\ud800", float("nan"), float("inf"), 1.5]}, stream)
    stream.flush()
    assert read_json(written.getvalue()) == {"é日\\xff": ["\x1b", "\\ud800", None, None, 1.5]}


@pytest.mark.parametrize(
    "content",
    [
        *(b"[" * 100_000, b'{"a":' * 100_000, b"NaN", b"[Infinity]", b"-Infinity", b"1e400", b'{"a": [-1e400]}'),
        *(b"9" * 5000, b'"\\ud800"', b'"\xff"', b"", b"{", b"[1,]", b'{"a": 1} x'),
    ],
)
def test_json_of_a_stranger_is_refused_by_one_class(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_json(content)


def test_good_json_reads_as_the_standard_library_reads_it() -> None:
    content = {"a": [1, -2.5, None, True, "é\u0000", {"b": []}], "c": 10**30}
    assert read_json(json.dumps(content)) == content
