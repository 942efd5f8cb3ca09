"""What the endpoints take and give, for the OpenAPI description."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field


class Error(BaseModel):
    """A refusal."""

    error: str = Field(description="What is wrong and what to do.")


class PredictedImage(BaseModel):
    """What is said of an image; of one that can't be read, why."""

    label: str | None = None
    labels: list[str] | None = Field(
        None, description="All that are said, of a model that may say several; label is the most probable one then."
    )
    probability: float | None = Field(None, description="Of the label, calibrated.")
    probabilities: dict[str, float] | None = None
    value: float | None = Field(None, description="The number, of a model that predicts one, in place of the others.")
    error: str | None = None


class Predictions(BaseModel):
    """Predictions in the order of the images."""

    model: str
    version: str
    predictions: list[PredictedImage]


class ProvenBundle(BaseModel):
    """Of parity, what the page says."""

    provider: str = Field(description="On which it was proven.")
    passed: bool
    images: int | None = None
    max_abs_logit: float | None = Field(None, description="Largest difference of a logit to PyTorch's.")
    tolerance: float
    top1_agreement: float | None = None


class PageModel(BaseModel):
    """What answers the page."""

    name: str
    version: str
    classes: int
    precision: str
    provider: str
    threads: int
    sessions: int
    takes: str = Field(description="The graph's first input: image, pixel_values, or input_ids of texts alone.")
    takes_text: bool = Field(description="Whether it takes texts.")
    takes_image: bool = Field(description="Whether it takes images.")
    takes_missing: bool = Field(description="Whether image or text may be missing.")
    height: int = Field(description="Of the image as the network sees it, in pixels.")
    width: int
    temperature: float = Field(
        description="That logits are divided by for calibrated probabilities; of one for each label, their median."
    )
    golden: int = Field(description="Golden examples.")
    golden_texts: list[str] | None = Field(None, description="Their texts, of a model that takes some.")
    parity: ProvenBundle | None = None


class Picture(BaseModel):
    """An image to show."""

    width: int = Field(description="Before it was made smaller to be shown.")
    height: int
    png: str = Field(description="A PNG in base64.", json_schema_extra={"format": "byte"})


class RankedClass(BaseModel):
    """A class and its calibrated probability; in a list, since objects of JavaScript sort names that are numbers."""

    label: str
    probability: float


class PredictedForPage(BaseModel):
    """A prediction, and how it came about."""

    label: str
    labels: list[str] | None = Field(None, description="All that are said, of a model that may say several.")
    value: float | None = Field(None, description="The number, of a model that predicts one; label is empty then.")
    probability: float | None = Field(description="Of the label; null of a number.")
    classes: list[RankedClass] = Field(description="The label, then the likeliest of the others.")
    milliseconds: dict[str, float] = Field(description="By stage: decode (of an image), preprocess, network.")
    image: Picture | None = Field(None, description="As decoded, upright; null without an image.")
    seen: Picture | None = Field(None, description="After resize and crop.")
    precision: str


class Health(BaseModel):
    """Whether the server is alive or ready, and of what isn't, why."""

    live: bool = True
    ready: bool
    models: dict[str, str] = Field({}, description="Versions that don't answer, and why.")


class IndexEntry(BaseModel):
    """A version of a model."""

    name: str
    version: str
    state: str
    reason: str


class TensorMetadata(BaseModel):
    """An input or output."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(BaseModel):
    """A model's inputs and outputs."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]
    properties: dict[str, str]


class ServerMetadata(BaseModel):
    """The server."""

    name: str
    version: str
    extensions: list[str]


class ModelReady(BaseModel):
    """Whether a model answers."""

    name: str
    ready: bool


class InferenceAnswer(BaseModel):
    """An answer of the Open Inference Protocol."""

    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[dict[str, Any]]


IMAGE_FILE = {"type": "string", "format": "binary"}


def predict_body(*, texts: bool = False, images: bool = True) -> dict[str, Any]:
    """The ``requestBody`` of ``/predict``.

    Args:
        texts: whether some model takes texts.
        images: whether every model takes images.
    """
    files = {"type": "array", "minItems": 1, "items": IMAGE_FILE}
    encoded = {"type": "string", "format": "byte", "description": "A file in base64."}
    said = {"type": "string", "description": "A text beside each image, or alone, for a model that takes texts."}
    several = {"type": "array", "minItems": 1, "items": said}
    form = _fields("file", files, "text" if texts else None, several, images=images)
    content = _fields(
        "images", {"type": "array", "minItems": 1, "items": encoded}, "texts" if texts else None, several, images=images
    )
    kinds = {"multipart/form-data": form | {"additionalProperties": False}, "application/json": content}
    kinds |= {"image/png": IMAGE_FILE, "image/jpeg": IMAGE_FILE} if images else {}
    return {"required": True, "content": {kind: {"schema": schema} for kind, schema in kinds.items()}}


def _fields(image: str, of_image: Any, text: str | None, of_text: Any, *, images: bool) -> dict[str, Any]:
    """An object of images, of texts, or of both."""
    properties = {image: of_image} | ({text: of_text} if text else {})
    needed: dict[str, Any] = {"required": [image]}
    if not images:
        needed = {"anyOf": [{"required": [name]} for name in properties]}
    return {"type": "object", "properties": properties} | needed


def infer_body(*, texts: bool = False) -> dict[str, Any]:
    """The ``requestBody`` of an inference request; ``texts`` says whether some model takes texts."""
    return {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["inputs"],
                    "properties": {
                        "id": {"type": "string"},
                        "parameters": {"type": "object"},
                        "inputs": {
                            "type": "array",
                            "minItems": 1,
                            "maxItems": 1 + texts,
                            "items": {
                                "type": "object",
                                "required": ["name", "datatype", "shape"],
                                "properties": {
                                    "name": {"type": "string"},
                                    "datatype": {"enum": ["BYTES", "UINT8", "FP32"]},
                                    "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
                                    "parameters": {"type": "object"},
                                    "data": {"type": "array"},
                                },
                            },
                        },
                        "outputs": {
                            "type": "array",
                            "items": {
                                "type": "object",
                                "required": ["name"],
                                "properties": {"name": {"type": "string"}, "parameters": {"type": "object"}},
                            },
                        },
                    },
                }
            },
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    }
