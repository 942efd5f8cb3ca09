"""Functions that use a bundle: predictions, metrics on labelled images, an archive."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from toolkit.api.opening import opened_bundle
from toolkit.errors import ToolkitError
from toolkit.progress import SILENT, Progress

if TYPE_CHECKING:
    from toolkit.evaluation.record import Evaluation
    from toolkit.recipe.data import DataConfig
    from toolkit.runtime.bundle import Bundle
    from toolkit.serving.classifier import Classifier


SPLIT_SETTINGS = ("split_seed", "test_share", "validation_share")
"""What decides which images a split that is made holds."""


def load(
    bundle: Path | str,
    *,
    provider: str | None = None,
    precision: str | None = None,
    threads: int | None = None,
    sessions: int | None = None,
    batch_size: int | None = None,
) -> Classifier:
    """Open a bundle as a classifier; without torch.

    What is not given is as ``toolkit tune`` chose it for this bundle, else the CPU, the default precision and one
    session on all cores.

    Args:
        bundle: folder of it.
        provider: ``cpu``, ``cuda`` or ``tensorrt``.
        precision: of the graph: ``fp32``, ``fp16``, ``bf16`` or ``int8``.
        threads: of a session.
        sessions: side by side.
        batch_size: images that a session takes at once, at most.

    Raises:
        ToolkitError: no bundle, a file that differs from its manifest, or a provider that is not there.

    Example:
        >>> classifier = toolkit.load(bundle)
        >>> prediction = classifier.predict(image)
        >>> prediction.label in classifier.labels
        True
    """
    from toolkit.serving.classifier import Classifier

    return Classifier.open(
        bundle, provider=provider, precision=precision, threads=threads, sessions=sessions, batch_size=batch_size
    )


def evaluate(
    bundle: Bundle | Path | str,
    *,
    data: Path | str,
    split: str | None = None,
    settings: Sequence[str] = (),
    precision: str | None = None,
    provider: str | None = None,
    skip_bad: bool = False,
    out: Path | str | None = None,
    force: bool = False,
    progress: Progress = SILENT,
) -> Evaluation:
    """Measure a bundle's graph on labelled images, in the sessions that ``toolkit.load`` opens; without torch.

    Args:
        bundle: a bundle, or its folder.
        data: labelled images in any format, whose labels are among the bundle's.
        split: ``train``, ``validation``, ``test`` or ``all``; ``test`` unless given, and ``all`` where the data makes
            no splits. A split that it lacks is made with the shares and the seed of the bundle's run.
        settings: ``key=value`` of a recipe's section ``data``, such as ``columns.label=finding``.
        precision: of the graph; as tuned, or the bundle's default.
        provider: as tuned, or ``cpu``.
        skip_bad: leave unreadable images out in place of an error.
        out: folder to write ``evaluation.json``, ``evaluation.html`` and, with matplotlib, plots into.
        force: replace an evaluation that is in ``out`` already.
        progress: told how many images are done.

    Returns:
        Metrics with 95 % intervals, each class, confusions, calibration and the worst errors; of a bundle that
        predicts a number a :class:`toolkit.evaluation.record.NumberEvaluation`.

    Raises:
        ToolkitError: labels that the bundle does not know, an unreadable image, or no such split.

    Example:
        >>> found = toolkit.evaluate(bundle, data=images, split="validation")
        >>> low, high = found.intervals["accuracy"]
        >>> low <= found.accuracy <= high
        True
    """
    if find_spec("scipy") is None:
        fix = 'pip install "clip-toolkit[evaluate]"'
        raise ToolkitError("intervals need scipy, which is not installed", where="evaluate", fix=fix)
    opened = opened_bundle(bundle)
    opened.graph_name(precision)
    config = _evaluation_config(opened, data, settings, skip_bad=skip_bad)
    from toolkit.data.evaluation_data import open_evaluation_data
    from toolkit.evaluation.evaluate import evaluate_bundle
    from toolkit.evaluation.folder import check_evaluation_folder, write_evaluation

    if out is not None:
        check_evaluation_folder(Path(out), force=force)
    images = open_evaluation_data(config, opened.labels, split, progress)
    evaluated = evaluate_bundle(opened, images, precision=precision, provider=provider, progress=progress)
    if out is not None:
        write_evaluation(Path(out), evaluated, force=force)
    return cast("Evaluation", evaluated.record)


def score(
    bundle: Bundle | Path | str,
    images: Path | str,
    out: Path | str,
    *,
    precision: str | None = None,
    provider: str | None = None,
    threads: int | None = None,
    batch_size: int | None = None,
    top_k: int | None = None,
    embedding: bool = False,
    shard_rows: int = 5_000,
    engine: Literal["local", "ray"] = "local",
    address: str | None = None,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """Predict an archive into Parquet shards, each image exactly once; the same call goes on after an interruption.

    Args:
        bundle: a bundle, or its folder.
        images: a folder, a glob, a manifest or shards; a path or a URL.
        out: folder of the shards; a path or a URL.
        precision: as tuned, or the bundle's default, unless given.
        provider: as tuned, or the CPU, unless given.
        threads: of a session.
        batch_size: images a run, at most.
        top_k: classes whose probabilities a row has; all, of more than 100 classes 10, unless given.
        embedding: whether there is a column of embeddings.
        shard_rows: rows of a shard.
        engine: ``local``, the sessions of this process, or ``ray``, those of a Ray cluster.
        address: of the cluster, ``host:port``; ``RAY_ADDRESS``, or a Ray of this machine, unless given.
        progress: told how many images are done.

    Returns:
        The content of ``summary.json``; see :func:`toolkit.scoring.score.score`.

    Raises:
        ToolkitError: nothing to score, a folder that another job began, or an output that can't be written.

    Example:
        >>> found = toolkit.score(bundle, images, out)
        >>> sum(found["classes"].values()) == found["predicted"] == found["images"]
        True
    """
    from toolkit.scoring.options import ScoringOptions
    from toolkit.scoring.score import score as score_all

    options = ScoringOptions(
        provider,
        precision,
        threads,
        batch_size,
        top_k,
        embedding,
        shard_rows,
        engine=engine,
        address=address,
    )
    return score_all(opened_bundle(bundle), str(images), str(out), options, progress)


def _texts_as_trained(bundle: Bundle, trained_on: Mapping[str, Any]) -> list[str]:
    """Settings by which a bundle's texts are read, unless others are given."""
    column = (trained_on.get("columns") or {}).get("text")
    if bundle.tokenizer is None or column is None:
        return []
    return [f"columns.text={dumps(column)}", f"missing_text={'allow' if bundle.takes_missing else 'error'}"]


