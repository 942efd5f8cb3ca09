"""One way to a session on any provider, and which providers there are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from toolkit.errors import ToolkitError
from toolkit.runtime.openvino_library import OPENVINO
from toolkit.runtime.openvino_session import OpenVinoSession
from toolkit.runtime.precision import SPECS
from toolkit.runtime.session import PROBE, PROBED, PROBES, UNKNOWN_BATCH, Session
from toolkit.runtime.session import probed_providers as probed_in_onnxruntime
from toolkit.runtime.session import require_active as require_active_in_onnxruntime
from toolkit.runtime.tensorrt import EngineBuild


def open_session(
    model: Path | bytes,
    *,
    provider: str,
    threads: int | None = None,
    where: Path | None = None,
    external_data: Mapping[str, bytes] | Path | None = None,
    record_nodes: bool = False,
    session_options: Mapping[str, str] | None = None,
    provider_options: Mapping[str, str] | None = None,
    build: EngineBuild = UNKNOWN_BATCH,
) -> Session:
    """Load a graph on a provider, of ONNX Runtime or ``openvino``; see :class:`toolkit.runtime.session.Session`.

    OpenVINO has no session options of ONNX Runtime's, records its nodes always, and builds no engine.

    Raises:
        ToolkitError: the provider is unknown, not there, or fell back; the graph can't be loaded.
    """
    if provider == OPENVINO:
        return OpenVinoSession(
            model, threads=threads, where=where, external_data=external_data, properties=provider_options
        )
    return Session(
        model,
        provider=provider,
        threads=threads,
        where=where,
        external_data=external_data,
        record_nodes=record_nodes,
        session_options=session_options,
        provider_options=provider_options,
        build=build,
    )


def probed_providers() -> dict[str, dict[str, str | None]]:
    """By provider and precision that it is said to run, None if it computes here, else the reason why not."""
    run = [spec.name for spec in SPECS.values() if OPENVINO in spec.providers]
    return {**probed_in_onnxruntime(), OPENVINO: {precision: probe_openvino(precision) for precision in run}}


def loadable_providers() -> dict[str, str | None]:
    """Each provider, with None if it really computes in fp32 here, else the reason why not."""
    return {name: reasons["fp32"] for name, reasons in probed_providers().items()}


def probe_openvino(precision: str = "fp32") -> str | None:
    """Compute a convolution and a matmul on OpenVINO; why that doesn't work, or None."""
    try:
        expected = Session((PROBES / "fp32.onnx").read_bytes(), threads=1).compute(["y"], {"x": PROBED})[0]
        probed = OpenVinoSession((PROBES / f"{precision}.onnx").read_bytes(), threads=1)
        (given,) = probed.compute(["y"], {"x": PROBED})
    except ToolkitError as error:
        return error.what
    return None if np.array_equal(given, expected) else "it gives other numbers than ONNX Runtime"


def require_active(provider: str) -> None:
    """Raise unless a session really runs on a provider.

    Raises:
        ToolkitError: it is unknown, not there, or fell back.
    """
    if provider == OPENVINO:
        OpenVinoSession(PROBE.read_bytes(), threads=1, where=PROBE)
    else:
        require_active_in_onnxruntime(provider)
