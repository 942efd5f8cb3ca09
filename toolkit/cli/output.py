"""What verbs print: results on stdout, one JSON object with ``--json``; messages on stderr."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from toolkit import strict_json
from toolkit.errors import ToolkitError

if TYPE_CHECKING:
    from rich.console import Console

    from toolkit.progress_lines import Shown
    from toolkit.runtime.bundle import Bundle

WIDTH = 120
"""Of tables that go to no terminal, in characters, at least."""
WIDEST = 100_000
JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else there.")]
ProviderOption = Annotated[str, typer.Option(help="Execution provider: cpu, cuda, tensorrt or openvino.")]
ServingProviderOption = Annotated[
    str | None,
    typer.Option(
        "--provider", help="Execution provider: cpu, cuda, tensorrt or openvino.", show_default="as tuned, or cpu"
    ),
]
PrecisionOption = Annotated[
    str | None,
    typer.Option(help="Precision of the graph, of those that the bundle holds.", show_default="the bundle's default"),
]
ThreadsOption = Annotated[
    int | None, typer.Option(min=1, max=1024, help="Threads of one operator.", show_default="the usable cores")
]
DataOption = Annotated[
    Path | None,
    typer.Option(
        "--data",
        help="Where the run's data is, if it is no longer where its recipe says; or a folder of images without labels, "
        "for a run that has none or whose data is gone.",
    ),
]
LabelledDataOption = Annotated[
    Path | None,
    typer.Option("--data", help="Labelled images in any format, to fit the temperature and measure the classifier."),
]
RevisionOption = Annotated[
    str | None,
    typer.Option(help="Commit, tag or branch of a hub identifier.", show_default="the newest"),
]
ForceFlag = Annotated[bool, typer.Option("--force", help="Replace what an earlier call wrote there.")]
PublicKeyOption = Annotated[
    Path | None,
    typer.Option(
        "--public-key", help="PEM file of the key that must have signed the bundle.", show_default="not checked"
    ),
]
SignOption = Annotated[
    Path | None, typer.Option("--sign", metavar="KEY", help="Sign the bundle with this private key (PEM, unencrypted).")
]


OutFileOption = Annotated[
    Path | None,
    typer.Option("--out", metavar="FILE", help="Write the outcome to this file; the bundle stays as it is."),
]


def require_signable(key: Path | None, **others: object) -> None:
    """Refuse a key that can't sign, or beside an option that leaves the bundle as it is, before the work starts."""
    for name, value in others.items():
        if key and value:
            what = f"--{name} changes nothing that could be signed"
            raise ToolkitError(what, where="--sign", fix="leave one of them out")
    require_key(key)


def print_json(content: Any) -> None:
    """Print one JSON object on stdout; see :func:`toolkit.strict_json.print_json`."""
    strict_json.print_json(content, sys.stdout)


def console() -> Console:
    """Where results for a person go."""
    from toolkit.terminal import SafeConsole

    # paths and names may hold brackets; a pipe or a file has no width
    return SafeConsole(highlight=False, markup=False, width=None if sys.stdout.isatty() else WIDTH)


def messages() -> Console:
    """Where messages and progress go."""
    from toolkit.terminal import SafeConsole

    return SafeConsole(stderr=True, highlight=False)


def warn(what: str) -> None:
    """Print a warning, which may hold names with brackets."""
    from rich.markup import escape

    messages().print(f"[yellow]warning[/]: {escape(what)}", soft_wrap=True)


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> None:
    """Print a table; the first ``left`` columns are words, the others numbers.

    Nothing is cut: what is too wide for a terminal goes on in the next line, and what goes to none is as wide as it is.
    """
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for position, column in enumerate(columns):
        table.add_column(column, justify="left" if position < left else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    out = console()
    if not out.is_terminal:
        unbounded = out.options.update(max_width=WIDEST)
        out.width = max(WIDTH, out.measure(table, options=unbounded).maximum)
    out.print(table)


def print_run_metrics(summary: dict[str, Any], title: str) -> None:
    """A table of the splits' metrics, where the run has labelled images."""
    names = {"loss": "loss", "accuracy": "accuracy", "balanced_accuracy": "balanced", "macro_f1": "macro F1"}
    names["auroc"] = "AUROC"
    rows = [
        [split, f"{summary[split]['images']:,}", *(f"{summary[split][name]:.4f}" for name in names)]
        for split in ("train", "validation", "test")
        if summary.get(split)
    ]
    if rows:
        print_table(title, ["split", "images", *names.values()], rows)
    else:
        console().print(f"{title}; not measured: give labelled images with --data", soft_wrap=True)
    if summary.get("temperature_note"):
        console().print(f"calibration: {summary['temperature_note']}", soft_wrap=True)


@contextmanager
def counting(description: str, total: int | None = None) -> Iterator[Shown]:
    """A progress bar on stderr, or lines now and then."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

    from toolkit.progress_lines import LineProgress, Shown

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with LineProgress(*columns, console=messages(), transient=True) as bar:
        yield Shown(bar, description, total)


def warn_of_signature(bundle: Bundle) -> None:
    """Say so where a verb changed a bundle that was signed and signed it with no key."""
    if bundle.lost_signature:
        what = "the bundle changed and lost its signature; sign it again with --sign KEY"
        warn(what)


def require_key(key: Path | None) -> None:
    """Refuse a key that can't sign before the work starts."""
    if key:
        from toolkit.runtime.signature import check_private_key

        check_private_key(key)
