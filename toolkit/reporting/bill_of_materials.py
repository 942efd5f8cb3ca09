"""``bom.json``: what a bundle is made of, as a CycloneDX 1.6 bill of materials with a model card.

Specification: https://cyclonedx.org/docs/1.6/json/, component type ``machine-learning-model``. It is written as plain
JSON, since cyclonedx-python-lib (11.12) has no model cards; the schema that comes with that library checks it in tests.
"""

from __future__ import annotations

import hashlib
import json
import math
import uuid
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

from toolkit.reporting.model_card import data_source, metrics_named
from toolkit.runtime.manifest import Manifest
from toolkit.strict_json import as_utf8

BOM = "bom.json"
SPEC_VERSION = "1.6"
MODEL, ENCODER, DATA = "model", "encoder", "data"
"""What the parts of a bill call each other (``bom-ref``)."""
SPDX = {
    **{"apache-2.0": "Apache-2.0", "mit": "MIT", "bsd-3-clause": "BSD-3-Clause", "cc0-1.0": "CC0-1.0"},
    **{"cc-by-4.0": "CC-BY-4.0", "cc-by-sa-4.0": "CC-BY-SA-4.0", "cc-by-nc-4.0": "CC-BY-NC-4.0"},
    **{"cc-by-nc-sa-4.0": "CC-BY-NC-SA-4.0", "cc-by-nc-nd-4.0": "CC-BY-NC-ND-4.0"},
}
"""Identifiers of SPDX by their small letters; any other licence goes by its name."""
PRODUCTION = ("numpy", "onnxruntime", "pillow")
"""Libraries that a bundle runs on; the others made it."""


