"""Inspect any data set without training on it."""

from __future__ import annotations

from collections import Counter
from typing import Any

from toolkit.config import DataConfig
from toolkit.data.formats import list_data
from toolkit.data.inspection import Report, inspect_items, silent
from toolkit.data.listing import UNSPLIT, Item, leaking_groups


def check_data(config: DataConfig, report: Report = silent) -> dict[str, Any]:
    """Count, hash and decode every image of a data set.

    Returns:
        ``classes``; ``counts`` {split: {class: images}}; ``groups``, their number; ``sizes`` and
        ``modes`` {value: images}; ``unreadable`` [{path, reason}]; ``duplicates_across_splits``
        and ``duplicates_with_other_labels`` [[path, ...]]; ``groups_across_splits`` {group:
        [split, ...]}; ``problems``, a sentence for each thing that would stop or bias a training.

    Raises:
        ToolkitError: what can't even be listed.
    """
    listing = list_data(config)
    sizes: Counter[str] = Counter()
    modes: Counter[str] = Counter()
    unreadable = []
    first: dict[bytes, int] = {}
    alike: dict[bytes, list[int]] = {}
    for index, (item, inspected) in enumerate(zip(listing.items, inspect_items(listing.items, report), strict=True)):
        if inspected.error or inspected.size is None:
            unreadable.append({"path": str(item.path), "reason": inspected.error})
            continue
        sizes[f"{inspected.size[0]}x{inspected.size[1]}"] += 1
        modes[str(inspected.mode)] += 1
        digest = bytes.fromhex(inspected.sha256)
        if first.setdefault(digest, index) != index:
            alike.setdefault(digest, [first[digest]]).append(index)
    twins = [[listing.items[index] for index in indices] for indices in alike.values()]
    found: dict[str, Any] = {
        "path": str(listing.root),
        "images": len(listing.items),
        "classes": listing.classes,
        "counts": listing.counts(),
        "groups": len({item.group for item in listing.items if item.group}),
        "sizes": dict(sizes.most_common()),
        "modes": dict(modes.most_common()),
        "unreadable": unreadable,
        "duplicates_across_splits": _paths(twin for twin in twins if len({item.split for item in twin}) > 1),
        "duplicates_with_other_labels": _paths(twin for twin in twins if len({item.label for item in twin}) > 1),
        "groups_across_splits": leaking_groups(listing.items),
    }
    without = sum(not item.group for item in listing.items) if found["groups"] else 0
    return found | {"problems": _problems(found, without)}


def _paths(twins: Any) -> list[list[str]]:
    def paths(items: list[Item]) -> list[str]:
        return sorted(str(item.path) for item in items)

    return [paths(items) for items in twins]


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
