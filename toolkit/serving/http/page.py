"""The page of ``toolkit app``: its files, and what it asks for."""

from __future__ import annotations

import asyncio
import base64
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import FastAPI, Request, Response
from fastapi.responses import RedirectResponse
from PIL import Image

from toolkit.errors import ToolkitError
from toolkit.runtime.examples import ImageText
from toolkit.runtime.inputs import TEXT
from toolkit.serving.exchange import Exchange
from toolkit.serving.http.body import form_in, read_body
from toolkit.serving.http.schemas import Error, PageModel, Picture, PredictedForPage, ProvenBundle, RankedClass
from toolkit.serving.limits import Limits
from toolkit.serving.predictor import Prediction
from toolkit.serving.refusal import Reason, Refused, bad_request
from toolkit.serving.served_model import ServedModel

FILES = Path(__file__).parent / "page_files"
MEDIA = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Nothing that a label or a file name holds can run, and nothing is fetched from elsewhere."""
HEADERS = {"content-security-policy": POLICY, "x-content-type-options": "nosniff", "cache-control": "no-store"}
LARGEST = 512
"""Pixels of the longer side of an image as decoded."""
SMALL = 160
"""Of a golden image in the row of examples."""
FEW = 5
"""Classes that get a bar."""
FORM = "multipart/form-data"
FILE: dict[str, Any] = {"type": "string", "format": "binary"}
BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/octet-stream": {"schema": FILE},
            FORM: {
                "schema": {
                    "type": "object",
                    "properties": {"file": FILE, TEXT: {"type": "string"}},
                    "anyOf": [{"required": ["file"]}, {"required": [TEXT]}],
                    "additionalProperties": False,
                }
            },
        },
    }
}


def add_page(app: FastAPI, exchange: Exchange, limits: Limits) -> None:
    """Add the page at ``/app/``, over the first of the models."""
    alone = asyncio.Lock()
    name = exchange.repository.names[0]
    refusals: dict[int | str, dict[str, Any]] = {
        reason.http: {"model": Error, "description": reason.name.replace("_", " ").capitalize()} for reason in Reason
    }

    @app.get("/app", include_in_schema=False)
    async def without_stroke() -> Response:
        return RedirectResponse("/app/")

    for path in sorted(FILES.iterdir()):
        _add_file(app, "/app/" if path.name == "index.html" else f"/app/{path.name}", path)

    @app.get("/app/model", response_model=PageModel, responses=refusals, tags=["page"])
    async def model() -> PageModel:
        """What the bundle is, and how it was proven."""
        return _described(exchange.repository.get(name))

    @app.get("/app/golden/{place}", response_class=Response, responses=refusals, tags=["page"])
    async def golden(place: int) -> Response:
        """A golden image, or the text of a bundle of texts alone, its file as it is."""
        content = _golden(exchange.repository.get(name), place)
        return Response(content, headers=HEADERS, media_type="application/octet-stream")

    @app.get("/app/golden/{place}/small", response_class=Response, responses=refusals, tags=["page"])
    async def small(place: int) -> Response:
        """A golden image as a small PNG."""
        served = exchange.repository.get(name)
        content = _golden(served, place)
        png = await asyncio.to_thread(lambda: _png(served.decoded(content), SMALL))
        return Response(png, headers=HEADERS, media_type="image/png")

    @app.post(
        "/app/predict",
        response_model=PredictedForPage,
        response_model_exclude_none=True,
        responses=refusals,
        openapi_extra=BODY,
        tags=["page"],
    )
    async def predict(request: Request) -> PredictedForPage:
        """Predict the image that is the body, or image and text of a form.

        Beside the prediction stand the time of each stage and the image as the network sees it.
        """
        request.state.model = name
        example = await _example_in(request, limits)
        async with alone:  # the stages of one image are not those of two
            served, found = await exchange.predict_by_stage(name, example, request.state.arrived)
        pictures = await asyncio.to_thread(lambda: (_picture(found.image, LARGEST), _picture(found.seen)))
        return PredictedForPage(
            label=found.prediction.label,
            labels=found.prediction.labels,
            value=found.prediction.value,
            probability=found.prediction.probability if found.prediction.value is None else None,
            classes=_ranked(found.prediction),
            milliseconds={stage: 1000 * seconds for stage, seconds in found.seconds.items()},
            image=pictures[0],
            seen=pictures[1],
            precision=served.batcher.pool.precision,
        )


def _add_file(app: FastAPI, url: str, path: Path) -> None:
    content, media = path.read_bytes(), MEDIA[path.suffix]

    @app.get(url, include_in_schema=False)
    async def file() -> Response:
        return Response(content, headers=HEADERS, media_type=media)


async def _example_in(request: Request, limits: Limits) -> ImageText:
    """The image that is the body, or the one image and the one text of a form, of which one may be missing."""
    body = await read_body(request, limits)
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != FORM:
        return ImageText(body, None)
    images, texts = await form_in(body, request.headers, limits)
    if len(images) > 1 or len(texts) > 1 or not images + texts:
        raise bad_request(f"{len(images)} files and {len(texts)} texts; give one file, one text, or one of each")
    return ImageText(next(iter(images), None), next(iter(texts), None))


def _described(model: ServedModel) -> PageModel:
    bundle, session = model.bundle, model.batcher.pool.sessions[0]
    precision = model.batcher.pool.precision
    with _reading(model):
        results, temperature = bundle.parity_results.get(precision, {}), bundle.temperature(precision)
        golden = bundle.golden()
    proven_on = session.provider if session.provider in results else next(iter(results), None)
    height, width = bundle.preprocess.output_size or (0, 0)
    return PageModel(
        name=model.name,
        version=model.version,
        classes=len(bundle.labels),
        precision=precision,
        provider=session.provider,
        threads=session.threads,
        sessions=len(model.batcher.pool.sessions),
        takes=model.inputs,
        takes_text=model.takes_text,
        takes_image=model.takes_image,
        takes_missing=model.takes_missing,
        height=height,
        width=width,
        temperature=float(np.median(temperature)),
        golden=len(golden.names),
        golden_texts=golden.texts,
        parity=None if proven_on is None else ProvenBundle(provider=proven_on, **_entry(results[proven_on])),
    )


def _entry(entry: dict[str, Any]) -> dict[str, Any]:
    return {key: entry.get(key) for key in ProvenBundle.model_fields if key != "provider"}


def _ranked(prediction: Prediction) -> list[RankedClass]:
    others = sorted(prediction.probabilities.items(), key=lambda pair: (pair[0] != prediction.label, -pair[1]))
    return [RankedClass(label=label, probability=probability) for label, probability in others[:FEW]]


def _golden(model: ServedModel, place: int) -> bytes:
    """A golden image's file.

    Raises:
        Refused: there are fewer.
    """
    with _reading(model):
        names = model.bundle.golden().names
        if not 0 <= place < len(names):
            raise Refused(Reason.NOT_FOUND, f"no golden image {place}; there are {len(names)}, counted from 0")
        return model.bundle.read(f"golden/{names[place]}")


@contextmanager
def _reading(model: ServedModel) -> Iterator[None]:
    """Say so where the folder is no longer the bundle that answers."""
    try:
        yield
    except (ToolkitError, OSError) as error:
        what = f"the bundle's folder changed since it was loaded ({error}); load it anew: kill -HUP {os.getpid()}"
        raise Refused(Reason.UNAVAILABLE, " ".join(what.split())) from error


def _png(image: Image.Image, longest: int | None = None) -> bytes:
    """An image as a PNG, its longer side no longer than some pixels."""
    shown = image.copy()
    if longest is not None:
        shown.thumbnail((longest, longest))
    content = io.BytesIO()
    shown.save(content, "PNG")
    return content.getvalue()


def _picture(image: Image.Image | None, longest: int | None = None) -> Picture | None:
    if image is None:
        return None
    return Picture(width=image.width, height=image.height, png=base64.b64encode(_png(image, longest)).decode("ascii"))
