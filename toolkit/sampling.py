"""Which of many things are taken where a few have to stand for all."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def evenly_spaced(count: int, wanted: int) -> npt.NDArray[np.int64]:
    """Places of up to ``wanted`` of ``count`` things, as evenly spaced as whole numbers allow, the first included.

    Images are listed class by class, so that evenly spaced ones keep the shares of the classes.
    """
    taken = min(wanted, count)
    return np.arange(taken) * count // max(1, taken)
