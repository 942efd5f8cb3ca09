"""What a server answers, by every way in, is what ``predict`` says, bit for bit."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from PIL import Image
from server_process import Server, serving
from tritonclient.utils import InferenceServerException

from toolkit.runtime.bundle import Bundle
from toolkit.serving.classifier import Classifier
from toolkit.serving.predictor import Prediction

CLIENTS: dict[str, Any] = {"http": tritonclient.http, "grpc": tritonclient.grpc}


@pytest.fixture(scope="module")
def server(finished_bundle: Path, pixel_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("served")
    for name, bundle in (("images", finished_bundle), ("pixels", pixel_bundle)):
        (root / name).symlink_to(bundle)
    with serving(root / "log", root / "images", root / "pixels") as running:
        running.until_ready()
        yield running


@pytest.fixture(scope="module")
def photos() -> list[bytes]:
    """Encoded images of several sizes and formats."""
    rng = np.random.default_rng(0)
    found = []
    for place, (height, width) in enumerate([(40, 40), (32, 32), (64, 48), (33, 90), (200, 31), (48, 64)]):
        content = io.BytesIO()
        image = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        (image.convert("L") if place == 2 else image).save(content, ["PNG", "JPEG"][place % 2])
        found.append(content.getvalue())
    return found


@pytest.fixture(scope="module")
def predicted(finished_bundle: Path, pixel_bundle: Path, photos: list[bytes]) -> dict[str, list[Prediction]]:
    """What ``toolkit.load`` says of the photos."""
    found = {}
    for name, bundle in (("images", finished_bundle), ("pixels", pixel_bundle)):
        with Classifier.open(Bundle(bundle)) as classifier:
            found[name] = classifier.predict(photos)
    return found


def connect(server: Server, protocol: str) -> Any:
    address = server.address if protocol == "http" else f"127.0.0.1:{server.grpc_port}"
    return CLIENTS[protocol].InferenceServerClient(address)


def image_input(protocol: str, images: list[bytes]) -> Any:
    given = CLIENTS[protocol].InferInput("image", [len(images)], "BYTES")
    given.set_data_from_numpy(np.array(images, dtype=object))
    return given


@pytest.mark.parametrize("model", ["images", "pixels"])
@pytest.mark.parametrize("protocol", CLIENTS)
def test_triton_s_client_gets_the_logits_of_predict(
    protocol: str, model: str, server: Server, photos: list[bytes], predicted: dict[str, list[Prediction]]
) -> None:
    client = connect(server, protocol)
    together = client.infer(model, [image_input(protocol, photos)])
    alone = [client.infer(model, [image_input(protocol, [photo])]) for photo in photos]
    for name in ("logits", "probabilities"):
        expected = np.stack(
            [each.logits if name == "logits" else list(each.probabilities.values()) for each in predicted[model]]
        ).astype(np.float32)
        np.testing.assert_array_equal(together.as_numpy(name), expected)
        np.testing.assert_array_equal(np.concatenate([each.as_numpy(name) for each in alone]), expected)


@pytest.mark.parametrize("protocol", CLIENTS)
def test_pixels_as_tensors_give_the_same(protocol: str, server: Server, predicted: dict[str, list[Prediction]]) -> None:
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, (3, 50, 40, 3), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels[1]).save(content, "PNG")
    client, kind = connect(server, protocol), CLIENTS[protocol]
    given = kind.InferInput("image", list(pixels.shape), "UINT8")
    given.set_data_from_numpy(pixels)
    encoded = client.infer("images", [image_input(protocol, [content.getvalue()])]).as_numpy("logits")
    np.testing.assert_array_equal(client.infer("images", [given]).as_numpy("logits")[1:2], encoded)


@pytest.mark.parametrize("protocol", CLIENTS)
def test_pixel_values_as_tensors_give_the_golden_logits(protocol: str, server: Server, pixel_bundle: Path) -> None:
    golden = Bundle(pixel_bundle).golden()
    given = CLIENTS[protocol].InferInput("pixel_values", list(golden.inputs["pixel_values"].shape), "FP32")
    given.set_data_from_numpy(golden.inputs["pixel_values"])
    found = connect(server, protocol).infer("pixels", [given]).as_numpy("logits")
    np.testing.assert_array_equal(found, golden.outputs["fp32"])


@pytest.mark.parametrize("protocol", CLIENTS)
def test_outputs_can_be_chosen_and_ranked(
    protocol: str, server: Server, photos: list[bytes], predicted: dict[str, list[Prediction]]
) -> None:
    kind = CLIENTS[protocol]
    wanted = [kind.InferRequestedOutput("label"), kind.InferRequestedOutput("probabilities", class_count=2)]
    found = connect(server, protocol).infer("images", [image_input(protocol, photos)], outputs=wanted, request_id="7")
    assert found.get_output("logits") is None
    labels = [each.decode() for each in found.as_numpy("label")]
    assert labels == [each.label for each in predicted["images"]]
    value, place, label = found.as_numpy("probabilities")[0, 0].decode().split(":")
    best = predicted["images"][0]
    assert label == max(best.probabilities, key=lambda name: best.probabilities[name])
    assert float(value) == pytest.approx(max(best.probabilities.values()), abs=1e-6)
    assert list(best.probabilities)[int(place)] == label
    response = found.get_response()
    assert (response["id"] if protocol == "http" else response.id) == "7"


@pytest.mark.parametrize("protocol", CLIENTS)
def test_metadata_names_inputs_and_outputs(protocol: str, server: Server) -> None:
    client = connect(server, protocol)
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("images", "1")
    metadata = client.get_model_metadata("pixels")
    found = metadata if protocol == "http" else {"inputs": metadata.inputs, "outputs": metadata.outputs}
    names = [
        [each["name"] if protocol == "http" else each.name for each in found[key]]
        for key in found
        if key.endswith("puts")
    ]
    assert names == [["image", "pixel_values"], ["logits", "probabilities", "label"]]
    with pytest.raises(InferenceServerException, match="no model 'other'; there is images, pixels"):
        client.get_model_metadata("other")


def test_json_alone_says_the_same(server: Server, photos: list[bytes], predicted: dict[str, list[Prediction]]) -> None:
    data = [base64.b64encode(photo).decode() for photo in photos]
    request = {"id": "a", "inputs": [{"name": "image", "datatype": "BYTES", "shape": [len(data)], "data": data}]}
    found = server.post_json("/v2/models/images/versions/1/infer", request).json()
    assert (found["model_name"], found["model_version"], found["id"]) == ("images", "1", "a")
    logits = np.array(found["outputs"][0]["data"], np.float32).reshape(found["outputs"][0]["shape"])
    np.testing.assert_array_equal(logits, np.stack([each.logits for each in predicted["images"]]))


def form(*files: bytes) -> tuple[bytes, dict[str, str]]:
    """A multipart form of files."""
    parts = [
        f'--b\r\nContent-Disposition: form-data; name="file"; filename="{place}"\r\n\r\n'.encode() + content + b"\r\n"
        for place, content in enumerate(files)
    ]
    return b"".join(parts) + b"--b--\r\n", {"content-type": "multipart/form-data; boundary=b"}


def test_predict_takes_forms_json_and_a_plain_body(
    server: Server, photos: list[bytes], predicted: dict[str, list[Prediction]]
) -> None:
    body, headers = form(*photos)
    by_form = server.ask("POST", "/predict/images", body, headers).json()
    by_json = server.post_json(
        "/predict/images", {"images": [base64.b64encode(each).decode() for each in photos]}
    ).json()
    assert by_form == by_json
    assert (
        by_form["predictions"][0]
        == server.ask("POST", "/predict/images", photos[0], {"content-type": "image/png"}).json()["predictions"][0]
    )
    for found, expected in zip(by_form["predictions"], predicted["images"], strict=True):
        assert found == {
            "label": expected.label,
            "probability": expected.probability,
            "probabilities": dict(expected.probabilities),
        }


def test_one_bad_image_of_several_is_said_in_its_place(server: Server, photos: list[bytes]) -> None:
    body, headers = form(photos[0], b"no image", photos[1])
    answer = server.ask("POST", "/predict/images", body, headers)
    assert answer.status == 200
    assert [sorted(each) for each in answer.json()["predictions"]] == [
        ["label", "probabilities", "probability"],
        ["error"],
        ["label", "probabilities", "probability"],
    ]


def test_several_models_are_to_be_named(server: Server, photos: list[bytes]) -> None:
    answer = server.ask("POST", "/predict", photos[0], {"content-type": "image/png"})
    assert answer.status == 400
    assert answer.json()["error"] == "several models are here; POST to /predict/NAME: images, pixels"


def test_metrics_count_what_was_asked(server: Server, photos: list[bytes]) -> None:
    server.ask("POST", "/predict/images", photos[0], {"content-type": "image/png"})
    page = server.ask("GET", "/metrics").body.decode()
    for name in ("clip_stage_seconds_bucket", "clip_batch_images_bucket", "clip_confidence_bucket"):
        assert re.search(rf'^{name}{{.*model="images".*}} [1-9]', page, re.MULTILINE)
    assert 'clip_model_ready{model="images",version="1"} 1.0' in page
    assert re.search(r'clip_requests_total{model="images",protocol="http",status="200"} [1-9]', page)
    assert re.search(r'clip_decisions_total{label="\w+",model="images"} [1-9]', page)


def test_a_request_s_id_stands_in_answer_and_log(server: Server) -> None:
    answer = server.ask("GET", "/v2", headers={"x-request-id": "mine-7"})
    assert answer.headers["x-request-id"] == "mine-7"
    assert answer.json()["extensions"] == ["binary_tensor_data", "classification", "model_repository"]
    (line,) = server.until_said("request", request_id="mine-7")
    assert (line["path"], line["status"], line["method"]) == ("/v2", 200, "GET")
    odd = server.ask("GET", "/v2", headers={"x-request-id": 'a"b c'})
    assert re.fullmatch("[0-9a-f]{32}", odd.headers["x-request-id"])


def test_the_description_names_every_endpoint(server: Server) -> None:
    paths = server.ask("GET", "/openapi.json").json()["paths"]
    assert {"/predict", "/predict/{model}", "/v2/models/{model}/infer", "/v2/health/ready", "/metrics"} <= set(paths)
    assert not any("repository/models" in path for path in paths)  # without --control
    assert b"swagger" in server.ask("GET", "/docs").body.lower()


def test_what_a_client_may_wait_is_respected(server: Server, photos: list[bytes]) -> None:
    late = server.ask(
        "POST", "/predict/images", photos[0], {"content-type": "image/png", "x-request-timeout": "0.000001"}
    )
    assert late.status == 504
    assert "deadline" in late.json()["error"]
    with pytest.raises(InferenceServerException, match=r"[Dd]eadline"):
        connect(server, "grpc").infer("images", [image_input("grpc", photos)], client_timeout=0.0001)
    data = [base64.b64encode(photos[0]).decode()]
    request = {
        "inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": data}],
        "parameters": {"timeout": 1},
    }
    assert server.post_json("/v2/models/images/infer", request).status == 504
    assert json.loads(server.ask("GET", "/v2/health/live").body)["ready"]
