"""All tasks there are."""

from __future__ import annotations

from toolkit.errors import ToolkitError
from toolkit.tasks.multi_label import MultiLabel
from toolkit.tasks.ordinal import Ordinal
from toolkit.tasks.regression import Regression
from toolkit.tasks.sigmoid_scores import SigmoidScores
from toolkit.tasks.task import SINGLE_LABEL, Task

TASKS: dict[str, Task] = {
    task.name: task for task in (SINGLE_LABEL, SigmoidScores(), MultiLabel(), Ordinal(), Regression())
}


def task_named(name: str, where: str) -> Task:
    """The task of a name.

    Raises:
        ToolkitError: there is none.
    """
    if name not in TASKS:
        raise ToolkitError(f"no task {name!r}", where=where, fix=f"choose from {', '.join(TASKS)}")
    return TASKS[name]
