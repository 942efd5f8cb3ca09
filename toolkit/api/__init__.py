"""The Python API: what each verb of the command line does, as a function with typed results.

Everything heavy is imported inside the functions, so that ``import toolkit`` stays light.
"""

from __future__ import annotations

from toolkit.api.production import evaluate, load, score
from toolkit.api.shipping import bench_latency, contract_asked_for, export, export_triton, parity, precisions_asked_for
from toolkit.api.training import few_shot, finetune, import_classifier, sweep, zero_shot

__all__ = [
    "bench_latency",
    "contract_asked_for",
    "evaluate",
    "export",
    "export_triton",
    "few_shot",
    "finetune",
    "import_classifier",
    "load",
    "parity",
    "precisions_asked_for",
    "score",
    "sweep",
    "zero_shot",
]
