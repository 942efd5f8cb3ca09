"""Thresholds of labels: chosen on validation for a stated aim, and measured on the test split."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from toolkit.data.source import DataSource
from toolkit.errors import ToolkitError
from toolkit.metrics.label_thresholds import ChosenCut, choose_cut
from toolkit.recipe.training import ThresholdsConfig
from toolkit.runtime.label_thresholds import LabelThresholds
from toolkit.tasks.task import Temperature


def choose_thresholds(
    config: ThresholdsConfig, data: DataSource, logits: Mapping[str, npt.ArrayLike]
) -> LabelThresholds | None:
    """From which logit on each label is said; None where an image has no set of labels.

    Args:
        config: the recipe's section.
        data: with labels and groups.
        logits: of validation, [images, classes].

    Raises:
        ToolkitError: a label that no threshold reaches the aim for, where the recipe says that this is an error.
    """
    if not data.target.several_in_one:
        return None
    scores = np.asarray(logits["validation"], np.float32)
    positive, groups = data.labels("validation") > 0, data.groups("validation")
    chosen = {
        name: choose_cut(scores[:, place], positive[:, place], config.precision, groups)
        for place, name in enumerate(data.classes)
    }
    if config.unreachable == "error":
        _require_reached(
            chosen, config, {name: int(count) for name, count in zip(chosen, positive.sum(0), strict=True)}
        )
    return LabelThresholds(cuts=tuple(each.cut for each in chosen.values()))


def thresholds_in_summary(
    config: ThresholdsConfig, thresholds: LabelThresholds | None, classes: list[str], temperature: Temperature
) -> dict[str, Any]:
    """What ``summary.json`` says of thresholds, under ``thresholds``; nothing where there are none.

    ``aim`` (``f1``, or the ``precision`` that is asked for), and of each label under ``labels`` its ``cut``, a logit,
    and ``probability``, the calibrated one there; both None where it is never said. What they give stands with the
    metrics of each split.
    """
    if thresholds is None:
        return {}
    scale = np.broadcast_to(np.asarray(temperature, np.float64), (len(classes),)).tolist()
    aim: dict[str, Any] = {"f1": "best"} if config.precision is None else {"precision": config.precision}
    labels = {
        name: {"cut": cut, "probability": None if cut is None else _sigmoid(cut / each)}
        for name, cut, each in zip(classes, thresholds.cuts, scale, strict=True)
    }
    return {"thresholds": {"aim": aim, "labels": labels}}


def _sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value)) if value > -700 else 0.0


def _require_reached(chosen: Mapping[str, ChosenCut], config: ThresholdsConfig, images: Mapping[str, int]) -> None:
    lost = {name: each for name, each in chosen.items() if each.cut is None}
    if not lost:
        return
    name, first = next(iter(lost.items()))
    more = f" (and of {len(lost) - 1} more labels)" if len(lost) > 1 else ""
    never = "set training.thresholds.unreachable=never, so that it is never said, and go on with --resume"
    if first.best is None:
        what = f"no validation image shows the label {name!r}{more}, so no threshold can be chosen for it"
        raise ToolkitError(what, where="training.thresholds", fix=f"add images of it, or {never}")
    what = (
        f"no threshold of the label {name!r}{more} holds a precision of {config.precision:g} on validation with 95 % "
        f"confidence; the best lower bound is {first.best:.3f}, of {images[name]} images that show it"
    )
    fix = f"lower training.thresholds.precision, add validation images, or {never}"
    raise ToolkitError(what, where="training.thresholds.precision", fix=fix)
