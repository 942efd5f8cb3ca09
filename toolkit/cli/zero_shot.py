"""``toolkit zero-shot``: a classifier from the names of its classes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from toolkit.cli.labels import labels_of, templates_of
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
from toolkit.errors import ToolkitError


def zero_shot(
    out: Annotated[Path, typer.Option(help="Run folder to write.")],
    encoder: Annotated[
        str, typer.Option(help="Encoder with a text tower: tiny-clip, a folder, or a hub identifier.")
    ] = "tiny-clip",
    revision: RevisionOption = None,
    labels: Annotated[
        str | None, typer.Option(help="The classes, comma-separated.", show_default="those of --data")
    ] = None,
    labels_file: Annotated[
        Path | None,
        typer.Option(
            help="File with a class a line; behind a tab stands what prompts say in its place, where they say another."
        ),
    ] = None,
    templates: Annotated[
        Path | None,
        typer.Option(
            help="File with a prompt a line, with {} where the class stands; their embeddings are averaged.",
            show_default="prompts for photographs",
        ),
    ] = None,
    data: LabelledDataOption = None,
    force: ForceFlag = False,
    json: JsonFlag = False,
) -> None:
    """Make a run whose head is the text embeddings of its labels; nothing is trained.

    Example: toolkit zero-shot --encoder tiny-clip --labels "red circle,blue square" --out runs/shapes
    """
    if labels is not None and labels_file is not None:
        raise ToolkitError("the classes are given twice", where="--labels-file", fix="leave --labels out")
    names, texts = labels_of(labels, labels_file)
    if not names and data is None:
        fix = "give --labels a,b, --labels-file FILE, or --data PATH with a folder a class"
        raise ToolkitError("nothing says which classes there are", where="--labels", fix=fix)
    prompts = templates_of(templates) if templates else None
    from toolkit.api import zero_shot as make

    with counting("zero-shot") as progress:
        run = make(
            encoder,
            names,
            out=out,
            revision=revision,
            templates=prompts,
            texts=texts,
            data=data,
            force=force,
            progress=progress,
        )
    if json:
        print_json({"run": str(out)} | run.summary)
    else:
        print_run_metrics(run.summary, f"zero-shot with {encoder}, {len(run.classifier.labels)} classes")
        console().print(f"run folder: {out}", soft_wrap=True)
        console().print(f"next: toolkit export --onnx {out} --out bundles/{out.name}", soft_wrap=True)
