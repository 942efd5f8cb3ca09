"""How far from the machine's limit: operations and bytes of a graph beside what the machine's ceilings allow.

The attained share is the rate of the network's own operations over the rate of its matmuls alone. What
is missing to 1 is everything that is no matmul: norms, activations, softmax, sums, moving, starting operators.
Needs onnx to read the graph, and no torch; where torch is installed, its matmuls stand beside the runtime's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from export.latency.measure import MinSamples, Samples, alternate
from export.latency.pool import MOST_BYTES
from export.latency.runner import Runner
from toolkit.errors import ToolkitError
from toolkit.progress import SILENT, Progress
from toolkit.runtime.bundle import Bundle
from toolkit.runtime.inputs import Feed
from toolkit.runtime.memory import is_allocation_failure
from toolkit.runtime.openvino_library import FLOATS, OPENVINO, floats_of
from toolkit.runtime.preprocess import Preprocess
from toolkit.runtime.providers import ON_CPU

if TYPE_CHECKING:
    import onnx

    from export.latency.roofline.work import Work

NETWORK = "network"
GIVEN = ("logits", "probabilities", "value")
LEAST = MinSamples(20, 1.0)
DISTINCT_BATCHES = 8
WHAT = (
    "operations of the graph's matmuls (a multiply-add is two) a second, over those of the matmuls alone "
    "at the same shapes, in the same run"
)
WITH_PREPROCESSING = "rows include the preprocessing, whose operations are not counted; 'network' leaves it out"
WITHOUT_PREPROCESSING = "rows are the network alone"
HALF_ON_CPU = "fp16 matmuls are computed in float32 on CPUs, so their ceiling is that of float32"
NO_INTEGERS = "torch's matmuls stand beside those of graphs without integers; of others the runtime's are the best"


def limits(
    bundle: Bundle,
    batch_sizes: Mapping[str, Sequence[int]],
    *,
    provider: str,
    threads: int,
    least: MinSamples = LEAST,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """What :func:`measure_limits` gives for a bundle's graphs of these precisions, or ``{"left_out": reason}``."""
    if not find_spec("onnx"):
        return {"left_out": 'onnx is not installed, which counting needs: pip install "clip-toolkit[train]"'}
    if provider not in ON_CPU:
        return {"left_out": f"ceilings are measured on cpu and openvino alone, not on {provider}"}
    if bundle.tokenizer is not None:
        return {"left_out": "a network's share of the ceilings is measured for images alone"}
    import onnx

    graphs = {each: lambda each=each: onnx.load(bundle.path / bundle.graph_name(each)) for each in batch_sizes}
    try:
        return measure_limits(
            graphs,
            bundle.preprocess,
            batch_sizes,
            provider=provider,
            threads=threads,
            least=least,
            progress=progress,
        )
    except ToolkitError as error:
        return {"left_out": error.what}
    except Exception as error:
        if not is_allocation_failure(error):
            raise
        return {"left_out": "the matmuls alone do not fit in memory beside the graphs"}


