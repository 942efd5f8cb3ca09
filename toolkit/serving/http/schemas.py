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
    takes: str = Field(description="The graph's input: image or pixel_values.")
    height: int = Field(description="Of the image as the network sees it, in pixels.")
    width: int
    temperature: float = Field(
        description="That logits are divided by for calibrated probabilities; of one for each label, their median."
    )
    golden: int = Field(description="Golden images.")
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
    milliseconds: dict[str, float] = Field(description="By stage: decode, preprocess, network.")
    image: Picture = Field(description="As decoded, upright.")
    seen: Picture = Field(description="After resize and crop.")
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
IMAGES_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "additionalProperties": False,
                    "properties": {"file": {"type": "array", "minItems": 1, "items": IMAGE_FILE}},
                }
            },
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["images"],
                    "properties": {
                        "images": {
                            "type": "array",
                            "minItems": 1,
                            "items": {"type": "string", "format": "byte", "description": "A file in base64."},
                        }
                    },
                }
            },
            "image/png": {"schema": IMAGE_FILE},
            "image/jpeg": {"schema": IMAGE_FILE},
        },
    }
}
"""The body of ``/predict``."""
INFER_BODY: dict[str, Any] = {
    "requestBody": {
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
                            "maxItems": 1,
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
}
"""The body of an inference request."""
