"""``toolkit triton``: a bundle as a model repository for Triton Inference Server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from toolkit.cli.output import ForceFlag, JsonFlag, console, print_json, print_table, warn


def triton(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder; its name is the model's.")],
    out: Annotated[Path, typer.Option(help="Folder of the model repository to write.")],
    precision: Annotated[
        str | None,
        typer.Option(
            help="Precision of the graph, of those that the bundle holds.", show_default="as tuned, or the default"
        ),
    ] = None,
    provider: Annotated[
        str | None, typer.Option(help="Execution provider: cpu, cuda or tensorrt.", show_default="as tuned, or cpu")
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(min=1, max=1024, help="Threads of an instance.", show_default="as tuned, or the usable cores"),
    ] = None,
    force: ForceFlag = False,
    json: JsonFlag = False,
) -> None:
    """Write a Triton model repository of a bundle, as toolkit tune chose it, and KServe's InferenceServices beside it.

    The provider need not be here. Nothing is run: Triton itself proves nothing, toolkit verify does.

    Example: toolkit triton bundles/digits --out models
    """
    from toolkit.api import export_triton

    written = export_triton(bundle, out=out, provider=provider, precision=precision, threads=threads, force=force)
    settings = written.settings
    for note in settings.notes:
        warn(note)
    if json:
        print_json(written.as_json())
        return
    print_table(
        f"model {written.model}, for Triton {written.release.name} (ONNX Runtime {written.release.onnxruntime})",
        ["provider", "precision", "instances", "threads", "largest batch"],
        [
            [
                settings.provider,
                settings.precision,
                *map(str, (settings.instances, settings.threads, settings.max_batch_size)),
            ]
        ],
        left=2,
    )
    console().print(f"repository: {out}", f"next: tritonserver --model-repository={out}", sep="\n", soft_wrap=True)
