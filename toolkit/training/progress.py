"""What a person watching a run sees; everything goes to stderr."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from torch import nn

from toolkit.models.classifier import Classifier
from toolkit.progress_lines import LineProgress, Shown
from toolkit.terminal import SafeConsole

console = SafeConsole(stderr=True, highlight=False, soft_wrap=True)


def bar(enabled: bool = True) -> LineProgress:
    """A progress bar with counts, elapsed time and time left; lines now and then where there is no terminal."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[metrics]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    return LineProgress(*columns, console=console, enabled=enabled)


@contextmanager
def counting(description: str, enabled: bool = True) -> Iterator[Shown]:
    """A bar of what is done of one thing."""
    with bar(enabled) as opened:
        yield Shown(opened, description, metrics="")


def print_groups(classifier: Classifier, rates: dict[str, float]) -> None:
    """A table of all groups: parameters, and the learning rate of those that learn."""
    table = Table(title="what learns", title_justify="left")
    for heading in ("group", "parameters", "trainable", "learning rate"):
        table.add_column(heading, justify="left" if heading == "group" else "right")
    for group in classifier.groups:
        total = sum(parameter.numel() for parameter in group.parameters())
        learns = sum(parameter.numel() for parameter in group.parameters() if parameter.requires_grad)
        rate = f"{rates[group.name]:g}" if group.name in rates else "frozen"
        table.add_row(group.name, f"{total:,}", f"{learns:,}", rate, style="" if learns else "dim")
    total, learns = parameter_counts(classifier)
    table.add_section()
    table.add_row("all", f"{total:,}", f"{learns:,}", f"{learns / total:.1%} learns")
    console.print(table)


def parameter_counts(model: nn.Module) -> tuple[int, int]:
    """All parameters and those that learn."""
    parameters = list(model.parameters())
    return sum(p.numel() for p in parameters), sum(p.numel() for p in parameters if p.requires_grad)
