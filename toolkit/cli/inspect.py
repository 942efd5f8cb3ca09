"""``toolkit inspect``: what an encoder sees of an image."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from toolkit.cli.encoders import print_groups, print_oddities
from toolkit.cli.output import JsonFlag, RevisionOption, console, print_json, print_table
from toolkit.errors import ToolkitError
from toolkit.text import path_text

if TYPE_CHECKING:
    from toolkit.models.encoder_sheet import EncoderSheet
    from toolkit.models.image_inspection import Inspection


def inspect(
    encoder: Annotated[str, typer.Argument(help="tiny-clip, a folder, or a hub identifier.")],
    image: Annotated[Path, typer.Argument(help="An image file.")],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Picture to write; replaced if it is there.")
    ] = None,
    revision: RevisionOption = None,
    json: JsonFlag = False,
) -> None:
    """Show an image as the encoder sees it: decoded, resized, cropped, normalised, and where its attention goes.

    Attention is rolled out over all layers (Abnar and Zuidema, 2020).

    Example: toolkit inspect tiny-clip photo.jpg --out seen.png
    """
    if out is not None and out.suffix.lower() != ".png":
        raise ToolkitError(f"a picture is no {out.suffix or 'file without a suffix'}", where=out, fix="write FILE.png")
    if image.is_dir():
        raise ToolkitError("a folder, and one image is inspected", where=image, fix="give an image file")
    from toolkit.files import explain_os_errors
    from toolkit.models.encoder_sheet import sheet_of
    from toolkit.models.image_inspection import inspect_image

    found = inspect_image(encoder, image, revision)
    sheet = sheet_of(encoder, revision)
    if out is not None:
        with explain_os_errors(out):
            _draw(found, sheet, image, out)
    if json:
        files = {"image": path_text(image), "out": path_text(out) if out else None}
        print_json(files | found.as_json() | {"encoder": sheet.as_json()})
    else:
        _print(found, sheet, out)


def _draw(found: Inspection, sheet: EncoderSheet, image: Path, out: Path) -> None:
    import numpy as np

    from toolkit.reporting.inspection_plot import Overlay, Panel, plot_inspection

    steps = dict(found.steps())
    arrays = {"decoded": np.asarray(found.decoded), "resized": np.asarray(found.resized), "cropped": found.cropped}
    windows = {"resized": found.window}
    panels = [Panel(name, steps[name], pixels, windows.get(name)) for name, pixels in arrays.items()]
    panels.append(Panel("what the encoder sees", steps["seen"], found.seen))
    overlay = None
    if found.attention is not None:
        shares: Any = found.attention.shares.numpy()
        overlay = Overlay(shares, found.attention.in_words())
    caption = found.without_attention and f"no attention maps: {found.without_attention}"
    name = Path(sheet.name).name if Path(sheet.name).is_dir() else sheet.name
    title = f"{image.name} as {name} sees it"
    plot_inspection(panels, overlay, title, caption or f"{sheet.family}, {sheet.facts.embedding}", out)


def _print(found: Inspection, sheet: EncoderSheet, out: Path | None) -> None:
    names = {"seen": "what the encoder sees"}
    print_table("the image", ["step", "gives"], [[names.get(name, name), gives] for name, gives in found.steps()], 2)
    if found.attention is not None:
        console().print(f"attention rollout: {found.attention.in_words()}", soft_wrap=True)
    else:
        console().print(f"no attention maps: {found.without_attention}", soft_wrap=True)
    print_groups(sheet)
    print_oddities(sheet)
    written = f"written: {out}" if out else "the picture of it: add --out FILE.png"
    console().print(written, soft_wrap=True)
