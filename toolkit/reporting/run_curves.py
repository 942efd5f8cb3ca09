"""What the plots of the test split draw, read back from the run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from toolkit.errors import ToolkitError
from toolkit.strict_json import read_json

CURVES = "test_curves.json"


def read_curves(run: Path) -> dict[str, Any]:
    """Read ``test_curves.json`` of a run; see :func:`toolkit.metrics.curves.curves_of`.

    Raises:
        ToolkitError: it is missing or damaged.
    """
    path = run / CURVES
    try:
        curves: dict[str, Any] = read_json(path.read_bytes())
        missing = [key for key in ("images", "reliability", "roc", "precision_recall") if key not in curves]
        if missing:
            raise ValueError(f"{', '.join(missing)} missing")
    except (OSError, ValueError, TypeError) as error:
        raise ToolkitError(f"can't read the curves: {error}", where=path, fix="train again") from error
    return curves
