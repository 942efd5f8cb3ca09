"""From start to end: what is proven before a bundle answers, and that none of what was accepted is lost."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from server_process import Answer, Server, serving

from toolkit.runtime.bundle import Bundle
from toolkit.serving.classifier import Classifier

PNG = {"content-type": "image/png"}


@pytest.fixture
def bundle(finished_bundle: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(finished_bundle, tmp_path / "model"))


@pytest.fixture
def photo() -> bytes:
    content = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(content, "PNG")
    return content.getvalue()


def flip_a_byte(bundle: Path) -> None:
    content = bytearray((bundle / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (bundle / "model.onnx").write_bytes(content)


def other_goldens(bundle: Path) -> None:
    """Logits that the graph doesn't give, in a bundle whose hashes are right."""
    opened = Bundle(bundle)
    golden = opened.golden()
    golden.logits = golden.logits + 1
    golden.save(bundle)
    opened.update_manifest()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (flip_a_byte, "model.onnx was changed"),
        (lambda bundle: (bundle / "extra").write_text(""), "extra is not in the manifest"),
        (other_goldens, "logits differ from those of PyTorch"),
    ],
)
def test_a_tampered_bundle_never_becomes_ready(
    change: Callable[[Path], Any], said: str, bundle: Path, tmp_path: Path, photo: bytes
) -> None:
    change(bundle)
    with serving(tmp_path / "log", bundle) as server:
        assert said in server.until_said("not ready")[0]["reason"]
        health = server.ask("GET", "/v2/health/ready")
        assert health.status == 503
        assert said in health.json()["models"]["model 1"]
        assert server.ask("GET", "/v2/health/live").status == 200
        refused = server.ask("POST", "/predict", photo, PNG)
        assert refused.status == 503
        assert refused.headers["retry-after"]


def test_a_bundle_of_another_key_never_becomes_ready(bundle: Path, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    pem = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "key.pem").write_bytes(pem)
    with serving(tmp_path / "log", bundle, "--public-key", tmp_path / "key.pem") as server:
        assert "sign" in server.until_said("not ready")[0]["reason"]
        assert server.ask("GET", "/v2/health/ready").status == 503


class Askers:
    """Threads that ask one after the other until they are told to stop."""

    def __init__(self, server: Server, body: bytes, number: int = 4) -> None:
        self._server, self._body, self._stop = server, body, threading.Event()
        self.answers: list[Answer] = []
        self.lost: list[OSError] = []
        self._threads = [threading.Thread(target=self._ask) for _ in range(number)]

    def __enter__(self) -> Askers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def until(self, answers: int) -> None:
        while len(self.answers) < answers:
            time.sleep(0.01)

    def _ask(self) -> None:
        while not self._stop.is_set():
            try:
                self.answers.append(self._server.ask("POST", "/predict", self._body, PNG))
            except ConnectionRefusedError:
                return  # the server no longer listens
            except OSError as error:
                self.lost.append(error)
                return


def test_sigterm_under_load_loses_no_request(bundle: Path, tmp_path: Path, photo: bytes) -> None:
    with serving(tmp_path / "log", bundle) as server:
        server.until_ready()
        with Askers(server, photo) as askers:
            askers.until(50)
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(60) == 0
        assert not [lost for lost in askers.lost if not isinstance(lost, ConnectionResetError)]
        assert {answer.status for answer in askers.answers} == {200}
        asked = sum(line["message"] == "request" and line["path"] == "/predict" for line in server.lines)
        assert asked == len(askers.answers)  # every request that was begun got its answer
        assert server.lines[-1]["message"] == "stopped"


def changed_bundle(bundle: Path, out: Path) -> Path:
    """The same bundle with other labels in the same order, as a new model would be."""
    import onnx

    shutil.copytree(bundle, out)
    labels = [f"new {label}" for label in json.loads((out / "labels.json").read_text())]
    (out / "labels.json").write_text(json.dumps(labels))
    model = onnx.load(out / "model.onnx")
    for entry in model.metadata_props:
        if entry.key == "labels":
            entry.value = json.dumps(labels)
    onnx.save(model, out / "model.onnx")
    Bundle(out).update_manifest()
    return out


def exchange(new: Path, place: Path) -> None:
    place.rename(place.with_name("old"))
    new.rename(place)


