"""Inspect any data set without training on it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from toolkit.config import DataConfig
from toolkit.data.formats import list_data
from toolkit.data.inspection import Report, inspect_items, silent
from toolkit.data.listing import SPLITS, UNSPLIT, Item, Listing, leaking_groups
from toolkit.data.splits import complete_splits
from toolkit.data.survey import Survey
from toolkit.errors import ToolkitError

A_FEW = 5
"""Paths that are listed of images that stand out."""


def check_data(config: DataConfig, report: Report = silent) -> dict[str, Any]:
    """Count, hash and decode every image of a data set.

    Returns:
        ``classes``; ``counts`` {split: {class: images}}; ``groups``, their number; ``sizes`` and
        ``modes`` {value: images}; ``value_ranges`` {what images of more than 8 bits hold and are read
        as: images}; ``darker_than_the_rest`` and ``flatter_than_the_rest`` {``count``, ``paths`` of a few};
        ``unreadable`` [{path, reason}]; ``duplicates_across_splits``
        and ``duplicates_with_other_labels`` [[path, ...]]; ``groups_across_splits`` {group:
        [split, ...]}; ``problems``, a sentence for each thing that would stop or bias a training.

    Raises:
        ToolkitError: what can't even be listed.
    """
    listing = list_data(config)
    sizes: Counter[str] = Counter()
    modes: Counter[str] = Counter()
    unreadable = []
    survey = Survey(config.value_range)
    digests: list[bytes] = []
    first: dict[bytes, int] = {}
    alike: dict[bytes, list[int]] = {}
    for index, (item, inspected) in enumerate(zip(listing.items, inspect_items(listing.items, report), strict=True)):
        digest = b"" if inspected.error else bytes.fromhex(inspected.sha256)
        digests.append(digest)
        survey.add(item.path, inspected)
        if inspected.error or inspected.size is None:
            unreadable.append({"path": str(item.path), "reason": inspected.error})
            continue
        sizes[f"{inspected.size[0]}x{inspected.size[1]}"] += 1
        modes[str(inspected.mode)] += 1
        if first.setdefault(digest, index) != index:
            alike.setdefault(digest, [first[digest]]).append(index)
    darker, flatter = survey.unlike_the_rest(config.path)
    twins = [[listing.items[index] for index in indices] for indices in alike.values()]
    found: dict[str, Any] = {
        "path": str(listing.root),
        "images": len(listing.items),
        "classes": listing.classes,
        "counts": listing.counts(),
        "groups": len({item.group for item in listing.items if item.group}),
        "sizes": dict(sizes.most_common()),
        "modes": dict(modes.most_common()),
        "value_ranges": survey.value_ranges(),
        "darker_than_the_rest": _some(darker),
        "flatter_than_the_rest": _some(flatter),
        "unreadable": unreadable,
        "duplicates_across_splits": _paths(twin for twin in twins if len({item.split for item in twin}) > 1),
        "duplicates_with_other_labels": _paths(twin for twin in twins if len({item.label for item in twin}) > 1),
        "groups_across_splits": leaking_groups(listing.items),
    }
    without = sum(not item.group for item in listing.items) if found["groups"] else 0
    problems = _problems(found, without) + _range_problems(survey, config)
    if not without and _may_not_divide(found["counts"], bool(found["groups"]), config):
        problems += _split_problems(listing, digests, config)
    return found | {"problems": problems}


def _some(paths: list[Path]) -> dict[str, Any]:
    return {"count": len(paths), "paths": [str(path) for path in paths[:A_FEW]]}


def _range_problems(survey: Survey, config: DataConfig) -> list[str]:
    """Why training can't say what black and white are."""
    try:
        survey.value_range(config.path)
    except ToolkitError as error:
        return [f"{error.what}; {error.fix}"]
    return []


def _paths(twins: Any) -> list[list[str]]:
    def paths(items: list[Item]) -> list[str]:
        return sorted(str(item.path) for item in items)

    return [paths(items) for items in twins]


def _may_not_divide(counts: dict[str, dict[str, int]], grouped: bool, config: DataConfig) -> bool:
    """Whether it is worth trying to make the missing splits: images of large classes can always be divided."""
    if set(SPLITS) <= set(counts):
        return False
    rest = counts.get(UNSPLIT) or counts.get("train")
    smallest_part = min(rest.values()) * min(config.validation_share, config.test_share) if rest else 0
    return grouped or "validation" in counts or smallest_part < 2


def _split_problems(listing: Listing, digests: list[bytes], config: DataConfig) -> list[str]:
    """Why training can't make the splits that the source doesn't make, of the images that can be read."""
    items, labels = listing.items, {name: index for index, name in enumerate(listing.classes)}
    readable = [index for index, digest in enumerate(digests) if digest]
    readable.sort(key=lambda index: (labels[items[index].label], digests[index], items[index].group))
    found: dict[str, list[int]] = {split: [] for split in listing.splits}
    for index in readable:
        found[items[index].split].append(index)
    try:
        complete_splits(found, config, lambda index: labels[items[index].label], lambda index: items[index].group)
    except ToolkitError as error:
        return [f"{error.what}; {error.fix}"]
    return []


def _problems(found: dict[str, Any], without_group: int) -> list[str]:
    problems = []
    if len(found["classes"]) < 2:
        problems.append("a classifier needs two classes or more")
    for split, counts in found["counts"].items():
        empty = [name for name, count in counts.items() if not count]
        if empty:
            place = "" if split == UNSPLIT else f" in {split}"
            problems.append(f"no image{place} of: {', '.join(empty)}")
    if without_group:
        problems.append(f"{without_group} images have no group, the others have one")
    listed = {
        "unreadable": "unreadable files",
        "duplicates_across_splits": "images stand in more than one split",
        "duplicates_with_other_labels": "images stand there again with another label",
        "groups_across_splits": "groups stand in more than one split",
    }
    problems += [f"{len(found[key])} {what}" for key, what in listed.items() if found[key]]
    return problems
