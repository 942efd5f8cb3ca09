"""Find the first node of a graph whose output leaves the tolerance, and the PyTorch module that it stands for."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from PIL import Image

from export.graph.config import config_of
from export.graph.given import given
from export.graph.module_outputs import aligned, module_outputs, with_folded_scales
from export.graph.preprocessing import IMAGE, PIXEL_VALUES, RESCALED, RESIZED
from export.graph.subgraph import network_input, network_part, open_part, preprocessing_part, producers
from export.graph.tensor_names import LOGITS
from export.parity.float64 import in_float64
from export.parity.reference import Reference
from export.precision.fake_quant import largest_rounding
from export.precision.precision_reference import PrecisionReference
from toolkit.data.labelled_image import LabelledImage
from toolkit.models.processing import preprocess_from
from toolkit.runtime.inputs import Feed
from toolkit.runtime.preprocess import Preprocess
from toolkit.runtime.session import Session
from toolkit.sampling import evenly_spaced

IMAGES = 4
NOISE_MULTIPLE = 10
"""Less than parity's: the noise is measured on the very images that are compared."""
Values = npt.NDArray[Any]


@dataclass(frozen=True)
class Finding:
    """One tensor beside its reference."""

    node: str
    operator: str
    module: str
    """Of the classifier, or the image processor's method."""
    error: float
    """Largest difference; None stands for values that are no numbers."""
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether the difference is within the tolerance; NaN is not."""
        return self.error <= self.tolerance


def bisect(
    session: Session,
    model: onnx.ModelProto,
    preprocess: Preprocess,
    reference: Reference,
    samples: Sequence[LabelledImage],
) -> dict[str, Any]:
    """Compare all tensors that have a counterpart in PyTorch, in the order of computation.

    The network is fed with the reference's ``pixel_values``, so that one fault does not hide
    behind another. A tensor's tolerance is what PyTorch's fp32 differs from float64 there, times
    ``NOISE_MULTIPLE``; a graph in int8 is held against PyTorch with the same rounding, and a value may
    fall on the other side of a step.

    Args:
        session: the shipped graph, whose provider and threads are used.
        model: the same graph.
        preprocess: the bundle's, for a graph that takes ``pixel_values``.
        reference: the PyTorch side.
        samples: real images, of which a few are used.

    Returns:
        ``images``; ``tensors``, how many were compared; ``first_fault``, the first that left its
        tolerance, with ``node``, ``operator``, ``module``, ``error`` and ``tolerance``, or None;
        ``last_good``, the one before it; ``closest``, the one that comes nearest to its tolerance.
    """
    chosen = [samples[place] for place in evenly_spaced(len(samples), IMAGES)]
    findings: list[Finding] = []
    for part in (
        _preprocessing(session, model, preprocess, reference, chosen),
        _network(session, model, preprocess, reference, reference.inputs(chosen)),
    ):
        for finding in part:
            findings.append(finding)
            if not finding.passed:
                return _report(findings, len(chosen))
    return _report(findings, len(chosen))


def first_fault(report: dict[str, Any]) -> str:
    """The outcome of :func:`bisect` in a sentence."""
    fault, good = report["first_fault"], report["last_good"]
    if fault is None:
        return f"all {report['tensors']} tensors that PyTorch has too are within their tolerances"
    after = f"; the last that is right is {good['node']}" if good else ""
    error = "values that are no numbers" if fault["error"] is None else f"max |difference| {fault['error']:.2e}"
    return (
        f"the first node that leaves the tolerance is {fault['node']} ({fault['operator']}), PyTorch's "
        f"{fault['module']}: {error}, tolerance {fault['tolerance']:.2e}{after}"
    )


def _report(findings: Sequence[Finding], images: int) -> dict[str, Any]:
    fault = next((finding for finding in findings if not finding.passed), None)
    good = [finding for finding in findings if finding.passed]
    closest = max(good, key=lambda finding: finding.error / finding.tolerance if finding.tolerance else 0, default=None)
    return {
        "images": images,
        "tensors": len(findings),
        "first_fault": _as_json(fault),
        "last_good": _as_json(good[-1] if good else None),
        "closest": _as_json(closest),
    }


def _as_json(finding: Finding | None) -> dict[str, Any] | None:
    if finding is None:
        return None
    return asdict(finding) | {"error": finding.error if np.isfinite(finding.error) else None}


def _preprocessing(
    session: Session,
    model: onnx.ModelProto,
    preprocess: Preprocess,
    reference: Reference,
    samples: Sequence[LabelledImage],
) -> Iterator[Finding]:
    """Stage by stage, an image after the other; nothing may differ at all."""
    if not reference.takes_images:
        return
    trained, processor = preprocess_from(reference.processor), type(reference.processor).__name__
    tensors = {RESIZED: "center_crop" if trained.crop else "resize", RESCALED: "rescale", PIXEL_VALUES: "normalize"}
    by_tensor = producers(model)
    if session.input == IMAGE:
        tensors = {name: stage for name, stage in tensors.items() if name in by_tensor}
        part = open_part(preprocessing_part(model, list(tensors)), session)
    worst: dict[str, float] = {}
    for sample in samples:
        wanted = stages_of(trained, sample.decode())
        if session.input == IMAGE:
            pixels = np.asarray(preprocess.decoded(sample.read()))
            outputs = part.compute(list(tensors), {IMAGE: pixels[None]})
            given = {stage: output[0] for stage, output in zip(tensors.values(), outputs, strict=True)}
        else:
            given = stages_of(preprocess, preprocess.decoded(sample.read()))
        for stage, values in given.items():
            if stage not in wanted:
                continue
            worst[stage] = max(worst.get(stage, 0.0), _difference(values, wanted[stage]))
    for stage, error in worst.items():
        name = next((tensor for tensor, its_stage in tensors.items() if its_stage == stage), stage)
        node = by_tensor[name] if session.input == IMAGE else None
        yield Finding(
            node=node.name if node else f"preprocess.json: {stage}",
            operator=node.op_type if node else "Preprocess",
            module=f"{processor}.{stage}",
            error=error,
            tolerance=0.0,
        )


def stages_of(preprocess: Preprocess, image: Image.Image) -> dict[str, Values]:
    """An image after each stage, by the name of the image processor's method."""
    error_by_stage: dict[str, Values] = {"resize": np.asarray(preprocess.resized(image))}
    if preprocess.crop:
        error_by_stage["center_crop"] = preprocess.cropped(error_by_stage["resize"])
    if preprocess.rescale_factor is not None:
        error_by_stage["rescale"] = Preprocess(**preprocess.model_dump() | {"mean": None, "std": None})(image)
    return error_by_stage | {"normalize": preprocess(image)}


