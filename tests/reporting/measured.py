"""A ``latency.json`` and a ``serving.json`` with every part that the report shows, as a benchmark writes them."""

from __future__ import annotations

from typing import Any

ENGINES = (("onnxruntime", "fp32", 4.1), ("onnxruntime", "fp16", 3.4), ("onnxruntime", "int8", 1.9))
TORCH = (("torch-eager", "fp32", 9.3), ("torch-compile", "fp32", 5.6))
SIZES = (1, 8, 32)
GFLOP = 0.31
CEILINGS = {
    "fp32": {"1": 98.0, "8": 131.0, "32": 142.0},
    "fp16": {"1": 118.0, "8": 160.0, "32": 176.0},
    "int8": {"1": 230.0, "8": 301.0, "32": 342.0},
}


TORCH_CEILING = {size: 1.12 * rate for size, rate in CEILINGS["fp32"].items()}


def serving() -> dict[str, Any]:
    return {
        "provider": "cpu",
        "precision": "int8",
        "threads": 2,
        "sessions": 1,
        "batch_size": 8,
        "expected": {"p50_ms": 11.4, "p99_ms": 17.9, "throughput_ips": 693.2, "accuracy_drop": 0.28},
        "budget": {"p99_ms": 25.0, "max_accuracy_drop": 0.5, "rate": 400.0},
        "machine": {"processor": "AMD EPYC 7R13"},
    }


def latency() -> dict[str, Any]:
    forms = [{"precision": precision, "provider": "cpu"} for _, precision, _ in ENGINES]
    return {
        "rows": [row(*engine, size) for size in SIZES for engine in ENGINES + TORCH],
        "machine": {
            "processor": "AMD EPYC 7R13 48-Core Processor",
            "instructions": ["avx2", "fma", "avx512f", "avx512_vnni"],
            "cores": 48,
            "usable_cores": 2,
            "cpu_quota": 2.0,
            "memory_gib": 23.5,
            "system": "Linux 6.18.44",
            "python": "3.11.7",
            "versions": {"onnxruntime": "1.31.1", "torch": "2.13.0+cpu"},
            "clocks_mhz": [2650.0, 3400.0],
            "load_average": [1.9, 1.2, 0.7],
            "stolen_share": 0.001,
            "other_processes_share": 0.02,
            "quota_throttled_ms": 412.0,
            "gpu": {
                "name": "NVIDIA H100 80GB HBM3",
                "driver": "580.65.06",
                "sm_clock_mhz": 1980,
                "memory_clock_mhz": 2619,
                "power_w": 412.5,
                "power_limit_w": 700.0,
                "temperature_c": 61,
                "memory_used_mib": 1480.0,
                "throttled": ["the power limit"],
            },
            "throttled": [
                "the container's CPU quota held it back for 412 ms",
                "the GPU's clocks were held back by the power limit",
            ],
        },
        "inputs": {
            "images": 256,
            "seed": 0,
            "from": "8 golden images of the bundle, mirrored and shifted to 256",
            "shapes": [[32, 32, 3]],
            "what": "preprocessing and network: decoded images in host memory to probabilities in host memory",
        },
        "cold_start": [
            form | {"process_ms": 21.0, "import_ms": 310.2, "session_ms": 88.1, "first_run_ms": 9.7, "total_ms": 429.0}
            for form in forms
        ],
        "memory": [
            form | {"batch_size": size, "peak_resident_mib": 96.5 + 3 * size, "peak_device_mib": None}
            for form in forms
            for size in SIZES
        ],
        "request": [
            form
            | {
                "decode_ms": 0.21,
                "preprocess_ms": 0.74,
                "host_to_device_ms": None,
                "network_ms": 3.3,
                "device_to_host_ms": None,
                "file_to_label_ms": 4.31,
            }
            for form in forms
        ],
        "limits": {
            "ceilings": {
                "runtime_gflops": CEILINGS,
                "torch_gflops": {"fp32": TORCH_CEILING},
                "best_gflops": CEILINGS | {"fp32": TORCH_CEILING},
                "best_library": "onnxruntime or torch",
                "copy_gib_s": 9.4,
                "threads": 2,
            },
            "network": [
                form
                | {"batch_size": size, "p50_ms": 3.9 * size**0.85, "gflops_per_s": 79.0}
                | {"share_of_ceiling": 0.81, "share_of_best_ceiling": 0.72}
                for form in forms
                for size in SIZES
            ],
            "what": "operations of the graph's matmuls a second, over those of the matmuls alone",
            "notes": ["rows include the preprocessing, whose operations are not counted; 'network' leaves it out"],
            "work": [
                {"precision": precision, "batch_size": size, "gflop": GFLOP * size, "mib": weights + 0.9 * size}
                for precision, weights in (("fp32", 4.8), ("fp16", 2.4), ("int8", 1.3))
                for size in SIZES
            ],
        },
        "scenarios": {
            "offline": [
                form | {"batch_size": size, "throughput_ips": 300.0 + 40 * size**0.5, "p99_ms": 3.1 * size}
                for form in forms
                for size in (1, 4, 16, 64)
            ],
            "offline_end": "The sweep ended at batch 64: throughput rose by less than 2 %.",
            "server": {
                "precision": "int8",
                "provider": "cpu",
                "target_p99_ms": 25.0,
                "rate_that_holds_ips": 402.0,
                "points": [
                    {
                        "offered_ips": offered,
                        "achieved_ips": min(offered, 488.0),
                        "p50_ms": 2.0 + wait / 3,
                        "p99_ms": 4.0 + wait,
                        "saturated": offered > 490,
                        "requests": 2000,
                    }
                    for offered, wait in (
                        (100.0, 1.0),
                        (200.0, 2.4),
                        (300.0, 6.0),
                        (402.0, 19.0),
                        (450.0, 44.0),
                        (520.0, 310.0),
                    )
                ],
            },
            "multi_stream": [
                forms[0] | {"samples_per_query": size, "p50_ms": 2.9 * size**0.8, "p99_ms": 3.2 * size**0.8}
                for size in (1, 2, 4, 8)
            ],
            "concurrency": [
                {"allow_spinning": True, "provider_options": {}} | each
                for each in (
                    {"sessions": 1, "threads": 2, "throughput_ips": 488.0, "p50_ms": 2.0, "p99_ms": 4.1},
                    {"sessions": 2, "threads": 1, "throughput_ips": 541.0, "p50_ms": 3.6, "p99_ms": 6.3},
                    {"sessions": 2, "threads": 2, "throughput_ips": 520.0, "p50_ms": 3.7, "p99_ms": 7.9},
                    {"sessions": 2, "threads": 2, "throughput_ips": 533.0, "p50_ms": 3.6, "p99_ms": 6.1}
                    | {"allow_spinning": False},
                )
            ],
        },
        "graph_sha256": "0" * 64,
        "created": "2026-11-24T19:34:43+00:00",
    }


