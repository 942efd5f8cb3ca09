"""Bundles that take texts in production: the protocol, ``/predict``, the page, a client under load, Triton's model."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chromium import chromium, screen
from colour_words import write_pairs, write_texts
from server_process import Server, serving
from triton_bundles import config_in

import toolkit
from export.latency.measure import MinSamples
from export.remote_benchmark import benchmark_url
from export.triton.repository import write_repository
from recipes.finetune import finetune
from toolkit.recipe.recipe import Recipe
from toolkit.runtime.bundle import Bundle
from toolkit.runtime.examples import ImageText
from toolkit.runtime.session import Session

KINDS: dict[str, tuple[Any, dict[str, Any], dict[str, Any]]] = {
    "texts": (write_texts, {"path": None, "text": "caption"}, {"inputs": ["text"]}),
    "pairs": (write_pairs, {"text": "caption"}, {"inputs": ["image", "text"]}),
    "either": (write_pairs, {"text": "caption"}, {"inputs": ["image", "text"], "fusion": {"modality_dropout": 0.3}}),
}


@pytest.fixture(scope="module")
def bundles(text_encoders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("texts-served")
    for name, (write, columns, model) in KINDS.items():
        (root / "data" / name).mkdir(parents=True)
        recipe = {
            "data": {"path": write(root / "data" / name), "columns": columns},
            "model": {"encoder": str(text_encoders["clip"]), "unfreeze_last": 0} | model,
            "training": {"epochs": 1, "batch_size": 8},
            "tracking": {"trackers": [], "plots": False},
        }
        finetune(Recipe.model_validate(recipe), root / "runs" / name)
        toolkit.export(root / "runs" / name, out=root / name, images=32)
    return {name: root / name for name in KINDS}


@pytest.fixture(scope="module")
def server(bundles: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("serve") / "log", *bundles.values()) as running:
        running.until_ready()
        yield running


def golden(bundle: Path, place: int = 0) -> tuple[bytes, str]:
    """A golden example's file, and its text."""
    known = Bundle(bundle).golden()
    assert known.texts is not None
    return (bundle / "golden" / known.names[place]).read_bytes(), known.texts[place]


def infer(server: Server, model: str, **inputs: bytes) -> Any:
    """Ask for probabilities of BYTES, in the binary extension."""
    tails = [len(value).to_bytes(4, "little") + value for value in inputs.values()]
    given = [
        {"name": name, "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": len(tail)}}
        for name, tail in zip(inputs, tails, strict=True)
    ]
    head = json.dumps({"inputs": given, "outputs": [{"name": "probabilities"}]}).encode()
    headers = {"content-type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))}
    return server.ask("POST", f"/v2/models/{model}/infer", head + b"".join(tails), headers)


@pytest.mark.parametrize("name", KINDS)
def test_the_protocol_gives_what_predict_gives(name: str, bundles: dict[str, Path], server: Server) -> None:
    content, said = golden(bundles[name])
    image = None if name == "texts" else content
    with toolkit.load(bundles[name]) as classifier:
        expected = classifier.predict(ImageText(image, said))
    sent = {"text": said.encode()} | ({} if image is None else {"image": image})
    answer = infer(server, name, **sent)
    assert answer.status == 200, answer.body
    assert answer.json()["outputs"][0]["data"] == pytest.approx(list(expected.probabilities.values()), abs=1e-6)
    metadata = server.ask("GET", f"/v2/models/{name}").json()
    assert {each["name"]: each["datatype"] for each in metadata["inputs"]} == (
        {"text": "BYTES"} if image is None else {"image": "UINT8", "text": "BYTES"}
    )


def test_predict_takes_texts_alone_where_the_bundle_does(bundles: dict[str, Path], server: Server) -> None:
    image, said = golden(bundles["either"])
    for name in ("texts", "either"):
        answer = server.post_json(f"/predict/{name}", {"texts": [said, "a blue picture"]})
        assert answer.status == 200, answer.body
        assert len(answer.json()["predictions"]) == 2
    encoded = base64.b64encode(image).decode()
    both = server.post_json("/predict/either", {"images": [encoded], "texts": [said]})
    assert both.status == 200


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("pairs", {"texts": ["a red picture"]}, "no image"),
        ("texts", {"images": [""]}, "texts alone, and no image"),
        ("texts", {}, "no image and no text"),
        ("pairs", {"images": ["", ""], "texts": ["a red picture"]}, "1 texts beside 2 images"),
    ],
)
def test_what_is_missing_or_too_much_is_refused(name: str, content: dict[str, Any], said: str, server: Server) -> None:
    answer = server.post_json(f"/predict/{name}", content)
    assert answer.status == 400
    assert said in answer.json()["error"]


def test_tensors_of_another_kind_are_refused(bundles: dict[str, Path], server: Server) -> None:
    image, said = golden(bundles["pairs"])
    assert "texts alone" in infer(server, "texts", image=image).json()["error"]
    assert "texts alone" in infer(server, "texts", text=said.encode(), image=image).json()["error"]
    assert infer(server, "texts", text=b"\xff\xfe").status == 400


