"""The Python API: what each verb of the command line does, as a function with typed results.

Everything heavy is imported inside the functions, so that ``import toolkit`` stays light.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from importlib.util import find_spec
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from toolkit.errors import ToolkitError
from toolkit.progress import SILENT, Progress

if TYPE_CHECKING:
    from export.selection.contract import Contract
    from export.triton.repository import TritonRepository
    from toolkit.evaluation.record import Evaluation
    from toolkit.recipe.data import DataConfig
    from toolkit.recipe.recipe import Recipe
    from toolkit.runs.few_shot_file import FewShotFile
    from toolkit.runs.finished_run import Run
    from toolkit.runs.sweep_file import SweepFile
    from toolkit.runtime.bundle import Bundle
    from toolkit.serving.classifier import Classifier

MAX_ACCURACY_DROP = 0.2
"""Percentage points that ``--precision auto`` may lose, unless told otherwise."""
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


def finetune(
    recipe: Recipe | Path | str,
    *,
    out: Path | str,
    overrides: Sequence[str] = (),
    resume: bool = False,
    force: bool = False,
) -> Run:
    """Fine-tune by a recipe, in this process.

    Args:
        recipe: a recipe, the file of one, or the name of one that is shipped (``digits``).
        out: run folder to write.
        overrides: ``section.key=value`` for a recipe that is read from a file.
        resume: go on from the newest checkpoint in ``out``.
        force: remove the run that is in ``out`` already.

    Returns:
        The finished run; its ``summary`` holds the metrics.

    Raises:
        ToolkitError: a mistake in the recipe, its data or its encoder.

    Example:
        >>> run = toolkit.finetune("digits", out=out, overrides=[f"data.path={data}", "training.epochs=1"])
        >>> 0 <= run.summary["test"]["accuracy"] <= 1
        True
    """
    from toolkit.recipe.origins import naming_origins
    from toolkit.recipe.reading import leaves

    loaded, path = _recipe_of(recipe, overrides)
    with naming_origins(path, overrides, leaves(loaded)) if path else nullcontext():
        return _finetuned(loaded, Path(out), resume=resume, force=force)


def _recipe_of(recipe: Recipe | Path | str, overrides: Sequence[str]) -> tuple[Recipe, Path | None]:
    """A recipe, and the file that it was read from; None of one in memory.

    Raises:
        ToolkitError: overrides of a recipe in memory, or a mistake in the file.
    """
    from toolkit.recipe.reading import load_recipe
    from toolkit.recipe.recipe import Recipe
    from toolkit.recipe.shipped import find_recipe

    if isinstance(recipe, Recipe):
        if overrides:
            fix = "change the recipe itself, or give the file of one"
            raise ToolkitError("a recipe in memory takes no overrides", where="overrides", fix=fix)
        return recipe, None
    path = find_recipe(recipe)
    return load_recipe(path, overrides), path


def _finetuned(recipe: Recipe, out: Path, *, resume: bool, force: bool) -> Run:
    from recipes.finetune import finetune as train
    from toolkit.runs.finished_run import Run

    train(recipe, out, resume=resume, force=force)
    return Run(out)


def sweep(
    recipe: Recipe | Path | str,
    search: Sequence[str],
    *,
    out: Path | str,
    overrides: Sequence[str] = (),
    trials: int | None = None,
    sampler: Literal["tpe", "random", "grid"] = "tpe",
    seed: int = 0,
    prune: bool = True,
    resume: bool = False,
    force: bool = False,
    progress: Progress = SILENT,
) -> SweepFile:
    """Try values of a recipe's keys, one trial after the other, on one boundary cache; the best is a run, ``out/best``.

    Trials are compared by ``training.select_by`` on validation; the test split is measured for the best one alone.

    Args:
        recipe: what all trials have in common: a recipe, the file of one, or the name of one that is shipped.
        search: what is tried, ``key=a,b,c`` or ``key=low..high[:log]``.
        out: folder to write.
        overrides: ``section.key=value`` for a recipe that is read from a file.
        trials: how many, those included that ended before; 20, or all of a grid, if None.
        sampler: ``tpe`` looks where earlier trials were good, ``random`` anywhere, ``grid`` at all combinations.
        seed: of the sampler; with the same one the same trials run. That of the trials is ``training.seed``.
        prune: end trials early whose best epoch is worse than the median of the others' by then.
        resume: go on with the sweep that is in ``out``.
        force: replace the sweep that is in ``out``.
        progress: told how it goes on.

    Returns:
        What ``sweep.json`` holds: every trial with its values, metric, time and run folder.

    Raises:
        ToolkitError: no such keys or values, or another search in ``out``.
        CheckFailed: no trial gave a classifier.

    Example:
        >>> lowest = ["training.epochs=1", "model.unfreeze_last=0"]
        >>> search = ["training.learning_rate=1e-4,1e-2"]
        >>> found = toolkit.sweep("digits", search, out=out, overrides=[f"data.path={data}", *lowest], trials=2)
        >>> [trial.state for trial in found.trials]
        ['complete', 'complete']
    """
    from toolkit.publishing.checked import require_library
    from toolkit.recipe.origins import naming_origins
    from toolkit.recipe.reading import leaves

    require_library("optuna", "sweep", "toolkit sweep")
    from recipes.sweep import SweepOptions
    from recipes.sweep import sweep as run_sweep

    loaded, path = _recipe_of(recipe, overrides)
    wanted = SweepOptions(search, trials, sampler, seed, prune)
    with naming_origins(path, overrides, leaves(loaded)) if path else nullcontext():
        return run_sweep(loaded, Path(out), wanted, resume=resume, force=force, progress=progress)


def zero_shot(
    encoder: str,
    labels: Sequence[str] = (),
    *,
    out: Path | str,
    revision: str | None = None,
    templates: Sequence[str] | None = None,
    texts: Mapping[str, str] | None = None,
    data: Path | str | None = None,
    force: bool = False,
    progress: Progress = SILENT,
) -> Run:
    """Make a run from the names of its classes: the head is the text embeddings of prompts, nothing is trained.

    Args:
        encoder: with a text tower: a folder, a hub identifier, or ``tiny-clip``.
        labels: the classes; those of ``data`` if empty.
        out: run folder to write.
        revision: commit, tag or branch of a hub identifier; the newest unless given.
        templates: prompts with ``{}`` where the class stands, whose embeddings are averaged.
        texts: what prompts say in place of a label.
        data: labelled images, to fit the temperature and to measure the classifier.
        force: replace the run that is in ``out`` already.
        progress: told how it goes on.

    Raises:
        ToolkitError: an encoder without texts, labels that differ from the data's, a prompt that is too long.

    Example:
        >>> run = toolkit.zero_shot("tiny-clip", ["red circle", "blue square"], out=out)
        >>> run.classifier.labels
        ['red circle', 'blue square']
    """
    from recipes.zero_shot import zero_shot as make
    from toolkit.runs.finished_run import Run

    make(
        encoder,
        labels,
        Path(out),
        revision=revision,
        templates=templates,
        texts=texts,
        data=path_of(data),
        force=force,
        progress=progress,
    )
    return Run(Path(out))


def few_shot(
    data: Path | str,
    *,
    out: Path | str,
    encoder: str = "tiny-clip",
    revision: str | None = None,
    shots: Sequence[int] = (1, 2, 4, 8, 16),
    seeds: int = 5,
    methods: Sequence[str] = (),
    templates: Sequence[str] | None = None,
    texts: Mapping[str, str] | None = None,
    force: bool = False,
    progress: Progress = SILENT,
) -> FewShotFile:
    """Compare methods that learn from a few images a class; the best one's run lies in ``out/best``.

    Args:
        data: labelled images in any format.
        out: folder to write.
        encoder: a folder, a hub identifier, or ``tiny-clip``.
        revision: commit, tag or branch of a hub identifier; the newest unless given.
        shots: training images a class.
        seeds: draws of these.
        methods: of ``linear-probe``, ``text-cosine``, ``tip-adapter``, ``tip-adapter-f``, ``prolip`` and ``lora``; all
            that the encoder allows if empty.
        templates: prompts with ``{}`` where the class stands.
        texts: what prompts say in place of a label.
        force: replace what an earlier call left in ``out``.
        progress: told how it goes on.

    Raises:
        ToolkitError: more shots than the smallest class has, or a method that the encoder doesn't allow.

    Example:
        >>> found = toolkit.few_shot(images, out=out, shots=[2], seeds=2, methods=["linear-probe"])
        >>> 0 <= found.results[0].accuracy <= 1
        True
    """
    from recipes.few_shot import FewShotOptions
    from recipes.few_shot import few_shot as compare
    from toolkit.recipe.prompts import TEMPLATES

    wanted = FewShotOptions(encoder, shots, seeds, methods, templates or TEMPLATES, texts or {}, revision)
    return compare(Path(data), Path(out), wanted, force=force, progress=progress)


def import_classifier(
    checkpoint: Path | str,
    *,
    out: Path | str,
    revision: str | None = None,
    data: Path | str | None = None,
    force: bool = False,
    progress: Progress = SILENT,
) -> Run:
    """Make a run from a classifier that one of transformers' ``...ForImageClassification`` saved.

    Args:
        checkpoint: a folder or a hub identifier.
        out: run folder to write.
        revision: commit, tag or branch of a hub identifier; the newest unless given.
        data: labelled images, to fit the temperature and to measure the classifier.
        force: replace the run that is in ``out`` already.
        progress: told how it goes on.

    Raises:
        ToolkitError: a checkpoint that is no classifier of a known family, or labels that differ from the data's.

    Example:
        >>> run = toolkit.import_classifier(checkpoint, out=out)
        >>> run.classifier.labels
        ['cat', 'dog']
    """
    from recipes.import_classifier import import_classifier as make
    from toolkit.runs.finished_run import Run

    make(str(checkpoint), Path(out), revision=revision, data=path_of(data), force=force, progress=progress)
    return Run(Path(out))


def export(
    run: Run | Path | str,
    *,
    out: Path | str,
    precision: str | Sequence[str] | None = None,
    max_accuracy_drop: float | None = None,
    max_flips: float | None = None,
    min_speedup: float | None = None,
    input: Literal["image", "pixel_values"] | None = None,
    provider: str = "cpu",
    threads: int | None = None,
    images: int | None = None,
    calibration_images: int | None = None,
    embedding: bool = False,
    data: Path | str | None = None,
    triton: Path | str | None = None,
    sign: Path | None = None,
    force: bool = False,
    progress: Progress = SILENT,
) -> Bundle:
    """Fuse a run's encoder and head into one ONNX graph, prove it against PyTorch and pack a bundle.

    Args:
        run: a finished run, or its folder.
        out: bundle folder to write; it appears only if every graph passed.
        precision: of the graphs, the default first: a list, ``"fp32,int8"``, or ``"auto"`` for the fastest within
            ``max_accuracy_drop``; that of the run's trunk, or fp32, unless given.
        max_accuracy_drop: percentage points that ``auto`` may lose; 0.2 unless given, or what ``max_flips`` says.
        max_flips: percent of images that ``auto`` may let be decided otherwise than PyTorch decides.
        min_speedup: times as fast as the fp32 graph that ``auto`` has to be. With this or ``max_flips`` a contract is
            kept, on test images too, or nothing is written.
        input: what the graph takes: decoded images of any size, or what the image processor gives; ``image`` unless
            given, but ``pixel_values`` for ``openvino``.
        provider: that the graphs are made for and that parity runs on.
        threads: of a session; the usable cores unless given.
        images: held-out images that parity uses; fewer are an error.
        calibration_images: training images that ranges of activations are measured on.
        embedding: whether the graphs also give the embedding, at length one.
        data: where the run's data is, if it is no longer where its recipe says.
        triton: folder for a Triton model repository of the bundle; see :func:`export_triton`.
        sign: private key (PEM) to sign the bundle with.
        force: replace a bundle and a repository that are already there.
        progress: told how it goes on.

    Returns:
        The bundle; its ``parity`` says what was proven.

    Raises:
        CheckFailed: a graph runs unfused or elsewhere than asked, or parity failed; nothing keeps the budget or
            the contract.
        ToolkitError: the run, its data or ``out`` is not usable, or the provider can't run a precision.

    Example:
        >>> bundle = toolkit.export(run, out=out, precision="fp32")
        >>> bundle.parity["results"]["fp32"]["cpu"]["passed"]
        True
    """
    from export.bundle import ExportOptions, export_bundle
    from export.graph.classifier_graph import input_on
    from toolkit.runtime.bundle import Bundle

    precisions, budget = precisions_asked_for(precision, max_accuracy_drop, provider)
    contract = contract_asked_for(precision, max_accuracy_drop, max_flips, min_speedup)
    graph_input = input_on(provider, input)
    wanted = ExportOptions(graph_input, precisions, budget, images, calibration_images, embedding, contract)
    if triton is not None:
        from export.triton.repository import check_repository

        default = precisions[0] if precisions else None
        check_repository(
            Path(out), Path(triton), provider=provider, precision=default, graph_kind=graph_input, force=force
        )
    export_bundle(
        opened_run(run, data),
        Path(out),
        wanted,
        provider=provider,
        threads=threads,
        sign=sign,
        force=force,
        progress=progress,
    )
    bundle = Bundle(Path(out))
    if triton is not None:
        export_triton(bundle, out=triton, provider=provider, threads=threads, force=force)
    return bundle


def export_triton(
    bundle: Bundle | Path | str,
    *,
    out: Path | str,
    provider: str | None = None,
    precision: str | None = None,
    threads: int | None = None,
    force: bool = False,
) -> TritonRepository:
    """Write a model repository for Triton Inference Server, and KServe's InferenceServices beside it.

    The model is called as the bundle's folder. What is not given is as ``toolkit tune`` chose it, else the CPU, the
    default precision and one instance on all cores.

    Args:
        bundle: an opened bundle, or its folder.
        out: folder to write; it appears whole or not at all.
        provider: ``cpu``, ``cuda`` or ``tensorrt``; it need not be there.
        precision: of the graph.
        threads: of an instance.
        force: replace a repository that is already there.

    Raises:
        ToolkitError: a name that Triton does not take, a folder that is taken, or a graph that the provider or the
            release of Triton can't run.

    Example:
        >>> written = toolkit.export_triton(bundle, out=out)
        >>> (out / written.model / "config.pbtxt").is_file()
        True
    """
    from export.triton.repository import write_repository

    return write_repository(
        opened_bundle(bundle), Path(out), provider=provider, precision=precision, threads=threads, force=force
    )


def parity(
    bundle: Bundle | Path | str,
    *,
    run: Path | str | None = None,
    images: Path | str | None = None,
    count: int | None = None,
    precision: str | None = None,
    provider: str = "cpu",
    threads: int | None = None,
    data: Path | str | None = None,
    out: Path | None = None,
    sign: Path | None = None,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """Prove a bundle's graphs against PyTorch again, and write the outcome into the bundle.

    Args:
        bundle: a bundle, or its folder.
        run: folder of the run, if it is no longer where the export found it.
        images: a folder of images to look at instead; the bundle then stays as it is.
        count: held-out images to use.
        precision: of the graph; each that the provider runs unless given.
        provider: to run on.
        threads: of a session.
        data: where the run's data is, if it is no longer where its recipe says.
        out: file for the outcome; the bundle then stays as it is.
        sign: key to sign the changed bundle with.
        progress: told how it goes on.

    Returns:
        The content of ``parity.json``; ``results`` holds an entry with ``passed`` by precision and provider.

    Raises:
        ToolkitError: the run or its data is gone, or holds another checkpoint.

    Example:
        >>> toolkit.parity(bundle)["results"]["fp32"]["cpu"]["passed"]
        True
    """
    from export.change import Target
    from export.prove_bundle import prove_again
    from toolkit.runs.finished_run import run_of

    opened = opened_bundle(bundle)
    return prove_again(
        opened,
        run_of(opened, path_of(run), path_of(data)),
        precision=precision,
        provider=provider,
        threads=threads,
        count=count,
        folder=path_of(images),
        to=Target(out, sign),
        progress=progress,
    )


def bench_latency(
    bundle: Bundle | Path | str,
    *,
    batch_sizes: Sequence[int] = (1, 8, 32),
    compare: Sequence[str] = (),
    scenarios: Sequence[str] = (),
    provider: str = "cpu",
    precision: str | None = None,
    threads: int | None = None,
    runs: int = 50,
    seconds: float = 2.0,
    images: Path | str | None = None,
    target_p99_ms: float | None = None,
    details: bool = True,
    run: Path | str | None = None,
    data: Path | str | None = None,
    out: Path | None = None,
    sign: Path | None = None,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """Measure latency and throughput in alternating blocks, and write ``latency.json`` into the bundle.

    Args:
        bundle: a bundle, or its folder.
        batch_sizes: images a run.
        compare: other engines to measure in alternation, such as ``torch-eager``.
        scenarios: of ``offline``, ``server``, ``multi-stream`` and ``concurrency``.
        provider: to run on.
        precision: of the graph; each that the provider runs unless given.
        threads: of a session.
        runs: to count for each engine and batch size, at least.
        seconds: to count for each engine and batch size, at least.
        images: folder to draw inputs from; held-out images, or the golden ones, unless given.
        target_p99_ms: p99 that the server scenario holds.
        details: also measure cold start, memory, the steps of a request and the machine's limits.
        run: folder of the run, if it is no longer where the export found it.
        data: where the run's data is, if it is no longer where its recipe says.
        out: file for the outcome; the bundle then stays as it is.
        sign: key to sign the changed bundle with.
        progress: told how it goes on.

    Returns:
        The content of ``latency.json``: ``rows`` with ``p50_ms``, ``p99_ms`` and ``throughput_ips``, ``machine``.

    Raises:
        CheckFailed: a file of the bundle differs from its manifest, or its parity failed.
        ToolkitError: an engine, a scenario or a batch size that there is not.

    Example:
        >>> latency = toolkit.bench_latency(bundle, batch_sizes=[1], seconds=0, details=False)
        >>> latency["rows"][0]["p50_ms"] > 0
        True
    """
    from export.benchmark import BenchmarkOptions, ComparisonOptions, benchmark
    from export.change import Target
    from export.latency.measure import MinSamples

    return benchmark(
        opened_bundle(bundle),
        provider=provider,
        batch_sizes=list(batch_sizes),
        compare=ComparisonOptions(list(compare), path_of(run), path_of(data)),
        least=MinSamples(runs, seconds),
        measured=BenchmarkOptions(precision, threads, path_of(images), list(scenarios), target_p99_ms, details),
        to=Target(out, sign),
        progress=progress,
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
    from toolkit.scoring.score import ScoringOptions
    from toolkit.scoring.score import score as score_all

    options = ScoringOptions(provider, precision, threads, batch_size, top_k, embedding, shard_rows)
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


def precisions_asked_for(
    precision: str | Sequence[str] | None, max_accuracy_drop: float | None, provider: str
) -> tuple[Sequence[str], float | None]:
    """The precisions that are asked for, or the budget of a search for the best.

    Raises:
        ToolkitError: none, auto beside others, a budget without auto, or a precision that the provider can't run.
    """
    given = precision.split(",") if isinstance(precision, str) else list(precision or ())
    names = [name.strip() for name in given if name.strip()]
    if precision is not None and not names:
        raise ToolkitError("no precision is named", where="--precision", fix="write it like fp32,int8, or auto")
    if "auto" not in names:
        if max_accuracy_drop is not None:
            fix = "add --precision auto, or leave it out"
            raise ToolkitError("a budget is for --precision auto", where="--max-accuracy-drop", fix=fix)
        from toolkit.runtime.providers import require_precision

        return [require_precision(name, provider) for name in names], None
    if len(names) > 1:
        fix = "ask for auto alone, or name the precisions"
        raise ToolkitError("auto chooses the precision itself", where="--precision", fix=fix)
    return [], MAX_ACCURACY_DROP if max_accuracy_drop is None else max_accuracy_drop


def contract_asked_for(
    precision: str | Sequence[str] | None,
    max_accuracy_drop: float | None,
    max_flips: float | None,
    min_speedup: float | None,
) -> Contract | None:
    """The contract that is asked for; None where the accuracy alone is bounded, or nothing.

    An image that is lost is one that is decided otherwise, so a bound of flips bounds what is lost.

    Raises:
        ToolkitError: one without ``auto``, or one that nothing can keep.
    """
    if max_flips is None and min_speedup is None:
        return None
    from export.selection.contract import Contract

    where = "--max-flips" if max_flips is not None else "--min-speedup"
    named = [name.strip() for name in (precision.split(",") if isinstance(precision, str) else precision or ())]
    if named != ["auto"]:
        fix = "add --precision auto, or leave it out"
        raise ToolkitError("a contract is for --precision auto", where=where, fix=fix)
    if max_accuracy_drop is None:
        max_accuracy_drop = MAX_ACCURACY_DROP if max_flips is None else max_flips
    contract = Contract(max_accuracy_drop, max_flips, min_speedup)
    contract.check()
    return contract


def opened_run(run: Run | Path | str, data: Path | str | None = None) -> Run:
    """A run that is given itself, or by its folder."""
    from toolkit.runs.finished_run import Run

    if isinstance(run, Run) and data is None:
        return run
    return Run(run.path if isinstance(run, Run) else Path(run), path_of(data))


def opened_bundle(bundle: Bundle | Path | str) -> Bundle:
    """A bundle that is given itself, or by its folder."""
    from toolkit.runtime.bundle import Bundle

    return bundle if isinstance(bundle, Bundle) else Bundle(Path(bundle))


def path_of(given: Path | str | None) -> Path | None:
    """A path, where one is given."""
    return None if given is None else Path(given)
