"""``toolkit parity``: prove a bundle's graph again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from toolkit.cli.output import (
    DataOption,
    JsonFlag,
    OutFileOption,
    ProviderOption,
    SignOption,
    ThreadsOption,
    console,
    counting,
    messages,
    print_json,
    print_table,
    require_signable,
    warn,
    warn_of_signature,
)
from toolkit.errors import CheckFailed, ToolkitError
from toolkit.user_paths import require_data, require_run

FEWEST_IMAGES = 256
CountOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Held-out images to use; an error if there are fewer.",
        show_default=f"{FEWEST_IMAGES}, or all that there are",
    ),
]


def parity(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder.")],
    run: Annotated[Path | None, typer.Option(help="Run folder, if it is no longer where the export found it.")] = None,
    data: DataOption = None,
    images: Annotated[Path | None, typer.Option(help="Images to look at instead; the bundle stays as it is.")] = None,
    count: CountOption = None,
    find_fault: Annotated[
        bool, typer.Option("--bisect", help="Find the first node that leaves the tolerance; the bundle stays as it is.")
    ] = False,
    precision: Annotated[
        str | None, typer.Option(help="Precision of the graph to prove.", show_default="each that the provider runs")
    ] = None,
    provider: ProviderOption = "cpu",
    threads: ThreadsOption = None,
    out: OutFileOption = None,
    sign: SignOption = None,
    json: JsonFlag = False,
) -> None:
    """Compare the shipped graph with the PyTorch model on real images; exit 1 if they differ.

    Example: toolkit parity bundles/digits
    """
    from toolkit.runtime.bundle import Bundle
    from toolkit.runtime.image_files import require_images

    if find_fault and out:
        raise ToolkitError("--bisect writes nothing", where="--out", fix="leave one of them out; --json prints it")
    require_signable(sign, bisect=find_fault, images=images, out=out)
    opened = Bundle(bundle)
    require_run(run or opened.run, of_bundle=run is None)
    require_data(data)
    require_images(images)
    from export.parity.proof import require_passed
    from export.prove_bundle import bisect_bundle
    from toolkit.api import parity as prove
    from toolkit.runs.finished_run import run_of

    if find_fault:
        reference = run_of(opened, run, data)
        with messages().status("comparing every tensor with PyTorch"):
            report = bisect_bundle(
                opened, reference, precision=precision, provider=provider, threads=threads, folder=images
            )
        _print_fault(report, json=json)
        return
    with counting("comparing the graph with PyTorch") as progress:
        content = prove(
            opened,
            run=run,
            images=images,
            count=count,
            precision=precision,
            provider=provider,
            threads=threads,
            data=data,
            out=out,
            sign=sign,
            progress=progress,
        )
    warn_of(_proven(content, provider, precision))
    if json:
        print_json(content)
    else:
        print_parity(_proven(content, provider, precision))
    warn_of_signature(opened)
    require_passed(content)


def _proven(parity: dict[str, Any], provider: str, precision: str | None) -> dict[str, Any]:
    """The entries that were made now, without what stood in the file before."""
    wanted = {name for name in parity["results"] if precision in (None, name)}
    found = {
        name: {provider: by[provider]} for name, by in parity["results"].items() if name in wanted and provider in by
    }
    return parity | {"results": found}


def _print_fault(report: dict[str, Any], *, json: bool) -> None:
    """Say what ``--bisect`` found; a fault is a failed check."""
    from export.parity.bisect import first_fault

    if json:
        print_json(report)
    if report["first_fault"] is not None:
        raise CheckFailed(first_fault(report))
    if not json:
        console().print(first_fault(report), soft_wrap=True)


def warn_of(parity: dict[str, Any]) -> None:
    """Say so where parity had fewer images than it should have, or proves less than it seems to."""
    entries = [(name, provider, entry) for name, by in parity["results"].items() for provider, entry in by.items()]
    fewest = min(entry["images"] for _, _, entry in entries)
    warnings = []
    if fewest < FEWEST_IMAGES:
        warnings.append(f"parity ran on {fewest} image{'s' * (fewest > 1)}; {FEWEST_IMAGES} or more say more")
    if ("fp16", "cpu") in {(name, provider) for name, provider, _ in entries}:
        warnings.append(
            "ONNX Runtime computes fp16 on CPUs in float32 between weights in fp16: slower than fp32, and no proof of "
            "what a GPU gives; prove it there with toolkit parity --provider cuda"
        )
    for warning in warnings:
        warn(warning)


def print_parity(parity: dict[str, Any]) -> None:
    """A column for each precision and provider."""
    from toolkit.reporting.parity_verdict import parity_verdict

    entries = {
        f"{precision} on {provider}": entry
        for precision, by_provider in parity["results"].items()
        for provider, entry in by_provider.items()
    }
    metrics: dict[str, Callable[[dict[str, Any]], str]] = {
        "images": lambda entry: str(entry["images"]),
        "batch sizes": lambda entry: ", ".join(map(str, entry["batch_sizes"])),
        "max |logit difference|": lambda entry: f"{entry['max_abs_logit']:.2e}",
        "mean |logit difference|": lambda entry: f"{entry['mean_abs_logit']:.2e}",
        "tolerance": lambda entry: f"{entry['tolerance']:.2e}",
        "noise floor of PyTorch itself": lambda entry: f"{entry['noise_floor']:.2e}",
        "max |pixel_values difference|": _pixels_off,
        "cosine of embeddings": lambda entry: f"{entry['stages']['embedding_cosine']:.8f}",
        "top-1 agreement": lambda entry: f"{entry['top1_agreement']:.2%}",
        "at least, with 95 % confidence": lambda entry: f"{entry['top1_agreement_at_least']:.2%}",
        "verdict": parity_verdict,
    }
    rows = [[what, *(show(entry) for entry in entries.values())] for what, show in metrics.items()]
    print_table("parity with PyTorch fp32", ["", *entries], rows)


def _pixels_off(entry: dict[str, Any]) -> str:
    """Of the preprocessing; a classifier of texts alone has none."""
    stage = entry["stages"].get("preprocess")
    return "-" if stage is None else f"{stage['max_pixel_value']:.2e}"
