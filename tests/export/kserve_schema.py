"""The part of KServe's InferenceService (v1beta1, its CRD in config/crd/full) that a predictor of one container needs.

Stricter than the CRD, which prunes what it doesn't know: every unknown field is an error here.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]
TEXT: Schema = {"type": "string"}
TRUTH: Schema = {"type": "boolean"}
NUMBER: Schema = {"type": "integer"}
PORT: Schema = {"type": ["integer", "string"]}
NAME: Schema = {"type": "string", "pattern": "^[a-z]([-a-z0-9]*[a-z0-9])?$", "maxLength": 53}
"""By KServe's webhook; with ``-predictor`` it is a label of Kubernetes."""
QUANTITY: Schema = {"type": ["integer", "string"], "pattern": "^[0-9]+([.][0-9]+)?(m|k|M|G|Ki|Mi|Gi)?$"}


def an_object(required: tuple[str, ...] = (), **fields: Schema) -> Schema:
    return {"type": "object", "additionalProperties": False, "required": list(required), "properties": fields}


def a_map(values: Schema) -> Schema:
    return {"type": "object", "additionalProperties": values}


def a_list(items: Schema) -> Schema:
    return {"type": "array", "items": items, "minItems": 1}


PROBE = an_object(
    ("httpGet",),
    httpGet=an_object(("path", "port"), path={"type": "string", "pattern": "^/v2/"}, port=PORT),
    periodSeconds=NUMBER,
    timeoutSeconds=NUMBER,
    failureThreshold=NUMBER,
    initialDelaySeconds=NUMBER,
)
CONTAINER: Schema = {
    "args": a_list(TEXT),
    "command": a_list(TEXT),
    "env": a_list(an_object(("name", "value"), name=TEXT, value=TEXT)),
    "image": TEXT,
    "name": {"const": "kserve-container"},
    "ports": a_list(an_object(("containerPort",), containerPort=NUMBER, name=TEXT, protocol={"enum": ["TCP"]})),
    "resources": an_object(("requests", "limits"), requests=a_map(QUANTITY), limits=a_map(QUANTITY)),
    "securityContext": an_object(
        allowPrivilegeEscalation=TRUTH, runAsNonRoot=TRUTH, capabilities=an_object(drop=a_list(TEXT))
    ),
    "volumeMounts": a_list(an_object(("mountPath", "name"), mountPath=TEXT, name=TEXT)),
    "startupProbe": PROBE,
    "livenessProbe": PROBE,
    "readinessProbe": PROBE,
}
PROBES = ("startupProbe", "livenessProbe", "readinessProbe")
OF_RUNTIME: Schema = {
    "modelFormat": an_object(("name",), name=TEXT, version=TEXT),
    "runtime": TEXT,
    "runtimeVersion": TEXT,
    "protocolVersion": {"enum": ["v1", "v2", "grpc-v2"]},
    "storageUri": {"type": "string", "pattern": "^[a-z0-9]+://"},
}
INFERENCE_SERVICE = an_object(
    ("apiVersion", "kind", "metadata", "spec"),
    apiVersion={"const": "serving.kserve.io/v1beta1"},
    kind={"const": "InferenceService"},
    metadata=an_object(("name",), name=NAME, annotations=a_map(TEXT), labels=a_map(TEXT)),
    spec=an_object(
        ("predictor",),
        predictor=an_object(
            minReplicas=NUMBER,
            model=an_object(("modelFormat", "storageUri", "resources", *PROBES), **OF_RUNTIME, **CONTAINER),
            containers=a_list(an_object(("name", "image", "resources", *PROBES), **CONTAINER)),
            volumes=a_list(an_object(("name", "emptyDir"), name=TEXT, emptyDir=an_object())),
        ),
    ),
)
