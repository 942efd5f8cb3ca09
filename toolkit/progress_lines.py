"""Progress for whoever watches: a bar on a terminal, a line now and then where there is none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.progress import Progress, ProgressColumn, Task, TaskID

from toolkit.progress import Progress as Told

OFTEN, SELDOM = 5.0, 30.0
"""Seconds between two lines: at least so many, and then at every tenth of the work; at most so many."""


def about(seconds: float) -> str:
    """A time to two digits, such as ``3.4 min``."""
    if seconds >= 7200:
        return f"{seconds / 3600:.2g} h"
    return f"{seconds / 60:.2g} min" if seconds >= 120 else f"{float(f'{seconds:.2g}'):g} s"


class LineProgress(Progress):
    """rich's bar. Where its console is no terminal, lines with what is done and how long the rest will take.

    Args:
        columns: of the bar.
        console: where it goes.
        enabled: whether anything is said at all.
        transient: whether the bar goes when all is done.
        get_time: seconds, from any start; rich's clock unless given.
    """

    def __init__(
        self,
        *columns: str | ProgressColumn,
        console: Console,
        enabled: bool = True,
        transient: bool = False,
        get_time: Callable[[], float] | None = None,
    ) -> None:
        terminal = console.is_terminal
        super().__init__(
            *columns, console=console, transient=transient, get_time=get_time, disable=not (enabled and terminal)
        )
        self._in_lines = enabled and not terminal
        self._said: dict[TaskID, tuple[float, int]] = {}
        """When a task was last spoken of, and how many tenths were done then."""
        self._began: dict[TaskID, float] = {}
        """How much of a task was done before it was begun here."""

    def add_task(self, *arguments: Any, **options: Any) -> TaskID:
        """See rich."""
        task_id = super().add_task(*arguments, **options)
        task = self._tasks[task_id]
        self._began[task_id] = task.completed
        self._said[task_id] = (task.start_time or self.get_time(), self._tenths(task))
        return task_id

    def update(self, task_id: TaskID, **changes: Any) -> None:
        """See rich."""
        super().update(task_id, **changes)
        self._say(task_id)

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        """See rich."""
        super().advance(task_id, advance)
        self._say(task_id)

    def _say(self, task_id: TaskID) -> None:
        if not self._in_lines:
            return
        task, now = self._tasks[task_id], self.get_time()
        last, tenths_then = self._said[task_id]
        tenths, waited = self._tenths(task), now - last
        done = task.total is not None and task.completed >= task.total
        if done or (waited < SELDOM and (tenths <= tenths_then or waited < OFTEN)):
            return
        self._said[task_id] = (now, tenths)
        line = self._line(task, now - (task.start_time or 0.0), self._began[task_id])
        self.console.print(line, soft_wrap=True, markup=False)

    @staticmethod
    def _tenths(task: Task) -> int:
        return int(10 * task.completed / task.total) if task.total else 0

    @staticmethod
    def _line(task: Task, elapsed: float, began: float) -> str:
        parts = [f"{task.description}: {task.completed:,.0f}"]
        if task.total:
            parts[0] += f" of {task.total:,.0f} ({task.completed / task.total:.0%})"
        if task.fields.get("metrics"):
            parts.append(str(task.fields["metrics"]))
        if task.total and task.completed > began:
            left = elapsed * (task.total - task.completed) / (task.completed - began)
            parts.append(f"about {about(left)} left")
        return ", ".join([*parts, f"{about(elapsed)} so far"])


class Shown(Told):
    """Progress as one task of a bar, or of its lines.

    Args:
        bar: entered already.
        description: of the first stage.
        total: of it, where that is known.
        fields: of the task, such as columns of the bar ask for.
    """

    def __init__(self, bar: LineProgress, description: str, total: int | None = None, **fields: Any) -> None:
        self.bar = bar
        self.task = bar.add_task(description, total=total, **fields)

    def stage(self, what: str) -> None:
        """Show what is being done."""
        self.bar.update(self.task, description=what)

    def done(self, count: int, total: int | None = None) -> None:
        """Show how much is done."""
        changes = {} if total is None else {"total": total}
        self.bar.update(self.task, completed=count, **changes)

    def step(self) -> None:
        """Show one more."""
        self.bar.advance(self.task)

    def expect(self, seconds: float) -> None:
        """Say how long it will take."""
        self.bar.console.print(f"this takes about {about(seconds)}")
