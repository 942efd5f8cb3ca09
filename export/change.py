"""Where the outcome of a measurement goes: into the bundle, all of the change or none, or into a file elsewhere."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.errors import ToolkitError
from toolkit.files import explain_os_errors, write_json
from toolkit.reporting.pages import pages, write_pages
from toolkit.runtime.bundle import Bundle, Manifest, write_manifest
from toolkit.runtime.manifest import read_manifest
from toolkit.runtime.signature import sign
from toolkit.runtime.staging import changing, require_writable


@dataclass(frozen=True)
class Target:
    """Where a verb writes what it found."""

    file: Path | None = None
    """A file of that content alone; the bundle, which then stays as it is, if None."""
    key: Path | None = None
    """Private key to sign the changed bundle with; without one it loses its signature."""

    def check(self, bundle: Bundle) -> None:
        """Find out, before anything is measured, whether it can be written.

        Raises:
            ToolkitError: the bundle or the file can't be written, or the bundle's pages not be made.
        """
        if self.file is None:
            require_writable(bundle.path)
            pages(bundle.path, bundle.manifest)
            return
        if self.file.is_dir():
            raise ToolkitError("a folder is there already", where=f"--out {self.file}", fix="name a file")
        with explain_os_errors(self.file):
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.file.parent):
                pass

    def wrote(self, content: dict[str, Any]) -> bool:
        """Write the file as JSON, if the content goes into one; whether it did."""
        if self.file is None:
            return False
        with explain_os_errors(self.file):
            write_json(self.file, content)
        return True


BUNDLE = Target()


@contextmanager
def change(bundle: Bundle, key: Path | None = None) -> Iterator[tuple[Path, Manifest]]:
    """Change an opened bundle; pages, manifest and signature follow, and all of it takes place at once.

    Args:
        bundle: what to change; another process may have changed it since it was opened, and that stays.
        key: private key to sign the changed bundle with.

    Yields:
        The folder of the next state and its manifest; see :func:`toolkit.runtime.staging.changing`.

    Raises:
        ToolkitError: the bundle can't be written, or the key not be used.
    """
    with changing(bundle.path) as folder:
        manifest, _ = read_manifest(folder)
        yield folder, manifest
        write_pages(folder, manifest)
        write_manifest(folder, manifest)
        if key:
            sign(folder, key)
    bundle.reopen()
