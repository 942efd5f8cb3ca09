"""``toolkit encoders``: which encoder."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import typer

from toolkit.cli.output import JsonFlag, console, print_json, print_table

app = typer.Typer(help="List and show encoders.", no_args_is_help=True)


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
