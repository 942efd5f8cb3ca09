"""The REST application: the Open Inference Protocol, ``POST /predict``, health, metrics and OpenAPI pages."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, RedirectResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from toolkit import __version__
from toolkit.serving.exchange import Exchange, seconds_since
from toolkit.serving.http.around import Around
from toolkit.serving.http.body import files_in, read_body
from toolkit.serving.http.page import add_page
from toolkit.serving.http.refusals import refusal
from toolkit.serving.http.schemas import (
    IMAGES_BODY,
    INFER_BODY,
    Error,
    Health,
    IndexEntry,
    InferenceAnswer,
    ModelMetadata,
    ModelReady,
    PredictedImage,
    Predictions,
    ServerMetadata,
)
from toolkit.serving.http.tensors import HEADER_LENGTH, answer_body, from_base64, parse_json, parse_request
from toolkit.serving.limits import Limits
from toolkit.serving.predictor import Prediction, default_top_k, likeliest
from toolkit.serving.protocol import model_metadata, server_metadata
from toolkit.serving.refusal import Reason, Refused, bad_request
from toolkit.serving.request_log import RequestLog

PROMETHEUS = "text/plain; version=1.0.0; charset=utf-8"
TIMEOUT = "x-request-timeout"
"""Seconds that a client waits at most."""
REFUSALS: dict[int | str, dict[str, Any]] = {
    reason.http: {"model": Error, "description": reason.name.replace("_", " ").capitalize()} for reason in Reason
}


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
    _add_models(app, exchange, settings)
    _add_predict(app, exchange, settings)
    _name_models(app, exchange.repository.names)
    if settings.control:
        _add_control(app, exchange)
    if settings.page:
        add_page(app, exchange, settings.limits)
    return Around(app, exchange, settings.api_key, log)


def _name_models(app: FastAPI, names: list[str]) -> None:
    """Have the description say which models there are."""
    describe = app.openapi

    def described() -> dict[str, Any]:
        description = describe()
        for operations in description["paths"].values():
            for operation in operations.values():
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


def _add_models(app: FastAPI, exchange: Exchange, settings: AppSettings) -> None:
    repository = exchange.repository

    @app.get("/v2", response_model=ServerMetadata, tags=["protocol"])
    async def server() -> dict[str, Any]:
        """What the server is."""
        return server_metadata()

    known: dict[str, Any] = {"responses": _refusals(404, 503)}

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

    infer_options: dict[str, Any] = {
        "response_model": InferenceAnswer,
        "response_model_exclude_none": True,
        "responses": _refusals(400, 404, 408, 413, 415, 429, 503, 504),
        "openapi_extra": INFER_BODY,
        "tags": ["protocol"],
    }

    @app.post("/v2/models/{model}/infer", **infer_options)
    async def infer(request: Request, model: str) -> Response:
        """Answer a request of the Open Inference Protocol, with tensors in JSON or as bytes behind it."""
        return await _infer(request, exchange, settings.limits, model)

    @app.post("/v2/models/{model}/versions/{version}/infer", **infer_options)
    async def version_infer(request: Request, model: str, version: str) -> Response:
        """The same of a version."""
        return await _infer(request, exchange, settings.limits, model, version)


async def _infer(request: Request, exchange: Exchange, limits: Limits, model: str, version: str = "") -> Response:
    arrived, metrics = request.state.arrived, exchange.metrics
    exchange.repository.get(model, version)  # before the body is read
    body = await read_body(request, limits)
    asked = parse_request(body, request.headers.get(HEADER_LENGTH))
    read = time.monotonic()
    metrics.stage(model, "read", read - arrived)
    answered = await exchange.infer(model, version, asked, arrived, timeout_in(request))
    computed = time.monotonic()
    metrics.stage(model, "infer", computed - read)
    served = answered.model
    content, head = answer_body(served.name, served.version, asked, answered.tensors, answered.wanted)
    metrics.stage(model, "respond", seconds_since(computed))
    headers = {HEADER_LENGTH: str(head)} if head is not None else {}
    kind = "application/json" if head is None else "application/octet-stream"
    return Response(content, headers=headers, media_type=kind)


def _add_predict(app: FastAPI, exchange: Exchange, settings: AppSettings) -> None:
    predict_options: dict[str, Any] = {
        "response_model": Predictions,
        "response_model_exclude_none": True,
        "responses": _refusals(400, 404, 408, 413, 415, 429, 503, 504),
        "openapi_extra": IMAGES_BODY,
        "tags": ["predict"],
    }

    @app.post("/predict", **predict_options)
    async def predict(request: Request) -> Predictions:
        """Labels and calibrated probabilities of images: files of a form, base64 in JSON, or one image as the body."""
        names = exchange.repository.names
        if len(names) > 1:
            raise bad_request(f"several models are here; POST to /predict/NAME: {', '.join(names)}")
        request.state.model = names[0]
        return await _predict(request, exchange, settings.limits, names[0])

    @app.post("/predict/{model}", **predict_options)
    async def predict_by(request: Request, model: str) -> Predictions:
        """The same by one of several models."""
        return await _predict(request, exchange, settings.limits, model)


async def _predict(request: Request, exchange: Exchange, limits: Limits, name: str) -> Predictions:
    exchange.repository.get(name)  # before the body is read
    images = await images_in(request, limits)
    served, found = await exchange.predict(name, images, request.state.arrived, timeout_in(request))
    refusals = [each for each in found if isinstance(each, Refused)]
    if len(refusals) == len(found):
        raise refusals[0]
    few = default_top_k(len(served.bundle.labels))
    predictions = [_predicted(each, few) for each in found]
    return Predictions(model=served.name, version=served.version, predictions=predictions)


def _predicted(found: Prediction | Refused, few: int | None) -> PredictedImage:
    if isinstance(found, Refused):
        return PredictedImage(error=found.what)
    return PredictedImage(label=found.label, probability=found.probability, probabilities=likeliest(found, few))


async def images_in(request: Request, limits: Limits) -> list[bytes]:
    """The encoded images of a request to ``/predict``.

    Raises:
        Refused: none, or a body of another kind.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    body = await read_body(request, limits)
    if kind == "multipart/form-data":
        images = await files_in(body, request.headers, limits)
    elif kind == "application/json":
        given = parse_json(body).get("images")
        if not isinstance(given, list) or not all(isinstance(each, str) for each in given):
            raise bad_request('images must be a list of base64 strings: {"images": ["..."]}')
        images = [from_base64(each, f"image {place}") for place, each in enumerate(given)]
    elif kind.startswith("image/") or kind == "application/octet-stream":
        images = [body]
    else:
        what = f"the content type {kind!r} is none of multipart/form-data, application/json, image/*"
        raise Refused(Reason.UNSUPPORTED, what)
    if not images:
        raise bad_request("no image; send files as curl -F file=@photo.jpg does")
    return images


def timeout_in(request: Request) -> float | None:
    """Seconds that the client waits at most, by its header.

    Raises:
        Refused: no number above 0.
    """
    given = request.headers.get(TIMEOUT)
    if given is None:
        return None
    try:
        seconds = float(given)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise bad_request(f"{TIMEOUT} must be seconds above 0, not {given!r}")
    return seconds


def _add_control(app: FastAPI, exchange: Exchange) -> None:
    @app.post("/v2/repository/models/{model}/load", responses=_refusals(400, 404), tags=["control"])
    async def load(model: str) -> dict[str, str]:
        """Load a bundle anew from its folder; the one before answers until the new one passed its proof."""
        outcomes = await exchange.load(model)
        bad = [f"version {place.version}: {outcome.reason}" for place, outcome in outcomes if not outcome.good]
        if bad:
            raise bad_request("; ".join(bad))
        return {place.version: "READY" for place, _ in outcomes}

    @app.post("/v2/repository/models/{model}/unload", responses=_refusals(404), tags=["control"])
    async def unload(model: str) -> dict[str, str]:
        """Let a model end what it has, and answer nothing more."""
        exchange.repository.unload(model)
        return {}


def _refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: REFUSALS[status] for status in (401, *statuses)}
