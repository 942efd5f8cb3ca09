"""``toolkit log-mlflow``: a bundle becomes a run of MLflow, and a version of a registered model; without torch."""

from __future__ import annotations

import os
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated

import typer

from toolkit.cli.output import JsonFlag, PublicKeyOption, ServingProviderOption, console, print_json
from toolkit.errors import ToolkitError

TRACKING_URI = "MLFLOW_TRACKING_URI"


def log_mlflow(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder.")],
    tracking_uri: Annotated[
        str | None,
        typer.Option(help="Address of MLflow's server, or of a store.", show_default=f"the variable {TRACKING_URI}"),
    ] = None,
    experiment: Annotated[
        str | None, typer.Option(help="Experiment of the run.", show_default="that of the training")
    ] = None,
    register: Annotated[
        str | None, typer.Option(metavar="NAME", help="Make a version of this registered model too.")
    ] = None,
    provider: ServingProviderOption = None,
    public_key: PublicKeyOption = None,
    json: JsonFlag = False,
) -> None:
    """Verify a bundle and log it to MLflow: its files as artifacts, the recipe, the metrics, parity and latency.

    Example: toolkit log-mlflow bundles/digits --tracking-uri http://127.0.0.1:5000 --register digits
    """
    from toolkit.publishing.checked import checked_bundle, require_library

    require_library("mlflow", "tracking", "toolkit log-mlflow")
    from toolkit.publishing.mlflow_run import MlflowTarget, check_uri, log_bundle

    uri = tracking_uri or os.environ.get(TRACKING_URI)
    if not uri:
        fix = f"add --tracking-uri http://HOST:5000, or set {TRACKING_URI}"
        raise ToolkitError("no address of MLflow", where="toolkit log-mlflow", fix=fix)
    check_uri(uri)
    opened = checked_bundle(bundle, provider=provider, public_key=public_key)
    with redirect_stdout(sys.stderr):  # where MLflow's client writes the run's page
        outcome = log_bundle(opened, MlflowTarget(uri, experiment, register))
    if json:
        print_json(outcome)
        return
    model = outcome["registered"]
    version = f"; version {model['version']} of {model['name']}" if model else ""
    what = f"logged: {len(outcome['metrics'])} metrics and {len(outcome['params'])} parameters{version}; run "
    console().print(f"{what}{outcome['run_id']} of {outcome['experiment']}", soft_wrap=True)
    console().print(outcome["artifact_uri"], soft_wrap=True)
