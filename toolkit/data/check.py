"""Inspect any data set without training on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from toolkit.data.formats import list_data
from toolkit.data.inspection import inspect_items
from toolkit.data.listing import UNSPLIT, ListedImage, Listing, leaking_groups
from toolkit.data.near_duplicates import near_duplicates, perceptual_hasher
from toolkit.data.remembered import Remembered
from toolkit.data.splits import Division, Entry, divide
from toolkit.data.survey import Survey
from toolkit.data.target import Label
from toolkit.data.texts import describe_texts
from toolkit.errors import ToolkitError
from toolkit.labels import similar_labels
from toolkit.progress import SILENT, Progress
from toolkit.recipe.data import DataConfig
from toolkit.text import path_text

A_FEW = 5
"""Paths that are listed of images that stand out."""


def check_data(config: DataConfig, progress: Progress = SILENT) -> dict[str, Any]:
    """Count, hash and decode every image of a data set.

    Returns:
        ``classes``; ``counts`` {split: {class: images}}; ``splits_found``, ``splits_made`` and
        ``splits`` {split: images}: what the source makes, what is made here, and all as a run has
        them; ``left_out`` {reason: files}; ``groups``, their number; ``sizes`` and ``modes``
        {value: images}; ``value_ranges`` {what images of more than 8 bits hold and are read as:
        images}; ``darker_than_the_rest`` and ``flatter_than_the_rest`` {``count``, ``paths`` of a few};
        ``unreadable`` [{path, reason}]; ``duplicates_across_splits`` and
        ``duplicates_with_other_labels`` [[path, ...]]; ``duplicates_removed`` {split: images} that
        a run leaves out for them; ``near_duplicates_across_splits`` {count, examples [[path, path]]},
        None without imagehash; ``groups_across_splits`` {group: [split, ...]}; ``similar_classes``
        [[class, ...]]; with ``data.columns.text`` also ``texts``, as
        :func:`~toolkit.data.texts.describe_texts` has them, and ``images_across_splits_with_other_texts`` [[path,
        ...]]; ``problems``, a sentence for each thing that would stop or bias a training. Of images with several
        labels also ``co_occurrence`` [class][class] of images that show both, ``images_without_label``, and
        ``labels_an_image``, their mean.

    Raises:
        ToolkitError: what can't even be listed.
    """
    listing = list_data(config)
    label_of = listing.target.reader(listing.classes)
    look = perceptual_hasher()
    sizes: Counter[str] = Counter()
    modes: Counter[str] = Counter()
    survey = Survey(config.value_range)
    unreadable, entries, looks = [], list[Entry](), list[int]()
    inspections = inspect_items(listing.items, progress, look, Remembered(listing.root))
    for index, (item, inspected) in enumerate(zip(listing.items, inspections, strict=True)):
        survey.add(item.name, inspected)
        if inspected.error:
            unreadable.append({"path": path_text(item.path), "reason": inspected.error})
            continue
        entries.append(Entry(index, label_of(item.label), inspected.sha256, item.group, item.text))
        looks.append(inspected.perceptual or 0)
        if inspected.size is None:  # a text without an image
            continue
        sizes[f"{inspected.size[0]}x{inspected.size[1]}"] += 1
        modes[str(inspected.mode)] += 1
    darker, flatter = survey.unlike_the_rest(config.path)
    twins = _twins(entries, listing)
    division, why_not = _division(listing, entries, config)
    counts = listing.counts()
    images = Counter(item.split for item in listing.items)
    given = {split: images[split] for split in counts if split != UNSPLIT}
    final = {split: len(images) for split, images in division.splits.items()} if division else {}
    found: dict[str, Any] = {
        "path": path_text(listing.root),
        "images": len(listing.items),
        "classes": listing.classes,
        "counts": counts,
        "splits_found": given,
        "splits_made": {split: final[split] for split in division.made} if division else {},
        "splits": final,
        "left_out": dict(sorted(listing.left_out.items(), key=lambda pair: (-pair[1], pair[0]))),
        "groups": len({item.group for item in listing.items if item.group}),
        "sizes": dict(sizes.most_common()),
        "modes": dict(modes.most_common()),
        "value_ranges": survey.value_ranges(),
        "darker_than_the_rest": _some(darker),
        "flatter_than_the_rest": _some(flatter),
        "unreadable": unreadable,
        "duplicates_across_splits": _paths(twin for twin in twins if len({item.split for item in twin}) > 1),
        "duplicates_with_other_labels": _paths(twin for twin in twins if len({item.label for item in twin}) > 1),
        "duplicates_removed": division.removed if division else {},
        "near_duplicates_across_splits": _near(listing, entries, looks, division) if look else None,
        "groups_across_splits": leaking_groups(listing.items),
        "similar_classes": similar_labels(listing.classes),
    } | _labels_together(listing, label_of)
    if config.columns.text is not None:
        found["texts"] = describe_texts([item.text for item in listing.items])
        found["images_across_splits_with_other_texts"] = _half_known(entries, listing)
    without = sum(not item.group for item in listing.items) if found["groups"] else 0
    problems = _problems(found, without, listing.target.fewest_classes) + _range_problems(survey, config)
    if why_not and not without:
        problems.append(why_not)
    return found | {"problems": problems}


def _labels_together(listing: Listing, label_of: Callable[[str], Label]) -> dict[str, Any]:
    """Of images with several labels: ``co_occurrence`` [class][class] of images that show both, and how many none."""
    if not listing.target.several_in_one:
        return {}
    sets = Counter(label_of(item.label) for item in listing.items)
    shown, weights = np.array(list(sets), np.int64), np.array(list(sets.values()), np.int64)
    together = (shown * weights[:, None]).T @ shown
    return {
        "co_occurrence": together.tolist(),
        "images_without_label": int(weights[~shown.any(-1)].sum()),
        "labels_an_image": float((shown.sum(-1) * weights).sum() / weights.sum()),
    }


def _some(paths: list[Path]) -> dict[str, Any]:
    return {"count": len(paths), "paths": [path_text(path) for path in paths[:A_FEW]]}


def _range_problems(survey: Survey, config: DataConfig) -> list[str]:
    """Why training can't say what black and white are."""
    try:
        survey.value_range(config.path)
    except ToolkitError as error:
        return [f"{error.what}; {error.fix}"]
    return []


