"""The REST application: the Open Inference Protocol, ``POST /predict``, health, metrics and OpenAPI pages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, RedirectResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from toolkit import __version__
from toolkit.serving.exchange import Exchange
from toolkit.serving.http.around import Around
from toolkit.serving.http.direct import Direct
from toolkit.serving.http.infer import infer_routes
from toolkit.serving.http.page import add_page
from toolkit.serving.http.predict import predict_routes
from toolkit.serving.http.refusals import described_refusals, refusal
from toolkit.serving.http.schemas import (
    Health,
    IndexEntry,
    ModelMetadata,
    ModelReady,
    ServerMetadata,
    infer_body,
    predict_body,
)
from toolkit.serving.limits import Limits
from toolkit.serving.protocol import model_metadata, server_metadata
from toolkit.serving.refusal import Reason, Refused, bad_request
from toolkit.serving.repository import Repository
from toolkit.serving.request_log import RequestLog

PROMETHEUS = "text/plain; version=1.0.0; charset=utf-8"


@dataclass(frozen=True)
class AppSettings:
    """How the application answers."""

    limits: Limits
    api_key: str | None = None
    control: bool = False
    """Whether models may be loaded and unloaded by requests."""
    page: bool = False
    """Whether there is a page for people, at ``/app/``."""


def build_app(exchange: Exchange, settings: AppSettings, log: RequestLog) -> ASGIApp:
    """The application over some models."""
    app = FastAPI(
        title="clip-toolkit",
        version=__version__,
        description="Image classifiers behind the Open Inference Protocol, version 2, and a plain POST /predict.",
    )
    _answer_in_one_form(app)
    _add_health(app, exchange, home="/app/" if settings.page else "/docs")
    _add_models(app, exchange)
    routes = infer_routes(app, exchange, settings.limits) + predict_routes(app, exchange, settings.limits)
    _describe_models(app, exchange.repository)
    if settings.control:
        _add_control(app, exchange)
    if settings.page:
        add_page(app, exchange, settings.limits)
    return Around(Direct(app, routes), exchange, settings.api_key, log)


def _describe_models(app: FastAPI, repository: Repository) -> None:
    """Have the description say which models there are, and what they take."""
    describe = app.openapi

    def described() -> dict[str, Any]:
        description, names, models = describe(), repository.names, repository.answering
        texts = any(model.takes_text for model in models)
        of_predict = predict_body(texts=texts, images=all(model.takes_image for model in models))
        for path, operations in description["paths"].items():
            for operation in operations.values():
                if path.startswith("/predict"):
                    operation["requestBody"] = of_predict
                elif path.endswith("/infer"):
                    operation["requestBody"] = infer_body(texts=texts)
                for parameter in operation.get("parameters", []):
                    if parameter["name"] == "model":
                        parameter["schema"]["enum"] = names
        return description

    app.openapi = described  # type: ignore[method-assign]


def _answer_in_one_form(app: FastAPI) -> None:
    """Every error is ``{"error": ...}``."""

    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> Response:
        return refusal(error)

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> Response:
        what = {404: f"no endpoint {request.url.path}", 405: f"{request.method} is not for {request.url.path}"}
        said = {"error": what.get(error.status_code, str(error.detail))}
        return JSONResponse(said, error.status_code, error.headers)


def _add_health(app: FastAPI, exchange: Exchange, home: str) -> None:
    repository = exchange.repository

    @app.get("/", include_in_schema=False)
    async def root() -> Response:
        return RedirectResponse(home)

    @app.get("/v2/health/live", response_model=Health, tags=["health"])
    async def live() -> Health:
        """Whether the process answers; true from the start on."""
        return Health(ready=repository.ready)

    @app.get("/v2/health/ready", response_model=Health, responses={503: {"model": Health}}, tags=["health"])
    async def ready(response: Response) -> Health:
        """Whether every bundle passed its proof here and answers."""
        missing = {
            f"{entry.name} {entry.version}": entry.reason or "loading"
            for entry in repository.index()
            if entry.state != "READY"
        }
        if not repository.ready:
            response.status_code = Reason.UNAVAILABLE.http
        return Health(ready=repository.ready, models=missing)

    @app.get("/metrics", tags=["health"], response_class=Response)
    async def metrics() -> Response:
        """Metrics for Prometheus."""
        return Response(exchange.metrics.page(), media_type=PROMETHEUS)


def _add_models(app: FastAPI, exchange: Exchange) -> None:
    repository = exchange.repository

    @app.get("/v2", response_model=ServerMetadata, tags=["protocol"])
    async def server() -> dict[str, Any]:
        """What the server is."""
        return server_metadata()

    known: dict[str, Any] = {"responses": described_refusals(404, 503)}

    @app.get("/v2/models/{model}", response_model=ModelMetadata, tags=["protocol"], **known)
    async def metadata(model: str) -> dict[str, Any]:
        """A model's inputs and outputs."""
        return model_metadata(repository.get(model), repository.versions(model))

    @app.get("/v2/models/{model}/versions/{version}", response_model=ModelMetadata, tags=["protocol"], **known)
    async def version_metadata(model: str, version: str) -> dict[str, Any]:
        """A version's inputs and outputs."""
        return model_metadata(repository.get(model, version), repository.versions(model))

    @app.get("/v2/models/{model}/ready", response_model=ModelReady, tags=["health"], **known)
    async def model_ready(model: str) -> ModelReady:
        """Whether a model answers."""
        return ModelReady(name=repository.get(model).name, ready=True)

    @app.get("/v2/models/{model}/versions/{version}/ready", response_model=ModelReady, tags=["health"], **known)
    async def version_ready(model: str, version: str) -> ModelReady:
        """Whether a version answers."""
        return ModelReady(name=repository.get(model, version).name, ready=True)

    @app.post("/v2/repository/index", response_model=list[IndexEntry], tags=["protocol"])
    async def index() -> list[IndexEntry]:
        """Every version and its state."""
        return [
            IndexEntry(name=entry.name, version=entry.version, state=entry.state, reason=entry.reason)
            for entry in repository.index()
        ]


def _add_control(app: FastAPI, exchange: Exchange) -> None:
    @app.post("/v2/repository/models/{model}/load", responses=described_refusals(400, 404), tags=["control"])
    async def load(model: str) -> dict[str, str]:
        """Load a bundle anew from its folder; the one before answers until the new one passed its proof."""
        outcomes = await exchange.load(model)
        bad = [f"version {place.version}: {outcome.reason}" for place, outcome in outcomes if not outcome.good]
        if bad:
            raise bad_request("; ".join(bad))
        return {place.version: "READY" for place, _ in outcomes}

    @app.post("/v2/repository/models/{model}/unload", responses=described_refusals(404), tags=["control"])
    async def unload(model: str) -> dict[str, str]:
        """Let a model end what it has, and answer nothing more."""
        exchange.repository.unload(model)
        return {}
