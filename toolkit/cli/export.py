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
    counting,
    print_json,
    require_key,
    set_to,
)
from toolkit.cli.parity import CountOption, print_parity, warn_of_few_images
from toolkit.errors import ToolkitError


def export(
    onnx: Annotated[Path, typer.Option("--onnx", help="Run folder whose best checkpoint to export.")],
    out: Annotated[Path, typer.Option(help="Bundle folder to write.")],
    precision: Annotated[str, typer.Option(help="Precisions, comma-separated; this version exports fp32.")] = "fp32",
    input: Annotated[
        str,
        typer.Option(
            help="What the graph takes: image, uint8 [batch, height, width, 3] as decoded, of any size, "
            "or pixel_values, preprocessed outside."
        ),
    ] = "image",
    provider: ProviderOption = "cpu",
    threads: ThreadsOption = None,
    images: CountOption = None,
    sign: SignOption = None,
    force: ForceFlag = False,
    json: JsonFlag = False,
) -> None:
    """Fuse preprocessing, encoder and head into one ONNX graph, prove it against PyTorch, pack a bundle.

    Example: toolkit export --onnx runs/digits --out bundles/digits
    """
    if precision != "fp32":
        raise ToolkitError(f"{precision!r} is not available", where="--precision", fix="use fp32")
    require_key(sign)
    from export.bundle import export_bundle
    from export.graph import check_input
    from export.run import Run

    graph_input = check_input(input)
    with counting("proving the graph") as progress:
        parity = export_bundle(
            Run(onnx),
            out,
            graph_input=graph_input,
            provider=provider,
            images=images,
            threads=threads,
            sign=sign,
            force=force,
            advance=set_to(progress),
        )
    entry = parity["results"]["fp32"][provider]
    warn_of_few_images(entry)
    if json:
        print_json({"bundle": str(out), "parity": parity})
        return
    print_parity(parity)
    console().print(f"bundle: {out}\nnext: toolkit bench-latency {out}")
