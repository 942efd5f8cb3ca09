"""Graphs in several precisions, measured on validation images before one is chosen."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from export.graph.classifier_graph import build_graph
from export.graph.config import GraphConfig
from export.graph.subgraph import open_model
from export.parity.agreement import agreement, changes
from export.selection.contract import Loss, loss_of
from export.selection.validation import Validation
from toolkit.data.samples import groups_of
from toolkit.metrics.intervals import Drop, paired_drop
from toolkit.progress import Progress
from toolkit.runtime.preprocess import Float32
from toolkit.runtime.session import Session
from toolkit.tasks.task import Temperature

BATCH_SIZE = 32
WORTHWHILE = 1e-4
"""Negative log-likelihood that another temperature has to save."""


class Measurements:
    """What graphs of a run's network give on its validation images; each is run once.

    Args:
        validation: its images.
        provider: that the graphs are to run on.
        threads: of sessions.
        progress: told what is tried.
    """

    def __init__(self, validation: Validation, *, provider: str, threads: int | None, progress: Progress) -> None:
        self.validation, self.run = validation, validation.run
        self.provider, self.threads, self.progress = provider, threads, progress
        self.tried: list[dict[str, Any]] = []
        self._known: dict[str, tuple[dict[str, Any], Float32]] = {}

    @property
    def configs(self) -> list[GraphConfig]:
        """Those that were tried, in the order of ``tried``."""
        return [GraphConfig.model_validate_json(each) for each in self._known]

    def metrics(self, config: GraphConfig) -> dict[str, Any]:
        """What a config gives on the validation images; noted among those that were tried."""
        return self._measured(config)[0]

    def calibrated(self, config: GraphConfig) -> tuple[GraphConfig, dict[str, Any] | None]:
        """The config with a temperature of its own, where that makes validation likelier, and what it saves.

        The threshold of an operating point is one of the run's own temperature, so that stays.
        """
        if config.precision == "fp32" or not self.run.labelled or self.run.operating_point is not None:
            return config, None
        if self.run.classifier.task.activation == "none" or not np.isfinite(self._measured(config)[1]).all():
            return config, None
        logits, labels = torch.from_numpy(self._measured(config)[1]), torch.tensor(self.validation.labels)
        before: Temperature = self.run.classifier.temperature.tolist()
        # the run's own was fitted on all of validation: what the same few images say of both configs corrects it
        task = self.run.classifier.task
        expected = torch.from_numpy(self.validation.expected)
        fitted, own = (task.temperature(each, labels, before) for each in (logits, expected))
        after: Temperature = (np.array(before) * fitted / np.array(own)).tolist()

        def nll(temperature: Temperature) -> float:
            return float(task.scores(logits.double(), labels, temperature).metrics(["nll"])["nll"])

        likelihoods = {"nll_before": nll(before), "nll_fitted": nll(after)}
        found = {"images": len(labels), "before": before, "fitted": after} | likelihoods
        kept = likelihoods["nll_before"] - likelihoods["nll_fitted"] > WORTHWHILE
        of_graph = tuple(after) if isinstance(after, list) else after
        return config.model_copy(update={"temperature": of_graph}) if kept else config, found | {"kept": kept}

    def accuracy_drop(self, config: GraphConfig) -> Drop:
        """Share of accuracy that a config loses against PyTorch in fp32, both on the same validation images.

        Without labels, PyTorch's decisions stand for them: an image that gets another label counts as lost.
        """
        answers = np.array(self.validation.labels)
        before, after = (
            self.run.decision.right(logits, answers)
            for logits in (self.validation.expected, np.nan_to_num(self._measured(config)[1]))
        )
        return paired_drop(before, after, groups_of(self.validation.examples))

    def loss(self, config: GraphConfig) -> Loss:
        """What a config loses against PyTorch in fp32, both on the same validation images."""
        labels = np.array(self.validation.labels) if self.run.labelled else None
        given = np.nan_to_num(self._measured(config)[1])
        groups = groups_of(self.validation.examples)
        return loss_of(self.run.decision, self.validation.expected, given, labels, groups)

    def _measured(self, config: GraphConfig) -> tuple[dict[str, Any], Float32]:
        """Metrics and logits; each config is run once."""
        key = config.model_copy(update={"temperature": None}).model_dump_json()
        if key not in self._known:
            self.progress.stage(f"trying {in_words(config)}")
            logits = self.session(config).run_batches(self.validation.inputs, BATCH_SIZE)["logits"]
            metrics = self._metrics_of(config, logits)
            self._known[key] = metrics, logits
            self.tried.append(metrics)
        return self._known[key]

    def _metrics_of(self, config: GraphConfig, logits: Float32) -> dict[str, Any]:
        task, given, images = self.run.classifier.task, np.nan_to_num(logits), self.validation
        names = [str(example.path) for example in images.examples]
        decisions = agreement(self.run.decision, images.expected, given, names, groups_of(images.examples))
        temperature, cuts = self.run.classifier.temperature.tolist(), self.run.decision.cuts
        found = changes(task, images.expected, given, images.labels, temperature, cuts=cuts)
        accuracy = found.get("accuracy") if self.run.labelled else None
        quantization = config.quantization
        return {
            "form": in_words(config),
            "provider": self.provider,
            "precision": config.precision,
            "activations": quantization.activations if config.precision == "int8" else None,
            "per_channel": quantization.per_channel if config.precision == "int8" else None,
            "integer_products": len(quantization.matmuls),
            "images": len(images.labels),
            "top1_agreement": decisions["top1_agreement"],
            "mean_abs_logit": float(np.abs(given - images.expected).mean()),
            "accuracy": accuracy["graph"] if accuracy else None,
            "reference_accuracy": accuracy["reference"] if accuracy else None,
        }

    def session(self, config: GraphConfig) -> Session:
        """The network in a config, from ``pixel_values`` on."""
        model = build_graph(self.run.classifier, self.validation.preprocess, {}, "pixel_values", config)
        return open_model(model, provider=self.provider, threads=self.threads)


def in_words(config: GraphConfig) -> str:
    """A config in a few words."""
    if config.precision != "int8":
        return f"{config.precision}, {len(config.keep_fp32)} tensors in fp32" if config.keep_fp32 else config.precision
    scales = "channel" if config.quantization.per_channel else "matrix"
    matmuls = len(config.quantization.matmuls)
    floats = "" if config.floats == "fp32" else f", floats in {config.floats}"
    return f"int8 {config.quantization.activations} per {scales}, {matmuls} matmuls{floats}"