@pytest.mark.parametrize("how", ["hangup", "request"])
def test_a_bundle_is_exchanged_under_load(how: str, bundle: Path, tmp_path: Path, photo: bytes) -> None:
    with Classifier.open(Bundle(bundle)) as classifier:
        old = classifier.predict(photo).label
    with serving(tmp_path / "log", bundle, "--control") as server:
        server.until_ready()
        with Askers(server, photo) as askers:
            askers.until(30)
            exchange(changed_bundle(bundle, tmp_path / "new"), bundle)
            if how == "hangup":
                server.process.send_signal(signal.SIGHUP)
                server.until_said("ready", times=2)
            else:
                answer = server.ask("POST", "/v2/repository/models/model/load")
                assert (answer.status, answer.json()) == (200, {"1": "READY"})
            askers.until(len(askers.answers) + 30)
        assert not askers.lost
        assert {answer.status for answer in askers.answers} == {200}
        said = {answer.json()["predictions"][0]["label"] for answer in askers.answers}
        assert said == {old, f"new {old}"}
        assert server.ask("POST", "/predict", photo, PNG).json()["predictions"][0]["label"] == f"new {old}"


def test_what_fails_its_proof_leaves_the_old_one_in_place(bundle: Path, tmp_path: Path, photo: bytes) -> None:
    with serving(tmp_path / "log", bundle, "--control") as server:
        server.until_ready()
        before = server.ask("POST", "/predict", photo, PNG).json()
        flip_a_byte(bundle)
        answer = server.ask("POST", "/v2/repository/models/model/load")
        assert answer.status == 400
        assert "model.onnx was changed" in answer.json()["error"]
        assert server.ask("POST", "/predict", photo, PNG).json() == before
        (entry,) = server.ask("POST", "/v2/repository/index").json()
        assert entry["state"] == "READY"
        assert "model.onnx was changed" in entry["reason"]
        assert server.ask("POST", "/v2/repository/models/model/unload").status == 200
        assert server.ask("POST", "/predict", photo, PNG).status == 503


def test_versions_of_a_bundle_stand_side_by_side(bundle: Path, tmp_path: Path, photo: bytes) -> None:
    versions = tmp_path / "pets"
    versions.mkdir()
    shutil.move(changed_bundle(bundle, tmp_path / "new"), versions / "10")
    shutil.move(bundle, versions / "9")
    with serving(tmp_path / "log", versions) as server:
        server.until_ready()
        assert server.ask("GET", "/v2/models/pets").json()["versions"] == ["9", "10"]
        newest = server.ask("POST", "/predict", photo, PNG).json()
        assert newest["version"] == "10"
        request: dict[str, Any] = {"inputs": [{"name": "image", "datatype": "UINT8", "shape": [1, 1, 1, 3]}]}
        request["inputs"][0]["data"], request["outputs"] = [1, 2, 3], [{"name": "label"}]
        labels = {
            version: server.post_json(f"/v2/models/pets/versions/{version}/infer", request).json()["outputs"][0]["data"]
            for version in ("9", "10")
        }
        assert labels["10"] == [f"new {labels['9'][0]}"]


def test_a_key_is_asked_for_where_one_is_set(bundle: Path, tmp_path: Path, photo: bytes) -> None:
    (tmp_path / "key").write_text("secret\n")
    with serving(tmp_path / "log", bundle, "--api-key-file", tmp_path / "key") as server:
        server.until_ready()  # health needs none
        for headers in ({}, {"x-api-key": "other"}, {"authorization": "Bearer other"}, {"authorization": "secret"}):
            refused = server.ask("POST", "/predict", photo, PNG | headers)
            assert refused.status == 401
            assert refused.headers["www-authenticate"] == "Bearer"
        for headers in ({"x-api-key": "secret"}, {"authorization": "Bearer secret"}):
            assert server.ask("POST", "/predict", photo, PNG | headers).status == 200
        import tritonclient.grpc as triton
        from tritonclient.utils import InferenceServerException

        client = triton.InferenceServerClient(f"127.0.0.1:{server.grpc_port}")
        assert client.is_server_ready()
        with pytest.raises(InferenceServerException, match="no API key"):
            client.get_server_metadata()
        assert client.get_server_metadata(headers={"x-api-key": "secret"}).name == "clip-toolkit"