def _evaluation_config(bundle: Bundle, data: Path | str, settings: Sequence[str], *, skip_bad: bool) -> DataConfig:
    """The section ``data`` that a bundle's images are read by: its run's shares, seed and label columns, its range.

    Raises:
        ToolkitError: a mistake in the settings, or one that the bundle has the say in.
    """
    from toolkit.recipe.reading import load_data_config

    trained_on = (bundle.manifest.provenance.get("recipe") or {}).get("data") or {}
    shares = [f"{key}={trained_on[key]}" for key in SPLIT_SETTINGS if key in trained_on]
    columns = trained_on.get("columns") or {}
    own = [key for key in ("labels", "separator", "number") if key in columns]
    own += [] if bundle.takes_images else [key for key in ("path", "image") if key in columns and columns[key] is None]
    labelled = [f"columns.{key}={json.dumps(columns[key])}" for key in own]
    config = load_data_config(Path(data), [*shares, *labelled, *_texts_as_trained(bundle, trained_on), *settings])
    if config.columns.text is not None and bundle.tokenizer is None:
        fix = "leave it out, or use a bundle of model.inputs: [image, text]"
        raise ToolkitError("the bundle takes images alone, and no text", where="data.columns.text", fix=fix)
    if config.columns.text is None and bundle.tokenizer is not None and not bundle.takes_missing:
        fix = "name the column that holds them: columns.text=NAME"
        raise ToolkitError("the bundle takes texts, and none are named", where="data.columns.text", fix=fix)
    for key in ("classes", "value_range"):
        if getattr(config, key) is not None:
            raise ToolkitError(f"the bundle itself says {key}", where=f"data.{key}", fix="leave it out")
    skipping = {"on_bad_image": "skip"} if skip_bad else {}
    return config.model_copy(update={"value_range": bundle.preprocess.value_range} | skipping)
