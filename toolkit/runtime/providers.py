"""The providers that are supported, and which precisions each runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnxruntime as ort

from toolkit.errors import ToolkitError
from toolkit.runtime.openvino_library import OPENVINO, require_installed, why_not
from toolkit.runtime.precision import SPECS, Precision

PROVIDERS: dict[str, str] = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
PROVIDER_OPTIONS: dict[str, dict[str, Any]] = {
    # TF32 would round fp32 matmuls to 10 bits of mantissa (onnxruntime#19357)
    "cuda": {"use_tf32": "0"},
}
"""Of ONNX Runtime."""
NAMES = {**PROVIDERS, OPENVINO: "OpenVINO"}
"""What errors call each provider: those of ONNX Runtime, and OpenVINO, which runs graphs itself."""
ON_CPU = frozenset({"cpu", OPENVINO})
"""Those that compute on the processor, in threads."""
STANDARD = frozenset({"tensorrt", OPENVINO})
"""Those that know standard operators alone, and compile a graph of them."""


def provider_name(provider: str) -> str:
    """The full name of a provider.

    Raises:
        ToolkitError: there is no such provider, or this build lacks it.
    """
    _require_known(provider)
    if provider == OPENVINO:
        require_installed()
        return NAMES[OPENVINO]
    requested = PROVIDERS[provider]
    if requested not in ort.get_available_providers():
        raise ToolkitError(
            f"this build of ONNX Runtime has no {requested}",
            where=f"onnxruntime {ort.__version__}",
            fix="install onnxruntime-gpu on Linux x86-64, or pass --provider cpu",
        )
    return requested


def _require_known(provider: str) -> None:
    if provider not in NAMES:
        raise ToolkitError(f"no provider {provider!r}", where="--provider", fix=f"choose from {', '.join(NAMES)}")


def several_providers(asked: str) -> list[str]:
    """The providers that are to be weighed against each other, or the one to run on.

    Args:
        asked: a name, or several, comma-separated.

    Raises:
        ToolkitError: there is no such provider; several that don't all compute on the processor.
    """
    names = list(dict.fromkeys(name.strip() for name in asked.split(",") if name.strip())) or [asked]
    for name in names:
        _require_known(name)
    apart = [name for name in names if name not in ON_CPU]
    if len(names) > 1 and apart:
        what = f"{apart[0]} runs alone: cpu and openvino share the processor's cores, and can be compared"
        raise ToolkitError(what, where="--provider", fix="use --provider cpu,openvino, or one provider")
    return names


def require_precision(precision: str, provider: str) -> Precision:
    """A name as a precision that a provider can run.

    Raises:
        ToolkitError: it is none, or the provider has no kernels for it.
    """
    if precision not in SPECS:
        what = f"no precision {precision!r}"
        fix = f"choose from {', '.join(sorted(SPECS))}, or auto when exporting"
        raise ToolkitError(what, where="--precision", fix=fix)
    provider_name(provider)
    spec = SPECS[precision]
    if provider not in spec.providers:
        what = f"{NAMES[provider]} can't run {precision}"
        those = [name for name, other in SPECS.items() if provider in other.providers]
        fix = f"use --provider {' or '.join(spec.providers)}, or --precision {' or '.join(those)}"
        raise ToolkitError(what, where="--precision", fix=fix)
    if provider == OPENVINO and (reason := why_not(precision)):
        raise ToolkitError(reason, where="--precision", fix="use fp32 or int8")
    return spec.name


def runnable(precisions: Sequence[str], provider: str) -> list[str]:
    """Those of a bundle's precisions that a provider can run, in order.

    Raises:
        ToolkitError: it can run none of them, or there is no such provider.
    """
    provider_name(provider)
    there: list[str] = [each for each in precisions if each in SPECS and runs_here(each, provider)]
    if not there:
        for each in precisions[:1]:
            what = f"the bundle holds {', '.join(precisions)} alone, which {NAMES[provider]} can't run"
            others = SPECS[each].providers
            fix = f"use --provider {' or '.join(others)}, or export for {provider}"
            raise ToolkitError(what, where="manifest.json", fix=fix)
        raise ToolkitError("the bundle holds no graph", where="manifest.json", fix="export it again")
    return there


def runs_here(precision: str, provider: str) -> bool:
    """Whether a provider that is there has kernels for a precision, on this processor too."""
    if provider not in SPECS[precision].providers:
        return False
    return provider != OPENVINO or why_not(precision) is None