def measure_limits(
    graphs: Mapping[str, Callable[[], onnx.ModelProto]],
    preprocess: Preprocess,
    batch_sizes: Mapping[str, Sequence[int]],
    *,
    provider: str = "cpu",
    threads: int,
    least: MinSamples = LEAST,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """Count each graph's work, and measure the CPU's ceilings in blocks that alternate with the network itself.

    Args:
        graphs: what loads each precision's graph; one is held in memory at a time, with its matmuls' weights
            once more for each library.
        preprocess: of these graphs.
        batch_sizes: images a run, of each precision.
        provider: that runs the graphs, ``cpu`` or ``openvino``.
        threads: of one operator, and of copying.
        least: how much to count of each engine and batch size.
        progress: told how it goes on.

    Returns:
        ``ceilings`` (GFLOP/s by precision and batch size, and GiB/s), ``work`` (a row a precision and batch
        size), ``network`` (the same rows with what the network alone attained) and ``what``, in words.

    Raises:
        ToolkitError: a graph whose work can't be counted.
    """
    from export.latency.roofline.ceilings import RUNTIMES, TORCH, best_seconds, ceiling_engines, measure_copy
    from export.latency.roofline.work import count_work

    assert preprocess.output_size is not None  # checked when it was built
    by_library: dict[str, dict[str, dict[str, float]]] = {}
    work: list[dict[str, Any]] = []
    network: list[dict[str, Any]] = []
    takes_images = False
    for precision, load in graphs.items():
        model = load()
        takes_images = takes_images or model.graph.input[0].name == "image"
        entry, run = network_run(model, provider=provider, threads=threads)
        floats = floats_of({each.key: each.value for each in model.metadata_props}) if provider == OPENVINO else "fp32"
        for batch_size in batch_sizes[precision]:
            counted = count_work(model, [batch_size, 3, *preprocess.output_size], floats)
            engines = ceiling_engines(counted, precision=precision, threads=threads, provider=provider)
            itself = Runner(NETWORK, precision, provider, threads, run)
            batches = batches_of(preprocess, batch_size, entry)
            whole, *matmuls = alternate([itself, *engines], batches, least, progress=progress)
            for samples in matmuls:
                rates = by_library.setdefault(samples.engine.name, {}).setdefault(precision, {})
                rates[str(batch_size)] = counted.gflop / best_seconds(samples)
            work.append({"precision": precision} | counted.describe())
            network.append({"precision": precision, "batch_size": batch_size} | attained(counted, whole, matmuls))
    runtime, torch = by_library.get(RUNTIMES[provider], {}), by_library.get(TORCH, {})
    notes = [WITH_PREPROCESSING if takes_images else WITHOUT_PREPROCESSING]
    notes += [HALF_ON_CPU] * ("fp16" in graphs) + [NO_INTEGERS] * bool(torch and set(runtime) - set(torch))
    return {
        "ceilings": {
            "threads": threads,
            **best_of(runtime, torch, RUNTIMES[provider]),
            "copy_gib_s": measure_copy(threads),
        },
        "work": work,
        "network": network,
        "what": WHAT,
        "notes": notes,
    }


def network_run(model: onnx.ModelProto, *, provider: str = "cpu", threads: int) -> tuple[str, Callable[[Feed], Any]]:
    """The network of a graph without its preprocessing: the name of what it takes, and what runs it.

    It takes ``pixel_values``, or the grey levels that a graph with rounded patches takes in their place, which are
    made outside the clock: see :func:`batches_of`.
    """
    from export.graph.subgraph import network_part, open_model

    names = [each.name for each in model.graph.output if each.name in GIVEN]
    part = network_part(model, names)
    part.metadata_props.extend(each for each in model.metadata_props if each.key == FLOATS)
    (entry,) = part.graph.input
    session = open_model(part, provider=provider, threads=threads)
    return entry.name, lambda feed: session.compute(names, feed)


def batches_of(preprocess: Preprocess, batch_size: int, entry: str) -> list[Feed]:
    """Random images as a network takes them: ``pixel_values``, or grey levels after the resize."""
    from export.graph.preprocessing import PIXEL_VALUES

    assert preprocess.output_size is not None
    rng = np.random.default_rng(0)
    size = (batch_size, *preprocess.output_size, 3)
    count = max(1, min(DISTINCT_BATCHES, MOST_BYTES // (4 * int(np.prod(size)))))
    batches: list[Feed] = []
    for _ in range(count):
        levels = rng.integers(0, 256, size, dtype=np.uint8)
        normalized = entry == PIXEL_VALUES
        values = np.stack([preprocess.normalized(each) for each in levels]) if normalized else levels.astype(np.float32)
        batches.append({entry: values})
    return batches


def attained(work: Work, network: Samples, ceilings: Sequence[Samples]) -> dict[str, Any]:
    """What a network attained beside the matmuls that were measured in turns with it.

    ``share_of_ceiling`` sets the median of all its runs beside the matmuls' best block; ``share_by_block`` is the
    median over the blocks, with the least and the largest, of the matmuls' time over the network's in the same
    block, which the machine's drift hits alike.
    """
    from export.latency.roofline.ceilings import TORCH, best_seconds

    seconds = float(np.median(network.seconds))
    best = {each.engine.name: best_seconds(each) for each in ceilings}
    (runtime,) = (each for each in ceilings if each.engine.name != TORCH)
    shares = np.divide(runtime.block_medians, network.block_medians)
    return {
        "p50_ms": seconds * 1000,
        "gflops_per_s": work.gflop / seconds,
        "share_of_ceiling": best[runtime.engine.name] / seconds,
        "share_of_best_ceiling": min(best.values()) / seconds,
        "share_by_block": {"p50": float(np.median(shares)), "min": float(shares.min()), "max": float(shares.max())},
    }


def best_of(
    runtime: dict[str, dict[str, float]], torch: dict[str, dict[str, float]], name: str = "onnxruntime"
) -> dict[str, Any]:
    """Ceilings in GFLOP/s by precision and batch size: the runtime's, torch's (None without torch) and the better."""
    best: dict[str, dict[str, float]] = {}
    libraries = set()
    for precision, rates in runtime.items():
        best[precision] = {}
        for batch_size, rate in rates.items():
            other = torch.get(precision, {}).get(batch_size, 0.0)
            best[precision][batch_size] = max(rate, other)
            libraries.add("torch" if other > rate else name)
    return {
        "runtime": name,
        "runtime_gflops": runtime,
        "torch_gflops": torch or None,
        "best_gflops": best,
        "best_library": " or ".join(sorted(libraries)),
    }


def add_shares(rows: Sequence[dict[str, Any]], found: dict[str, Any]) -> None:
    """Add ``gflops_per_s``, ``share_of_ceiling`` and ``share_of_best_ceiling`` to the rows of ``latency.json``.

    All engines are credited with the graph's operations, so a torch that computes tokens that nothing reads gains
    nothing by it. Rows of a precision or batch size that was not counted stay as they are.
    """
    counted = {(entry["precision"], entry["batch_size"]): entry["gflop"] for entry in found.get("work", [])}
    for row in rows:
        gflop = counted.get((row["precision"], row["batch_size"]))
        if gflop is None:
            continue
        rate = gflop / (row["p50_ms"] / 1000)
        places = {"share_of_ceiling": "runtime_gflops", "share_of_best_ceiling": "best_gflops"}
        ceilings = {
            share: found["ceilings"][name][row["precision"]][str(row["batch_size"])] for share, name in places.items()
        }
        row.update({"gflops_per_s": rate} | {share: rate / ceiling for share, ceiling in ceilings.items()})
