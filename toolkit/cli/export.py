"""``toolkit export``: a run becomes a bundle, proven."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from toolkit.cli.output import (
    ForceFlag,
    JsonFlag,
    ProviderOption,
    SignOption,
    ThreadsOption,
    console,
    messages,
    print_json,
    renew_signature,
    require_key,
)
from toolkit.cli.parity import FEWEST_IMAGES, CountOption, print_parity, warn_of_few_images
from toolkit.errors import ToolkitError


def export(
    onnx: Annotated[Path, typer.Option("--onnx", help="Run folder whose best checkpoint to export.")],
    out: Annotated[Path, typer.Option(help="Bundle folder to write.")],
    precision: Annotated[str, typer.Option(help="Precisions, comma-separated; this version exports fp32.")] = "fp32",
    input: Annotated[str, typer.Option(help="What the graph takes; this version: pixel_values.")] = "pixel_values",
    provider: ProviderOption = "cpu",
    threads: ThreadsOption = None,
    images: CountOption = FEWEST_IMAGES,
    sign: SignOption = None,
    force: ForceFlag = False,
    json: JsonFlag = False,
) -> None:
    """Fuse encoder and head into one ONNX graph, prove it against PyTorch, pack a bundle.

    Example: toolkit export --onnx runs/digits --out bundles/digits
    """
    for name, asked, have in (("--precision", precision, "fp32"), ("--input", input, "pixel_values")):
        if asked != have:
            raise ToolkitError(f"{asked!r} is not available", where=name, fix=f"use {have}")
    require_key(sign)
    from export.bundle import export_bundle
    from export.run import Run
    from toolkit.runtime.bundle import Bundle

    with messages().status("exporting and proving the graph"):
        parity = export_bundle(Run(onnx), out, provider=provider, images=images, threads=threads, force=force)
    renew_signature(Bundle(out), sign)
    entry = parity["results"]["fp32"][provider]
    warn_of_few_images(entry)
    if json:
        print_json({"bundle": str(out), "parity": parity})
        return
    print_parity(parity)
    console().print(f"bundle: {out}\nnext: toolkit bench-latency {out}")
