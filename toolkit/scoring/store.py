"""A folder on a disk or behind a URL that a job writes: whole files, and one writer at a time."""

from __future__ import annotations

import json
import os
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toolkit.data.remote import file_system, local_path
from toolkit.errors import ToolkitError
from toolkit.files import explain_os_errors, write_bytes
from toolkit.lock import TakenError, lock
from toolkit.strict_json import read_json

LEASE = "lock.json"
LEASE_SECONDS = 600.0
"""After so long without a word from its writer a folder behind a URL counts as free: object stores have no locks."""


@dataclass(frozen=True)
class Store:
    """A folder; ``url`` is a path, or the URL of a folder that fsspec knows."""

    url: str
    _owner: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def path(self) -> Path | None:
        """Where it lies on this machine's disks; None behind a URL."""
        return local_path(self.url)

    def where(self, name: str) -> str:
        """What messages call a file in it."""
        return f"{self.url.rstrip('/')}/{name}"

    def read(self, name: str) -> bytes | None:
        """A file's content; None if it isn't there.

        Raises:
            ToolkitError: it can't be read.
        """
        try:
            if self.path is not None:
                return (self.path / name).read_bytes()
            content: bytes = file_system(self.url).cat_file(self.where(name))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            what = f"can't be read: {error.strerror or error}"
            raise ToolkitError(what, where=self.where(name), fix="check its permissions and the network") from error
        return content

    def read_json(self, name: str) -> Any:
        """A file's content as JSON; None if it isn't there.

        Raises:
            ToolkitError: it is no JSON.
        """
        content = self.read(name)
        try:
            return None if content is None else read_json(content)
        except ValueError as error:
            fix = "remove the folder and score anew"
            raise ToolkitError(f"damaged: {error}", where=self.where(name), fix=fix) from error

    def write(self, name: str, content: bytes) -> None:
        """Write a file, whole or not at all.

        Raises:
            ToolkitError: a full disk, no permission, no network.
        """
        with explain_os_errors(Path(self.where(name))):
            if self.path is not None:
                write_bytes(self.path / name, content)
            else:
                file_system(self.url).pipe_file(self.where(name), content)

    def write_json(self, name: str, content: Any) -> None:
        """Write JSON, whole or not at all."""
        self.write(name, (json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())

    def names(self) -> list[str]:
        """Names of what is in the folder; none where there is no folder."""
        try:
            if self.path is not None:
                return os.listdir(self.path)  # noqa: PTH208 - names alone
            return [str(each).rsplit("/", 1)[-1] for each in file_system(self.url).ls(self.url, detail=False)]
        except FileNotFoundError:
            return []

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the folder against other jobs.

        Raises:
            TakenError: another one writes here.
        """
        if self.path is not None:
            with lock(self.path, what="another job scores into it"):
                yield
            return
        known = self.read_json(LEASE)
        if isinstance(known, dict) and time.time() - float(known.get("time", 0)) < LEASE_SECONDS:
            fix = f"wait for it, choose another folder, or remove {LEASE} if process {known.get('process')} is gone"
            raise TakenError("another job scores into it already", where=self.url, fix=fix)
        self.renew()
        if (self.read_json(LEASE) or {}).get("owner") != self._owner:  # somebody was faster
            raise TakenError("another job scores into it already", where=self.url, fix="wait for it")
        try:
            yield
        finally:
            if (self.read_json(LEASE) or {}).get("owner") == self._owner:
                file_system(self.url).rm_file(self.where(LEASE))

    def renew(self) -> None:
        """Say that this job is alive, where there are no locks.

        Raises:
            TakenError: another job took the folder over meanwhile.
        """
        if self.path is not None:
            return
        known = self.read_json(LEASE)
        others = isinstance(known, dict) and known.get("owner") != self._owner
        if others and time.time() - float(known.get("time", 0)) < LEASE_SECONDS:
            raise TakenError("another job scores into it", where=self.url, fix="let that one go on")
        process = f"{os.getpid()} on {socket.gethostname()}"
        self.write_json(LEASE, {"owner": self._owner, "process": process, "time": time.time()})
