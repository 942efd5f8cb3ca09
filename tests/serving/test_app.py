"""The page of ``toolkit app`` as a person uses it in a browser, and what it asks the server for."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chromium import chromium, screen
from PIL import Image
from server_process import Server, serving

from toolkit.runtime.bundle import Bundle
from toolkit.serving.classifier import Classifier
from toolkit.serving.predictor import Prediction

pytestmark = pytest.mark.parametrize("finished_run", ["clip"], indirect=True)
HOSTILE = "<img src=x onerror='document.title=1'>.png"
OCTETS = {"content-type": "application/octet-stream"}


@pytest.fixture(scope="module")
def server(finished_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("app") / "log", finished_bundle, verb="app") as running:
        running.until_ready()
        yield running


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with chromium(tmp_path_factory.mktemp("chromium")) as opened:
        yield opened


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Files that a browser shows, one that it can't, one that lies on its side, and one that is no image."""
    folder, rng = tmp_path_factory.mktemp("files"), np.random.default_rng(0)
    colored = Image.fromarray(rng.integers(0, 256, (60, 90, 3), dtype=np.uint8))
    turned = Image.Exif()
    turned[0x0112] = 6
    colored.save(folder / HOSTILE)
    colored.save(folder / "turned.jpg", exif=turned)
    Image.fromarray(rng.integers(0, 4096, (48, 40), dtype=np.uint16)).save(folder / "many_bits.tif")
    (folder / "broken.png").write_bytes(b"no image")
    return {path.name: path for path in folder.iterdir()}


@pytest.fixture(scope="module")
def predicted(finished_bundle: Path, files: dict[str, Path]) -> dict[str, Prediction]:
    """What ``toolkit.load`` says of the files and of the first golden image."""
    opened = Bundle(finished_bundle)
    paths = {name: path for name, path in files.items() if name != "broken.png"}
    paths["golden image 0"] = finished_bundle / "golden" / opened.golden().names[0]
    with Classifier.open(opened) as classifier:
        return dict(zip(paths, classifier.predict(list(paths.values())), strict=True))


def opened_page(browser: Any, server: Server, width: int = 1280, scheme: str = "light") -> Any:
    """The page once it knows its bundle."""
    screen(browser, width, scheme)
    for kind in ("browser", "performance"):
        browser.get_log(kind)
    browser.get("about:blank")
    browser.get(f"http://{server.address}/")
    until(browser, lambda: not browser.find_element("id", "parity").get_property("hidden"))
    return browser


def until(browser: Any, true: Any) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, 60).until(lambda _: true())


def cards(browser: Any) -> list[Any]:
    return list(browser.find_elements("css selector", ".card"))


def answered(browser: Any, count: int) -> list[Any]:
    """The cards, once there are as many and none waits."""
    until(browser, lambda: len(cards(browser)) == count and not browser.find_elements("css selector", "[aria-busy]"))
    return cards(browser)


def choose(browser: Any, *paths: Path) -> None:
    """Choose files as the dialogue behind the field would."""
    browser.find_element("id", "files").send_keys("\n".join(map(str, paths)))


def text(card: Any, selector: str) -> str:
    return str(card.find_element("css selector", selector).get_property("textContent"))


def pixels(card: Any, selector: str) -> np.ndarray:
    url = card.find_element("css selector", selector).get_property("src")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition("base64,")[2]))))


def require_shows(card: Any, expected: Prediction) -> None:
    """Label, bars and figures are those of ``predict``."""
    assert text(card, ".label b") == expected.label
    assert text(card, ".label span") == f"{100 * expected.probability:.1f} %"
    names = [text(row, ".class") for row in card.find_elements("css selector", ".bars li")]
    ranked = sorted(expected.probabilities, key=lambda name: (name != expected.label, -expected.probabilities[name]))
    assert names == ranked[:5]
    bars = card.find_elements("css selector", "[role=meter]")
    assert [float(bar.get_attribute("aria-valuenow")) for bar in bars] == [
        expected.probabilities[each] for each in names
    ]
    for bar, name in zip(bars, names, strict=True):
        share = bar.find_element("tag name", "i").rect["width"] / bar.rect["width"]
        assert share == pytest.approx(expected.probabilities[name], abs=0.01)


