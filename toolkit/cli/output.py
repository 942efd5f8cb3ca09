"""What verbs print: results on stdout, one JSON object with ``--json``; messages on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else there.")]
ProviderOption = Annotated[str, typer.Option(help="Execution provider: cpu, cuda or tensorrt.")]
ThreadsOption = Annotated[
    int | None, typer.Option(min=1, max=1024, help="Threads of one operator.", show_default="the usable cores")
]
ForceFlag = Annotated[bool, typer.Option("--force", help="Replace what an earlier call wrote there.")]


def print_json(content: Any) -> None:
    """Print one JSON object on stdout."""
    sys.stdout.write(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def console() -> Console:
    """Where results for a person go."""
    from rich.console import Console

    return Console(highlight=False, markup=False)  # paths and names may hold brackets


def messages() -> Console:
    """Where messages and progress go."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> None:
    """Print a table; the first ``left`` columns are words, the others numbers."""
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for position, column in enumerate(columns):
        table.add_column(column, justify="left" if position < left else "right")
    for row in rows:
        table.add_row(*row)
    console().print(table)


@contextmanager
def counting(description: str, total: int | None = None) -> Iterator[Progress]:
    """A progress bar on stderr; hand on :func:`advance_of` or :func:`report_to` of what is yielded."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = messages()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        progress.add_task(description, total=total)
        yield progress


def advance_of(progress: Progress) -> Any:
    """A function that advances the one task of a bar."""
    return lambda: progress.advance(progress.task_ids[0])


def set_to(progress: Progress) -> Any:
    """A function that sets the one task of a bar to so many done."""
    return lambda done: progress.update(progress.task_ids[0], completed=done)


def report_to(progress: Progress) -> Any:
    """A function that sets the one task of a bar to so many done of so many."""
    return lambda done, total: progress.update(progress.task_ids[0], completed=done, total=total)
