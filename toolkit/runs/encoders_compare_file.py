"""``encoders_compare.json``: what encoders reach with a linear probe on validation, and what they cost here."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from toolkit.files import write_json
from toolkit.runtime.latency_file import LatencyRow, Machine

ENCODERS_COMPARE = "encoders_compare.json"


class BehindBest(BaseModel):
    """What an encoder's accuracy falls short of the best one's by, both on the same images, as a share."""

    model_config = ConfigDict(extra="forbid")

    value: float
    interval: tuple[float, float]
    """95 %, paired (Newcombe, 1998); by group where the data has groups."""

    @property
    def told_apart(self) -> bool:
        """Whether the interval leaves out that both are as good."""
        return self.interval[0] > 0


class ComparedEncoder(BaseModel):
    """An encoder."""

    model_config = ConfigDict(extra="forbid")

    encoder: str
    family: str
    embedding: str
    """``projected``, or ``pooled`` where there is no projection."""
    embedding_size: int
    image_size: tuple[int, int]
    """[height, width] that its processor gives."""
    parameters: int
    """Of the image tower."""
    gflops: float | None
    """Of one image; None where no family describes the encoder."""
    graph_bytes: int
    """Of the exported graph in fp32: preprocessing, encoder and head."""
    strength: float
    """The probe's C: the inverse of its penalty."""
    accuracy: float
    """On validation."""
    interval: tuple[float, float]
    """95 %; by group where the data has groups."""
    behind_best: BehindBest | None
    """None of the best one itself."""
    latency: LatencyRow
    """Of the graph, an image at a time."""
    seconds: dict[str, float]
    """For ``encoding`` train and validation, and ``fitting`` the probe."""
    notes: list[str]
    """What was noted when it was loaded."""


class EncodersCompareFile(BaseModel):
    """Content of ``encoders_compare.json``."""

    model_config = ConfigDict(extra="forbid")

    data: str
    data_fingerprint: str
    classes: list[str]
    images: dict[str, int]
    """That were used: of ``train`` and ``validation``; the test split is left alone."""
    made: list[str]
    """Splits that the data doesn't make itself."""
    probe: str
    """How it is fitted, in words."""
    encoders: list[ComparedEncoder]
    """The most accurate first, of equals the faster one."""
    best: str
    """The first of them."""
    graph_input: str
    """What the graphs take: ``image``."""
    image_shape: tuple[int, int]
    """[height, width] of the images that latency is measured on, the most frequent of validation's."""
    machine: Machine

    def as_good_as_best(self) -> list[ComparedEncoder]:
        """The best one, and those that these images don't tell apart from it; the fastest first."""
        near = [each for each in self.encoders if each.behind_best is None or not each.behind_best.told_apart]
        return sorted(near, key=lambda each: each.latency.p50_ms)


def write_encoders_compare(folder: Path, content: EncodersCompareFile) -> None:
    """Write the file into a folder."""
    write_json(folder / ENCODERS_COMPARE, content.model_dump(mode="json"))
