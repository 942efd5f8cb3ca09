"""``toolkit encoders``: which encoder."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from toolkit.cli.output import ForceFlag, JsonFlag, RevisionOption, console, counting, print_json, print_table, warn
from toolkit.text import path_text

if TYPE_CHECKING:
    from toolkit.models.encoder_sheet import EncoderSheet
    from toolkit.runs.encoders_compare_file import EncodersCompareFile

app = typer.Typer(help="List, show and compare encoders.", no_args_is_help=True)


@app.command("list")
def list_(json: JsonFlag = False) -> None:
    """List the families, and well-known encoders with sizes that are computed from their configurations.

    Example: toolkit encoders list
    """
    from toolkit.models.families.summary import families
    from toolkit.models.known_encoders import KNOWN

    found = families()
    known: list[dict[str, Any]] = [
        {"name": one.name, "family": one.family, "image_size": one.image_size}
        | asdict(one.facts())
        | {"licence": one.licence, "page": one.page}
        for one in KNOWN.values()
    ]
    if json:
        print_json({"families": [asdict(family) for family in found], "encoders": known})
        return
    print_table(
        "families",
        ["family", "model types", "precisions", "zero-shot", "sizes", "example"],
        [
            [
                family.name,
                ", ".join(family.model_types),
                ", ".join(family.precisions),
                "yes" if family.zero_shot else "no",
                family.sizes,
                family.example,
            ]
            for family in found
        ],
        6,
    )
    print_table(
        "well-known encoders; parameters and GFLOPs (a multiply-accumulate is 2) are the image tower's",
        ["encoder", "family", "embedding", "licence", "pixels", "M parameters", "GFLOPs", "P"],
        [
            [
                one["name"],
                one["family"],
                one["embedding"],
                one["licence"],
                str(one["image_size"]),
                f"{one['parameters'] / 1e6:.1f}",
                f"{one['gflops']:.2f}",
                str(one["embedding_size"]),
            ]
            for one in known
        ],
        4,
    )
    console().print("pages: https://huggingface.co/NAME")


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="tiny-clip, a folder, a hub identifier, or a name of encoders list.")],
    revision: RevisionOption = None,
    json: JsonFlag = False,
) -> None:
    """Say what an encoder is: sizes, image processor, licence, cost, groups, and what is unusual about its checkpoint.

    Example: toolkit encoders show tiny-clip
    """
    from toolkit.models.encoder_sheet import sheet_of

    sheet = sheet_of(name, revision)
    if json:
        print_json(sheet.as_json())
    else:
        _print_sheet(sheet)


def _print_sheet(sheet: EncoderSheet) -> None:
    out = console()
    if sheet.stored is None:
        out.print(f"the checkpoint of {sheet.name} is not here and was not read; of what is published:", soft_wrap=True)
    print_table(sheet.name, ["what", ""], sheet.in_words(), 2)
    print_groups(sheet)
    print_oddities(sheet)


def print_groups(sheet: EncoderSheet) -> None:
    """The groups that a recipe's ``model.unfreeze`` chooses from."""
    total = sheet.facts.parameters
    rows = [[group.name, f"{group.parameters:,}", f"{100 * group.parameters / total:.1f} %"] for group in sheet.groups]
    print_table("groups in their order", ["group", "parameters", "share"], rows)


def print_oddities(sheet: EncoderSheet) -> None:
    """What is unusual, a line each."""
    for oddity in sheet.oddities:
        console().print(f"note: {oddity}", soft_wrap=True)


@app.command()
def compare(
    data: Annotated[Path, typer.Option(help="Labelled images in any format.")],
    encoders: Annotated[str, typer.Option(help="Comma-separated: tiny-clip, folders, or hub identifiers.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder to write: encoders_compare.json and encoders_compare.png.")
    ] = None,
    force: ForceFlag = False,
    json: JsonFlag = False,
) -> None:
    """Set encoders side by side on your data: a linear probe's accuracy on validation, and milliseconds an image here.

    Example: toolkit encoders compare --data datasets/digits --encoders tiny-clip,FOLDER --out encoders/digits
    """
    from recipes.compare_encoders import compare_encoders

    names = [name.strip() for name in encoders.split(",") if name.strip()]
    with counting("encoders") as progress:
        found = compare_encoders(data, names, out, force=force, progress=progress)
    if json:
        print_json({"out": path_text(out) if out else None} | found.model_dump(mode="json"))
    else:
        _print_comparison(found, out)


def _print_comparison(found: EncodersCompareFile, out: Path | None) -> None:
    rows = []
    for each in found.encoders:
        low, high = (100 * end for end in each.interval)
        behind = "the best"
        if each.behind_best is not None:
            least, most = (100 * end for end in each.behind_best.interval)
            behind = f"{100 * each.behind_best.value:.1f} ({least:.1f} to {most:.1f})"
        rows.append(
            [
                each.encoder,
                each.family,
                each.embedding,
                f"{100 * each.accuracy:.1f} ({low:.1f} to {high:.1f})",
                behind,
                f"{each.latency.p50_ms:.3g}",
                f"{each.graph_bytes / 1e6:.4g}",
                f"{each.parameters / 1e6:.4g}",
            ]
        )
    images, classes = found.images, len(found.classes)
    title = (
        f"linear probes on {images['train']:,} images of {classes} classes, accuracy in % on {images['validation']:,} "
        "of validation; 95 % intervals"
    )
    columns = ["encoder", "family", "embedding", "accuracy", "points behind", "p50 ms", "MB", "M parameters"]
    print_table(title, columns, rows, 3)
    height, width = found.image_shape
    out_console = console()
    out_console.print(
        f"p50: one image of {width} x {height} pixels through the fp32 graph from decoded image to probabilities, on "
        f"{found.machine.processor}, {found.encoders[0].latency.threads} threads",
        soft_wrap=True,
    )
    for sentence in found.machine.throttled:
        warn(sentence)
    for each in found.encoders:
        if each.latency.steady is False:
            warn(f"the latency of {each.encoder} was not steady after its warm-up")
        for note in each.notes:
            out_console.print(f"note: {each.encoder}: {note}", soft_wrap=True)
    near = found.as_good_as_best()
    if len(near) > 1:
        others = ", ".join(each.encoder for each in near)
        sentence = f"not told apart by these images: {others}; the fastest of them is {near[0].encoder}"
        out_console.print(sentence, soft_wrap=True)
    if out is not None:
        out_console.print(f"written: {out / 'encoders_compare.json'}, {out / 'encoders_compare.png'}", soft_wrap=True)
    out_console.print(f"next: toolkit encoders show {near[0].encoder}", soft_wrap=True)
