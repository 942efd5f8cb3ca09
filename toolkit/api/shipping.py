"""Functions that make a bundle of a run, prove it and measure it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from toolkit.api.opening import opened_bundle, opened_run, path_of
from toolkit.errors import ToolkitError
from toolkit.progress import SILENT, Progress

if TYPE_CHECKING:
    from export.selection.contract import Contract
    from export.triton.repository import TritonRepository
    from toolkit.runs.finished_run import Run
    from toolkit.runtime.bundle import Bundle


MAX_ACCURACY_DROP = 0.2
"""Percentage points that ``--precision auto`` may lose, unless told otherwise."""


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
        provider: that the graphs are made for and that parity runs on; with ``auto`` also ``"cpu,openvino"``, of which
            the faster is chosen. The bundle's ``parity["provider"]`` says which.
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
    from toolkit.runtime.openvino_library import OPENVINO
    from toolkit.runtime.providers import several_providers

    precisions, budget = precisions_asked_for(precision, max_accuracy_drop, provider)
    contract = contract_asked_for(precision, max_accuracy_drop, max_flips, min_speedup)
    providers = several_providers(provider)
    graph_input = input_on(OPENVINO if OPENVINO in providers else provider, input)
    wanted = ExportOptions(graph_input, precisions, budget, images, calibration_images, embedding, contract)
    if triton is not None:
        from export.triton.repository import check_repository

        default = precisions[0] if precisions else None
        for each in providers:
            check_repository(
                Path(out), Path(triton), provider=each, precision=default, graph_kind=graph_input, force=force
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
    from toolkit.runtime.providers import provider_name, require_precision, several_providers

    providers = several_providers(provider)
    if "auto" not in names:
        if max_accuracy_drop is not None:
            fix = "add --precision auto, or leave it out"
            raise ToolkitError("a budget is for --precision auto", where="--max-accuracy-drop", fix=fix)
        if len(providers) > 1:
            what, fix = "several providers are for --precision auto", "add --precision auto, or give one provider"
            raise ToolkitError(what, where="--provider", fix=fix)
        return [require_precision(name, provider) for name in names], None
    if len(names) > 1:
        fix = "ask for auto alone, or name the precisions"
        raise ToolkitError("auto chooses the precision itself", where="--precision", fix=fix)
    for each in providers:
        provider_name(each)
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
