"""Bundles for Triton: the tiny graph, tuned or not, and a configuration as Triton's own schema reads it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from tiny_bundle import write_tiny_bundle
from tritonclient.grpc import model_config_pb2

from toolkit.files import write_json
from toolkit.runtime.bundle import Bundle


def tiny(folder: Path, change: Callable[[Path], object] = lambda path: None) -> Bundle:
    """The tiny bundle, whose graph is of standard operators, after some change."""
    write_tiny_bundle(folder)
    return changed(folder, change)


def copied(bundle: Path, folder: Path, change: Callable[[Path], object] = lambda path: None) -> Bundle:
    shutil.copytree(bundle, folder)
    return changed(folder, change)


def changed(folder: Path, change: Callable[[Path], object]) -> Bundle:
    bundle = Bundle(folder)
    change(folder)
    bundle.update_manifest()
    return Bundle(folder)


def tuned(**settings: Any) -> Callable[[Path], None]:
    """Have a bundle tuned, as ``toolkit tune`` writes it."""
    expected = {"p50_ms": 1, "p99_ms": 2, "p99_ms_at_most": 2, "throughput_ips": 3, "accuracy_drop": 0}
    content = {
        "provider": "cpu",
        "precision": "fp32",
        "threads": 1,
        "expected": expected | {"accuracy_drop_interval": [0, 0]},
        "budget": {"p99_ms": 5, "max_accuracy_drop": 0.2},
        "machine": {},
    }
    return lambda folder: write_json(folder / "serving.json", content | settings)


def config_in(repository: Path) -> Any:
    """The one model's configuration, which Triton's own schema knows all of."""
    (path,) = repository.glob("*/config.pbtxt")
    config = model_config_pb2.ModelConfig()
    text_format.Parse(path.read_text(encoding="utf-8"), config)
    return config


def parameters(config: Any) -> dict[str, str]:
    return {key: value.string_value for key, value in config.parameters.items()}


def accelerators(config: Any) -> dict[str, dict[str, str]]:
    listed = config.optimization.execution_accelerators.gpu_execution_accelerator
    return {each.name: dict(each.parameters) for each in listed}