def row(engine: str, precision: str, milliseconds: float, size: int) -> dict[str, Any]:
    p50 = milliseconds * size**0.85
    metrics = {"p50_ms": p50, "p90_ms": 1.2 * p50, "p95_ms": 1.3 * p50, "p99_ms": 1.7 * p50}
    rate = GFLOP * size / p50 * 1e3
    shares = {"gflops_per_s": rate, "share_of_ceiling": rate / CEILINGS[precision][str(size)]}
    if precision == "fp32":
        shares["share_of_best_ceiling"] = rate / CEILINGS[precision][str(size)] / 1.12
    return (
        {"provider": "cpu", "precision": precision, "batch_size": size, "engine": engine, "scenario": "SingleStream"}
        | metrics
        | {
            "p99_9_ms": 2.1 * p50 if size == 1 else None,
            "mean_ms": 1.05 * p50,
            "max_ms": 2.4 * p50,
            "intervals": {name: [0.97 * value, 1.04 * value] for name, value in metrics.items()} | {"p99_9_ms": None},
            "throughput_ips": size / p50 * 950,
            "runs": 1200 if size == 1 else 180,
            "warmup_runs": 31,
            "warmup_seconds": 0.42,
            "steady": (engine, size) != ("torch-eager", 32),
            "threads": 2,
            "block_p50_ms": [p50 * (0.98 + 0.01 * block) for block in range(5)],
        }
        | shares
    )
