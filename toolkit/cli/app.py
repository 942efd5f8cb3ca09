"""``toolkit app``: a page to try a bundle on, in any browser; without torch."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from toolkit.cli.output import (
    JsonFlag,
    PrecisionOption,
    ServingProviderOption,
    ThreadsOption,
    messages,
    print_json,
)
from toolkit.cli.serve import require_server

if TYPE_CHECKING:
    from toolkit.serving.server.run import Addresses

EVERYWHERE = ("0.0.0.0", "::")
"""Addresses that no browser can be sent to."""


def app(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder.")],
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all of this machine's.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 for any that is free.")] = 7860,
    provider: ServingProviderOption = None,
    precision: PrecisionOption = None,
    threads: ThreadsOption = None,
    json: JsonFlag = False,
) -> None:
    """Open a page for people: drop images, see labels, calibrated bars, what the network sees and what it took.

    It is toolkit serve with a page in front: the bundle answers once it passed its proof here; POST /predict and /docs
    are there too. Anyone who reaches the port may ask. Ctrl-C ends it; --json prints where it listens.

    Example: toolkit app bundles/digits
    """
    require_server("toolkit app", "app")
    from toolkit.runtime.bundle import Bundle
    from toolkit.runtime.open_session import require_active
    from toolkit.serving.served_model import ServingSettings
    from toolkit.serving.server.run import ServerSettings
    from toolkit.serving.server.run import serve as run

    if provider is not None:
        require_active(provider)

    Bundle(bundle).graph_name(precision)  # a mistake is said before a page opens

    def listening(where: Addresses) -> None:
        reached = "127.0.0.1" if where.host in EVERYWHERE else where.host
        named = f"[{reached}]" if ":" in reached else reached
        url = f"http://{named}:{where.port}/app/"
        if json:
            print_json({"url": url})
            sys.stdout.flush()
        else:
            messages().print(f"open {url} in a browser; Ctrl-C ends it", soft_wrap=True, markup=False)

    run(
        [bundle],
        ServerSettings(
            host=host,
            port=port,
            grpc_port=None,
            serving=ServingSettings(provider, precision, threads),
            page=True,
            log_requests=False,
        ),
        listening,
    )
