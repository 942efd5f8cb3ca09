"""``toolkit bench-latency``: latency and throughput of a bundle on this machine."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from toolkit.cli.bench_url import measure_url
from toolkit.cli.output import (
    DataOption,
    JsonFlag,
    OutFileOption,
    ProviderOption,
    SignOption,
    ThreadsOption,
    console,
    counting,
    messages,
    print_json,
    print_table,
    require_signable,
    warn_of_signature,
)
from toolkit.errors import CheckFailed, ToolkitError
from toolkit.user_paths import require_data, require_run

WITHOUT_RUN = {"onnxruntime-bound", "onnxruntime-cuda-graph"}
"""Engines to compare with that need nothing but the bundle."""


def bench_latency(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder.")],
    precision: Annotated[
        str | None,
        typer.Option(
            help="Precision of the graph to measure; the file then holds this one alone.",
            show_default="each that the provider runs",
        ),
    ] = None,
    provider: ProviderOption = "cpu",
    batch_sizes: Annotated[str, typer.Option(help="Images a run, comma-separated.")] = "1,8,32",
    compare: Annotated[
        str | None,
        typer.Option(
            help="Other engines to measure in alternation, of torch-eager, torch-compile, torch-bf16, torch-fp16, "
            "torch-compile-bf16, torch-compile-fp16, onnxruntime-plain, onnxruntime-bound, onnxruntime-cuda-graph, "
            "hf-pipeline; '' for none.",
            show_default="torch-eager where torch is installed",
        ),
    ] = None,
    scenarios: Annotated[
        str,
        typer.Option(
            help="MLPerf's scenarios beside SingleStream, of offline, server, multi-stream, and concurrency, which "
            "sweeps sessions and threads; or all."
        ),
    ] = "",
    target_p99_ms: Annotated[
        float | None,
        typer.Option(
            "--target-p99-ms", help="p99 that the server scenario holds.", show_default="as tuned, or twice a run's p50"
        ),
    ] = None,
    baseline: Annotated[
        Path | None,
        typer.Option(help="Older bundle: measure both in alternation, exit 1 if this one is slower; writes nothing."),
    ] = None,
    max_regression: Annotated[float, typer.Option(help="Percent of p50 that it may be slower than --baseline.")] = 5.0,
    url: Annotated[
        str | None,
        typer.Option(
            help="Running server that has the bundle, such as http://127.0.0.1:8000: measure the server scenario "
            "there; the bundle stays as it is."
        ),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(help="With --url: images a second to offer.", show_default="the highest within the target"),
    ] = None,
    runs: Annotated[int, typer.Option(help="Runs to count for each engine and batch size, at least.")] = 50,
    seconds: Annotated[
        float, typer.Option(min=0, help="Seconds to count for each engine and batch size, at least.")
    ] = 2.0,
    images: Annotated[
        Path | None,
        typer.Option(help="Folder of images to draw inputs from.", show_default="held-out images, or the golden ones"),
    ] = None,
    details: Annotated[
        bool, typer.Option(help="Also measure cold start, memory, the steps of a request and the machine's limits.")
    ] = True,
    run: Annotated[Path | None, typer.Option(help="Run folder, if it is no longer where the export found it.")] = None,
    data: DataOption = None,
    threads: ThreadsOption = None,
    out: OutFileOption = None,
    sign: SignOption = None,
    json: JsonFlag = False,
) -> None:
    """Measure latency with intervals and throughput in alternating blocks; writes latency.json into the bundle.

    Example: toolkit bench-latency bundles/digits --batch-sizes 1,8,32 --compare torch-eager
    """
    from toolkit.runtime.bundle import Bundle
    from toolkit.runtime.image_files import require_images

    names, sizes = _compared(compare), _numbers(batch_sizes)
    require_signable(sign, out=out)
    require_images(images)
    if url is not None:
        others = {"compare": compare, "scenarios": scenarios, "baseline": baseline, "run": run, "data": data}
        _require_alone("--url sends requests to a server, and measures nothing else", **others, sign=sign)
        measure_url(bundle, url, rate, target_p99_ms, (runs, seconds), images, out, json=json)
        return
    if rate is not None:
        raise ToolkitError("--rate is what --url offers", where="--rate", fix="give --url too, or leave it out")
    opened = Bundle(bundle)
    if baseline is not None:
        others = {"compare": compare, "scenarios": scenarios, "run": run, "data": data, "out": out}
        _require_alone("--baseline measures two bundles in turns, and nothing else", **others)
    elif run is not None or data is not None or set(names) - WITHOUT_RUN:
        require_run(run or opened.run, of_bundle=run is None)
        require_data(data)
    from export.benchmark import SCENARIOS
    from export.latency.measure import MinSamples
    from export.regression import Gate, against_baseline
    from toolkit.api import bench_latency as measure

    least = MinSamples(runs, seconds)
    wanted = list(SCENARIOS) if scenarios == "all" else _names(scenarios)
    if baseline is not None:
        gate = Gate(provider, sizes, least, max_regression, precision, threads, images)
        with counting("measuring both") as progress:
            _judge(
                against_baseline(opened, Bundle(baseline), gate, progress=progress),
                json=json,
            )
        return
    with counting("measuring") as progress:
        latency = measure(
            opened,
            batch_sizes=sizes,
            compare=names,
            scenarios=wanted,
            provider=provider,
            precision=precision,
            threads=threads,
            runs=runs,
            seconds=seconds,
            images=images,
            target_p99_ms=target_p99_ms,
            details=details,
            run=run,
            data=data,
            out=out,
            sign=sign,
            progress=progress,
        )
    warn_of_signature(opened)
    if json:
        print_json(latency)
        return
    print_latency(latency)
    if compare is None and not names:
        messages().print("torch is not installed, so ONNX Runtime was measured alone")
    written = f"written: {out or bundle / 'latency.json'}" + ("" if out else ", report.html")
    console().print(written, f"next: toolkit tune {bundle} --p99-ms 20", sep="\n")


def print_latency(latency: dict[str, Any]) -> None:
    """What was measured, as tables and sentences."""
    from toolkit.reporting.model_card import latency_cells, machine_line

    columns = ["engine", "on", "batch", "p50 ms", "p90 ms", "p99 ms", "images/s"]
    rows = [[engine, f"{on} {precision}", *metrics] for engine, on, precision, *metrics in latency_cells(latency)]
    shares = [row.get("share_of_ceiling") for row in latency["rows"]]
    if any(shares):
        columns.append("of the limit")
        for cells, share in zip(rows, shares, strict=True):
            cells.append("" if share is None else f"{share:.0%}")
    print_table(f"latency on {machine_line(latency)}", columns, rows, left=2)
    for sentence in latency_sentences(latency):
        console().print(sentence, soft_wrap=True)


def latency_sentences(latency: dict[str, Any]) -> list[str]:
    """What the table of rows leaves out: disturbances first, then cold start, requests and scenarios."""
    said = [f"warning: {sentence}" for sentence in latency["machine"].get("throttled", [])]
    said += [
        f"warning: {row['engine']} {row['precision']} at batch {row['batch_size']} was not steady after "
        f"{row['warmup_seconds']:.1f} s of warm-up"
        for row in latency["rows"]
        if row.get("steady") is False
    ]
    said += [f"skipped: {each['engine']} {each['precision']}: {each['reason']}" for each in latency.get("skipped", [])]
    for row in latency.get("cold_start", []):
        said.append(
            f"cold start, {row['precision']}: {row['total_ms']:.0f} ms to the first answer (imports "
            f"{row['import_ms']:.0f}, hashes and session {row['session_ms']:.0f}, first run {row['first_run_ms']:.1f})"
        )
    for row in latency.get("request", []):
        steps = [("decode", "decode_ms"), ("preprocess", "preprocess_ms"), ("network", "network_ms")]
        parts = ", ".join(f"{name} {row[key]:.2f}" for name, key in steps if row[key] is not None)
        said.append(f"file to label, {row['precision']}: {row['file_to_label_ms']:.2f} ms ({parts})")
    scenarios = latency.get("scenarios") or {}
    if scenarios.get("offline"):
        best = max(scenarios["offline"], key=lambda row: float(row["throughput_ips"]))
        said.append(
            f"Offline: {best['throughput_ips']:.0f} images/s at batch {best['batch_size']}; {scenarios['offline_end']}"
        )
    if scenarios.get("server"):
        server = scenarios["server"]
        rate = server["rate_that_holds_ips"]
        holds = "no rate" if rate is None else f"{rate:.1f} images/s"
        said.append(f"Server: {holds} within a p99 of {server['target_p99_ms']:g} ms; {server['note']}")
    for row in scenarios.get("multi_stream", []):
        said.append(f"MultiStream: {row['samples_per_query']} images a query, p99 {row['p99_ms']:.2f} ms")
    for row in scenarios.get("concurrency", []):
        if row["p99_ms"] is not None:
            said.append(
                f"{row['sessions']} sessions x {row['threads']} threads"
                f"{'' if row['allow_spinning'] else ', pools that sleep'}: {row['throughput_ips']:.0f} images/s, "
                f"p99 {row['p99_ms']:.2f} ms"
            )
    tuned = latency.get("serving")
    if tuned and tuned["p99_ms"] is None:
        said.append(f"as tuned: not measured, {tuned.get('note') or 'nothing was served'}")
    elif tuned:
        verdict = "within" if tuned["within_budget"] else "OVER"
        said.append(
            f"as tuned ({tuned['precision']}, batch {tuned['batch_size']}, {tuned['sessions']} x {tuned['threads']} "
            f"threads): p99 {tuned['p99_ms']:.2f} ms, {verdict} the budget of {tuned['budget_p99_ms']:g} ms; "
            f"{tuned['throughput_ips']:.0f} images/s"
        )
    return said


def _judge(outcome: dict[str, Any], *, json: bool) -> None:
    """Print a comparison with a baseline; raise :class:`CheckFailed` after a regression."""
    if json:
        print_json(outcome)
    else:
        cells = [
            [
                row["precision"],
                str(row["batch_size"]),
                f"{row['new_p50_ms']:.2f}",
                f"{row['old_p50_ms']:.2f}",
                f"{row['ratio']:.3f} ({row['ratio_interval'][0]:.3f} to {row['ratio_interval'][1]:.3f})",
                "REGRESSION" if row["regression"] else "ok",
            ]
            for row in outcome["rows"]
        ]
        columns = ["precision", "batch", "new p50 ms", "old p50 ms", "new/old (95 %)", ""]
        print_table(f"against {outcome['baseline']}; at most {outcome['max_regression']:g} % slower", columns, cells)
    slower = [row for row in outcome["rows"] if row["regression"]]
    if slower:
        worst = max(slower, key=lambda row: float(row["ratio"]))
        raise CheckFailed(
            f"slower than {outcome['baseline']} by {100 * (worst['ratio'] - 1):.1f} % in {worst['precision']} at batch "
            f"{worst['batch_size']}; at most {outcome['max_regression']:g} % is allowed"
        )


def _require_alone(what: str, **others: object) -> None:
    """Raise for an option that has no part in what is measured."""
    for name, value in others.items():
        if value:
            raise ToolkitError(what, where=f"--{name}", fix=f"leave out --{name}, or {what.split(maxsplit=1)[0]}")


def _compared(compare: str | None) -> list[str]:
    if compare is None:
        return ["torch-eager"] if find_spec("torch") else []
    return _names(compare)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ToolkitError(
            f"{text!r} is no list of numbers", where="--batch-sizes", fix="write it like 1,8,32"
        ) from None
