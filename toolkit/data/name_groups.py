"""Groups that images' file names tell: ``person12_bacteria_47.jpeg`` is of ``person12``."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from toolkit.data.listing import ListedImage
from toolkit.errors import ToolkitError


def grouped_by_name(items: Iterable[ListedImage], pattern: str, root: Path) -> list[ListedImage]:
    """The images, each with the group that its file name tells; one that tells none is a group of its own.

    Args:
        items: without groups.
        pattern: ``data.group_pattern``, which the recipe's schema let pass.
        root: the data set's folder or file; the groups don't depend on where it lies.

    Raises:
        ToolkitError: the source makes groups itself, or no file name matches.
    """
    search = re.compile(pattern).search
    base = root if root.is_dir() else root.parent
    grouped, matched = [], False
    for item in items:
        if item.group:
            fix = "leave data.group_pattern out, or the groups"
            raise ToolkitError("the data set has groups of its own", where="data.group_pattern", fix=fix)
        path = item.path
        match = search(path.name)
        matched |= match is not None
        alone = (path.relative_to(base) if path.is_relative_to(base) else path).as_posix()
        grouped.append(replace(item, group=next(filter(None, match.groups()), alone) if match else alone))
    if grouped and not matched:
        fix = f"write one that matches file names such as {Path(grouped[0].name).name}"
        raise ToolkitError(f"{pattern!r} matches no file name", where="data.group_pattern", fix=fix)
    return grouped
