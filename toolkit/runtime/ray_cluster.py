"""A Ray cluster: the one at an address, or one of this machine's cores for as long as it is needed."""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from toolkit.errors import ToolkitError
from toolkit.runtime.machine import usable_cores

CONNECT_SECONDS = 10.0
"""For the head node to answer at all; Ray would try for minutes, and then end the process."""


def require_ray(where: str, library: str) -> None:
    """Import one of Ray's libraries.

    Ray is told to report nothing to its makers and to leave its log in its files, unless told otherwise.

    Args:
        where: what needs it.
        library: such as ``ray.train``, which needs packages that a bare Ray doesn't bring.

    Raises:
        ToolkitError: it, or what it needs, is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    try:
        import ray  # noqa: F401

        import_module(library)
    except ImportError as error:
        missing = error.__cause__ or error  # ray.train raises another error of the one that names the package
        what = f"{library} can't be imported: {missing}"
        if isinstance(missing, ModuleNotFoundError):
            what = f"{missing.name} is not installed"
        raise ToolkitError(what, where=where, fix='pip install "clip-toolkit[ray]"') from error


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Be connected to a cluster; to the one that this process is connected to already, if it is.

    Args:
        address: ``host:port``; ``RAY_ADDRESS``, or a Ray of this machine, if None.

    Raises:
        ToolkitError: nothing answers at the address.
    """
    import ray

    if ray.is_initialized():
        yield
        return
    given = address or os.environ.get("RAY_ADDRESS") or "local"
    local: dict[str, Any] = {"num_cpus": max(2, usable_cores()), "include_dashboard": False}
    logging.getLogger("ray").setLevel(logging.ERROR)
    try:
        if given not in ("local", "auto"):
            _require_answer(given)
        with _without_stderr():  # Ray's core says there that its log level was set
            ray.init(
                given,
                log_to_driver=False,
                logging_level=logging.ERROR,
                **(local if given == "local" else {}),
            )
    except (OSError, ValueError, OverflowError, RuntimeError, SystemExit) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        fix = "give host:port of a head node, which ray start --head prints, or leave the address out"
        raise ToolkitError(f"no Ray cluster answers: {reason}", where=given, fix=fix) from error
    try:
        yield
    finally:
        ray.shutdown()


def _require_answer(address: str) -> None:
    host, _, port = address.rpartition(":")
    if "://" in address or not host or not port.isdigit():
        raise ValueError("it is not of the form host:port")
    socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()


@contextmanager
def _without_stderr() -> Iterator[None]:
    """Nothing that a library writes past Python reaches the console."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