def bill_of_materials(
    manifest: Manifest, labels: list[str], parity: Mapping[str, Any], hashes: Mapping[str, str]
) -> str:
    """A bill as JSON; the same content has the same serial number, a UUID of its hash.

    Args:
        manifest: of the bundle, with its provenance.
        labels: the classes.
        parity: content of ``parity.json``.
        hashes: SHA-256 by file, of those that a bundle runs from.
    """
    origin = manifest.provenance
    sources = [_encoder(origin), *([_data(origin)] if _has_data(origin) else [])]
    parts = [*sources, *_libraries(origin)]
    needed = [each["bom-ref"] for each in parts if each.get("scope") != "excluded"]
    content: dict[str, Any] = {
        "metadata": {
            "tools": {"components": [_library("clip-toolkit", manifest.toolkit_version, ref=False)]},
            "component": _model(manifest, labels, parity, hashes),
        },
        "components": parts,
        "dependencies": [
            {"ref": MODEL, "dependsOn": needed},
            *({"ref": part["bom-ref"]} for part in parts),
        ],
    }
    content = as_utf8(content)
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    head = {
        "$schema": f"http://cyclonedx.org/schema/bom-{SPEC_VERSION}.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": SPEC_VERSION,
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, digest)}",
        "version": 1,
    }
    content["metadata"] = {"timestamp": manifest.created} | content["metadata"]
    return json.dumps(head | content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _model(
    manifest: Manifest, labels: list[str], parity: Mapping[str, Any], hashes: Mapping[str, str]
) -> dict[str, Any]:
    """The classifier: its files, and its model card."""
    origin = manifest.provenance
    return {
        "type": "machine-learning-model",
        "bom-ref": MODEL,
        "name": f"{origin['data'].get('name', 'image')} classifier",
        "version": origin["checkpoint_sha256"],
        "description": f"classifies an image as one of {len(labels):,} classes",
        "hashes": _hashes(hashes[manifest.default]),
        "components": [
            {"type": "file", "bom-ref": f"file:{name}", "name": name, "hashes": _hashes(digest)}
            for name, digest in sorted(hashes.items())
        ],
        "modelCard": {
            "modelParameters": _parameters(origin, labels),
            "quantitativeAnalysis": {"performanceMetrics": [*_measured(origin), *_proven(parity)]},
            "considerations": {
                "useCases": [f"classify images like those of the data: {data_source(origin)}"],
                "technicalLimitations": list(_limitations(manifest, labels)),
                "ethicalConsiderations": _ethics(origin),
            },
        },
        "properties": _properties(
            {
                "default_graph": manifest.default,
                "task": manifest.task,
                "temperature": str(origin["temperature"]),
            }
        ),
    }


def _parameters(origin: dict[str, Any], labels: list[str]) -> dict[str, Any]:
    """How it learned, from what, and what goes in and out."""
    model, family = origin["recipe"]["model"], (origin.get("encoder") or {}).get("family")
    second = "value" if "rmse" in origin["figures"].get("test", {}) else "probabilities"
    return {
        **({} if origin["recipe"].get("method") == "zero-shot" else {"approach": {"type": "supervised"}}),
        "task": "image-classification",
        **({"architectureFamily": family} if family else {}),
        "modelArchitecture": f"encoder {model['encoder']} and {model['head']['type']} head in one ONNX graph",
        "datasets": [{"ref": DATA}] if _has_data(origin) else [],
        "inputs": [{"format": "image"}],
        "outputs": [{"format": f"{name}: fp32 [batch, {len(labels)}]"} for name in ("logits", second)]
        + ([{"format": f"decisions: bool [batch, {len(labels)}]"}] if "thresholds" in origin else []),
    }


def _measured(origin: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Metrics of the test split with their 95 % intervals, and those of each class."""
    test = origin["figures"].get("test") or {}
    intervals = test.get("intervals") or {}
    for name in metrics_named(test):
        if test.get(name) is not None and math.isfinite(test[name]):
            bounds = intervals.get(name)
            interval = {"lowerBound": _text(bounds[0]), "upperBound": _text(bounds[1])} if bounds else None
            metric = {"type": name, "value": _text(test[name]), "slice": f"test split, {test['images']} images"}
            yield metric | ({"confidenceInterval": interval} if interval else {})
    for label, values in (test.get("per_class") or {}).items():
        for name in ("precision", "recall"):
            if values[name] is not None and math.isfinite(values[name]):
                where = f"test split, class {label}, {values['images']} images"
                yield {"type": name, "value": _text(values[name]), "slice": where}


def _proven(parity: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """How far each graph is from PyTorch."""
    for precision, by_provider in parity["results"].items():
        for provider, entry in by_provider.items():
            where = f"{precision} graph on {provider} beside PyTorch, {entry['images']} images"
            yield {"type": "max_abs_logit_difference", "value": _text(entry["max_abs_logit"]), "slice": where}
            agreement = {"type": "top1_agreement", "value": _text(entry["top1_agreement"]), "slice": where}
            least = entry.get("top1_agreement_at_least")
            yield agreement | ({} if least is None else {"confidenceInterval": {"lowerBound": _text(least)}})


def _limitations(manifest: Manifest, labels: list[str]) -> Iterator[str]:
    """What the metrics leave open."""
    test = manifest.provenance["figures"].get("test")
    if test:
        yield (
            f"measured on {test['images']} test images; the 95 % intervals hold for images like these, not for "
            "another camera, place or time"
        )
    else:
        yield "not measured: the run has no labelled images"
    if "rmse" in (test or {}):
        yield "a number is said of every image, also of one that is unlike all that it learned from"
        return
    if manifest.thresholds is None:
        yield f"every image is given one of the {len(labels):,} classes, also one that shows none of them"
    else:
        yield "each label is said from a threshold on that validation chose; labels that are not listed are never said"
    yield "a probability is calibrated on images like those of the data alone"
    if manifest.operating_point is not None:
        yield (
            f"{manifest.operating_point.label} is said where its probability is at least "
            f"{manifest.operating_point.threshold:.4f}, which validation chose"
        )


def _ethics(origin: dict[str, Any]) -> list[dict[str, str]]:
    licence = origin["data"].get("licence", "not stated")
    return [
        {
            "name": "no metric by groups of people was computed",
            "mitigationStrategy": "toolkit evaluate BUNDLE --data PATH measures the images of each group",
        },
        {
            "name": f"golden/ and plots/ hold images of the data, whose licence is: {licence}",
            "mitigationStrategy": "check that licence, and the consent of people in them, before passing it on",
        },
    ]


def _encoder(origin: dict[str, Any]) -> dict[str, Any]:
    """The encoder that was started from."""
    model, facts = origin["recipe"]["model"], origin.get("encoder") or {}
    found: dict[str, Any] = {"type": "machine-learning-model", "bom-ref": ENCODER, "name": str(model["encoder"])}
    if model.get("revision"):
        found["version"] = model["revision"]
    licence, page = facts.get("licence"), facts.get("page")
    return (
        found
        | ({"licenses": _licences(licence)} if licence else {})
        | ({"externalReferences": [{"type": "model-card", "url": page}]} if page else {})
    )


def _has_data(origin: dict[str, Any]) -> bool:
    return bool(origin["recipe"]["data"] or origin["data"])


def _data(origin: dict[str, Any]) -> dict[str, Any]:
    """The labelled images that it learned from and was measured on."""
    data = origin["data"]
    name = str(data.get("name", "images"))
    sizes = ", ".join(f"{metrics['images']} {split}" for split, metrics in origin["figures"].items())
    dataset: dict[str, Any] = {"type": "dataset", "name": name, "description": f"images: {sizes or 'not measured on'}"}
    if origin.get("data_fingerprint"):
        dataset["contents"] = {"properties": _properties({"fingerprint": origin["data_fingerprint"]})}
    found: dict[str, Any] = {"type": "data", "bom-ref": DATA, "name": name, "description": data_source(origin)}
    found["data"] = [dataset]
    return found | ({"licenses": _licences(str(data["licence"]))} if data.get("licence") else {})


def _libraries(origin: dict[str, Any]) -> list[dict[str, Any]]:
    """What trained and exported it."""
    pairs = {
        (name, found)
        for stage in ("training_libraries", "export_libraries")
        for name, found in (origin.get(stage) or {}).items()
    }
    return [_library(name, found) for name, found in sorted(pairs)]


def _library(name: str, version: str, *, ref: bool = True) -> dict[str, Any]:
    kind, purl = ("platform", "generic") if name == "python" else ("library", "pypi")
    address = f"pkg:{purl}/{quote(name.lower(), safe='')}@{quote(version, safe='')}"
    found = {"type": kind, "name": name, "version": version, "purl": address}
    scope = "required" if name in PRODUCTION else "excluded"
    return found | ({"bom-ref": address, "scope": scope} if ref else {})


def _licences(name: str) -> list[dict[str, dict[str, str]]]:
    known = SPDX.get(name.lower().replace(" ", "-"))
    return [{"license": {"id": known} if known else {"name": name}}]


def _hashes(sha256: str) -> list[dict[str, str]]:
    return [{"alg": "SHA-256", "content": sha256}]


def _properties(values: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"name": f"clip-toolkit:{name}", "value": value} for name, value in values.items()]


def _text(value: float) -> str:
    return f"{value:.6g}"
