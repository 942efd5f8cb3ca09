"""Forms that a run's network could ship in, measured on validation images before one is chosen."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Any

import numpy as np
import torch

from export.graph.classifier_graph import build_graph
from export.graph.config import GraphConfig
from export.graph.quantization import Quantization
from export.graph.subgraph import open_model, producers
from export.graph.tensor_names import TensorNames
from export.parity.agreement import agreement, changes
from export.parity.reference import Reference, groups_of, spread
from export.precision.activation_ranges import matmul_inputs, observe
from export.precision.overflow import overflowing
from export.precision.trunk import (
    boundary_of,
    calibration_examples,
    config_of_trunk,
    in_trunk,
    pixel_batches,
    quantisable,
    trunk_graph,
)
from toolkit.data.source import LabelledImage
from toolkit.errors import ToolkitError
from toolkit.metrics.intervals import Drop, images_needed, paired_drop
from toolkit.models.families.traced import refuse_traced
from toolkit.models.processing import preprocess_from
from toolkit.progress import SILENT, Progress
from toolkit.runs.finished_run import Run
from toolkit.runtime.inputs import Feed, part_of
from toolkit.runtime.preprocess import Float32
from toolkit.runtime.session import Precision, Session

VALIDATION_IMAGES = 256
"""Validation images that forms are compared on unless a budget needs more."""
MOST_VALIDATION_IMAGES = 1500
GOOD_AGREEMENT = 0.995
"""Top-1 agreement with fp32 that needs no further search."""
BATCH_SIZE = 32
RANKING_IMAGES = 64
"""Validation images on which layers are ranked by what their rounding costs."""
WORTHWHILE = 1e-4
"""Negative log-likelihood that another temperature has to save."""


class PrecisionSearch:
    """Makes forms of a run's network and measures them on validation images."""

    def __init__(
        self,
        run: Run,
        *,
        provider: str,
        threads: int | None,
        calibration_images: int | None = None,
        validation_images: int = VALIDATION_IMAGES,
        progress: Progress = SILENT,
    ) -> None:
        """Read the images.

        Args:
            run: a finished run.
            provider: that the forms are to run on.
            threads: of sessions.
            calibration_images: training images that ranges are measured on.
            validation_images: those that forms are compared on, where there are as many.
            progress: told how it goes on.

        Raises:
            ToolkitError: there are fewer training images than asked for.
        """
        if provider == "tensorrt" and run.trunk is not None:
            what = f"the run's trunk in {run.trunk['precision']} is made of ONNX Runtime's operators"
            raise ToolkitError(
                what, where="--provider tensorrt", fix="export for cpu or cuda, or train on an fp32 trunk"
            )
        self.run, self.provider, self.threads, self.progress = run, provider, threads, progress
        self.preprocess, self.reference = preprocess_from(run.processor), Reference(run)
        self.calibration = calibration_examples(run.data, calibration_images)
        self.validation_images = validation_images
        self.tried: list[dict[str, Any]] = []
        self._standard = provider == "tensorrt"
        self._known: dict[str, tuple[dict[str, Any], Float32]] = {}

    def form(self, precision: Precision) -> GraphConfig:
        """The best form of a precision, by measurement where there is a choice.

        Raises:
            ToolkitError: the run's trunk is fixed in another precision.
        """
        self.run.require_trunk(precision)
        refuse_traced(self.run.classifier.encoder.family, precision)
        if precision == "int8":
            return self._int8()
        if self.run.trunk is not None:
            return self._half_behind_trunk(self.run.trunk)
        if precision == "fp16":
            return self._plain("fp16", keep_fp32=self.keep_fp32)
        return self._plain(precision)

    def all_forms(self) -> list[GraphConfig]:
        """Everything that the provider might run well, the safest first."""
        forms = self.base_forms()
        rounded = [form for form in forms if form.precision == "int8"]
        return forms + (list(self._less_rounded(rounded[0])) if rounded and self.run.trunk is None else [])

    def base_forms(self) -> list[GraphConfig]:
        """Those that don't leave layers float."""
        floating: dict[str, tuple[Precision, ...]] = {
            "cpu": ("fp32",),
            "cuda": ("fp32", "fp16", "bf16"),
            "tensorrt": ("fp32", "fp16"),
        }
        described = self.run.classifier.encoder.tower is not None
        rounded = self._int8_forms() if self.provider != "cuda" and described else []
        if self.run.trunk is not None:
            return rounded or [self._half_behind_trunk(self.run.trunk)]
        known = [each for each in floating[self.provider] if described or each != "bf16"]
        forms = [self._plain(each, keep_fp32=self.keep_fp32 if each == "fp16" else {}) for each in known]
        return forms + rounded

    def figures(self, form: GraphConfig) -> dict[str, Any]:
        """What a form gives on the validation images; noted among those that were tried."""
        return self._measured(form)[0]

    def calibrated(self, form: GraphConfig) -> tuple[GraphConfig, dict[str, Any] | None]:
        """The form with a temperature of its own, where that makes validation likelier, and what it saves."""
        if form.precision == "fp32" or not np.isfinite(self._measured(form)[1]).all():
            return form, None
        logits, labels = torch.from_numpy(self._measured(form)[1]), torch.tensor(self.labels)
        before = float(self.run.classifier.temperature)
        # the run's own was fitted on all of validation: what the same few images say of both forms corrects it
        task = self.run.classifier.task
        fitted, own = (task.temperature(each, labels, before) for each in (logits, torch.from_numpy(self.expected)))
        after = before * fitted / own

        def nll(temperature: float) -> float:
            return float(task.scores(logits.double(), labels, temperature).metrics(["nll"])["nll"])

        found = {
            "images": len(labels),
            "before": before,
            "fitted": after,
            "nll_before": nll(before),
            "nll_fitted": nll(after),
        }
        kept = found["nll_before"] - found["nll_fitted"] > WORTHWHILE
        return form.model_copy(update={"temperature": after}) if kept else form, found | {"kept": kept}

    def accuracy_drop(self, form: GraphConfig) -> Drop:
        """Share of accuracy that a form loses against PyTorch in fp32, both on the same validation images."""
        answers = np.array(self.labels)
        before, after = (
            self.run.classifier.task.decision.decide(logits) == answers
            for logits in (self.expected, np.nan_to_num(self._measured(form)[1]))
        )
        return paired_drop(before, after, groups_of(self.examples))

    @cached_property
    def examples(self) -> list[LabelledImage]:
        """Validation images that forms are compared on."""
        members = self.run.data.splits["validation"]
        return [members[place] for place in spread(len(members), self.validation_images)]

    @property
    def labels(self) -> list[int]:
        """Of these."""
        return [example.label for example in self.examples]

    @cached_property
    def _inputs(self) -> Feed:
        parts = list(pixel_batches(self.preprocess, self.examples))
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    @cached_property
    def expected(self) -> Float32:
        """The reference's logits of the validation images."""
        return self.reference.logits(self._inputs)

    @cached_property
    def keep_fp32(self) -> dict[str, float]:
        """Tensors that come near fp16's largest number."""
        self.progress.stage("looking for activations that overflow fp16")
        return overflowing(self.run.classifier, pixel_batches(self.preprocess, self.calibration))

    def _plain(self, precision: Precision, keep_fp32: dict[str, float] | None = None) -> GraphConfig:
        return GraphConfig(
            precision=precision,
            keep_fp32=keep_fp32 or {},
            fuse_skip_layernorm=precision != "int8" and not self._standard,
            standard_ops_only=self._standard,
        )

    def _rounded(self, quantization: Quantization) -> GraphConfig:
        return self._plain("int8").model_copy(update={"quantization": quantization})

    def _int8(self) -> GraphConfig:
        """The first form that agrees well enough, else the best one, its worst layers left float until it does."""
        best, *others = self._int8_forms()
        if self.figures(best)["top1_agreement"] >= GOOD_AGREEMENT:
            return best
        if self.run.trunk is not None:
            return others[0] if others else best
        for form in others:
            if self._better(form, best):
                best = form
            if self.figures(best)["top1_agreement"] >= GOOD_AGREEMENT:
                return best
        return self._with_float_layers(best)

    def _better(self, form: GraphConfig, than: GraphConfig) -> bool:
        ours, theirs = self.figures(form), self.figures(than)
        key = ("top1_agreement", "mean_abs_logit")
        return (ours[key[0]], -ours[key[1]]) > (theirs[key[0]], -theirs[key[1]])

    def _with_float_layers(self, form: GraphConfig) -> GraphConfig:
        """Leave the layers float whose rounding costs most, up to half of them, until agreement is good."""
        best = form
        for candidate in self._less_rounded(form):
            if self._better(candidate, best):
                best = candidate
            if self.figures(best)["top1_agreement"] >= GOOD_AGREEMENT:
                break
        return best

    def _less_rounded(self, form: GraphConfig) -> Iterator[GraphConfig]:
        """The form with ever more layers left float, those first whose rounding costs most."""
        by_layer: dict[str, set[str]] = {}
        names = TensorNames(self.run.classifier)
        for matmul in form.quantization.matmuls:
            by_layer.setdefault(names.block_of(matmul), set()).add(matmul)
        some = spread(len(self.labels), RANKING_IMAGES)
        feed, expected = part_of(self._inputs, some), self.expected[some]
        errors = {}
        for layer, matmuls in by_layer.items():
            self.progress.stage(f"leaving {layer.rpartition('model.')[2]} float")
            session = self.session(self._rounded(form.quantization.without(matmuls)))
            logits = session.run_batches(feed, BATCH_SIZE)["logits"]
            errors[layer] = float(np.abs(logits - expected).mean())
        left: set[str] = set()
        for layer in sorted(errors, key=lambda name: errors[name])[: len(errors) // 2]:
            left |= by_layer[layer]
            yield self._rounded(form.quantization.without(left))

    def _int8_forms(self) -> list[GraphConfig]:
        """Static and dynamic, a scale a channel or a matrix, patches rounded or not."""
        trunk = self.run.trunk
        if trunk is not None:
            return self._forms_behind_trunk(trunk)
        matmuls = quantisable(self.run.classifier, self.preprocess, self._float_graph)
        if self._standard:  # TensorRT takes convolutions and integers around zero
            layers = tuple(name for name in matmuls if name in matmul_inputs(self._float_graph))
            ranges = self._ranges(layers, symmetric=True)
            return [
                self._rounded(
                    Quantization(
                        matmuls=layers, ranges=ranges, pairs_fit=False, symmetric=True, per_channel=per_channel
                    )
                )
                for per_channel in (True, False)
            ]
        whole, layers = tuple(matmuls), tuple(name for name in matmuls if name in matmul_inputs(self._float_graph))
        ranges = self._ranges(layers)
        choices = [
            Quantization(matmuls=whole, ranges=ranges),
            Quantization(matmuls=layers, ranges=ranges),
            Quantization(matmuls=whole, ranges=ranges, per_channel=False),
            Quantization(matmuls=layers, activations="dynamic"),
            Quantization(matmuls=layers, activations="dynamic", per_channel=False),
        ]
        return [self._rounded(choice) for place, choice in enumerate(choices) if choice not in choices[:place]]

    def _half_behind_trunk(self, trunk: dict[str, Any]) -> GraphConfig:
        """The trunk as it was learned on, and what learned behind it in half but for what would overflow."""
        form = config_of_trunk(trunk)
        inside = producers(trunk_graph(self.run.classifier, self.preprocess, trunk))
        behind = {name: largest for name, largest in self.keep_fp32.items() if name not in inside}
        return form.model_copy(update={"keep_fp32": form.keep_fp32 | behind})

    def _forms_behind_trunk(self, trunk: dict[str, Any]) -> list[GraphConfig]:
        """The trunk as it was learned on; the layers behind it rounded too, or float."""
        form = config_of_trunk(trunk)
        if form.precision != "int8":
            return []
        behind = boundary_of(self.run.classifier, trunk)
        matmuls = [
            name
            for name in quantisable(self.run.classifier, self.preprocess, self._float_graph)
            if name in matmul_inputs(self._float_graph) and not in_trunk(self.run.classifier, name, behind)
        ]
        fixed, ranges = form.quantization, self._ranges(matmuls)
        both = fixed.model_copy(update={"matmuls": (*fixed.matmuls, *matmuls), "ranges": fixed.ranges | ranges})
        return [self._rounded(both), self._rounded(fixed)] if matmuls else [self._rounded(fixed)]

    @cached_property
    def _float_graph(self) -> Any:
        return build_graph(
            self.run.classifier, self.preprocess, {}, "pixel_values", GraphConfig(fuse_skip_layernorm=False)
        )

    def _ranges(self, matmuls: Iterable[str], *, symmetric: bool = False) -> dict[str, tuple[float, float]]:
        self.progress.stage(f"measuring activations on {len(self.calibration)} training images")
        batches = pixel_batches(self.preprocess, self.calibration)
        seen = observe(self._float_graph, matmuls, batches, threads=self.threads)
        return {name: observed.range(symmetric=symmetric) for name, observed in seen.items()}

    def _measured(self, form: GraphConfig) -> tuple[dict[str, Any], Float32]:
        """Figures and logits; each form is run once."""
        key = form.model_copy(update={"temperature": None}).model_dump_json()
        if key not in self._known:
            self.progress.stage(f"trying {in_words(form)}")
            logits = self.session(form).run_batches(self._inputs, BATCH_SIZE)["logits"]
            figures = self._figures_of(form, logits)
            self._known[key] = figures, logits
            self.tried.append(figures)
        return self._known[key]

    def _figures_of(self, form: GraphConfig, logits: Float32) -> dict[str, Any]:
        task, given = self.run.classifier.task, np.nan_to_num(logits)
        names = [str(example.path) for example in self.examples]
        decisions = agreement(task, self.expected, given, names, groups_of(self.examples))
        temperature = float(self.run.classifier.temperature)
        accuracy = changes(task, self.expected, given, self.labels, temperature)["accuracy"]
        quantization = form.quantization
        return {
            "form": in_words(form),
            "precision": form.precision,
            "activations": quantization.activations if form.precision == "int8" else None,
            "per_channel": quantization.per_channel if form.precision == "int8" else None,
            "integer_products": len(quantization.matmuls),
            "images": len(self.labels),
            "top1_agreement": decisions["top1_agreement"],
            "mean_abs_logit": float(np.abs(given - self.expected).mean()),
            "accuracy": accuracy["graph"],
            "reference_accuracy": accuracy["reference"],
        }

    def session(self, form: GraphConfig) -> Session:
        """The network in a form, from ``pixel_values`` on."""
        model = build_graph(self.run.classifier, self.preprocess, {}, "pixel_values", form)
        return open_model(model, provider=self.provider, threads=self.threads)


def validation_images_for(budget: float | None) -> int:
    """Validation images that can show that no more than so many percentage points are lost, within reason."""
    needed = 0 if budget is None else images_needed(budget / 100)
    return min(max(needed, VALIDATION_IMAGES), MOST_VALIDATION_IMAGES)


def in_words(form: GraphConfig) -> str:
    """A form in a few words."""
    if form.precision != "int8":
        return f"{form.precision}, {len(form.keep_fp32)} tensors in fp32" if form.keep_fp32 else form.precision
    scales = "channel" if form.quantization.per_channel else "matrix"
    matmuls = len(form.quantization.matmuls)
    return f"int8 {form.quantization.activations} per {scales}, {matmuls} products"
