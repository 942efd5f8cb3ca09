"""One change of a finished bundle: files, pages, manifest and signature, all of them or none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from toolkit.reporting.describe import describe
from toolkit.runtime.bundle import Bundle, Manifest, write_manifest
from toolkit.runtime.manifest import read_manifest
from toolkit.runtime.signature import sign
from toolkit.runtime.staging import changing


@contextmanager
def change(bundle: Bundle, key: Path | None = None) -> Iterator[tuple[Path, Manifest]]:
    """Change an opened bundle; pages, manifest and signature follow, and all of it takes place at once.

    Args:
        bundle: what to change; another process may have changed it since it was opened, and that stays.
        key: private key to sign the changed bundle with; without one it loses its signature.

    Yields:
        The folder of the next state and its manifest; see :func:`toolkit.runtime.staging.changing`.

    Raises:
        ToolkitError: the bundle can't be written, or the key not be used.
    """
    with changing(bundle.path) as folder:
        manifest, _ = read_manifest(folder)
        yield folder, manifest
        describe(folder, manifest)
        write_manifest(folder, manifest)
        if key:
            sign(folder, key)
    bundle.reopen()
