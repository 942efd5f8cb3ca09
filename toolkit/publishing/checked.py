"""What may be published: a bundle that proves itself here and now."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from toolkit.errors import CheckFailed, ToolkitError
from toolkit.runtime.bundle import Bundle
from toolkit.runtime.verify import verify


def checked_bundle(path: Path, *, provider: str | None = None, public_key: Path | None = None) -> Bundle:
    """Open a bundle that :func:`toolkit.runtime.verify.verify` passes.

    Raises:
        CheckFailed: a file differs from its hash, a golden image gets another answer, or the signature is wrong.
        ToolkitError: no bundle, or the provider is not there.
    """
    report = verify(path, provider=provider, public_key=public_key)
    if not report["passed"]:
        raise CheckFailed(f"{path} is not published: {'; '.join(report['problems'])}")
    return Bundle(path)


def require_library(module: str, extra: str, verb: str) -> None:
    """Raise :class:`ToolkitError` where a verb's library is not installed."""
    if find_spec(module) is None:
        raise ToolkitError(f"{module} is not installed", where=verb, fix=f'pip install "clip-toolkit[{extra}]"')
