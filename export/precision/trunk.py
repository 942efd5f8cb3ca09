"""The frozen trunk in the precision that production will run it in, for the layers behind it to learn on.

What a run learned on is measured once, on training images, and kept in the run folder
(``trunk.json``): the rounding of every matmul, and the hash of the graph that it makes. The
export says the same trunk again and compares.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from export.graph.classifier_graph import build_graph
from export.graph.config import GraphConfig
from export.graph.grey_levels import fills_grid
from export.graph.preprocessing import PIXEL_VALUES
from export.graph.quantization import Quantization
from export.graph.subgraph import network_part, open_model
from export.graph.tensor_names import tensor_after
from export.precision.activation_ranges import matmul_inputs, observe
from export.precision.overflow import overflowing
from toolkit import __version__
from toolkit.data.labelled_image import LabelledImage
from toolkit.data.source import DataSource
from toolkit.errors import ToolkitError
from toolkit.models.classifier import Classifier
from toolkit.models.encoder import is_layer
from toolkit.models.families.traced import refuse_traced
from toolkit.models.text_inputs import TextInputs
from toolkit.runtime.inputs import Feed
from toolkit.runtime.preprocess import Preprocess
from toolkit.runtime.session import Session
from toolkit.sampling import evenly_spaced

CALIBRATION_IMAGES = 128
BATCH_SIZE = 4
"""All tensors of a batch are in memory together."""


class OnnxTrunk:
    """A trunk in ONNX Runtime: ``pixel_values`` [B, 3, height, width] -> what the first trainable group takes."""

    def __init__(self, content: dict[str, Any], session: Session, output: str, row: Sequence[int]) -> None:
        self._content, self.session, self._output, self._row = content, session, output, tuple(row)

    def __call__(self, pixel_values: Tensor) -> Tensor:
        """Activations in float32, on the device of ``pixel_values``."""
        given = np.ascontiguousarray(pixel_values.detach().cpu().numpy(), np.float32)
        (hidden,) = self.session.compute([self._output], {"pixel_values": given})
        return torch.from_numpy(hidden.reshape(len(given), *self._row)).to(pixel_values.device)

    def describe(self) -> dict[str, Any]:
        """What the trunk is: the content of ``trunk.json``."""
        return self._content


def measure_trunk(
    classifier: Classifier,
    preprocess: Preprocess,
    data: DataSource,
    precision: str,
    *,
    weight_bits: Literal[8, 4] = 8,
) -> dict[str, Any]:
    """Find how the frozen trunk is rounded.

    Args:
        classifier: whose groups before the first that learns are the trunk.
        preprocess: between images and ``pixel_values``.
        data: whose training images the ranges of the activations are measured on.
        precision: ``int8`` or ``fp16``.
        weight_bits: of the rounded weights.

    Returns:
        ``precision``, ``boundary`` (the first group that learns), ``config``, ``calibration_images``,
        ``toolkit_version``, ``graph_sha256``.

    Raises:
        ToolkitError: nothing of the trunk can be rounded, or the training images are all alike.
    """
    refuse_traced(classifier.encoder.family, precision)
    examples = calibration_examples(data)
    if precision == "int8":
        model = build_graph(classifier, preprocess, {}, "pixel_values", GraphConfig(fuse_skip_layernorm=False))
        of_trunk = [name for name in quantisable(classifier, preprocess, model) if in_trunk(classifier, name)]
        with_range = [name for name in of_trunk if name in matmul_inputs(model)]
        if not of_trunk:
            fix = "freeze layers too (model.unfreeze_last), or set training.trunk_precision=fp32"
            raise ToolkitError("the frozen trunk has no matmul to round", where="training.trunk_precision", fix=fix)
        seen = observe(model, with_range, network_batches(preprocess, examples))
        ranges = {name: observed.range() for name, observed in seen.items()}
        rounding = Quantization(matmuls=tuple(of_trunk), ranges=ranges, weight_bits=weight_bits)
        config = GraphConfig(precision="int8", quantization=rounding, fuse_skip_layernorm=False)
    else:
        keep_fp32 = overflowing(classifier, network_batches(preprocess, examples))
        config = GraphConfig(
            precision="fp16", keep_fp32=keep_fp32, fuse_skip_layernorm=False
        )  # a joined one reads weights that learn
    content: dict[str, Any] = {
        "precision": precision,
        "boundary": classifier.groups[classifier.boundary].name,
        "form": config.model_dump(mode="json"),
        "calibration_images": len(examples),
        "toolkit_version": __version__,
    }
    return content | {"graph_sha256": _sha256(trunk_graph(classifier, preprocess, content))}


def open_trunk(
    classifier: Classifier,
    preprocess: Preprocess,
    content: dict[str, Any],
    *,
    threads: int | None = None,
    provider: str = "cpu",
) -> OnnxTrunk:
    """Make the trunk that :func:`measure_trunk` found.

    Raises:
        ToolkitError: the classifier's frozen weights make another trunk than the one that is described.
    """
    graph = trunk_graph(classifier, preprocess, content)
    if _sha256(graph) != content["graph_sha256"]:
        raise ToolkitError(
            "the frozen trunk is not the one that the run learned on: its weights or its rounding changed, or this "
            f"version of the toolkit writes it otherwise than {content.get('toolkit_version', 'an older one')} did",
            where="trunk.json",
            fix="restore the run folder, or export with that version, or train again",
        )
    session = open_model(graph, provider=provider, threads=threads)
    stop = boundary_of(classifier, content)
    height, width = preprocess.output_size or (1, 1)
    with torch.no_grad():
        row = classifier(torch.zeros(1, 3, height, width, device=classifier.temperature.device), stop=stop).shape[1:]
    return OnnxTrunk(content, session, graph.graph.output[0].name, row)


def trunk_graph(classifier: Classifier, preprocess: Preprocess, content: dict[str, Any]) -> onnx.ModelProto:
    """From ``pixel_values`` to what the first trainable group takes."""
    config = config_of_trunk(content)
    group = classifier.groups[boundary_of(classifier, content) - 1]
    whole = build_graph(classifier, preprocess, {}, "pixel_values", config)
    return network_part(whole, [tensor_after(classifier, group)])


def config_of_trunk(content: dict[str, Any]) -> GraphConfig:
    """The config of the graph that the trunk in ``trunk.json`` is.

    Raises:
        ToolkitError: it is damaged.
    """
    try:
        config = GraphConfig.model_validate(content["form"])
        if config.precision != content["precision"]:
            raise ValueError(f"its precision is {content['precision']}, its config's {config.precision}")
        unknown = [name for name in config.quantization.matmuls if name not in config.quantization.ranges]
        if len(unknown) > 1:  # a patch embedding takes grey levels, which need none
            raise ValueError(f"the range of {unknown[0]} is missing")
    except ValueError as error:
        reason = str(error).splitlines()[0]
        fix = "copy the run again, or train again"
        raise ToolkitError(f"the trunk's description is damaged: {reason}", where="trunk.json", fix=fix) from error
    return config


def boundary_of(classifier: Classifier, content: dict[str, Any]) -> int:
    """Place of the first group that learned."""
    names = [group.name for group in classifier.groups]
    if content["boundary"] not in names:
        what, fix = f"the trunk ends at {content['boundary']!r}, no group of the encoder", "copy the run again"
        raise ToolkitError(what, where="trunk.json", fix=fix)
    return names.index(content["boundary"])


def in_trunk(classifier: Classifier, matmul: str, boundary: int | None = None) -> bool:
    """Whether a matmul belongs to the groups before the first that learns."""
    groups = classifier.groups[: classifier.boundary if boundary is None else boundary]
    frozen = {module for group in groups for module in group.modules}
    names = [name for name, module in classifier.named_modules() if module in frozen]
    return any(matmul.startswith(f"{name}.") for name in names)


def quantisable(classifier: Classifier, preprocess: Preprocess, model: onnx.ModelProto) -> list[str]:
    """Names of the matmuls that may be rounded: the layers', and the patch embedding's.

    The head, the projection and the pooling in front of it are small and stay float.
    """
    layers = {module for group in classifier.groups if is_layer(group.name) for module in group.modules}
    prefixes = tuple(f"{name}." for name, module in classifier.named_modules() if module in layers)
    convolutions = [
        name
        for name, module in classifier.encoder.named_modules(prefix="encoder")
        if isinstance(module, nn.Conv2d) and fills_grid(module, preprocess)
    ]
    return convolutions + [name for name in matmul_inputs(model) if name.startswith(prefixes)]


def calibration_examples(data: DataSource, count: int | None = None) -> list[LabelledImage]:
    """Training images that ranges are measured on, spread over the split.

    Raises:
        ToolkitError: fewer than ``count``.
    """
    members = data.splits["train"]
    if count is not None and len(members) < count:
        what = f"{count} calibration images were asked for, but there are {len(members)} training images"
        raise ToolkitError(what, where="--calibration-images", fix=f"give {len(members)} or fewer")
    return [members[place] for place in evenly_spaced(len(members), count or CALIBRATION_IMAGES)]


def network_batches(
    preprocess: Preprocess, examples: Sequence[LabelledImage], texts: TextInputs | None = None
) -> Iterator[Feed]:
    """What a network takes: ``pixel_values`` [batch, 3, height, width] of images, tokens of texts, or both."""
    for first in range(0, len(examples), BATCH_SIZE):
        part = examples[first : first + BATCH_SIZE]
        images = texts is None or not texts.alone
        feed = {PIXEL_VALUES: np.stack([preprocess(example.decode()) for example in part])} if images else {}
        tokens = {} if texts is None else texts([example.text for example in part])
        yield {**feed, **{name: rows.numpy() for name, rows in tokens.items()}}


def _sha256(model: onnx.ModelProto) -> str:
    return hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()
