"""The configs that a run's network could ship in: floating-point, half with tensors kept in fp32, int8."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import Any

from export.graph.classifier_graph import build_graph
from export.graph.config import Floats, GraphConfig
from export.graph.quantization import Quantization
from export.graph.subgraph import producers
from export.precision.activation_ranges import matmul_inputs, observe
from export.precision.overflow import overflowing
from export.precision.trunk import (
    boundary_of,
    calibration_examples,
    config_of_trunk,
    in_trunk,
    network_batches,
    quantisable,
    trunk_graph,
)
from toolkit.models.processing import preprocess_from
from toolkit.models.text_inputs import text_inputs
from toolkit.progress import Progress
from toolkit.runs.finished_run import Run
from toolkit.runtime.openvino_library import OPENVINO
from toolkit.runtime.precision import SPECS, Precision
from toolkit.runtime.providers import STANDARD, runs_here


class ConfigMaker:
    """Makes the configs of graphs that a run's network could ship in.

    Args:
        run: a finished run.
        provider: that the graphs are to run on.
        threads: of the session that measures ranges.
        calibration_images: training images that ranges are measured on.
        progress: told what is measured.

    Raises:
        ToolkitError: there are fewer training images than asked for.
    """

    def __init__(
        self, run: Run, *, provider: str, threads: int | None, calibration_images: int | None, progress: Progress
    ) -> None:
        self.run, self.provider, self.threads, self.progress = run, provider, threads, progress
        self.preprocess = preprocess_from(run.processor)
        self.calibration = calibration_examples(run.data, calibration_images)
        self.texts = text_inputs(run.classifier.encoder)
        self._standard = provider in STANDARD
        self._patches_as_matmul = provider == "cuda" and run.trunk is None  # a trunk keeps the form it was learned on

    def base(self) -> list[GraphConfig]:
        """Those that don't leave layers float."""
        described = self.run.classifier.encoder.tower is not None
        known = [
            spec
            for spec in SPECS.values()
            if self.provider in spec.searched_on
            and runs_here(spec.name, self.provider)
            and (described or not spec.needs_description)
        ]
        rounded = self.int8() if SPECS["int8"] in known else []
        if self.run.trunk is not None:
            return rounded or [self.half_behind_trunk(self.run.trunk)]
        floating = [spec.name for spec in known if spec.name != "int8"]
        configs = [self.plain(each, keep_fp32=self.keep_fp32 if each == "fp16" else {}) for each in floating]
        return configs + rounded

    @cached_property
    def keep_fp32(self) -> dict[str, float]:
        """Tensors that come near fp16's largest number."""
        self.progress.stage("looking for activations that overflow fp16")
        batches = network_batches(self.preprocess, self.calibration, self.texts)
        return overflowing(self.run.classifier, batches, patches_as_matmul=self._patches_as_matmul)

    def plain(self, precision: Precision, keep_fp32: dict[str, float] | None = None) -> GraphConfig:
        """A config without integers."""
        return GraphConfig(
            precision=precision,
            keep_fp32=keep_fp32 or {},
            fuse_skip_layernorm=self.provider == "cuda" and precision != "int8",
            standard_ops_only=self._standard,
            # ONNX's Conv has no bf16 before opset 22, and OpenVINO computes in the types that the graph says
            patches_as_matmul=self._patches_as_matmul or (self.provider == OPENVINO and precision == "bf16"),
        )

    def rounded(self, quantization: Quantization, floats: Floats = "fp32") -> GraphConfig:
        """A config in int8, and the precision in which floats between the integers are computed."""
        return self.plain("int8").model_copy(update={"quantization": quantization, "floats": floats})

    def int8(self) -> list[GraphConfig]:
        """Static and dynamic, a scale a channel or a matrix, patches rounded or not."""
        trunk = self.run.trunk
        if trunk is not None:
            return self._forms_behind_trunk(trunk)
        matmuls = quantisable(self.run.classifier, self.preprocess, self._float_graph)
        whole, layers = tuple(matmuls), tuple(name for name in matmuls if name in matmul_inputs(self._float_graph))
        if self.provider == "tensorrt":  # it takes integers around zero alone, and no CPU adds them
            ranges = self._ranges(layers, symmetric=True)
            rounding = {"ranges": ranges, "pairs_fit": False, "symmetric": True}
            choices = [Quantization(matmuls=layers, per_channel=each, **rounding) for each in (True, False)]
            return [self.rounded(choice) for choice in choices]
        ranges = self._ranges(layers)
        choices = [
            Quantization(matmuls=whole, ranges=ranges),
            Quantization(matmuls=layers, ranges=ranges),
            Quantization(matmuls=whole, ranges=ranges, per_channel=False),
        ]
        if not self._standard:
            choices += [Quantization(matmuls=layers, activations="dynamic", per_channel=each) for each in (True, False)]
        choices = [choice for place, choice in enumerate(choices) if choice not in choices[:place]]
        floats: tuple[Floats, ...] = ("fp32",)
        if self.provider == OPENVINO and runs_here("bf16", OPENVINO):
            floats = ("bf16", "fp32")
        return [self.rounded(choice, kind) for choice in choices for kind in floats]

    def half_behind_trunk(self, trunk: dict[str, Any]) -> GraphConfig:
        """The trunk as it was learned on, and what learned behind it in half but for what would overflow."""
        config = config_of_trunk(trunk)
        inside = producers(trunk_graph(self.run.classifier, self.preprocess, trunk))
        behind = {name: largest for name, largest in self.keep_fp32.items() if name not in inside}
        return config.model_copy(update={"keep_fp32": config.keep_fp32 | behind})

    def _forms_behind_trunk(self, trunk: dict[str, Any]) -> list[GraphConfig]:
        """The trunk as it was learned on; the layers behind it rounded too, or float."""
        config = config_of_trunk(trunk)
        if config.precision != "int8":
            return []
        behind = boundary_of(self.run.classifier, trunk)
        matmuls = [
            name
            for name in quantisable(self.run.classifier, self.preprocess, self._float_graph)
            if name in matmul_inputs(self._float_graph) and not in_trunk(self.run.classifier, name, behind)
        ]
        fixed, ranges = config.quantization, self._ranges(matmuls)
        both = fixed.model_copy(update={"matmuls": (*fixed.matmuls, *matmuls), "ranges": fixed.ranges | ranges})
        return [self.rounded(both), self.rounded(fixed)] if matmuls else [self.rounded(fixed)]

    @cached_property
    def _float_graph(self) -> Any:
        return build_graph(
            self.run.classifier, self.preprocess, {}, "pixel_values", GraphConfig(fuse_skip_layernorm=False)
        )

    def _ranges(self, matmuls: Iterable[str], *, symmetric: bool = False) -> dict[str, tuple[float, float]]:
        self.progress.stage(f"measuring activations on {len(self.calibration)} training images")
        batches = network_batches(self.preprocess, self.calibration, self.texts)
        seen = observe(self._float_graph, matmuls, batches, threads=self.threads)
        return {name: observed.range(symmetric=symmetric) for name, observed in seen.items()}
