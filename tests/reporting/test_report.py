"""The report as a browser shows it: offline, on a laptop and on a phone, with every part or with few."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chromium import chromium, screen
from measured import latency, serving

from toolkit.reporting.html import number, table
from toolkit.reporting.latency_plot import plot_measured
from toolkit.reporting.pages import write_pages
from toolkit.runtime.bundle import Bundle

HOSTILE = '<b>&"'
SECTIONS = ["Quality", "Parity", "Production settings", "Latency", "Roofline", "Machine", "Provenance"]
PARTS = [
    "Batches",
    "A request, from file to label",
    "Cold start",
    "Memory",
    "Offline: as many images as the machine can do",
    "Server: requests that arrive at random",
    "MultiStream: queries of several images",
    "Sessions and threads",
]
PLOTS = {"curves", "confusion-matrix", "reliability", "roc", "precision-recall", "worst-errors"}
MEASURED_PLOTS = {"latency", "roofline", "server"}
WIDTHS = (1280, 390)
NEW_KEYS = {"p95_ms", "p99_9_ms", "max_ms", "intervals", "warmup_seconds", "steady", "block_p50_ms", "scenario"}
NEW_KEYS |= {"gflops_per_s", "share_of_ceiling", "share_of_best_ceiling"}


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with chromium(tmp_path_factory.mktemp("chromium")) as opened:
        yield opened


def described(bundle: Path, folder: Path, metrics: dict[str, Any] | None, chosen: dict[str, Any] | None) -> Path:
    """A copy of the bundle with the files of a benchmark, and its report."""
    shutil.copytree(bundle, folder)
    (folder / "labels.json").write_text(json.dumps([HOSTILE, *json.loads((folder / "labels.json").read_text())[1:]]))
    if metrics is not None:
        (folder / "latency.json").write_text(json.dumps(metrics))
        plot_measured(metrics, folder / "plots")
    if chosen is not None:
        (folder / "serving.json").write_text(json.dumps(chosen))
    write_pages(folder, Bundle(bundle).manifest)
    return folder / "report.html"


@pytest.fixture(scope="module")
def full(finished_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return described(finished_bundle, tmp_path_factory.mktemp("full") / "bundle", latency(), serving())


def old() -> dict[str, Any]:
    """What earlier versions wrote."""
    metrics = latency()
    rows = [{key: row[key] for key in row.keys() - NEW_KEYS} for row in metrics["rows"]]
    machine = {key: metrics["machine"][key] for key in ("processor", "cores", "usable_cores")}
    return {"rows": rows, "machine": machine, "inputs": {}}


def show(browser: Any, report: Path, width: int, scheme: str = "light") -> Any:
    """Open a report as a screen of so many pixels shows it."""
    from selenium.webdriver.support.ui import WebDriverWait

    screen(browser, width, scheme)
    for kind in ("browser", "performance"):
        browser.get_log(kind)
    browser.get("about:blank")  # so that what is found can't be the page before
    browser.get(report.as_uri())
    # on a busy machine the driver has been seen to return before the page was parsed to its end
    WebDriverWait(browser, 30).until(
        lambda page: page.execute_script("return [location.href, document.readyState]") == [report.as_uri(), "complete"]
    )
    return browser


def texts(browser: Any, selector: str) -> list[str]:
    found: list[str] = browser.execute_script(
        "return [...document.querySelectorAll(arguments[0])].map(each => each.textContent)", selector
    )
    return found


def colors(browser: Any, selector: str) -> list[float]:
    """Luminance (0 to 1) of an element's text, and of the page."""
    script = (
        "const of = (e, k) => getComputedStyle(e)[k];"
        "return [of(document.querySelector(arguments[0]), 'color'), of(document.body, 'backgroundColor')]"
    )
    found = []
    for text in browser.execute_script(script, selector):
        channels = [int(each) / 255 for each in re.findall(r"\d+", text)[:3]]
        linear = [each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in channels]
        found.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])
    return found


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_leaves_the_file_and_nothing_is_wider_than_the_screen(browser: Any, full: Path, width: int) -> None:
    show(browser, full, width)
    assert browser.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = {each["params"]["request"]["url"] for each in messages if each["method"] == "Network.requestWillBeSent"}
    assert {url for url in asked if not url.startswith("data:")} == {full.as_uri()}
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    outside = browser.execute_script(
        "return [...document.querySelectorAll('body *')].filter(each => !each.closest('.scroll')"
        " && each.getBoundingClientRect().right > innerWidth + 0.5).map(each => each.outerHTML.slice(0, 80))"
    )
    assert outside == []
    assert texts(browser, "table") != []
    assert browser.execute_script(
        "return [...document.querySelectorAll('table')].every(each => each.parentElement.className === 'scroll'"
        " && getComputedStyle(each.parentElement).overflowX === 'auto')"
    )


def test_every_part_has_its_heading_and_the_contents_lead_to_it(browser: Any, full: Path) -> None:
    show(browser, full, 1280)
    assert texts(browser, "h2") == SECTIONS
    assert [part for part in texts(browser, "h3") if part != "Forms that were tried"] == PARTS
    assert len(texts(browser, "h1")) == 1
    assert texts(browser, "nav a") == SECTIONS
    assert browser.execute_script(
        "return [...document.querySelectorAll('nav a')].every("
        "each => document.querySelector(each.hash).querySelector('h2').textContent === each.textContent)"
    )


