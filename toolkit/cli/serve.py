"""``toolkit serve``: bundles behind the Open Inference Protocol, over HTTP and gRPC; without torch."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from toolkit.cli.output import (
    JsonFlag,
    PrecisionOption,
    PublicKeyOption,
    ServingProviderOption,
    ThreadsOption,
    print_json,
)
from toolkit.errors import ToolkitError

if TYPE_CHECKING:
    from toolkit.serving.server.run import Addresses

API_KEY = "CLIP_TOOLKIT_API_KEY"
EXTRA = ("fastapi", "uvicorn", "httptools", "python_multipart", "prometheus_client", "grpc", "google.protobuf")
"""Modules that the extras ``serve`` and ``app`` bring."""


def serve(
    bundles: Annotated[
        list[Path],
        typer.Argument(metavar="BUNDLE...", help="Bundle folders, or folders of a bundle's versions (1, 2, ...)."),
    ],
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all of this machine's.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of HTTP; 0 for any that is free.")] = 8000,
    grpc_port: Annotated[
        int, typer.Option(min=-1, max=65535, help="Port of gRPC; 0 for any that is free, -1 for none.")
    ] = 8001,
    provider: ServingProviderOption = None,
    precision: PrecisionOption = None,
    threads: ThreadsOption = None,
    sessions: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Sessions side by side.", show_default="as tuned, or 1")
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(min=1, help="Images that a session takes at once, at most.", show_default="as tuned, or 32"),
    ] = None,
    public_key: PublicKeyOption = None,
    waiting: Annotated[int, typer.Option(min=1, help="Images of a model that wait at once, at most.")] = 512,
    max_images: Annotated[int, typer.Option(min=1, help="Images in a request, at most.")] = 256,
    max_pixels: Annotated[int, typer.Option(min=1, help="Pixels of an image, at most.")] = 100_000_000,
    max_body_mib: Annotated[int, typer.Option(min=1, max=2000, help="MiB of a request's body, at most.")] = 64,
    timeout: Annotated[
        float, typer.Option(min=0.001, help="Seconds from a request to its answer, unless the client has fewer.")
    ] = 30.0,
    grace: Annotated[float, typer.Option(min=0, help="Seconds for accepted requests to end after SIGTERM.")] = 30.0,
    control: Annotated[
        bool, typer.Option("--control", help="Let requests load and unload bundles (v2/repository/models/NAME/load).")
    ] = False,
    api_key_file: Annotated[
        Path | None,
        typer.Option(
            help="File with the key that requests must carry.", show_default=f"the variable {API_KEY}, or none"
        ),
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="Certificate (PEM); with --tls-key.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its private key (PEM).")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No line of log for every request.")] = False,
    json: JsonFlag = False,
) -> None:
    """Serve bundles: REST and gRPC of the Open Inference Protocol, and POST /predict; /docs describes them.

    A bundle answers once its files, its signature and its golden images passed here; SIGHUP loads it anew. Logs are
    lines of JSON on stderr; --json prints where the server listens.

    Example: toolkit serve bundles/digits
    """
    require_server("toolkit serve", "serve")
    if (tls_cert is None) != (tls_key is None):
        raise ToolkitError("a certificate needs its key", where="--tls-cert, --tls-key", fix="give both or neither")
    from toolkit.runtime.decode import MAX_PIXELS
    from toolkit.runtime.open_session import require_active
    from toolkit.serving.limits import MIB, Limits
    from toolkit.serving.served_model import ServingSettings
    from toolkit.serving.server.run import ServerSettings, Tls
    from toolkit.serving.server.run import serve as run

    if provider is not None:
        require_active(provider)
    run(
        bundles,
        ServerSettings(
            host=host,
            port=port,
            grpc_port=None if grpc_port < 0 else grpc_port,
            serving=ServingSettings(provider, precision, threads, sessions, batch_size, public_key),
            limits=Limits(
                body_bytes=max_body_mib * MIB,
                pixels=min(max_pixels, MAX_PIXELS),
                images=max_images,
                waiting=waiting,
                seconds=timeout,
            ),
            api_key=_key_in(api_key_file),
            control=control,
            tls=Tls(tls_cert, tls_key) if tls_cert and tls_key else None,
            log_requests=not quiet,
            grace_seconds=grace,
        ),
        _print if json else lambda where: None,
    )


def _print(where: Addresses) -> None:
    print_json({"host": where.host, "port": where.port, "grpc_port": where.grpc_port})
    sys.stdout.flush()


def require_server(verb: str, extra: str) -> None:
    """Raise unless what a server needs is installed.

    Args:
        verb: that needs it.
        extra: that brings it.

    Raises:
        ToolkitError: naming what is missing, and the extra.
    """
    from importlib.util import find_spec

    missing = [name for name in EXTRA if find_spec(name.partition(".")[0]) is None]
    if missing:
        what = f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed"
        raise ToolkitError(what, where=verb, fix=f'pip install "clip-toolkit[{extra}]"')


def _key_in(file: Path | None) -> str | None:
    """The API key, of a file or of the environment.

    Raises:
        ToolkitError: the file can't be read, or holds none.
    """
    if file is None:
        return os.environ.get(API_KEY) or None
    try:
        key = file.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise ToolkitError(f"can't read the API key: {error}", where=file, fix="give a text file") from error
    if not key:
        raise ToolkitError("the file holds no API key", where=file, fix="write one line into it")
    return key
