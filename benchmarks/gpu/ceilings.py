"""What the card does at best: matmuls at the network's shapes by torch and by ONNX Runtime, and copies."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from onnx import TensorProto, helper

from benchmarks.gpu.setting import Setting
from export.graph.builder import IR_VERSION, OPSET
from export.latency.roofline.work import Work, count_work
from toolkit.runtime.providers import PROVIDER_OPTIONS, PROVIDERS

TYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
ELEMENTS = {"fp32": TensorProto.FLOAT, "fp16": TensorProto.FLOAT16}
"""Of ONNX Runtime's own matmuls; numpy has no bf16 to feed them with."""


def ceilings(setting: Setting) -> dict[str, Any]:
    """TFLOP/s of the matmuls of B/32 alone, by precision, batch size and library; GiB/s of copies."""
    found: dict[str, Any] = {"tflops": {}, "gflop": {}}
    bundle = setting.bundle("pixel_values")
    model = onnx.load(bundle.path / bundle.graph_name("fp32"))
    for batch_size in setting.of((1,), (1, 32)):
        work = count_work(model, [batch_size, 3, 224, 224])
        found["gflop"][batch_size] = work.gflop
        for precision in setting.precisions:
            rates = {"torch": work.operations / torch_seconds(work, precision, setting)}
            if precision in ELEMENTS:
                rates["onnxruntime"] = work.operations / onnxruntime_seconds(work, precision, setting)
            found["tflops"][f"{precision}, batch {batch_size}"] = {name: rate / 1e12 for name, rate in rates.items()}
    return found | {"gib_s": copies(setting)}


def seconds_of(call: Callable[[], object], setting: Setting) -> float:
    """Least seconds of a call, by the device's own clock where there is one."""
    times = []
    for _ in range(setting.of(2, 20)):
        if setting.dry:
            started = time.perf_counter()
            call()
            times.append(time.perf_counter() - started)
            continue
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        call()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / 1000)
    return min(times)


@torch.inference_mode()
def torch_seconds(work: Work, precision: str, setting: Setting) -> float:
    """Seconds of all matmuls, each weight its own; fp32 in fp32."""
    torch.backends.cuda.matmul.allow_tf32 = False
    dtype, calls = TYPES[precision], []
    for matmul in work.matmuls:
        x = torch.randn(matmul.together, matmul.m, matmul.k, device=setting.device).to(dtype)
        w = torch.randn(matmul.together, matmul.k, matmul.n, device=setting.device).to(dtype)
        calls.append((x, w))

    def all_of_them() -> None:
        for x, w in calls:
            torch.bmm(x, w)

    all_of_them()
    return seconds_of(all_of_them, setting)


def onnxruntime_seconds(work: Work, precision: str, setting: Setting) -> float:
    """The same in one graph of matmuls side by side, inputs and outputs bound to the device."""
    element = ELEMENTS[precision]
    dtype = helper.tensor_dtype_to_np_dtype(element)
    nodes, inputs, outputs, constants, feed = [], [], [], [], {}
    rng = np.random.default_rng(0)
    for place, matmul in enumerate(work.matmuls):
        shape = [matmul.together, matmul.m, matmul.k]
        weight = rng.standard_normal((matmul.together, matmul.k, matmul.n), np.float32).astype(dtype)
        constants.append(onnx.numpy_helper.from_array(weight, f"w{place}"))
        nodes.append(helper.make_node("MatMul", [f"x{place}", f"w{place}"], [f"y{place}"]))
        inputs.append(helper.make_tensor_value_info(f"x{place}", element, shape))
        outputs.append(helper.make_tensor_value_info(f"y{place}", element, [*shape[:2], matmul.n]))
        feed[f"x{place}"] = rng.standard_normal(shape, np.float32).astype(dtype)
    graph = helper.make_graph(nodes, "matmuls", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    providers = [(PROVIDERS[setting.provider], PROVIDER_OPTIONS.get(setting.provider, {}))]
    session = ort.InferenceSession(model.SerializeToString(), options, providers=providers)
    bound = session.io_binding()
    for name, values in feed.items():
        bound.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(values, setting.device, 0))
    for value in outputs:
        bound.bind_output(value.name, setting.device)
    times = []
    for _ in range(setting.of(2, 20)):
        started = time.perf_counter()
        session.run_with_iobinding(bound)
        bound.synchronize_outputs()
        times.append(time.perf_counter() - started)
    return min(times)


def copies(setting: Setting) -> dict[str, float]:
    """GiB/s: within the device (bytes read and written both counted), and to it from pageable and pinned memory."""
    size = setting.of(1 << 22, 1 << 30)
    there = torch.zeros(size, dtype=torch.uint8, device=setting.device)
    other, pageable = torch.empty_like(there), torch.zeros(size, dtype=torch.uint8)
    calls = {
        "within the device": lambda: other.copy_(there),
        "to the device, pageable": lambda: there.copy_(pageable),
    }
    if not setting.dry:
        pinned = pageable.pin_memory()
        calls["to the device, pinned"] = lambda: there.copy_(pinned, non_blocking=True)
        calls["to the host, pinned"] = lambda: pinned.copy_(there, non_blocking=True)
    factor = {"within the device": 2}
    return {name: factor.get(name, 1) * size / seconds_of(call, setting) / 2**30 for name, call in calls.items()}