def _twins(entries: Sequence[Entry], listing: Listing) -> list[list[ListedImage]]:
    """Sets of samples of one content: images or, where there are texts, images with the same text."""
    first: dict[str, int] = {}
    alike: dict[str, list[int]] = {}
    for entry in entries:
        identity = entry.identity
        if first.setdefault(identity, entry.index) != entry.index:
            alike.setdefault(identity, [first[identity]]).append(entry.index)
    return [[listing.items[index] for index in indices] for indices in alike.values()]


def _half_known(entries: Sequence[Entry], listing: Listing) -> list[list[str]]:
    """Sets of images of one content that given splits divide, beside other texts, which no copy is left out for."""
    alike: dict[str, list[ListedImage]] = {}
    for entry in entries:
        if entry.sha256:
            alike.setdefault(entry.sha256, []).append(listing.items[entry.index])
    divided = (items for items in alike.values() if len({item.split for item in items}) > 1)
    return _paths(items for items in divided if len({item.text for item in items}) > 1)


def _paths(twins: Iterable[list[ListedImage]]) -> list[list[str]]:
    return [sorted(path_text(item.path) for item in items) for items in twins]


def _division(
    listing: Listing, entries: Sequence[Entry], config: DataConfig
) -> tuple[Division[Entry] | None, str | None]:
    """The splits as a run has them, of the images that can be read, or why it can't have any."""
    found: dict[str, list[Entry]] = {split: [] for split in listing.splits}
    for entry in entries:
        found[listing.items[entry.index].split].append(entry)
    try:
        division = divide(found, config, listing.classes)
    except ToolkitError as error:
        return None, f"{error.what}; {error.fix}"
    for split, images in division.splits.items():
        lost = set(range(len(listing.classes)))
        for label in {entry.label for entry in images}:
            lost -= set(listing.target.shown(label))
        if lost and division.removed.get(split):
            names = ", ".join(listing.classes[label] for label in sorted(lost))
            return division, f"without copies of images of other splits, {split} has no image of: {names}"
    return division, None


def _near(
    listing: Listing, entries: Sequence[Entry], looks: Sequence[int], division: Division[Entry] | None
) -> dict[str, Any]:
    """Images that look like one of another split, in the splits of a run or, where there are none, of the source."""
    split_of = {entry.index: listing.items[entry.index].split for entry in entries}
    if division:
        split_of = {entry.index: split for split, images in division.splits.items() for entry in images}
    kept = [place for place, entry in enumerate(entries) if entry.index in split_of and entry.sha256]
    indices = [entries[place].index for place in kept]
    contents = [entries[place].sha256 for place in kept]
    found = near_duplicates([looks[place] for place in kept], contents, [split_of[index] for index in indices])
    examples = [[path_text(listing.items[indices[place]].path) for place in pair] for pair in found.examples]
    return {"count": found.images, "examples": examples}


def _problems(found: dict[str, Any], without_group: int, fewest: int) -> list[str]:
    problems = []
    if len(found["classes"]) < fewest:
        problems.append("a classifier needs two classes or more")
    for split, counts in found["counts"].items():
        empty = [name for name, count in counts.items() if not count]
        if empty:
            place = "" if split == UNSPLIT else f" in {split}"
            problems.append(f"no image{place} of: {', '.join(empty)}")
    for names in found["similar_classes"]:
        listed = " and ".join(map(repr, names))
        problems.append(f"classes {listed} differ only by case, blanks or Unicode form; give them one name")
    if without_group:
        problems.append(f"{without_group} images have no group, the others have one")
    removed = " and ".join(f"{count} from {split}" for split, count in found["duplicates_removed"].items())
    kinds = {
        "unreadable": "unreadable files",
        "duplicates_across_splits": "images stand in more than one split"
        + (f"; a run leaves their copies out: {removed}" if removed else ""),
        "duplicates_with_other_labels": "images stand there again with another label",
        "images_across_splits_with_other_texts": "images stand in more than one split, beside other texts",
        "groups_across_splits": "groups stand in more than one split",
    }
    problems += [f"{len(found[key])} {what}" for key, what in kinds.items() if found.get(key)]
    return problems