def test_a_full_queue_is_said_with_when_to_come_again(bundle: Path, tmp_path: Path, photo: bytes) -> None:
    with serving(tmp_path / "log", bundle, "--waiting", 1, "--threads", 1) as server:
        server.until_ready()
        found: list[Answer] = []
        threads = [
            threading.Thread(target=lambda: found.extend(server.ask("POST", "/predict", photo, PNG) for _ in range(20)))
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        refused = [answer for answer in found if answer.status == 429]
        assert {answer.status for answer in found} == {200, 429}
        assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
        assert f'clip_rejections_total{{model="model",reason="429"}} {len(refused)}.0' in (
            server.ask("GET", "/metrics").body.decode()
        )


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "toolkit", "serve", *map(str, arguments)], capture_output=True, text=True, check=False
    )


def test_what_can_t_be_served_is_said_at_once(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "no-key").write_text("\n")
    shutil.copytree(bundle, tmp_path / "others" / "model")
    for arguments, said in {
        (tmp_path / "nowhere",): "no such folder",
        (tmp_path / "empty",): "no bundle, and no folder of versions",
        (bundle, tmp_path / "others" / "model"): "two bundles are called model",
        (bundle, "--provider", "magic"): "no provider 'magic'",
        (bundle, "--tls-cert", "a.pem"): "a certificate needs its key",
        (bundle, "--api-key-file", tmp_path / "no-key"): "holds no API key",
        (bundle, "--host", "256.0.0.1"): "can't listen",
    }.items():
        done = command(*arguments)
        assert (done.returncode, done.stdout) == (2, ""), done.stderr
        assert said in done.stderr
        assert done.stderr.count("\n") == 1
    with serving(tmp_path / "log", bundle) as server:
        done = command(bundle, "--port", server.port, "--grpc-port", 0)
        assert (done.returncode, "can't listen" in done.stderr) == (2, True)
        done = command(bundle, "--port", 0, "--grpc-port", server.grpc_port)
        assert (done.returncode, "can't listen for gRPC" in done.stderr) == (2, True), done.stderr


def test_answers_come_over_tls(bundle: Path, tmp_path: Path, photo: bytes) -> None:
    import ssl
    import urllib.request

    if shutil.which("openssl") is None:
        pytest.skip("a certificate is made by openssl, which is not installed")
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject]
    subprocess.run(
        [*make, "-keyout", tmp_path / "key.pem", "-out", tmp_path / "cert.pem"], check=True, capture_output=True
    )
    tls = ("--tls-cert", tmp_path / "cert.pem", "--tls-key", tmp_path / "key.pem")
    with serving(tmp_path / "log", bundle, *tls) as server:
        server.until_said("ready")
        trusted = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
        request = urllib.request.Request(f"https://127.0.0.1:{server.port}/predict", photo, PNG)
        with urllib.request.urlopen(request, context=trusted) as response:
            assert json.loads(response.read())["predictions"][0]["label"]
        import grpc
        from tritonclient.grpc import service_pb2

        certificate = grpc.ssl_channel_credentials((tmp_path / "cert.pem").read_bytes())
        with grpc.secure_channel(f"127.0.0.1:{server.grpc_port}", certificate) as channel:
            live = channel.unary_unary(
                "/inference.GRPCInferenceService/ServerLive",
                response_deserializer=service_pb2.ServerLiveResponse.FromString,
            )
            assert live(b"").live
    swapped = command(bundle, "--tls-cert", tmp_path / "key.pem", "--tls-key", tmp_path / "cert.pem")
    assert (swapped.returncode, "can't use the certificate" in swapped.stderr) == (2, True)


def test_the_server_needs_no_torch(bundle: Path, tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path\n"
        "sys.modules |= {name: None for name in ('torch', 'transformers', 'onnx', 'scipy', 'matplotlib')}\n"
        "from toolkit.cli.main import main\n"
        "sys.argv = ['toolkit', 'serve', sys.argv[1], '--port', '0', '--grpc-port', '-1']\n"
        "main()\n"
    )
    log = tmp_path / "log"
    with log.open("wb") as stream:
        process = subprocess.Popen([sys.executable, "-c", script, str(bundle)], stderr=stream, env=os.environ)
    try:
        while not log.read_text().endswith("\n"):
            assert process.poll() is None, log.read_text()
            time.sleep(0.05)
        Server(process, json.loads(log.read_text().splitlines()[0])["port"], 0, log).until_ready()
    finally:
        process.terminate()
        process.wait(30)
