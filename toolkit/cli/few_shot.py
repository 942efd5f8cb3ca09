"""``toolkit few-shot``: what a few images a class are good for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from toolkit.cli.labels import templates_of, texts_of
from toolkit.cli.output import ForceFlag, JsonFlag, RevisionOption, console, counting, print_json, print_table
from toolkit.errors import ToolkitError

if TYPE_CHECKING:
    from toolkit.runs.few_shot_file import FewShotFile


def few_shot(
    data: Annotated[Path, typer.Option(help="Labelled images in any format.")],
    out: Annotated[Path, typer.Option(help="Folder to write: few_shot.json, few_shot.png, and the run best.")],
    encoder: Annotated[str, typer.Option(help="Encoder: tiny-clip, a folder, or a hub identifier.")] = "tiny-clip",
    revision: RevisionOption = None,
    shots: Annotated[str, typer.Option(help="Training images a class, comma-separated.")] = "1,2,4,8,16",
    seeds: Annotated[int, typer.Option(min=1, help="Draws of these images.")] = 5,
    methods: Annotated[
        str | None,
        typer.Option(
            help="Comma-separated: linear-probe, text-cosine, tip-adapter, tip-adapter-f, prolip, lora.",
            show_default="all that the encoder allows",
        ),
    ] = None,
    labels_file: Annotated[
        Path | None, typer.Option(help="File with a class a line, and behind a tab what prompts say in its place.")
    ] = None,
    templates: Annotated[
        Path | None,
        typer.Option(
            help="File with a prompt a line, with {} where the class stands.", show_default="prompts for photographs"
        ),
    ] = None,
    force: ForceFlag = False,
    json: JsonFlag = False,
) -> None:
    """Compare few-shot methods on embeddings that are computed once; the best by validation becomes a run.

    Example: toolkit few-shot --data datasets/digits --out few-shot/digits
    """
    from toolkit.api import few_shot as compare

    with counting("few-shot") as progress:
        found = compare(
            data,
            out=out,
            encoder=encoder,
            revision=revision,
            shots=_shots_of(shots),
            seeds=seeds,
            methods=[name.strip() for name in (methods or "").split(",") if name.strip()],
            templates=templates_of(templates) if templates else None,
            texts=texts_of(labels_file) if labels_file else None,
            force=force,
            progress=progress,
        )
    if json:
        print_json({"out": str(out)} | found.model_dump(mode="json"))
    else:
        _print(found, out)


def _shots_of(text: str) -> list[int]:
    """Images a class, each number once, from the smallest.

    Raises:
        ToolkitError: something else than whole numbers from 1.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) for part in parts):
        raise ToolkitError(f"{text!r} are no numbers of images", where="--shots", fix="write them like 1,2,4,8,16")
    return sorted({int(part) for part in parts})


def _print(found: FewShotFile, out: Path) -> None:
    by_place = {(result.method, result.shots): result for result in found.results}
    shots = sorted({result.shots for result in found.results})
    rows = []
    for name in found.methods:
        cells = []
        for count in shots:
            result = by_place[name, count]
            reach = f" ± {100 * (result.interval[1] - result.interval[0]) / 2:.1f}" if result.interval else ""
            cells.append(f"{100 * result.accuracy:.1f}{reach}")
        rows.append([name, *cells])
    if found.zero_shot is not None:
        rows.insert(0, ["zero-shot", *([f"{100 * found.zero_shot:.1f}"] * len(shots))])
    seeds = len(found.results[0].seeds)
    title = f"test accuracy in % on {found.images['test']:,} images; mean of {seeds} seeds ± half a 95 % interval"
    print_table(title, ["method", *(f"{count} a class" for count in shots)], rows)
    best = found.best
    console().print(
        f"best on validation: {best['method']} with {best['shots']} images a class; encoding "
        f"{found.seconds['encoding']:.0f} s, fitting {found.seconds['fitting']:.0f} s",
        soft_wrap=True,
    )
    console().print(f"written: {out / 'few_shot.json'}, {out / 'few_shot.png'}", soft_wrap=True)
    console().print(f"next: toolkit export --onnx {out / 'best'} --out bundles/{out.name}", soft_wrap=True)
