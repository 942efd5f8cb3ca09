"""A bundle in a browser (docs/browser/): the graph that ships, run by onnxruntime-web from pixels to labels."""

from __future__ import annotations

import base64
import functools
import json
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chromium import chromium
from PIL import Image

from toolkit.runtime.bundle import Bundle
from toolkit.serving.classifier import Classifier

PAGE = Path(__file__).parents[1] / "docs" / "browser"
NPM_SECONDS = 300


@pytest.fixture(scope="module")
def runtime(request: pytest.FixtureRequest) -> Path:
    """``node_modules`` as npm installs them from the page's ``package.json``, kept between runs of the tests."""
    npm, wanted = shutil.which("npm"), (PAGE / "package.json").read_text()
    if npm is None:
        pytest.skip("no npm on PATH (Debian: apt-get install npm)")
    version = json.loads(wanted)["dependencies"]["onnxruntime-web"]
    folder: Path = request.config.cache.mkdir(f"onnxruntime-web-{version}")
    if not (folder / "node_modules" / "onnxruntime-web" / "dist" / "ort.wasm.min.mjs").is_file():
        (folder / "package.json").write_text(wanted)
        command = [npm, "install", "--ignore-scripts", "--no-package-lock", "--no-audit", "--no-fund"]
        try:
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=NPM_SECONDS)
        except subprocess.TimeoutExpired:
            pytest.skip(f"npm did not install onnxruntime-web {version} in {NPM_SECONDS} s")
        if done.returncode:
            pytest.skip(f"npm can't install onnxruntime-web {version}: {done.stderr.strip()[-300:]}")
    return folder / "node_modules"


