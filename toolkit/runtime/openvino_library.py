"""The package ``openvino``: imported when it is asked for, without the message that it would send home."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from toolkit.errors import ToolkitError

if TYPE_CHECKING:
    from types import ModuleType

OPENVINO = "openvino"
"""Name of the provider, and of the package."""
FLOATS = "floats"
"""Key of a graph's ``metadata_props``: ``bf16`` has OpenVINO compute in bf16 what is float32 in the graph."""
TELEMETRY = "openvino_telemetry"
"""The package through which ``import openvino`` reports to its maker; it goes without, if there is none."""


def load_openvino() -> ModuleType:
    """The package, imported without its telemetry; a process that had it in memory before keeps what it has.

    Raises:
        ToolkitError: it is not installed, or does not load.
    """
    require_installed()
    if OPENVINO in sys.modules:
        return sys.modules[OPENVINO]
    known = sys.modules.get(TELEMETRY)
    sys.modules[TELEMETRY] = None  # type: ignore[assignment]  # Python's way to say that there is no such package
    try:
        import openvino
    except (ImportError, OSError) as error:
        what = f"the package openvino does not load: {' '.join(str(error).split())}"
        raise ToolkitError(what, where="--provider openvino", fix="install it again, or pass --provider cpu") from error
    finally:
        del sys.modules[TELEMETRY]
        if known is not None:
            sys.modules[TELEMETRY] = known
    module: ModuleType = openvino
    return module


def require_installed() -> None:
    """Raise :class:`ToolkitError` if the package is not there; it is not imported."""
    if sys.modules.get(OPENVINO) is None and not _is_there():
        what, fix = "the package openvino is not installed", 'pip install "clip-toolkit[openvino]", or --provider cpu'
        raise ToolkitError(what, where="--provider openvino", fix=fix)


@cache
def core() -> Any:
    """OpenVINO's ``Core``, of which a process needs one."""
    return load_openvino().Core()


def why_not(precision: str) -> str | None:
    """Why OpenVINO can't run a precision on this processor; None if it can.

    Raises:
        ToolkitError: the package is not there, or does not load.
    """
    if precision != "bf16" or "BF16" in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        return None
    return "this processor computes no bf16 (it has neither AVX-512 BF16 nor AMX)"


def floats_of(metadata: Mapping[str, str]) -> str:
    """In which precision OpenVINO computes what is float32 in a graph, by its metadata: ``fp32``, or ``bf16``.

    Raises:
        ToolkitError: the package is not there, or does not load.
    """
    return "bf16" if metadata.get(FLOATS) == "bf16" and why_not("bf16") is None else "fp32"


def _is_there() -> bool:
    try:
        return find_spec(OPENVINO) is not None
    except ValueError:  # sys.modules says that there is none
        return False
