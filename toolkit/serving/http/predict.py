"""``POST /predict``: images in, labels and calibrated probabilities out, for people and for curl."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.routing import Route

from toolkit.runtime.examples import ImageText
from toolkit.serving.exchange import Exchange
from toolkit.serving.http.body import form_in, read_body, timeout_in
from toolkit.serving.http.direct import described
from toolkit.serving.http.refusals import described_refusals
from toolkit.serving.http.schemas import PredictedImage, Predictions, predict_body
from toolkit.serving.http.tensors import from_base64, parse_json
from toolkit.serving.limits import Limits
from toolkit.serving.predictor import Prediction, default_top_k, likeliest
from toolkit.serving.refusal import Reason, Refused, bad_request


def predict_routes(app: FastAPI, exchange: Exchange, limits: Limits) -> list[Route]:
    """Describe the endpoints and return the routes that lead to them."""
    description: dict[str, Any] = {
        "response_model": Predictions,
        "response_model_exclude_none": True,
        "responses": described_refusals(400, 404, 408, 413, 415, 429, 503, 504),
        "openapi_extra": {"requestBody": predict_body()},
        "tags": ["predict"],
    }

    async def predict(request: Request) -> Response:
        """Labels and calibrated probabilities of images: files of a form, base64 in JSON, or one image as the body.

        Texts go beside them, or alone, where the model takes texts: fields of the form named text, or texts in JSON.
        """
        names = exchange.repository.names
        if len(names) > 1:
            raise bad_request(f"several models are here; POST to /predict/NAME: {', '.join(names)}")
        request.state.model = names[0]
        return await _predict(request, exchange, limits, names[0])

    async def predict_by(request: Request, model: str) -> Response:
        """The same by one of several models."""
        return await _predict(request, exchange, limits, model)

    return [
        described(app, "/predict", predict, **description),
        described(app, "/predict/{model}", predict_by, **description),
    ]


async def _predict(request: Request, exchange: Exchange, limits: Limits, name: str) -> Response:
    exchange.repository.get(name)  # before the body is read
    images = await examples_in(request, limits)
    served, found = await exchange.predict(name, images, request.state.arrived, timeout_in(request))
    refusals = [each for each in found if isinstance(each, Refused)]
    if len(refusals) == len(found):
        raise refusals[0]
    few = default_top_k(len(served.bundle.labels))
    predictions = [_predicted(each, few) for each in found]
    said = Predictions(model=served.name, version=served.version, predictions=predictions)
    return Response(said.model_dump_json(exclude_none=True), media_type="application/json")


def _predicted(found: Prediction | Refused, few: int | None) -> PredictedImage:
    if isinstance(found, Refused):
        return PredictedImage(error=found.what)
    if found.value is not None:
        return PredictedImage(value=found.value)
    probabilities = likeliest(found, few)
    return PredictedImage(
        label=found.label, labels=found.labels, probability=found.probability, probabilities=probabilities
    )


async def examples_in(request: Request, limits: Limits) -> list[bytes] | list[ImageText]:
    """The encoded images of a request to ``/predict``, their texts if there are any, or texts alone.

    Raises:
        Refused: none, a body of another kind, or another number of texts than of images.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    body = await read_body(request, limits)
    texts: list[str] = []
    if kind == "multipart/form-data":
        images, texts = await form_in(body, request.headers, limits)
    elif kind == "application/json":
        content = parse_json(body)
        given, texts = content.get("images", []), content.get("texts", [])
        if not isinstance(given, list) or not all(isinstance(each, str) for each in given):
            raise bad_request('images must be a list of base64 strings: {"images": ["..."]}')
        if not isinstance(texts, list) or not all(isinstance(each, str) for each in texts):
            raise bad_request("texts must be a list of strings, one beside each image")
        images = [from_base64(each, f"image {place}") for place, each in enumerate(given)]
    elif kind.startswith("image/") or kind == "application/octet-stream":
        images = [body]
    else:
        what = f"the content type {kind!r} is none of multipart/form-data, application/json, image/*"
        raise Refused(Reason.UNSUPPORTED, what)
    if not images and not texts:
        raise bad_request("no image and no text; send files as curl -F file=@photo.jpg does")
    if images and texts and len(texts) != len(images):
        raise bad_request(f"{len(texts)} texts beside {len(images)} images")
    if not images:
        return [ImageText(None, text) for text in texts]
    return [ImageText(image, text) for image, text in zip(images, texts, strict=True)] if texts else images
