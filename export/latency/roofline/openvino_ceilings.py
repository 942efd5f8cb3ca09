"""The matmuls of a graph with nothing around them on OpenVINO, as :mod:`export.latency.roofline.ceilings` has them."""

# m, k, n: of a matmul [m, k] x [k, n]

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from export.latency.roofline.ceilings import matmuls_model
from export.latency.roofline.work import Matmul
from toolkit.runtime.openvino_session import OpenVinoSession


def openvino_matmuls(matmuls: Sequence[Matmul], threads: int) -> Callable[[Any], None]:
    """All matmuls in one session; inputs and results stay where they are from run to run."""
    session, rng = open_matmuls(matmuls, threads), np.random.default_rng(1)
    kept = {
        name: rng.standard_normal(tuple(map(int, spec.shape)), np.float32)  # type: ignore[arg-type]
        for name, spec in session.inputs.items()
    }
    request = session._request
    request.infer(kept, share_inputs=True)

    def run(_: Any, places: Any = (session, kept)) -> None:
        request.infer()

    return run


def open_matmuls(matmuls: Sequence[Matmul], threads: int) -> OpenVinoSession:
    """A session of matmuls with production's options.

    Those of integers have the rounding of their input with them, which OpenVINO joins with the matmul or puts before
    it. Those of bf16 are computed in it by OpenVINO's hint, and then so are all others of floats: a head in fp32 among
    them takes no time worth counting.
    """
    return OpenVinoSession(
        matmuls_model(matmuls, standard_ops_only=True).SerializeToString(),
        threads=threads,
        properties={"INFERENCE_PRECISION_HINT": "bf16"} if any(each.precision == "bf16" for each in matmuls) else {},
    )
