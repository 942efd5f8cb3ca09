"""``config.pbtxt``: what Triton is told of a model (model_config.proto of triton-inference-server/common)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from export.triton.protobuf_text import Message, Symbol, mapped
from export.triton.settings import TritonSettings
from toolkit.errors import ToolkitError
from toolkit.runtime.inputs import IMAGE_MASK
from toolkit.runtime.label_thresholds import DECISIONS
from toolkit.runtime.onnx_file import input_shapes, output_shapes
from toolkit.runtime.providers import PROVIDER_OPTIONS
from toolkit.runtime.session import OF_NUMBER, OUTPUTS, TEXT_INPUTS
from toolkit.runtime.tensorrt import profile_options, require_compilable, require_standard_operators

LABELS = "labels.txt"
DATA_TYPES = {"image": "UINT8", "pixel_values": "FP32"} | dict.fromkeys((*TEXT_INPUTS, IMAGE_MASK), "INT64")
Shapes = Mapping[str, tuple[int, ...]]
CUDNN_SEARCH = {"EXHAUSTIVE": "0", "HEURISTIC": "1", "DEFAULT": "2"}
"""The backend's numbers. A ``cudnn_conv_algo_search`` of the accelerator is overwritten by this parameter's default."""


@dataclass(frozen=True)
class ServedGraph:
    """A graph's names and shapes, without the batch."""

    inputs: Mapping[str, tuple[int, ...]]
    """Shape by name; -1 for a side of any length."""
    outputs: Mapping[str, int]
    """Width by name."""


def served_graph(graph: bytes, where: object) -> ServedGraph:
    """Names and shapes of a graph.

    Raises:
        ToolkitError: it is none of this toolkit's.
        ValueError: the bytes are no ONNX file, or a damaged one.
    """
    inputs, outputs = input_shapes(graph), output_shapes(graph)
    if (
        not inputs
        or not set(inputs) <= set(DATA_TYPES)
        or not (set(OUTPUTS) <= set(outputs) or set(OF_NUMBER) <= set(outputs))
    ):
        what = f"the graph takes {', '.join(inputs)} and gives {', '.join(outputs)}"
        raise ToolkitError(what, where=where, fix="give a graph that toolkit export wrote")
    widths = {each: shape[1] for each, shape in outputs.items() if len(shape) == 2}
    if set(widths) != set(outputs) or None in widths.values():
        raise ToolkitError("the graph's outputs have no fixed width", where=where, fix="export the bundle again")
    shapes = {name: tuple(-1 if side is None else side for side in sides[1:]) for name, sides in inputs.items()}
    return ServedGraph(shapes, {each: width for each, width in widths.items() if width is not None})


def config_of(name: str, served: ServedGraph, graph: bytes, settings: TritonSettings, warm_up: Shapes) -> Message:
    """A model's configuration.

    Args:
        name: of the model.
        served: the graph's names and shapes.
        graph: its content.
        settings: how it runs.
        warm_up: shapes of one example, by input, that warms up a graph which takes any.

    Raises:
        ToolkitError: TensorRT can't run the graph.
    """
    config: dict[str, Any] = {
        "name": name,
        "backend": "onnxruntime",
        "default_model_filename": "model.onnx",
        "max_batch_size": settings.max_batch_size,
        "input": [_input(each, shape) for each, shape in served.inputs.items()],
        "output": [_output(each, width) for each, width in served.outputs.items()],
        "instance_group": {
            "count": settings.instances,
            "kind": Symbol("KIND_GPU" if settings.on_gpu else "KIND_CPU"),
        },
        # a free instance takes what waits, up to the largest batch, and waits for no more: as toolkit serve does
        "dynamic_batching": {
            "preferred_batch_size": [settings.max_batch_size],
            "max_queue_delay_microseconds": 0,
        },
        "parameters": mapped({key: {"string_value": value} for key, value in _parameters(settings).items()}),
    }
    if settings.on_gpu:
        config["optimization"] = {
            "execution_accelerators": {"gpu_execution_accelerator": _gpu(graph, served, settings)}
        }
    config["model_warmup"] = [_warm_up(served, warm_up, size) for size in settings.batch_sizes]
    return config


def _input(name: str, shape: tuple[int, ...]) -> Message:
    told: dict[str, Any] = {"name": name, "data_type": Symbol(f"TYPE_{DATA_TYPES[name]}"), "dims": shape or (1,)}
    return told if shape else told | {"reshape": {}}  # Triton has no input of a number an example: a list of one


def _output(name: str, width: int) -> Message:
    labelled = {"label_filename": LABELS} if name in OUTPUTS else {}
    return {
        "name": name,
        "data_type": Symbol("TYPE_BOOL" if name == DECISIONS else "TYPE_FP32"),
        "dims": [width],
    } | labelled


def _parameters(settings: TritonSettings) -> dict[str, str]:
    """Parameters of the ONNX Runtime backend, all of them strings."""
    parameters = {
        "intra_op_thread_count": str(settings.threads),
        "inter_op_thread_count": "1",
        "execution_mode": "0",  # sequential
    }
    search = settings.provider_options.get("cudnn_conv_algo_search")
    return parameters | ({"cudnn_conv_algo_search": CUDNN_SEARCH[search]} if search else {})


def _gpu(graph: bytes, served: ServedGraph, settings: TritonSettings) -> list[Message]:
    """Accelerators: CUDA as production sets it, below TensorRT where that is asked for."""
    cuda = {"name": "cuda", "parameters": mapped(PROVIDER_OPTIONS["cuda"])}
    if settings.provider != "tensorrt":
        return [cuda]
    require_compilable(served.inputs)
    require_standard_operators(graph)
    options = profile_options(graph, settings.max_batch_size)
    options |= {key: value for key, value in settings.provider_options.items() if key.startswith("trt_")}
    return [{"name": "tensorrt", "parameters": mapped(options)}, cuda]


def _warm_up(served: ServedGraph, shapes: Shapes, batch_size: int) -> Message:
    given = {
        name: {"data_type": Symbol(f"TYPE_{DATA_TYPES[name]}"), "dims": shapes[name] or (1,), "zero_data": True}
        for name in served.inputs
    }
    return {"name": f"batch of {batch_size}", "batch_size": batch_size, "inputs": mapped(given)}
