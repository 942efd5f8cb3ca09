"""OpenTelemetry traces of requests, where a provider is set up; FastAPI makes those of its own endpoints."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from importlib.util import find_spec
from typing import Any

TRACER = "clip-toolkit"


@cache
def _installed() -> bool:
    return find_spec("opentelemetry") is not None and find_spec("opentelemetry.trace") is not None


def span(name: str, headers: Mapping[str, str]) -> AbstractContextManager[Any]:
    """A span around what follows, below the one that the client's ``traceparent`` names.

    Args:
        name: of the span.
        headers: of the request.
    """
    if not _installed():
        return nullcontext()
    from opentelemetry import propagate, trace

    if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        return nullcontext()  # nobody set one up
    context = propagate.extract(dict(headers))
    kind = trace.SpanKind.SERVER
    return trace.get_tracer(TRACER).start_as_current_span(name, context=context, kind=kind)