def _difference(ours: Values, theirs: Values) -> float:
    """Largest difference; infinite where even the shapes differ, or values are no numbers."""
    if ours.shape != theirs.shape:
        return float("inf")
    difference = np.abs(ours.astype(np.float64) - theirs)
    return float(difference.max()) if np.isfinite(difference).all() else float("inf")


def _network(
    session: Session,
    model: onnx.ModelProto,
    preprocess: Preprocess,
    reference: Reference,
    feed: Feed,
) -> Iterator[Finding]:
    """Every tensor with a counterpart, in the graph's order."""
    config = config_of(model).model_copy(update={"floats": "fp32"})  # a part of the graph knows no others
    own = PrecisionReference.of(reference.classifier, preprocess, config) if config.precision != "fp32" else None
    least = 0.0
    if own is not None and config.precision == "int8":  # beside PyTorch with the very same rounding
        single = module_outputs(own.classifier, given(own.classifier, feed), own=True)
        least = largest_rounding(own.classifier)
        double = given(own.classifier, feed, torch.float64)
        exact = module_outputs(copy.deepcopy(own.classifier).double(), double, own=True)
    else:
        plain = with_folded_scales(reference.classifier)
        single = module_outputs(plain if own is None else own.classifier, given(plain, feed))
        with in_float64(plain):
            exact = module_outputs(plain, given(plain, feed, torch.float64))
    by_tensor = producers(model)
    names = [name for name in by_tensor if name in exact]
    part = open_part(network_part(model, names), session)
    outputs = part.compute(names, network_input(model, preprocess, feed))
    for name, values in zip(names, outputs, strict=True):
        truth, rounded = aligned(exact[name], values.shape), aligned(single[name], values.shape)
        if truth is None or rounded is None:
            continue
        resolution = float(np.finfo(np.float32).eps) * float(truth.abs().max())
        floor = max(float((truth - rounded).abs().max()), resolution, least)
        node = by_tensor[name]
        yield Finding(
            node=node.name,
            operator=node.op_type,
            module=_module(name),
            error=_difference(values, truth.numpy()),
            tolerance=NOISE_MULTIPLE * floor,
        )


def _module(tensor: str) -> str:
    """The module whose work a tensor is."""
    name, _, part = tensor.partition("/")
    if tensor == LOGITS:
        return "head"
    if part == "input":  # what attention, or for a norm its layer, gives; the head takes the embedding
        return name.rpartition(".")[0] or "encoder"
    return name