def test_a_golden_image_is_a_click_away(
    browser: Any, server: Server, finished_bundle: Path, predicted: dict[str, Prediction]
) -> None:
    page, bundle = opened_page(browser, server), Bundle(finished_bundle)
    assert text(page, "h1") == finished_bundle.name
    assert "fp32 on cpu" in text(page, "#what")
    proof = bundle.parity_results["fp32"]["cpu"]
    mantissa, exponent = f"{proof['max_abs_logit']:.1e}".split("e")
    for said in ("passed on cpu", f"{mantissa}e{int(exponent)}", f"on {proof['images']} images", "100.0 %"):
        assert said in text(page, "#parity")
    examples = page.find_elements("css selector", "#examples button")
    assert len(examples) == len(bundle.golden().names)
    examples[0].click()
    (card,) = answered(page, 1)
    require_shows(card, predicted["golden image 0"])
    spent = re.fullmatch(
        r"decode ([\d.]+) ms · preprocess ([\d.]+) ms · network ([\d.]+) ms · together ([\d.]+) ms; "
        r"until this page had it ([\d.]+) ms",
        text(card, ".stages"),
    )
    assert spent
    *stages, together, whole = map(float, spent.groups())
    assert min(stages) >= 0
    assert abs(sum(stages) - together) < 0.1
    assert together <= whole
    shares = page.execute_script(
        "return [...document.querySelectorAll('.timeline i')].map(each => each.style.flexGrow)"
    )
    assert sum(map(float, shares)) == pytest.approx(1, abs=1e-3)


def test_the_network_s_view_is_what_preprocessing_gives(
    browser: Any, server: Server, finished_bundle: Path, files: dict[str, Path], predicted: dict[str, Prediction]
) -> None:
    page, preprocess = opened_page(browser, server), Bundle(finished_bundle).preprocess
    names = ["turned.jpg", "many_bits.tif"]
    choose(page, *(files[name] for name in names))
    for card, name in zip(answered(page, 2), reversed(names), strict=True):  # the newest first
        assert text(card, ".file") == name
        require_shows(card, predicted[name])
        decoded = preprocess.decoded(files[name])
        np.testing.assert_array_equal(pixels(card, ".decoded"), np.asarray(decoded))
        expected = preprocess.cropped(np.asarray(preprocess.resized(decoded)))
        np.testing.assert_array_equal(pixels(card, ".seen"), expected)
    height, width = preprocess.output_size or (0, 0)
    assert text(page, ".seen + figcaption") == f"as the network sees it, {width}×{height}"
    assert text(page, ".card:last-child .decoded + figcaption") == "as decoded, 60×90"


def test_a_broken_file_among_good_ones_is_said_on_its_card(
    browser: Any, server: Server, files: dict[str, Path], predicted: dict[str, Prediction]
) -> None:
    page = opened_page(browser, server)
    choose(page, files["turned.jpg"], files["broken.png"], files[HOSTILE])
    last, broken, first = answered(page, 3)
    assert "unreadable image" in text(broken, ".fault")
    assert broken.find_element("css selector", ".body").get_property("hidden")
    require_shows(first, predicted["turned.jpg"])
    require_shows(last, predicted[HOSTILE])
    assert text(last, ".file") == HOSTILE  # as text: it is no element, and it ran nothing
    assert page.title.endswith("clip-toolkit")


