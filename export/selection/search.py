"""The config of each precision that a bundle ships: the best one by measurement on validation images."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from export.graph.config import GraphConfig
from export.graph.tensor_names import names_of
from export.selection.configs import ConfigMaker
from export.selection.measurements import Measurements
from export.selection.validation import Validation
from toolkit.errors import ToolkitError
from toolkit.metrics.intervals import images_needed
from toolkit.models.families.traced import refuse_traced
from toolkit.progress import SILENT, Progress
from toolkit.runs.finished_run import Run
from toolkit.runtime.inputs import part_of
from toolkit.runtime.precision import Precision
from toolkit.runtime.providers import STANDARD
from toolkit.sampling import evenly_spaced

VALIDATION_IMAGES = 256
"""Validation images that configs are compared on unless a budget needs more."""
MOST_VALIDATION_IMAGES = 1500
GOOD_AGREEMENT = 0.995
"""Top-1 agreement with fp32 that needs no further search."""
BATCH_SIZE = 32
RANKING_IMAGES = 64
"""Validation images on which layers are ranked by what their rounding costs."""


class PrecisionSearch:
    """Finds the config of a precision by measurement, where there is a choice."""

    def __init__(
        self,
        run: Run,
        *,
        provider: str,
        threads: int | None,
        calibration_images: int | None = None,
        validation_images: int = VALIDATION_IMAGES,
        validation: Validation | None = None,
        progress: Progress = SILENT,
    ) -> None:
        """Open what is measured on; images are read when the first config is measured.

        Args:
            run: a finished run.
            provider: that the configs are to run on.
            threads: of sessions.
            calibration_images: training images that ranges are measured on.
            validation_images: those that configs are compared on, where there are as many.
            validation: these images, where another search has them.
            progress: told how it goes on.

        Raises:
            ToolkitError: there are fewer training images than asked for.
        """
        if provider in STANDARD and run.trunk is not None:
            what = f"the run's trunk in {run.trunk['precision']} is made of ONNX Runtime's operators"
            raise ToolkitError(
                what, where=f"--provider {provider}", fix="export for cpu or cuda, or train on an fp32 trunk"
            )
        self.run, self.provider, self.progress = run, provider, progress
        self.calibration_images = calibration_images
        self.configs = ConfigMaker(
            run, provider=provider, threads=threads, calibration_images=calibration_images, progress=progress
        )
        self.validation = validation or Validation(run, validation_images)
        self.measured = Measurements(self.validation, provider=provider, threads=threads, progress=progress)

    def beside(self, provider: str) -> PrecisionSearch:
        """The same search on another provider; the validation images are read, and run by PyTorch, once for both."""
        return PrecisionSearch(
            self.run,
            provider=provider,
            threads=self.measured.threads,
            calibration_images=self.calibration_images,
            validation=self.validation,
            progress=self.progress,
        )

    def config(self, precision: Precision) -> GraphConfig:
        """The best config of a precision, by measurement where there is a choice.

        Raises:
            ToolkitError: the run's trunk is fixed in another precision.
        """
        self.run.require_trunk(precision)
        refuse_traced(self.run.classifier.encoder.family, precision)
        if precision == "int8":
            self.run.require_real_images("int8 is fitted to images")
            return self._int8()
        if self.run.trunk is not None:
            return self.configs.half_behind_trunk(self.run.trunk)
        if precision == "fp16":
            return self.configs.plain("fp16", keep_fp32=self.configs.keep_fp32)
        return self.configs.plain(precision)

    def all_forms(self) -> list[GraphConfig]:
        """Everything that the provider might run well, the safest first."""
        self.run.require_real_images("a config is chosen by what it does to images")
        configs = self.configs.base()
        rounded = [config for config in configs if config.precision == "int8"]
        return configs + (list(self._less_rounded(rounded[0])) if rounded and self.run.trunk is None else [])

    def _int8(self) -> GraphConfig:
        """The first config that agrees well enough, else the best one, its worst layers left float until it does."""
        best, *others = self.configs.int8()
        if self.measured.metrics(best)["top1_agreement"] >= GOOD_AGREEMENT:
            return best
        if self.run.trunk is not None:
            return others[0] if others else best
        for config in others:
            if self._better(config, best):
                best = config
            if self.measured.metrics(best)["top1_agreement"] >= GOOD_AGREEMENT:
                return best
        return self._with_float_layers(best)

    def _better(self, config: GraphConfig, than: GraphConfig) -> bool:
        ours, theirs = self.measured.metrics(config), self.measured.metrics(than)
        key = ("top1_agreement", "mean_abs_logit")
        return (ours[key[0]], -ours[key[1]]) > (theirs[key[0]], -theirs[key[1]])

    def _with_float_layers(self, config: GraphConfig) -> GraphConfig:
        """Leave the layers float whose rounding costs most, up to half of them, until agreement is good."""
        best = config
        for candidate in self._less_rounded(config):
            if self._better(candidate, best):
                best = candidate
            if self.measured.metrics(best)["top1_agreement"] >= GOOD_AGREEMENT:
                break
        return best

    def _less_rounded(self, config: GraphConfig) -> Iterator[GraphConfig]:
        """The config with ever more layers left float, those first whose rounding costs most."""
        by_layer: dict[str, set[str]] = {}
        names = names_of(self.run.classifier)
        for matmul in config.quantization.matmuls:
            by_layer.setdefault(names.block_of(matmul), set()).add(matmul)
        some = evenly_spaced(len(self.validation.labels), RANKING_IMAGES)
        feed, expected = part_of(self.validation.inputs, some), self.validation.expected[some]
        errors = {}
        for layer, matmuls in by_layer.items():
            self.progress.stage(f"leaving {layer.rpartition('model.')[2]} float")
            session = self.measured.session(self.configs.rounded(config.quantization.without(matmuls), config.floats))
            logits = session.run_batches(feed, BATCH_SIZE)["logits"]
            errors[layer] = float(np.abs(logits - expected).mean())
        left: set[str] = set()
        for layer in sorted(errors, key=lambda name: errors[name])[: len(errors) // 2]:
            left |= by_layer[layer]
            yield self.configs.rounded(config.quantization.without(left), config.floats)


def validation_images_for(budget: float | None) -> int:
    """Validation images that can show that no more than so many percentage points are lost, within reason."""
    needed = 0 if budget is None else images_needed(budget / 100)
    return min(max(needed, VALIDATION_IMAGES), MOST_VALIDATION_IMAGES)
