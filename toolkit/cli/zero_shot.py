"""``toolkit zero-shot``: a classifier from the names of its classes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from toolkit.cli.output import (
    ForceFlag,
    JsonFlag,
    LabelledDataOption,
    console,
    counting,
    print_json,
    print_run_metrics,
)
from toolkit.errors import ToolkitError
from toolkit.regular_files import read_settings


def zero_shot(
    out: Annotated[Path, typer.Option(help="Run folder to write.")],
    encoder: Annotated[
        str, typer.Option(help="Encoder with a text tower: tiny-clip, a folder, or a hub identifier.")
    ] = "tiny-clip",
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
    names, texts = _labels_of(labels, labels_file)
    if not names and data is None:
        fix = "give --labels a,b, --labels-file FILE, or --data PATH with a folder a class"
        raise ToolkitError("nothing says which classes there are", where="--labels", fix=fix)
    prompts = _templates_of(templates) if templates else None
    from toolkit.api import zero_shot as make

    with counting("zero-shot") as progress:
        run = make(encoder, names, out=out, templates=prompts, texts=texts, data=data, force=force, progress=progress)
    if json:
        print_json({"run": str(out)} | run.summary)
    else:
        print_run_metrics(run.summary, f"zero-shot with {encoder}, {len(run.classifier.labels)} classes")
        console().print(f"run folder: {out}", soft_wrap=True)
        console().print(f"next: toolkit export --onnx {out} --out bundles/{out.name}", soft_wrap=True)


def _labels_of(labels: str | None, file: Path | None) -> tuple[list[str], dict[str, str]]:
    """The classes, and what prompts say in place of some.

    Raises:
        ToolkitError: a class twice, an empty one, or one alone.
    """
    lines = labels.split(",") if labels is not None else _lines(file) if file else []
    where = "--labels" if labels is not None else str(file)
    pairs = [tuple(part.strip() for part in line.partition("\t")[::2]) for line in lines]
    names = [name for name, _ in pairs]
    if any(not name for name in names):
        raise ToolkitError("a class without a name", where=where, fix="remove the comma or line too many")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        what = f"the same class stands there twice: {', '.join(twice)}"
        raise ToolkitError(what, where=where, fix="name each class once")
    if len(names) == 1:
        raise ToolkitError(f"one class alone: {names[0]}", where=where, fix="name at least two")
    return names, {name: text for name, text in pairs if text}


def _templates_of(file: Path) -> list[str]:
    """Prompts of a file, a line each.

    Raises:
        ToolkitError: none, or one without a place for the class.
    """
    from toolkit.recipe.prompts import PLACE

    templates = _lines(file)
    if not templates:
        raise ToolkitError("no template in the file", where=file, fix=f"write a line such as: a photo of a {PLACE}.")
    for number, template in enumerate(templates, 1):
        if PLACE not in template:
            what = f"template {number} has no place for the class: {template!r}"
            raise ToolkitError(what, where=file, fix=f"write {PLACE} where it stands: a photo of a {PLACE}.")
    return templates


def _lines(file: Path) -> list[str]:
    """Lines of a text file that hold something.

    Raises:
        ToolkitError: it can't be read as UTF-8.
    """
    try:
        text = read_settings(file).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8"
        raise ToolkitError(f"can't read the file: {reason}", where=file, fix="give a text file, a line each") from error
    return [line.rstrip("\r\n") for line in text.splitlines() if line.strip()]
