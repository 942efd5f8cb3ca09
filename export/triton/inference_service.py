"""KServe's InferenceService of a bundle: for its runtime of Triton, and for a container of ``toolkit serve``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import yaml

from export.triton.names import service_name
from export.triton.release import TritonRelease
from export.triton.settings import TritonSettings
from toolkit import __version__
from toolkit.runtime.cache_folder import CACHE
from toolkit.runtime.memory import MIB
from toolkit.runtime.tensorrt import TF32

TRITON_SERVICE, TOOLKIT_SERVICE = "inference_service.yaml", "inference_service_toolkit.yaml"
PORT = 8080
"""That KServe routes to."""
BASE_MIB, ROUND_MIB = 1024, 256
COPIES = 3
"""Of a session's weights: as they lie in the file, as kernels want them, and what a batch takes."""
START_SECONDS, PROBE_SECONDS = 1800, 10
"""An engine of TensorRT is built in minutes, and a large graph is fetched in as many."""


@dataclass(frozen=True)
class ServiceFacts:
    """What both services say of a bundle."""

    model: str
    settings: TritonSettings
    graph_bytes: int
    """Of the graph and its data."""

    @property
    def memory_mib(self) -> int:
        """An estimate of what the sessions take of the host's memory."""
        weights = COPIES * self.settings.instances * self.graph_bytes / MIB
        return -int(-(BASE_MIB + weights) // ROUND_MIB) * ROUND_MIB

    @property
    def cpus(self) -> int:
        """Cores of all sessions."""
        return self.settings.instances * self.settings.threads


def triton_service(facts: ServiceFacts, release: TritonRelease) -> str:
    """The InferenceService whose Triton serves the repository, as YAML."""
    model: dict[str, Any] = {
        "modelFormat": {"name": "triton", "version": "2"},
        "runtime": "kserve-tritonserver",
        "runtimeVersion": release.image,
        "protocolVersion": "v2",
        "storageUri": "pvc://models/triton",
        "resources": _resources(facts),
        **_probes(f"/v2/models/{facts.model}/ready"),
    }
    if facts.settings.on_gpu:
        model["env"] = [{"name": TF32, "value": "0"}]
    head = [
        "The repository that lies beside this file, in Triton. Change storageUri to where a copy of it is.",
        f"runtimeVersion is the release that it was written for: ONNX Runtime {release.onnxruntime}.",
    ]
    return _service(f"{service_name(facts.model)}-triton", {"model": model}, head)


def toolkit_service(facts: ServiceFacts) -> str:
    """The InferenceService whose container runs ``toolkit serve`` on the bundle itself, as YAML."""
    settings = facts.settings
    arguments = ["serve", f"/mnt/models/{facts.model}", "--host=0.0.0.0", f"--port={PORT}", "--grpc-port=-1"]
    arguments += [f"--provider={settings.provider}", f"--precision={settings.precision}"]
    arguments += [f"--sessions={settings.instances}", f"--threads={settings.threads}"]
    container: dict[str, Any] = {
        "name": "kserve-container",
        "image": f"clip-toolkit-serve:{__version__}",
        "command": ["toolkit"],
        "args": [*arguments, f"--batch-size={settings.max_batch_size}"],
        "env": [{"name": "STORAGE_URI", "value": "pvc://models/bundles"}, {"name": "PROTOCOL", "value": "v2"}],
        "ports": [{"containerPort": PORT, "name": "http1", "protocol": "TCP"}],
        "resources": _resources(facts),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "runAsNonRoot": True,
            "capabilities": {"drop": ["ALL"]},
        },
        **_probes("/v2/health/ready"),
    }
    predictor: dict[str, Any] = {"containers": [container]}
    if settings.provider == "tensorrt":
        container["env"].append({"name": CACHE, "value": "/engines"})
        container["volumeMounts"] = [{"name": "engines", "mountPath": "/engines"}]
        predictor["volumes"] = [{"name": "engines", "emptyDir": {}}]
    head = [
        "The bundle in toolkit serve. Change image to where docker/serve.Dockerfile was pushed to, and STORAGE_URI to",
        f"a folder that holds a copy of the bundle under its name, {facts.model}.",
    ]
    return _service(service_name(facts.model), predictor, head)


def _service(name: str, predictor: dict[str, Any], head: list[str]) -> str:
    content = {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        # a Deployment, which stays up: Knative's scaling to nothing would pay the warm-up for each first request
        "metadata": {"name": name, "annotations": {"serving.kserve.io/deploymentMode": "RawDeployment"}},
        "spec": {"predictor": {"minReplicas": 1, **predictor}},
    }
    notes = [*head, "memory is an estimate from the size of the graph: measure it under load."]
    comments = "".join(f"# {line}\n" for line in notes)
    return comments + yaml.safe_dump(content, sort_keys=False, width=120)


def _resources(facts: ServiceFacts) -> dict[str, Any]:
    amounts = {"cpu": str(facts.cpus), "memory": f"{facts.memory_mib}Mi"}
    if facts.settings.on_gpu:
        amounts["nvidia.com/gpu"] = "1"
    return {"requests": dict(amounts), "limits": dict(amounts)}


def _probes(ready: str) -> dict[str, Any]:
    """Triton opens its ports when all is loaded, so that liveness counts from there on."""
    return {
        "startupProbe": _probe("/v2/health/live", PROBE_SECONDS, START_SECONDS // PROBE_SECONDS),
        "livenessProbe": _probe("/v2/health/live", PROBE_SECONDS, 3),
        "readinessProbe": _probe(ready, 5, 2),
    }


def _probe(path: str, every_seconds: int, failures: int) -> dict[str, Any]:
    return {
        "httpGet": {"path": path, "port": PORT},
        "periodSeconds": every_seconds,
        "timeoutSeconds": 5,
        "failureThreshold": failures,
    }
