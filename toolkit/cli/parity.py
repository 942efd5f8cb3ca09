"""``toolkit parity``: prove a bundle's graph again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from toolkit.cli.output import JsonFlag, ProviderOption, ThreadsOption, messages, print_json, print_table
from toolkit.errors import CheckFailed


def parity(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder.")],
    run: Annotated[Path | None, typer.Option(help="Run folder, if it is no longer where the export found it.")] = None,
    images: Annotated[Path | None, typer.Option(help="Folder of images to use in place of the held-out ones.")] = None,
    count: Annotated[int, typer.Option(min=1, help="Held-out images to use, where there are as many.")] = 256,
    provider: ProviderOption = "cpu",
    threads: ThreadsOption = None,
    json: JsonFlag = False,
) -> None:
    """Compare the shipped graph with the PyTorch model on real images; exit 1 if they differ.

    Example: toolkit parity bundles/digits
    """
    from export.bundle import prove_again, run_of
    from toolkit.runtime.bundle import Bundle

    opened = Bundle(bundle)
    failed: CheckFailed | None = None
    with messages().status("comparing the graph with PyTorch"):
        reference = run_of(opened, run)
        try:
            prove_again(opened, reference, provider=provider, threads=threads, count=count, folder=images)
        except CheckFailed as error:
            failed = error
    content = _read(bundle)
    if json:
        print_json(content)
    else:
        print_parity(content)
    if failed is not None:
        raise failed


def print_parity(parity: dict[str, Any]) -> None:
    """A column for each precision and provider."""
    entries = {
        f"{precision} on {provider}": entry
        for precision, by_provider in parity["results"].items()
        for provider, entry in by_provider.items()
    }
    figures: dict[str, Callable[[dict[str, Any]], str]] = {
        "images": lambda entry: str(entry["images"]),
        "batch sizes": lambda entry: ", ".join(map(str, entry["batch_sizes"])),
        "max |logit difference|": lambda entry: f"{entry['max_abs_logit']:.2e}",
        "mean |logit difference|": lambda entry: f"{entry['mean_abs_logit']:.2e}",
        "tolerance": lambda entry: f"{entry['tolerance']:.2e}",
        "noise floor of PyTorch itself": lambda entry: f"{entry['noise_floor']:.2e}",
        "top-1 agreement": lambda entry: f"{entry['top1_agreement']:.2%}",
        "verdict": lambda entry: "passed" if entry["passed"] else "FAILED",
    }
    rows = [[what, *(show(entry) for entry in entries.values())] for what, show in figures.items()]
    print_table("parity with PyTorch fp32", ["", *entries], rows)


def _read(bundle: Path) -> dict[str, Any]:
    import json

    content: dict[str, Any] = json.loads((bundle / "parity.json").read_text())
    return content
