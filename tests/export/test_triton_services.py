"""KServe's InferenceServices: by a schema of the CRD's fields, and the toolkit's own started as its container would."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml
from kserve_schema import INFERENCE_SERVICE, NAME
from server_process import serving
from triton_bundles import tiny, tuned

from export.triton.inference_service import TOOLKIT_SERVICE, TRITON_SERVICE, ServiceFacts
from export.triton.names import service_name
from export.triton.release import RELEASE
from export.triton.repository import write_repository
from export.triton.settings import TritonSettings
from toolkit.runtime.cache_folder import CACHE
from toolkit.runtime.memory import MIB

SCHEMA = jsonschema_rs.validator_for(INFERENCE_SERVICE)


def services(folder: Path, **settings: Any) -> tuple[Any, Any]:
    """Triton's and the toolkit's, of a bundle that was tuned so."""
    write_repository(tiny(folder / "Digits_2", tuned(**settings)), folder / "models")
    of_triton, of_toolkit = (
        yaml.safe_load((folder / "models" / name).read_text()) for name in (TRITON_SERVICE, TOOLKIT_SERVICE)
    )
    return of_triton, of_toolkit


@pytest.mark.parametrize("provider", ["cpu", "cuda", "tensorrt"])
def test_both_are_what_kserve_knows(provider: str, tmp_path: Path) -> None:
    of_triton, of_toolkit = services(tmp_path, provider=provider, sessions=2, threads=3)
    for each in (of_triton, of_toolkit):
        SCHEMA.validate(each)
        assert not SCHEMA.is_valid(each | {"spec": {"predictor": each["spec"]["predictor"] | {"replicas": 1}}})
    model, (container,) = of_triton["spec"]["predictor"]["model"], of_toolkit["spec"]["predictor"]["containers"]
    assert (of_triton["metadata"]["name"], of_toolkit["metadata"]["name"]) == ("digits-2-triton", "digits-2")
    assert (model["runtimeVersion"], model["protocolVersion"]) == (f"{RELEASE.name}-py3", "v2")
    for each in (model, container):
        assert each["resources"]["requests"] == each["resources"]["limits"]
        assert each["resources"]["limits"]["cpu"] == "6"
        assert ("nvidia.com/gpu" in each["resources"]["limits"]) == (provider != "cpu")
        assert each["livenessProbe"]["httpGet"]["path"] == each["startupProbe"]["httpGet"]["path"] == "/v2/health/live"
        assert each["startupProbe"]["failureThreshold"] * each["startupProbe"]["periodSeconds"] == 1800
    assert model["readinessProbe"]["httpGet"]["path"] == "/v2/models/Digits_2/ready"
    assert ({"name": "NVIDIA_TF32_OVERRIDE", "value": "0"} in model.get("env", [])) == (provider != "cpu")


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_engines_of_tensorrt_have_a_folder_to_lie_in(provider: str, tmp_path: Path) -> None:
    _, of_toolkit = services(tmp_path, provider=provider)
    predictor = of_toolkit["spec"]["predictor"]
    (container,) = predictor["containers"]
    variables = {each["name"]: each["value"] for each in container["env"]}
    mounted = {each["name"]: each["mountPath"] for each in container.get("volumeMounts", [])}
    assert [each["name"] for each in predictor.get("volumes", [])] == list(mounted)
    assert list(mounted.values()) == ([variables[CACHE]] if provider == "tensorrt" else [])
    assert (CACHE in variables) == (provider == "tensorrt")


def test_yaml_repeats_what_is_the_same(tmp_path: Path) -> None:
    """An anchor would be read, but not by everyone who edits it."""
    services(tmp_path)
    for name in (TRITON_SERVICE, TOOLKIT_SERVICE):
        text = (tmp_path / "models" / name).read_text()
        assert "&id" not in text
        assert "*id" not in text


def test_the_toolkit_s_container_starts_and_its_probes_answer(tmp_path: Path) -> None:
    _, of_toolkit = services(tmp_path, batch_size=4)
    (container,) = of_toolkit["spec"]["predictor"]["containers"]
    (verb, *arguments) = [each.replace("/mnt/models", str(tmp_path)) for each in container["args"]]
    assert (container["command"], verb) == (["toolkit"], "serve")
    with serving(tmp_path / "log", *arguments) as server:
        assert server.ask("GET", container["livenessProbe"]["httpGet"]["path"]).status == 200
        server.until_ready()
        assert server.ask("GET", container["readinessProbe"]["httpGet"]["path"]).status == 200
        assert server.ask("GET", "/v2/models/Digits_2/ready").status == 200


@pytest.mark.parametrize("name", ["Digits_2", "2024.digits", "a", "X.Y_Z", "9" * 63, "a" + "-" * 61 + "b", "Ab" * 31])
def test_every_name_of_a_model_becomes_one_of_a_service(name: str) -> None:
    for each in (service_name(name), f"{service_name(name)}-triton"):
        assert jsonschema_rs.is_valid(NAME, each)


@pytest.mark.parametrize(("graph_mib", "instances", "mib"), [(0, 1, 1024), (1, 1, 1280), (350, 2, 3328)])
def test_memory_grows_with_the_sessions_weights(graph_mib: int, instances: int, mib: int) -> None:
    settings = TritonSettings("cpu", "fp32", instances, 1, 1)
    assert ServiceFacts("m", settings, graph_mib * MIB).memory_mib == mib
