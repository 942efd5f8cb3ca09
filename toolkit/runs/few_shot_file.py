"""``few_shot.json``: accuracy by method, shots and seed."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from toolkit.files import write_json

FEW_SHOT = "few_shot.json"


class SeedResult(BaseModel):
    """What a method reached with the images of one seed."""

    model_config = ConfigDict(extra="forbid")

    seed: int
    accuracy: float
    """On the test split."""
    validation_accuracy: float
    chosen: dict[str, float | str]
    """Hyperparameters that validation chose."""


class MethodResult(BaseModel):
    """A method with so many images a class."""

    model_config = ConfigDict(extra="forbid")

    method: str
    shots: int
    accuracy: float
    """Mean over the seeds, on the test split."""
    interval: tuple[float, float] | None
    """95 % interval of that mean over draws of training images (Student's t over the seeds); None of one seed."""
    validation_accuracy: float
    seconds: float
    """For all seeds."""
    seeds: list[SeedResult]


class FewShotFile(BaseModel):
    """Content of ``few_shot.json``."""

    model_config = ConfigDict(extra="forbid")

    encoder: str
    data: str
    data_fingerprint: str
    classes: list[str]
    images: dict[str, int]
    """Of every split."""
    templates: list[str]
    zero_shot: float | None
    """Accuracy of the text embeddings alone on the test split; None for an encoder without texts."""
    methods: dict[str, dict[str, str]]
    """By name, the ``rule`` of its hyperparameters and its ``source``."""
    results: list[MethodResult]
    best: dict[str, int | str]
    """Method, shots and seed of the run in ``best/``: highest mean validation accuracy, then the best seed by it."""
    seconds: dict[str, float]


def write_few_shot(folder: Path, content: FewShotFile) -> None:
    """Write the file into a folder."""
    write_json(folder / FEW_SHOT, content.model_dump(mode="json"))
