"""What a server counts and times, as Prometheus reads it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from toolkit.serving.batcher import BatchRun
from toolkit.serving.predictor import Decided
from toolkit.serving.repository import Repository

SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)
CONFIDENCES = tuple(tenth / 10 for tenth in range(1, 11))
STAGES = ("read", "infer", "respond")
"""Of a request, beside ``queue`` and ``compute`` of its images: its body's arrival; decoding, waiting and computing
together; the answer's making."""


def _children(family: Counter | Histogram) -> Callable[..., Any]:
    """A family's member by the values of its labels; the library's own lookup takes longer than counting does."""
    return cache(family.labels)


class Metrics:
    """A registry of its own, so that servers in one process don't share theirs."""

    def __init__(self, repository: Repository) -> None:
        self.registry = CollectorRegistry()
        options: dict[str, Any] = {"registry": self.registry}
        self._requests = _children(
            Counter("clip_requests", "Requests that were answered.", ["model", "protocol", "status"], **options)
        )
        self._seconds = _children(Histogram(
            "clip_request_seconds", "From a request's first byte to its answer.", ["model", "protocol"],
            buckets=SECONDS, **options,
        ))  # fmt: skip
        self._stages = _children(Histogram(
            "clip_stage_seconds", "Of a request (read, infer, respond) or an image (queue) or a batch (compute).",
            ["model", "stage"], buckets=SECONDS, **options,
        ))  # fmt: skip
        self._batches = _children(
            Histogram("clip_batch_images", "Images that a session took at once.", ["model"], buckets=BATCHES, **options)
        )
        self._rejections = _children(
            Counter("clip_rejections", "Requests that were refused.", ["model", "reason"], **options)
        )
        self._decisions = _children(
            Counter("clip_decisions", "Images by their decided label.", ["model", "label"], **options)
        )
        self._confidence = _children(
            Histogram(
                "clip_confidence",
                "Calibrated probability of the decided label.",
                ["model"],
                buckets=CONFIDENCES,
                **options,
            )
        )
        self._reloads = _children(
            Counter("clip_loads", "Bundles that were loaded, or not.", ["model", "outcome"], **options)
        )
        Gauge("clip_start_time_seconds", "When the server started.", **options).set_to_current_time()
        self.registry.register(_Now(repository))

    def request(self, model: str, protocol: str, status: int | str, seconds: float) -> None:
        """A request was answered."""
        self._requests(model, protocol, str(status)).inc()
        self._seconds(model, protocol).observe(seconds)

    def stage(self, model: str, stage: str, seconds: float) -> None:
        """A stage of a request took some time."""
        self._stages(model, stage).observe(seconds)

    def rejection(self, model: str, reason: str) -> None:
        """A request was refused."""
        self._rejections(model, reason).inc()

    def decision(self, model: str, decided: Decided) -> None:
        """An image was decided."""
        if decided.value is not None:
            return
        self._decisions(model, decided.label).inc()
        self._confidence(model).observe(decided.probability)

    def loaded(self, model: str, *, good: bool) -> None:
        """A bundle was loaded, or was not good."""
        self._reloads(model, "loaded" if good else "failed").inc()

    def batches_of(self, model: str) -> Callable[[BatchRun], None]:
        """What a model's batcher tells of its batches."""
        sizes, queue, compute = (
            self._batches(model),
            self._stages(model, "queue"),
            self._stages(model, "compute"),
        )

        def observe(run: BatchRun) -> None:
            sizes.observe(run.images)
            compute.observe(run.seconds)
            for waited in run.waited:
                queue.observe(waited)

        return observe

    def page(self) -> bytes:
        """What Prometheus scrapes."""
        return generate_latest(self.registry)


class _Now(Collector):
    """Readiness and images at work, read when they are asked for."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Gauges by model and version."""
        ready = GaugeMetricFamily("clip_model_ready", "1 where a version answers.", labels=["model", "version"])
        images = GaugeMetricFamily(
            "clip_images_at_work", "Images that are decoded, wait or are computed.", labels=["model", "version"]
        )
        for entry in self._repository.index():
            served = self._repository.served(entry.name, entry.version)
            ready.add_metric([entry.name, entry.version], float(served is not None))
            images.add_metric([entry.name, entry.version], float(served.images if served else 0))
        return [ready, images]
