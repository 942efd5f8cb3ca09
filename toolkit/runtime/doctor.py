"""What is installed, what really loads on this machine, and what to do about what is missing."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution, version
from importlib.util import find_spec
from typing import Any

from toolkit.runtime.libraries import INSTALL
from toolkit.runtime.machine import describe_machine
from toolkit.runtime.open_session import probed_providers

EXTRAS = {"train": "fine-tuning and export", "data": "toolkit data elpv and textile", "openvino": "--provider openvino"}


def diagnose() -> dict[str, Any]:
    """Collect versions, devices, providers and threads.

    Returns:
        ``machine``, ``packages`` {name: version or None}, ``providers`` {name: {loads, reason, precisions}}, where a
        provider loads if it computes in fp32 and ``precisions`` has None or the reason why not for each that it is
        said to run, ``torch_devices``, ``advice`` (sentences).
    """
    packages = _packages()
    providers = {
        name: {"loads": reasons["fp32"] is None, "reason": reasons["fp32"], "precisions": reasons}
        for name, reasons in probed_providers().items()
    }
    machine = describe_machine() | {"gpus": _gpus()}
    report: dict[str, Any] = {
        "machine": machine,
        "packages": packages,
        "providers": providers,
        "torch_devices": _torch_devices(),
    }
    return report | {"advice": _advice(report)}


def _packages() -> dict[str, str | None]:
    """Installed version of each package that clip-toolkit's base and extras name."""
    found = {"clip-toolkit": _version("clip-toolkit")}
    try:
        requirements = distribution("clip-toolkit").requires or []
    except PackageNotFoundError:
        requirements = []
    for text in requirements:
        name, _, marker = text.partition(";")
        name = re.split(r"[^A-Za-z0-9._-]", name.strip(), maxsplit=1)[0]
        extra = re.search(r"extra == ['\"](\w+)", marker)
        if name != "clip-toolkit" and (extra is None or extra[1] in EXTRAS):
            found[name] = _version(name)
    if found.get("onnxruntime") or found.get("onnxruntime-gpu"):
        found = {name: has for name, has in found.items() if has or not name.startswith("onnxruntime")}
    return found


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _gpus() -> list[str]:
    """Names of NVIDIA GPUs that the driver lists."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, encoding="utf-8", timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in answer.stdout.splitlines() if line.strip()]


def _torch_devices() -> list[str]:
    """Devices that torch can compute on; asked in a process of its own, so that torch is not imported here."""
    if find_spec("torch") is None:
        return []
    script = "import torch; print(*(['cpu'] + [f'cuda:{i}' for i in range(torch.cuda.device_count())]))"
    answer = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, encoding="utf-8", timeout=120, check=False
    )
    return answer.stdout.split()


def _advice(report: dict[str, Any]) -> list[str]:
    advice = []
    packages, gpus = report["packages"], report["machine"]["gpus"]
    if packages.get("torch") is None:
        advice.append('fine-tuning and export need torch: pip install "clip-toolkit[train]"')
    if packages.get("elpv-dataset") is None:
        advice.append('toolkit data elpv needs its package: pip install "clip-toolkit[data]"')
    if _version("onnxruntime") and _version("onnxruntime-gpu"):
        advice.append("onnxruntime and onnxruntime-gpu overwrite each other: uninstall both, install one")
    cuda = report["providers"]["cuda"]
    if gpus and not cuda["loads"]:
        advice.append(f"a GPU is there, but the CUDA provider does not run ({cuda['reason']}): {INSTALL['cuda']}")
    if gpus and report["torch_devices"] == ["cpu"]:
        advice.append("a GPU is there, but torch is a CPU build: install torch from the CUDA index")
    quota, cores = report["machine"]["cpu_quota"], report["machine"]["cores"]
    if quota and cores and quota < cores:
        advice.append(
            f"the container may use {quota:g} of {cores} cores; "
            f"sessions here take {report['machine']['usable_cores']} threads"
        )
    return advice
