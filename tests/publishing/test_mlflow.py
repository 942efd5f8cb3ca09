"""``toolkit log-mlflow`` into a store of files, which mlflow-skinny reads and writes as a server's client does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_mlflow import RUN, fake_mlflow
from mlflow import MlflowClient
from tiny_bundle import flip_a_byte

from toolkit.errors import ToolkitError
from toolkit.files import write_json
from toolkit.publishing.bundle_facts import facts_of
from toolkit.publishing.mlflow_run import MlflowTarget, check_uri, log_bundle
from toolkit.runtime.bundle import Bundle
from toolkit.runtime.verify import verify

Log = Callable[..., subprocess.CompletedProcess[str]]
FIGURES = {
    "test": {
        "accuracy": 0.9,
        "confusion_matrix": None,
        "images": 21,
        "intervals": {"accuracy": [0.8, 0.95]},
        "per_class": {},
    },
    "validation": {"accuracy": 0.92, "images": 15},
}
RECIPE = {
    "model": {"encoder": "tiny-clip", "head": {"type": "cosine", "texts": {"cat": "a cat"}}},
    "training": {"epochs": 3, "schedule (odd key)": "cosine"},
    "tracking": {"project": "colours"},
}


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)  # where MLflow begins a database when it is given no address
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture
def store(tmp_path: Path) -> str:
    return (tmp_path / "store").as_uri()


@pytest.fixture
def measured(bundle: Path) -> Bundle:
    """The tiny bundle with a recipe, metrics and latency."""
    row = {"provider": "cpu", "precision": "fp32", "batch_size": 8, "p50_ms": 2.0, "p99_ms": 3.0, "throughput_ips": 4e3}
    write_json(bundle / "latency.json", {"rows": [row | {"engine": name} for name in ("torch-eager", "onnxruntime")]})
    entry = {"passed": True, "tolerance": 1e-4, "max_abs_logit": 1e-6, "top1_agreement": 1.0}
    write_json(bundle / "parity.json", {"results": {"fp32": {"cpu": entry}}})
    opened = Bundle(bundle)
    opened.manifest.provenance = {"recipe": RECIPE, "figures": FIGURES, "checkpoint_sha256": "c" * 64}
    return opened


@pytest.fixture
def log(bundle: Path, store: str) -> Log:
    def run(*arguments: str, code: int = 0, uri: str = store) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "toolkit", "log-mlflow", str(bundle), "--tracking-uri", uri, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env=dict(os.environ))
        assert done.returncode == code, done.stderr
        return done

    return run


def run_in(store: str, run_id: str) -> Any:
    return MlflowClient(store).get_run(run_id)


def test_a_run_holds_the_bundle_and_a_model_gets_versions(log: Log, store: str, bundle: Path, tmp_path: Path) -> None:
    outcome = json.loads(log("--register", "colours", "--json").stdout)
    run = run_in(store, outcome["run_id"])
    assert (run.info.status, run.info.run_name) == ("FINISHED", "bundle")
    assert run.data.tags["mlflow.note.content"] == "# Colours"
    assert run.data.tags["clip_toolkit.manifest_sha256"] == Bundle(bundle).manifest.manifest_sha256
    client = MlflowClient(store)
    assert verify(Path(client.download_artifacts(outcome["run_id"], "bundle", str(tmp_path))))["passed"]
    assert outcome["registered"] == {"name": "colours", "version": "1"}
    version = client.get_model_version("colours", "1")
    assert (version.run_id, version.source) == (outcome["run_id"], outcome["artifact_uri"])
    printed = log("--register", "colours", "--experiment", "production").stdout
    assert "version 2 of colours" in printed
    assert client.get_experiment_by_name("production") is not None


def test_recipe_metrics_parity_and_latency_are_logged(measured: Bundle, store: str) -> None:
    measured.update_manifest()
    outcome = log_bundle(measured, MlflowTarget(store))
    assert outcome["experiment"] == "colours"
    data = run_in(store, outcome["run_id"]).data
    assert data.params == {
        "model.encoder": "tiny-clip",
        "model.head.type": "cosine",
        "training.epochs": "3",
        "training.schedule _odd key_": "cosine",
        "tracking.project": "colours",
        "classes": "3",
    }
    assert data.metrics == {
        "test/accuracy": 0.9,
        "test/accuracy_low": 0.8,
        "test/accuracy_high": 0.95,
        "test/images": 21,
        "validation/accuracy": 0.92,
        "validation/images": 15,
        "latency/fp32/cpu/batch_8/p50_ms": 2.0,
        "latency/fp32/cpu/batch_8/p99_ms": 3.0,
        "latency/fp32/cpu/batch_8/throughput_ips": 4e3,
        "parity/fp32/cpu/max_abs_logit": 1e-6,
        "parity/fp32/cpu/top1_agreement": 1.0,
    }
    assert data.tags["clip_toolkit.checkpoint_sha256"] == "c" * 64


def test_many_parameters_and_metrics_go_in_parts(measured: Bundle, store: str) -> None:
    origin = measured.manifest.provenance
    origin["recipe"] = RECIPE | {"data": {f"key{number}": number for number in range(250)}}
    origin["figures"] = {"test": {f"metric{number}": number / 7 for number in range(130)}}
    measured.update_manifest()
    data = run_in(store, log_bundle(measured, MlflowTarget(store))["run_id"]).data
    assert sum(name.startswith("data.key") for name in data.params) == 250
    assert sum(name.startswith("test/metric") for name in data.metrics) == 130


def test_a_bundle_that_fails_is_not_logged(log: Log, store: str, bundle: Path, tmp_path: Path) -> None:
    flip_a_byte(bundle / "model.onnx")
    assert "not published: model.onnx was changed" in log(code=1).stderr
    assert not (tmp_path / "store").exists()


def test_what_mlflow_refuses_fails_the_run_in_one_line(bundle: Path, store: str) -> None:
    with pytest.raises(ToolkitError, match="MLflow refused: Invalid model name"):
        log_bundle(Bundle(bundle), MlflowTarget(store, "colours", register="a/b:c"))
    client = MlflowClient(store)
    (run,) = client.search_runs([client.get_experiment_by_name("colours").experiment_id])
    assert run.info.status == "FAILED"


def test_a_server_is_logged_to_and_nothing_of_its_clients_stands_in_the_json(
    log: Log, bundle: Path, tmp_path: Path
) -> None:
    with fake_mlflow(tmp_path / "artifacts") as server:
        done = log("--register", "colours", "--json", uri=server.uri)
    outcome = json.loads(done.stdout)
    assert (outcome["run_id"], outcome["registered"]) == (RUN, {"name": "colours", "version": "1"})
    assert server.status == "FINISHED"
    logged = {each["key"]: each["value"] for batch in server.batches for each in batch.get("params", [])}
    assert logged == {"classes": "3"}
    assert verify(tmp_path / "artifacts" / "bundle")["passed"]
    assert server.uri in done.stderr


def test_a_server_out_of_reach_or_with_a_password_in_its_address(log: Log) -> None:
    done = log(code=2, uri="http://127.0.0.1:9")
    assert "gave no answer" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    with pytest.raises(ToolkitError, match="holds a password") as caught:
        check_uri("https://me:secret@127.0.0.1:9")
    assert "secret" not in str(caught.value)


def test_no_address(bundle: Path) -> None:
    command = [sys.executable, "-m", "toolkit", "log-mlflow", str(bundle)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, "MLFLOW_TRACKING_URI" in done.stderr) == (2, True)


def test_a_bundle_without_provenance_has_facts_too(bundle: Path) -> None:
    facts = facts_of(Bundle(bundle))
    assert facts.params == {"classes": "3"}
    assert facts.tags["clip_toolkit.precisions"] == "fp32"
