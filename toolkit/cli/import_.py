"""``toolkit import``: a run from a classifier that was trained elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from toolkit.cli.output import (
    ForceFlag,
    JsonFlag,
    LabelledDataOption,
    RevisionOption,
    console,
    counting,
    print_json,
    print_run_metrics,
)


def import_(
    checkpoint: Annotated[
        str,
        typer.Argument(help="Folder or hub identifier of a classifier that transformers saved, with its labels."),
    ],
    out: Annotated[Path, typer.Option(help="Run folder to write.")],
    revision: RevisionOption = None,
    data: LabelledDataOption = None,
    force: ForceFlag = False,
    json: JsonFlag = False,
) -> None:
    """Make a run from CLIPForImageClassification and its sisters, held against transformers' own forward pass.

    Example: toolkit import my-classifier --data datasets/digits --out runs/imported
    """
    from toolkit.api import import_classifier

    with counting("import") as progress:
        run = import_classifier(checkpoint, out=out, revision=revision, data=data, force=force, progress=progress)
    settings = run.summary["settings"]
    if json:
        print_json({"run": str(out)} | run.summary)
        return
    print_run_metrics(run.summary, f"{settings['architecture']}, {len(run.classifier.labels)} classes")
    console().print(f"max |logit difference| to transformers: {settings['largest_logit_difference']:.1e}")
    console().print(f"run folder: {out}", soft_wrap=True)
    console().print(f"next: toolkit export --onnx {out} --out bundles/{out.name}", soft_wrap=True)
