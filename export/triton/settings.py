"""How Triton is to run a bundle: as ``toolkit tune`` chose it, or by defaults that are said."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from toolkit.errors import ToolkitError
from toolkit.runtime.bundle import Bundle
from toolkit.runtime.machine import usable_cores
from toolkit.runtime.openvino_library import OPENVINO
from toolkit.runtime.precision import SPECS, Precision
from toolkit.runtime.providers import PROVIDERS
from toolkit.runtime.serving import Serving
from toolkit.serving.pool import BATCH_SIZE


@dataclass(frozen=True)
class TritonSettings:
    """What a model's configuration says of how it runs."""

    provider: str
    """``cpu``, ``cuda`` or ``tensorrt``."""
    precision: Precision
    instances: int
    """Sessions side by side; on GPUs, on each."""
    threads: int
    """Of one session."""
    max_batch_size: int
    provider_options: Mapping[str, str] = field(default_factory=dict)
    """As ``serving.json`` has them, by ONNX Runtime's names."""
    notes: tuple[str, ...] = ()
    """What differs from what was tuned, in words."""

    @property
    def on_gpu(self) -> bool:
        """Whether instances run on GPUs."""
        return self.provider != "cpu"

    @property
    def batch_sizes(self) -> list[int]:
        """Sizes that are warmed up: powers of two, and the largest."""
        powers = {1 << power for power in range(self.max_batch_size.bit_length())}
        return sorted(powers | {self.max_batch_size})


def settings_of(bundle: Bundle, provider: str | None, precision: str | None, threads: int | None) -> TritonSettings:
    """Settings of a bundle's graph.

    Args:
        bundle: opened.
        provider: asked for; as tuned, or the CPU, if None.
        precision: asked for; as tuned, or the bundle's default, if None.
        threads: asked for; as tuned, or this machine's usable cores, if None.

    Raises:
        ToolkitError: the bundle has no such precision, or the provider can't run it.
    """
    tuned = bundle.tuned_for(provider, precision)
    if tuned:
        require_runs(tuned.precision, tuned.provider)
        bundle.graph_name(tuned.precision)
        return TritonSettings(
            tuned.provider,
            tuned.precision,
            tuned.sessions,
            threads or tuned.threads,
            tuned.batch_size,
            {str(name): value for name, value in tuned.provider_options.items()},
            _untranslatable(tuned),
        )
    bundle.graph_name(precision)
    provider, precision = provider or "cpu", precision or bundle.precisions[0]
    known, threads = require_runs(precision, provider), threads or usable_cores()
    what = "serving.json was tuned for something else" if bundle.serving else "the bundle is not tuned"
    note = f"{what}: one instance of {threads} threads, batches of up to {BATCH_SIZE}; run toolkit tune on the target"
    return TritonSettings(provider, known, 1, threads, BATCH_SIZE, notes=(note,))


def require_runs(precision: str, provider: str) -> Precision:
    """A name as a precision that Triton's ONNX Runtime backend runs on a provider, whether or not it is here.

    Raises:
        ToolkitError: there is no such provider, or it has no kernels for the precision.
    """
    if provider == OPENVINO:
        what = "the repository is for Triton's ONNX Runtime backend, which doesn't run OpenVINO as it was proven here"
        fix = "use --provider cpu, or toolkit serve, which runs OpenVINO"
        raise ToolkitError(what, where="--provider openvino", fix=fix)
    if provider not in PROVIDERS:
        raise ToolkitError(f"no provider {provider!r}", where="--provider", fix=f"choose from {', '.join(PROVIDERS)}")
    spec = SPECS[precision]
    if provider not in spec.providers:
        what = f"Triton's ONNX Runtime backend can't run {precision} on {PROVIDERS[provider]}"
        those = [name for name, other in SPECS.items() if provider in other.providers]
        possible = [name for name in spec.providers if name in PROVIDERS]
        fix = f"use --provider {' or '.join(possible)}, or --precision {' or '.join(those)}"
        raise ToolkitError(what, where="--precision", fix=fix)
    return spec.name


def _untranslatable(tuned: Serving) -> tuple[str, ...]:
    """What of a tuned configuration the backend has no parameter for."""
    return tuple(
        f"Triton's ONNX Runtime backend has no parameter for {name}, which was tuned to {value}"
        for name, value in tuned.session_options.items()
    )
