"""``toolkit encoders``: which encoder."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from toolkit.cli.output import JsonFlag, console, print_json, print_table

if TYPE_CHECKING:
    from toolkit.models.encoder_sheet import EncoderSheet

app = typer.Typer(help="List, show and compare encoders.", no_args_is_help=True)
RevisionOption = Annotated[
    str | None, typer.Option(help="Of a hub identifier: a commit, tag or branch.", show_default="the newest")
]


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
