"""Fine-tune, fuse, prove, time and ship CLIP-family image classifiers.

>>> run = toolkit.finetune("digits", out="runs/digits")
>>> bundle = toolkit.export(run, out="bundles/digits")
>>> toolkit.load("bundles/digits").predict("digit.png").label
"""

from __future__ import annotations

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when onnxruntime is imported; see docs/install.md
TYPE_CHECKING = (
    False  # read as true by type checkers; `typing` itself takes longer to import than the rest of this file
)
if TYPE_CHECKING:
    from toolkit.api import (
        bench_latency,
        evaluate,
        export,
        export_triton,
        few_shot,
        finetune,
        import_classifier,
        load,
        parity,
        score,
        sweep,
        zero_shot,
    )
    from toolkit.errors import CheckFailed, ToolkitError
    from toolkit.evaluation.record import Evaluation
    from toolkit.recipe.recipe import Recipe
    from toolkit.runtime.bundle import Bundle
    from toolkit.serving.classifier import Classifier
    from toolkit.serving.predictor import Prediction

__version__ = "0.1.0"
__all__ = [
    "Bundle",
    "CheckFailed",
    "Classifier",
    "Evaluation",
    "Prediction",
    "Recipe",
    "ToolkitError",
    "bench_latency",
    "evaluate",
    "export",
    "export_triton",
    "few_shot",
    "finetune",
    "import_classifier",
    "load",
    "parity",
    "score",
    "sweep",
    "zero_shot",
]
_HOMES = {
    **dict.fromkeys(("bench_latency", "evaluate", "export", "export_triton", "few_shot"), "toolkit.api"),
    **dict.fromkeys(("finetune", "import_classifier", "load", "parity", "score", "sweep", "zero_shot"), "toolkit.api"),
    **dict.fromkeys(("CheckFailed", "ToolkitError"), "toolkit.errors"),
    "Recipe": "toolkit.recipe.recipe",
    "Bundle": "toolkit.runtime.bundle",
    "Evaluation": "toolkit.evaluation.record",
    "Classifier": "toolkit.serving.classifier",
    "Prediction": "toolkit.serving.predictor",
}


def __getattr__(name: str) -> object:
    """Import what is asked for when it is asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    found: object = getattr(import_module(_HOMES[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
