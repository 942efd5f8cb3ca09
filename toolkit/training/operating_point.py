"""The operating point of a run: a class's threshold, chosen on validation and measured on the test split."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from toolkit.data.source import DataSource
from toolkit.errors import ToolkitError
from toolkit.metrics.operating_point import Flags, Rate, choose_threshold, operating_note, rates
from toolkit.recipe.training import OperatingPointConfig
from toolkit.runtime.decision import Decision, at_point
from toolkit.runtime.operating_point import OperatingPoint
from toolkit.tasks.task import Task, Temperature


def check_operating_point(config: OperatingPointConfig, task: Task, classes: Sequence[str]) -> None:
    """Refuse an operating point that can't be chosen, before anything is trained.

    Raises:
        ToolkitError: of a class that there isn't, or a task without probabilities to set a threshold on.
    """
    if config.label is None:
        return
    if config.label not in classes:
        fix = f"name one of {', '.join(classes)}"
        raise ToolkitError(f"no class {config.label!r}", where="training.operating_point.class", fix=fix)
    task.decision.log_odds(np.zeros((1, len(classes)), np.float32), classes.index(config.label), 1.0)


def operating_point(
    config: OperatingPointConfig,
    decision: Decision,
    data: DataSource,
    logits: Mapping[str, npt.ArrayLike],
    temperature: Temperature,
) -> dict[str, Any] | None:
    """What ``summary.json`` says of it; None where the recipe asks for none.

    Args:
        config: the recipe's section.
        decision: the task's.
        data: with the labels and groups.
        logits: of validation and test, [images, classes].
        temperature: of the probabilities.

    Returns:
        ``class``, ``threshold`` of its calibrated probability, ``target`` {rate: share}, ``note``, and of
        ``validation`` and ``test`` what :func:`toolkit.metrics.operating_point.rates` gives of the decision.
    """
    if config.label is None:
        return None
    assert isinstance(temperature, float)  # the tasks that an operating point is for have one of all classes
    place = data.classes.index(config.label)
    rate: Rate = "sensitivity" if config.specificity is None else "specificity"
    at_least = float(config.sensitivity or config.specificity or 0.0)
    scores = {split: np.asarray(logits[split], np.float32) for split in ("validation", "test")}
    positive = {split: np.array([each.label == place for each in data.splits[split]]) for split in scores}
    log_odds = decision.log_odds(scores["validation"], place, temperature)
    chosen = choose_threshold(log_odds, positive["validation"], rate, at_least)
    point = OperatingPoint(label=config.label, threshold=1 / (1 + math.exp(-chosen)), temperature=temperature)
    decided = at_point(decision, point, data.classes)
    found = {
        split: rates(decided.decide(scores[split]) == place, positive[split], data.groups(split)) for split in scores
    }
    held = positive["validation"] == (rate == "sensitivity")
    note = operating_note(rate, at_least, found["validation"], _units(held, data.groups("validation")))
    return {"class": point.label, "threshold": point.threshold, "target": {rate: at_least}, "note": note} | found


def _units(held: Flags, groups: Sequence[str] | None) -> int:
    """Independent images among those, or the groups that they are of."""
    return len(set(np.flatnonzero(held) if groups is None else np.array(groups)[held]))
