"""A bundle becomes a run of MLflow, its files artifacts, and a version of a registered model where one is named."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from toolkit.errors import ToolkitError
from toolkit.publishing.bundle_facts import BundleFacts, facts_of
from toolkit.runtime.bundle import Bundle

if TYPE_CHECKING:
    from mlflow import MlflowClient

ARTIFACTS = "bundle"
"""The folder of a run's artifacts that is the bundle."""
EXPERIMENT = "clip-toolkit"
SECONDS = 5.0
"""To wait for a server's first answer; MLflow's client would try for minutes."""
DATABASES = frozenset({"sqlite", "mysql", "mssql", "postgresql"})
AT_ONCE = 100
"""Parameters and metrics that a server takes in one request."""


@dataclass(frozen=True)
class MlflowTarget:
    """Where a bundle is logged."""

    tracking_uri: str
    experiment: str | None = None
    """The project of the bundle's recipe unless given."""
    register: str | None = None
    """Name of a registered model that gets a new version."""


def check_uri(uri: str) -> None:
    """Find out, before anything is logged, whether a server answers.

    Raises:
        ToolkitError: nobody answers, the URI of a server holds a password, or a database can't be opened here.
    """
    parts = urlsplit(uri)
    if parts.scheme.partition("+")[0] in DATABASES and find_spec("sqlalchemy") is None:
        raise ToolkitError("a database needs the whole of MLflow", where=parts.scheme, fix="pip install mlflow")
    if parts.scheme not in ("http", "https"):
        return
    if parts.password:
        fix = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, and leave it out"
        raise ToolkitError("the address holds a password, which others can read", where=parts.hostname or "", fix=fix)
    try:
        with urllib.request.urlopen(uri, timeout=SECONDS):
            pass
    except urllib.error.HTTPError:
        return  # an answer
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        what = f"MLflow's server gave no answer within {SECONDS:g} s ({reason})"
        raise ToolkitError(what, where=uri, fix="check the address, the network or the proxy") from error


def log_bundle(bundle: Bundle, target: MlflowTarget) -> dict[str, Any]:
    """Log a whole bundle; a run that could not be finished is marked as failed.

    Args:
        bundle: that was verified.
        target: where it goes.

    Returns:
        ``tracking_uri``, ``experiment``, ``run_id``, ``artifact_uri`` of the bundle, ``metrics``, ``params`` and
        ``registered`` (``name`` and ``version``, or null).

    Raises:
        ToolkitError: MLflow refuses.
    """
    from mlflow import MlflowClient

    facts = facts_of(bundle)
    with _explaining(target.tracking_uri):
        client = MlflowClient(target.tracking_uri)
        experiment = target.experiment or _project(bundle)
        run = client.create_run(_experiment(client, experiment), run_name=bundle.path.resolve().name, tags=facts.tags)
        with _ended(client, run.info.run_id):
            _log_values(client, run.info.run_id, facts)
            client.log_artifacts(run.info.run_id, str(bundle.path), ARTIFACTS)
            source = f"{run.info.artifact_uri.rstrip('/')}/{ARTIFACTS}"
            registered = _register(client, target.register, source, run.info.run_id, facts.tags)
    return {
        "tracking_uri": target.tracking_uri,
        "experiment": experiment,
        "run_id": run.info.run_id,
        "artifact_uri": source,
        "metrics": facts.metrics,
        "params": facts.params,
        "registered": registered,
    }


def _project(bundle: Bundle) -> str:
    """The experiment that the training logged to, so that both stand side by side."""
    recipe = bundle.manifest.provenance.get("recipe") or {}
    return str((recipe.get("tracking") or {}).get("project") or EXPERIMENT)


def _experiment(client: MlflowClient, name: str) -> str:
    found = client.get_experiment_by_name(name)
    return str(found.experiment_id if found else client.create_experiment(name))


def _log_values(client: MlflowClient, run: str, facts: BundleFacts) -> None:
    from mlflow.entities import Metric, Param

    now = int(time.time() * 1000)
    params = [Param(name, value) for name, value in facts.params.items()]
    metrics = [Metric(name, value, now, 0) for name, value in facts.metrics.items()]
    for start in range(0, max(len(params), len(metrics)), AT_ONCE):
        part = slice(start, start + AT_ONCE)
        client.log_batch(run, metrics=metrics[part], params=params[part])


def _register(
    client: MlflowClient, name: str | None, source: str, run: str, tags: Mapping[str, str]
) -> dict[str, str] | None:
    """Make a version of a registered model, and the model where it is not there yet."""
    from mlflow.exceptions import MlflowException

    if name is None:
        return None
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    kept = {key: value for key, value in tags.items() if key.startswith("clip_toolkit.")}
    made = client.create_model_version(name, source, run, tags=kept, description=tags.get("mlflow.note.content"))
    return {"name": name, "version": str(made.version)}


@contextmanager
def _ended(client: MlflowClient, run: str) -> Iterator[None]:
    """Close a run, as failed where what is in here fails."""
    try:
        yield
    except BaseException:
        client.set_terminated(run, "FAILED")
        raise
    client.set_terminated(run)


@contextmanager
def _explaining(uri: str) -> Iterator[None]:
    """What MLflow refuses, as an error in one line."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        what = f"MLflow refused: {' '.join(error.message.split())[:300]}"
        raise ToolkitError(what, where=uri, fix="do as it says") from error
    except ModuleNotFoundError as error:  # of a store that mlflow-skinny does not bring
        raise ToolkitError(f"{error.name} is not installed", where=uri, fix="pip install mlflow") from error