@pytest.fixture(scope="module")
def bundle(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """fp32, fp16 and int8, as ``toolkit export`` writes them."""
    from export.bundle import ExportOptions, export_bundle
    from toolkit.runs.finished_run import Run

    out = tmp_path_factory.mktemp("bundles") / "bundle"
    export_bundle(Run(finished_run), out, ExportOptions(precisions=("fp32", "fp16", "int8")))
    return out


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with chromium(tmp_path_factory.mktemp("chromium")) as opened:
        yield opened


class Quiet(SimpleHTTPRequestHandler):
    """Python's file server as ``python -m http.server`` starts it, without its log."""

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def site(bundle: Path, tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder with the page and a copy of the bundle, and where it is served."""
    folder = tmp_path / "site"
    shutil.copytree(PAGE, folder, ignore=shutil.ignore_patterns("node_modules"))
    shutil.copytree(bundle, folder / "bundle")
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_port}/index.html"
    server.shutdown()
    server.server_close()


@pytest.fixture
def opened(browser: Any, site: tuple[Path, str], runtime: Path) -> Callable[..., str]:
    """Open the page and wait for its verdict."""
    folder, url = site
    (folder / "node_modules").symlink_to(runtime)

    def open_page(query: str = "") -> str:
        browser.get("about:blank")
        browser.get(url + query)
        return until(
            browser,
            lambda: browser.execute_script(
                "const proof = document.getElementById('proof'); return proof?.className ? proof.textContent : ''"
            ),
        )

    return open_page


def until(browser: Any, found: Callable[[], Any]) -> Any:
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(browser, 120).until(lambda _: found())


def rows(browser: Any) -> list[list[str]]:
    script = (
        "return [...document.querySelectorAll('#rows tr')].map(row => [...row.cells].map(cell => cell.textContent))"
    )
    found: list[list[str]] = browser.execute_script(script)
    return found


@pytest.mark.parametrize(
    ("finished_run", "precision"),
    [  # a family's preprocessing is the same in every precision
        *(("clip", precision) for precision in ("fp32", "fp16", "int8")),
        ("siglip", "fp32"),
        *(pytest.param("siglip", precision, marks=pytest.mark.slow) for precision in ("fp16", "int8")),
    ],
    indirect=["finished_run"],
)
def test_golden_images_give_pytorch_s_labels_in_the_browser(
    precision: str, browser: Any, opened: Callable[..., str], bundle: Path
) -> None:
    said, read = opened(f"?precision={precision}"), Bundle(bundle)
    golden = read.golden()
    count = len(golden.names)
    found = re.fullmatch(
        rf"{precision}: {count} of {count} golden images have PyTorch's label here; "
        r"largest logit difference ([\d.e+-]+) \(tolerated ([\d.e+-]+)\)\.",
        said,
    )
    assert found, said
    largest, tolerated = map(float, found.groups())
    assert 0 < largest <= tolerated
    assert tolerated == pytest.approx(read.parity_results[precision]["cpu"]["tolerance"], rel=0.06)
    expected = [read.labels[place] for place in golden.logits.argmax(-1)]
    assert [row[:2] for row in rows(browser)] == [list(pair) for pair in zip(golden.names, expected, strict=True)]
    assert browser.find_element("id", "proof").get_attribute("class") == "good"
    assert browser.find_element("id", "files").is_enabled()


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A picture in formats that browsers know, with an orientation, a palette, transparency; and what they don't."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (12, 18, 3), dtype=np.uint8))
    picture, turned = noise.resize((90, 60), Image.Resampling.BICUBIC), Image.Exif()
    turned[0x0112] = 6
    picture.save(folder / "turned.jpg", exif=turned)
    picture.save(folder / "progressive.jpg", progressive=True, quality=75)
    picture.convert("L").save(folder / "grey.jpg")
    picture.convert("CMYK").save(folder / "cmyk.jpg")
    picture.convert("P").save(folder / "palette.png")
    for name in ("photo.png", "photo.webp", "photo.bmp", "photo.gif"):
        picture.save(folder / name)
    veil = Image.fromarray(rng.integers(0, 256, (60, 90), dtype=np.uint8))
    picture.putalpha(veil)
    picture.save(folder / "alpha.png")
    Image.fromarray(rng.integers(0, 65536, (20, 20), dtype=np.uint16)).save(folder / "bits16.png")
    (folder / "broken.png").write_bytes(b"no image")
    return {path.name: path for path in sorted(folder.iterdir())}


REFUSED = {
    "bits16.png": "a PNG of 16 bits, which browsers scale to 8 in their own way",
    "broken.png": "no image that this browser decodes",
}


@pytest.mark.parametrize("finished_run", ["clip"], indirect=True)
def test_chromium_decodes_to_the_toolkit_s_pixels(
    browser: Any, opened: Callable[..., str], bundle: Path, photos: dict[str, Path]
) -> None:
    """To the bit; where something is transparent, to one grey level."""
    script = """
    const [name, content, done] = arguments;
    import(new URL("bundle.js", location.href)).then(async ({ decode }) => {
      const blob = new Blob([Uint8Array.from(atob(content), (each) => each.charCodeAt(0))]);
      const { rgb, height, width } = await decode(blob);
      done([height, width, Array.from(rgb)]);
    }).catch((error) => done(error.message));
    """
    opened()
    preprocess = Bundle(bundle).preprocess
    for name, path in photos.items():
        found = browser.execute_async_script(script, name, base64.b64encode(path.read_bytes()).decode())
        if name in REFUSED:
            assert found == REFUSED[name]
            continue
        expected = np.asarray(preprocess.decoded(path)).astype(int)
        differences = np.abs(np.reshape(found[2], (*found[:2], 3)) - expected)
        assert differences.max() <= (name == "alpha.png"), name


def test_photos_are_classified_as_predict_does(
    browser: Any, opened: Callable[..., str], bundle: Path, photos: dict[str, Path]
) -> None:
    opened()
    already = len(rows(browser))
    browser.find_element("id", "files").send_keys("\n".join(map(str, photos.values())))
    until(browser, lambda: len(rows(browser)) == already + len(photos))
    found = {row[0]: row[1:] for row in rows(browser)[already:]}
    assert {name: found.pop(name)[0] for name in REFUSED} == REFUSED
    with Classifier.open(bundle) as classifier:
        predicted = classifier.predict([photos[name] for name in found])
    for (name, (label, probability, _)), expected in zip(found.items(), predicted, strict=True):
        assert label == expected.label, name
        assert float(probability.removesuffix(" %")) == pytest.approx(100 * expected.probability, abs=0.05), name


@pytest.mark.parametrize("finished_run", ["clip"], indirect=True)
@pytest.mark.parametrize("name", ["model.onnx", "golden/000.png", "golden/reference.npz"])
def test_a_changed_file_is_refused(name: str, browser: Any, opened: Callable[..., str], site: tuple[Path, str]) -> None:
    path = site[0] / "bundle" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert opened() == f"{name} was changed"
    assert not browser.find_element("id", "files").is_enabled()


@pytest.mark.parametrize("finished_run", ["clip"], indirect=True)
@pytest.mark.parametrize(
    ("query", "says"),
    [("?precision=bf16", "the bundle has no bf16 graph"), ("?bundle=nowhere/", "copy or link one there")],
)
def test_what_is_not_there_is_said(query: str, says: str, opened: Callable[..., str]) -> None:
    assert says in opened(query)


@pytest.mark.parametrize("finished_run", ["clip"], indirect=True)
def test_a_graph_of_pixel_values_is_refused(
    opened: Callable[..., str], site: tuple[Path, str], pixel_bundle: Path
) -> None:
    shutil.copytree(pixel_bundle, site[0] / "pixels")
    assert opened("?bundle=pixels/") == "the graph takes pixel_values: export with --input image"


@pytest.mark.parametrize("finished_run", ["clip"], indirect=True)
def test_a_page_without_its_runtime_says_what_to_install(browser: Any, site: tuple[Path, str]) -> None:
    browser.get(site[1])
    proof = until(browser, lambda: browser.execute_script("return document.getElementById('proof').className"))
    assert proof == "bad"
    assert "run npm install" in browser.find_element("id", "proof").text