def test_every_plot_is_there_and_says_what_it_shows(browser: Any, full: Path) -> None:
    show(browser, full, 390)
    metrics = browser.execute_script(
        "return [...document.querySelectorAll('figure')].map(each => [each.className,"
        " each.querySelector('img').naturalWidth, each.querySelector('img').alt])"
    )
    assert {name for name, _, _ in metrics} == PLOTS | MEASURED_PLOTS
    assert all(width > 0 and len(alt) > 40 for _, width, alt in metrics)


def test_a_tap_enlarges_a_plot_on_a_phone_inside_its_box(browser: Any, full: Path) -> None:
    show(browser, full, 390)
    browser.execute_script("document.querySelector('figure.curves label').click()")
    wide, page = browser.execute_script(
        "return [document.querySelector('figure.curves img').clientWidth, document.documentElement.scrollWidth]"
    )
    assert wide > 700
    assert page <= 390


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("selector", ["p", "a", "caption", "td", "dt", ".figures b"])
def test_text_stands_out_in_light_and_in_dark(browser: Any, full: Path, scheme: str, selector: str) -> None:
    show(browser, full, 1280, scheme)
    text, page = colors(browser, selector)
    assert (page > 0.5) == (scheme == "light")
    assert (max(text, page) + 0.05) / (min(text, page) + 0.05) >= 4.5


def test_text_that_looks_like_html_is_shown_as_text(browser: Any, full: Path) -> None:
    show(browser, full, 1280)
    assert f"classes: {HOSTILE}, " in texts(browser, "header p")[0]
    hostile = latency()
    hostile["machine"]["processor"] = "<script>document.title='run'</script>"
    hostile["rows"][0]["engine"] = HOSTILE
    changed = described(full.parent, full.parent.parent / "hostile", hostile, serving())
    show(browser, changed, 1280)
    assert browser.title != "run"
    assert "<script>" in texts(browser, "#machine dd")[0]
    assert browser.execute_script("return document.querySelectorAll('script, td b').length") == 0


def test_what_makes_the_figures_doubtful_is_said(browser: Any, full: Path) -> None:
    show(browser, full, 1280)
    (note,) = texts(browser, "#latency .note")
    assert "The container's CPU quota held it back for 412 ms." in note
    assert note.count("The GPU's clocks were held back by the power limit.") == 1
    assert "torch-eager fp32 on cpu, batch 32" in note
    assert browser.execute_script("return document.querySelector('.note').getBoundingClientRect().height") > 40


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("metrics", [None, old()], ids=["never measured", "measured by an old version"])
def test_what_was_not_measured_is_left_out(
    browser: Any, finished_bundle: Path, tmp_path: Path, metrics: dict[str, Any] | None, width: int
) -> None:
    report = described(finished_bundle, tmp_path / "bundle", metrics, None)
    show(browser, report, width)
    assert browser.get_log("browser") == []
    missing = {"Production settings", "Roofline"} | (set() if metrics else {"Latency", "Machine"})
    assert texts(browser, "h2") == [each for each in SECTIONS if each not in missing]
    assert [part for part in texts(browser, "h3") if part != "Forms that were tried"] == (
        ["Batches"] if metrics else []
    )
    assert texts(browser, "#latency .note") == []
    shown = " ".join(texts(browser, "body"))
    assert not re.search(r"\b(None|nan|null|undefined)\b|\{\}", shown)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width


def test_the_figures_are_those_of_the_files(full: Path) -> None:
    page = full.read_text()
    first = latency()["rows"][0]
    low, high = first["intervals"]["p50_ms"]
    assert f"{first['p50_ms']:.2f} ({low:.2f} to {high:.2f})" in page
    assert "Production runs int8 on cpu: 1 session of 2 threads, batches of up to 8 images." in page
    assert "int8 on cpu holds p99 ≤ 25.0 ms up to 402 images/s." in page
    assert latency()["scenarios"]["offline_end"] in page
    assert re.findall(r'(?:src|href)="(?!data:image/png;base64,|#)[^"]*"', page) == []


def test_a_host_without_matplotlib_writes_the_page(full: Path) -> None:
    before = full.read_bytes()
    code = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "from pathlib import Path\n"
        "from toolkit.reporting.pages import write_pages\n"
        "from toolkit.runtime.manifest import Manifest\n"
        "folder = Path(sys.argv[1])\n"
        "write_pages(folder, Manifest.model_validate_json((folder / 'manifest.json').read_text()))\n"
    )
    subprocess.run([sys.executable, "-c", code, str(full.parent)], check=True)
    assert full.read_bytes() == before


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (float("nan"), ""),
        (0.00123, "0.00123"),
        (1.2345, "1.23"),
        (12.345, "12.3"),
        (123.45, "123"),
        (12345.6, "12,346"),
    ],
)
def test_numbers_have_three_digits_and_no_exponent(value: float, text: str) -> None:
    assert number(value) == text


def test_columns_and_tables_without_content_are_left_out() -> None:
    columns = {"a": lambda row: row["a"], "b": lambda row: row.get("b", "")}
    assert ">b<" not in table("t", columns, [{"a": "1"}])
    assert ">b<" in table("t", columns, [{"a": "1"}, {"a": "2", "b": "3"}])
    assert table("t", columns, []) == ""


def test_the_card_carries_metadata_that_the_hub_reads(finished_bundle: Path) -> None:
    from huggingface_hub import ModelCard

    card = ModelCard((finished_bundle / "MODEL_CARD.md").read_text())
    assert (card.data.library_name, card.data.pipeline_tag) == ("onnx", "image-classification")
    measured = {result.metric_type: result.metric_value for result in card.data.eval_results}
    test = Bundle(finished_bundle).manifest.provenance["figures"]["test"]
    assert measured["accuracy"] == pytest.approx(test["accuracy"], abs=1e-4)
    assert card.text.lstrip().startswith("# ")
