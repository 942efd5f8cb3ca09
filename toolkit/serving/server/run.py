"""A server's life: sockets first, then the bundles' proofs, then requests, and an end that loses none."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import uvicorn

from toolkit.errors import ToolkitError
from toolkit.runtime.machine import usable_cores
from toolkit.serving.exchange import Exchange
from toolkit.serving.grpc.service import InferenceService
from toolkit.serving.http.app import AppSettings, build_app
from toolkit.serving.http.guarded_protocol import guarded
from toolkit.serving.limits import Limits
from toolkit.serving.metrics import Metrics
from toolkit.serving.repository import Repository
from toolkit.serving.request_log import RequestLog
from toolkit.serving.served_model import ServingSettings

SWITCH_SECONDS = 0.0005
"""After which a thread that waits for Python's lock gets it, a tenth of the default: the event loop lets go of the lock
at every write, and would wait for the threads that decode."""
KEEP_ALIVE = 30
"""Seconds that an idle connection is kept."""
BACKLOG = 2048
GRPC_OVERHEAD = 1 << 20
"""Bytes of a message beside its tensors."""


@dataclass(frozen=True)
class Tls:
    """Files of a certificate and its key, PEM."""

    certificate: Path
    key: Path


@dataclass(frozen=True)
class ServerSettings:
    """Where and how a server listens."""

    host: str = "127.0.0.1"
    port: int = 8000
    """0 for any that is free."""
    grpc_port: int | None = 8001
    """0 for any that is free; None for no gRPC."""
    serving: ServingSettings = field(default_factory=ServingSettings)
    limits: Limits = field(default_factory=Limits)
    api_key: str | None = None
    control: bool = False
    """Whether bundles may be loaded and unloaded by requests."""
    page: bool = False
    """Whether there is a page for people, at ``/app/``."""
    tls: Tls | None = None
    log_requests: bool = True
    grace_seconds: float = 30.0
    """In which requests that were accepted may end after SIGTERM."""


@dataclass(frozen=True)
class Addresses:
    """Where a server listens."""

    host: str
    port: int
    grpc_port: int | None


def serve(
    bundles: Sequence[Path], settings: ServerSettings, listening: Callable[[Addresses], object] = lambda where: None
) -> None:
    """Serve bundles until SIGTERM or SIGINT; SIGHUP loads them anew.

    Args:
        bundles: folders of bundles, or of versions of a bundle.
        settings: where and how.
        listening: told once the sockets are open; the bundles are proven after that.

    Raises:
        ToolkitError: a folder that holds no bundle, or an address that can't be listened on.
    """
    with contextlib.suppress(KeyboardInterrupt), asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_serve(bundles, settings, listening))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Uvloop's loop, where there is one; not on Windows."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


async def _serve(bundles: Sequence[Path], settings: ServerSettings, told: Callable[[Addresses], object]) -> None:
    log = RequestLog(requests=settings.log_requests)
    sys.setswitchinterval(SWITCH_SECONDS)
    logging.basicConfig(handlers=[log.handler], level=logging.WARNING)  # what libraries say, in the same form
    repository = Repository(bundles, settings.serving, settings.limits, usable_cores())
    exchange = Exchange(repository, Metrics(repository))
    listening = _socket(settings.host, settings.port)
    web = _web_server(exchange, settings, log)
    calls, grpc_port = await _grpc_server(exchange, settings, log)
    port = listening.getsockname()[1]
    log.said("listening", host=settings.host, port=port, grpc_port=grpc_port, tls=settings.tls is not None)
    told(Addresses(settings.host, port, grpc_port))
    loads: set[asyncio.Task[None]] = set()

    def load() -> None:
        task = asyncio.create_task(load_all(exchange, log))
        loads.add(task)
        task.add_done_callback(loads.discard)

    load()
    _on(["SIGTERM", "SIGINT"], web.stop)
    _on(["SIGHUP"], load)
    try:
        await web.serve(sockets=[listening])  # ends on SIGTERM and SIGINT, after the requests that it has
    finally:
        log.said("stopping", images_at_work=sum(_at_work(repository)))
        for task in loads:
            task.cancel()
        if calls is not None:
            await calls.stop(settings.grace_seconds)
        await repository.close()
        log.said("stopped")


class _WebServer(uvicorn.Server):
    """uvicorn's, which leaves signals to us: its own would end the process as soon as requests have ended."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield

    def stop(self) -> None:
        """Take no more connections and end what is there; told again, end at once."""
        self.force_exit = self.should_exit
        self.should_exit = True


def _on(signals: Sequence[str], act: Callable[[], None]) -> None:
    """Act on signals, of those that the system has."""
    for name in signals:
        number = getattr(signal, name, None)
        if number is None:
            continue
        try:
            asyncio.get_running_loop().add_signal_handler(number, act)
        except NotImplementedError:  # Windows
            signal.signal(number, lambda *_: act())


def _at_work(repository: Repository) -> list[int]:
    served = (repository.served(entry.name, entry.version) for entry in repository.index())
    return [model.images for model in served if model is not None]


async def load_all(exchange: Exchange, log: RequestLog) -> None:
    """Load every bundle, and say which are good."""
    for name in exchange.repository.names:
        for place, outcome in await exchange.load(name):
            fields = {"model": place.name, "version": place.version, "bundle": str(place.path)}
            if outcome.good:
                log.said("ready", **fields)
            else:
                log.warned("not ready", reason=outcome.reason, **fields)


def _socket(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        ToolkitError: the address is taken, or none of this machine.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(BACKLOG)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ToolkitError(f"can't listen: {reason}", where=f"{host}:{port}", fix="choose another --port") from error
    return listening


def _web_server(exchange: Exchange, settings: ServerSettings, log: RequestLog) -> _WebServer:
    limits = settings.limits
    app = build_app(exchange, AppSettings(limits, settings.api_key, settings.control, settings.page), log)
    config = uvicorn.Config(
        app,
        http=guarded(limits.header_bytes, limits.body_seconds),
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=int(settings.grace_seconds),
        ssl_certfile=settings.tls.certificate if settings.tls else None,
        ssl_keyfile=settings.tls.key if settings.tls else None,
    )
    try:
        config.load()
    except OSError as error:  # ssl.SSLError is one
        where = settings.tls.certificate if settings.tls else settings.host
        raise ToolkitError(f"can't use the certificate: {error}", where=where, fix="give PEM files that fit") from error
    return _WebServer(config)


async def _grpc_server(
    exchange: Exchange, settings: ServerSettings, log: RequestLog
) -> tuple[grpc.aio.Server | None, int | None]:
    """The gRPC server, started, and its port."""
    if settings.grpc_port is None:
        return None, None
    most = settings.limits.body_bytes + GRPC_OVERHEAD
    options = {"grpc.max_receive_message_length": most, "grpc.max_send_message_length": -1, "grpc.so_reuseport": 0}
    server = grpc.aio.server(options=list(options.items()))
    server.add_generic_rpc_handlers((InferenceService(exchange, settings.api_key, log).handler(),))
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    address = f"{host}:{settings.grpc_port}"
    try:
        if settings.tls:
            pair = settings.tls.key.read_bytes(), settings.tls.certificate.read_bytes()
            port = server.add_secure_port(address, grpc.ssl_server_credentials([pair]))
        else:
            port = server.add_insecure_port(address)
    except (RuntimeError, OSError) as error:
        raise ToolkitError("can't listen for gRPC", where=address, fix="choose another --grpc-port") from error
    await server.start()
    return server, port