@pytest.mark.parametrize("kind", ["drop", "paste"])
def test_files_may_be_dropped_and_pasted(
    kind: str, browser: Any, server: Server, files: dict[str, Path], predicted: dict[str, Prediction]
) -> None:
    page = opened_page(browser, server)
    script = """
    const given = new DataTransfer();
    const content = Uint8Array.from(atob(arguments[1]), (each) => each.charCodeAt(0));
    given.items.add(new File([content], "given.jpg", { type: "image/jpeg" }));
    const event = arguments[0] === "drop"
      ? new DragEvent("drop", { dataTransfer: given, bubbles: true, cancelable: true })
      : new ClipboardEvent("paste", { clipboardData: given, bubbles: true });
    document.getElementById("drop").dispatchEvent(event);
    """
    page.execute_script(script, kind, base64.b64encode(files["turned.jpg"].read_bytes()).decode())
    (card,) = answered(page, 1)
    assert text(card, ".file") == "given.jpg"
    require_shows(card, predicted["turned.jpg"])


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_is_wider_than_the_screen_nor_comes_from_elsewhere(
    width: int, scheme: str, browser: Any, server: Server, files: dict[str, Path]
) -> None:
    page = opened_page(browser, server, width, scheme)
    choose(page, files["turned.jpg"])
    answered(page, 1)
    assert page.execute_script("return document.documentElement.scrollWidth") <= width
    background = page.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", background)[:3])) > 382) is (scheme == "light")
    assert page.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    asked = {each["params"]["request"]["url"] for each in messages if each["method"] == "Network.requestWillBeSent"}
    beside = {url for url in asked if not url.startswith((f"http://{server.address}/", "data:", "about:"))}
    assert beside == set()


def test_what_the_page_asks_for_can_be_asked_by_a_script(
    server: Server, files: dict[str, Path], finished_bundle: Path
) -> None:
    content = files["turned.jpg"].read_bytes()
    staged = server.ask("POST", "/app/predict", content, OCTETS).json()
    plain = server.ask("POST", "/predict", content, OCTETS).json()["predictions"][0]
    assert staged["label"] == plain["label"]
    assert staged["probability"] == plain["probability"]
    assert {each["label"]: each["probability"] for each in staged["classes"]} == plain["probabilities"]
    assert set(staged["milliseconds"]) == {"decode", "preprocess", "network"}
    told = server.ask("GET", "/app/model").json()
    assert (told["name"], told["precision"], told["parity"]["passed"]) == (finished_bundle.name, "fp32", True)
    golden = server.ask("GET", "/app/golden/0")
    assert golden.body == (finished_bundle / "golden" / Bundle(finished_bundle).golden().names[0]).read_bytes()
    paths = server.ask("GET", "/openapi.json").json()["paths"]
    assert {"/app/predict", "/app/model", "/app/golden/{place}", "/predict"} <= set(paths)
    assert "clip_decisions_total{label=" in server.ask("GET", "/metrics").body.decode()


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "said"),
    [
        ("POST", "/app/predict", b"", 400, "unreadable image"),
        ("POST", "/app/predict", b"no image", 400, "unreadable image"),
        ("GET", "/app/golden/999", b"", 404, "no golden image 999"),
        ("GET", "/app/golden/-1/small", b"", 404, "no golden image -1"),
        ("GET", "/app/golden/one", b"", 422, ""),
        ("GET", "/app/page.py", b"", 404, "no endpoint"),
        ("GET", "/app/..%2fpage.py", b"", 404, "no endpoint"),
    ],
)
def test_what_can_t_be_answered_is_said(
    method: str, path: str, body: bytes, status: int, said: str, server: Server
) -> None:
    answer = server.ask(method, path, body, OCTETS)
    assert answer.status == status
    assert said in json.dumps(answer.json())


def test_a_bundle_that_fails_its_proof_is_said_on_the_page(browser: Any, finished_bundle: Path, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(finished_bundle, tmp_path / "model"))
    (bundle / "labels.json").write_text('["another"]')
    with serving(tmp_path / "log", bundle, verb="app") as server:
        browser.get(f"http://{server.address}/app/")
        until(browser, lambda: "labels.json was changed" in text(browser, "#what"))
        assert text(browser, "h1") == "The bundle does not answer"


def test_goldens_of_a_folder_that_changed_are_no_longer_shown(finished_bundle: Path, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(finished_bundle, tmp_path / "model"))
    with serving(tmp_path / "log", bundle, verb="app") as server:
        server.until_ready()
        shutil.rmtree(bundle / "golden")
        answer = server.ask("GET", "/app/golden/0")
        assert answer.status == 503
        assert f"kill -HUP {server.process.pid}" in answer.json()["error"]


def test_a_server_without_a_page_has_none(finished_bundle: Path, tmp_path: Path) -> None:
    with serving(tmp_path / "log", finished_bundle) as server:
        assert server.ask("GET", "/app/").status == 404
        assert server.ask("GET", "/").headers["location"] == "/docs"
