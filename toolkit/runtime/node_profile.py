"""Which nodes of a graph a session ran, where and for how long, by ONNX Runtime's own profile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

ENDING = "_kernel_time"
"""Of the name of a node's event."""


@dataclass(frozen=True)
class ExecutedNode:
    """A node that a session ran, after ONNX Runtime's own optimisation."""

    name: str
    operator: str
    provider: str
    """ONNX Runtime's name of the provider that ran it, or OpenVINO."""
    seconds: float = 0.0
    """Median over the profiled runs; on a GPU what launching it took."""
    element: str = ""
    """Type that it computes in, where the engine says: f32, bf16, i8 …"""


def nodes_of(events: Sequence[dict[str, Any]], runs: int) -> list[ExecutedNode]:
    """The nodes of one run.

    Args:
        events: of the profile of so many runs of one feed, which run the same nodes in the same order.
        runs: how many.
    """
    found = [event for event in events if event.get("cat") == "Node" and event["name"].endswith(ENDING)]
    count = len(found) // runs
    return [
        ExecutedNode(
            event["name"].removesuffix(ENDING),
            event["args"]["op_name"],
            event["args"]["provider"],
            float(np.median([each["dur"] for each in found[place::count]])) / 1e6,
        )
        for place, event in enumerate(found[:count])
    ]