def test_the_description_names_the_fields_of_texts(server: Server) -> None:
    paths = server.ask("GET", "/openapi.json").json()["paths"]
    content = paths["/predict"]["post"]["requestBody"]["content"]
    assert set(content["application/json"]["schema"]["properties"]) == {"images", "texts"}
    assert set(content["multipart/form-data"]["schema"]["properties"]) == {"file", "text"}
    assert content["application/json"]["schema"]["anyOf"] == [{"required": ["images"]}, {"required": ["texts"]}]
    infer_body = paths["/v2/models/{model}/infer"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert infer_body["properties"]["inputs"]["maxItems"] == 2


@pytest.mark.parametrize("name", ["texts", "pairs"])
def test_a_client_measures_it(name: str, bundles: dict[str, Path], server: Server) -> None:
    found = benchmark_url(Bundle(bundles[name]), f"http://{server.address}", rate=20.0, least=MinSamples(5, 0.5))
    (point,) = found["server"]["points"]
    assert point["failed"] == 0
    assert set(point["statuses"]) == {"200"}


@pytest.mark.parametrize("name", KINDS)
def test_triton_is_told_of_every_input(name: str, bundles: dict[str, Path], tmp_path: Path) -> None:
    bundle = Bundle(bundles[name])
    write_repository(bundle, tmp_path / "models", threads=1)
    config = config_in(tmp_path / "models")
    session = Session(tmp_path / "models" / name / "1" / "model.onnx", threads=1)
    assert {each.name for each in config.input} == set(session.inputs)
    for each in config.input:
        sides = session.inputs[each.name].shape[1:]
        assert list(each.dims) == ([side if isinstance(side, int) else -1 for side in sides] or [1])
        assert each.HasField("reshape") == (not sides)
    (warm_up, *_) = config.model_warmup
    feed = {
        key: np.zeros([warm_up.batch_size, *(given.dims if session.inputs[key].shape[1:] else [])], given_type(given))
        for key, given in warm_up.inputs.items()
    }
    assert session.run(feed)["probabilities"].shape[0] == warm_up.batch_size


def given_type(given: Any) -> str:
    kind = given.DESCRIPTOR.fields_by_name["data_type"].enum_type.values_by_number[given.data_type].name
    return {"TYPE_INT64": "int64", "TYPE_UINT8": "uint8", "TYPE_FP32": "float32"}[kind]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with chromium(tmp_path_factory.mktemp("chromium")) as opened:
        yield opened


@pytest.mark.parametrize(
    ("name", "width", "scheme"),
    [
        *(("texts", 1280, "light"), ("pairs", 390, "dark"), ("either", 1280, "light")),
        pytest.param("texts", 390, "dark", marks=pytest.mark.slow),
        pytest.param("pairs", 1280, "light", marks=pytest.mark.slow),
        pytest.param("either", 390, "dark", marks=pytest.mark.slow),
    ],
)
def test_the_page_takes_a_text(
    name: str, width: int, scheme: str, bundles: dict[str, Path], browser: Any, tmp_path: Path
) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    content, said = golden(bundles[name])
    image = None if name == "texts" else content

    def until(true: Any) -> None:
        WebDriverWait(browser, 60).until(lambda _: true())

    def cards(count: int) -> list[Any]:
        found = lambda: browser.find_elements("css selector", ".card")  # noqa: E731
        until(lambda: len(found()) == count and not browser.find_elements("css selector", "[aria-busy]"))
        return list(found())

    with serving(tmp_path / "log", bundles[name], verb="app") as server:
        server.until_ready()
        screen(browser, width, scheme)
        browser.get(f"http://{server.address}/")
        until(lambda: not browser.find_element("id", "parity").get_property("hidden"))
        field, send = browser.find_element("id", "text"), browser.find_element("id", "send")
        assert field.is_displayed()
        assert send.is_displayed() == (name != "pairs")
        assert browser.find_element("id", "drop").is_displayed() == (image is not None)
        field.send_keys(said)
        if image is None:
            send.click()
        else:
            shutil.copyfile(bundles[name] / "golden" / Bundle(bundles[name]).golden().names[0], tmp_path / "first.png")
            browser.find_element("id", "files").send_keys(str(tmp_path / "first.png"))
        (card,) = cards(1)
        with toolkit.load(bundles[name]) as classifier:
            expected = classifier.predict(ImageText(image, said))
        assert card.find_element("css selector", ".said").text == said
        assert card.find_element("css selector", ".label b").text == expected.label
        assert card.find_element("css selector", ".label span").text == f"{100 * expected.probability:.1f} %"
        assert card.find_element("css selector", ".pictures").is_displayed() == (image is not None)
        browser.find_elements("css selector", "#examples button")[1].click()
        newest, _ = cards(2)
        assert newest.find_element("css selector", ".said").text == golden(bundles[name], 1)[1]
        assert not newest.find_element("css selector", ".fault").is_displayed()
        overflow = browser.execute_script("return document.documentElement.scrollWidth - window.innerWidth")
        assert overflow <= 0
        browser.save_screenshot(str(tmp_path / f"{name}-{scheme}.png"))
