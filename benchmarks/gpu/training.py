"""Training in each precision, killed and resumed, in a process group, and how many images a second."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.gpu.setting import Setting, StageError

ROOT = Path(__file__).parents[2]
MEMORY = ("peak_memory_bytes", "peak_device_bytes", "boundary_cache_on_device")
SHOWN = ("steps", "seconds", "time_shares", *MEMORY, "effective_batch", "advice")
RESUMED_TOLERANCE = 0.05
"""Relative difference of the last loss between a straight run and one that was killed: sums on a GPU have no fixed
order, and a few steps amplify it."""
FSDP = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
    "FSDP_ACTIVATION_CHECKPOINTING": "false",
}
"""What ``accelerate launch --config_file recipes/accelerate/fsdp2.yaml`` sets."""


def precisions(setting: Setting) -> dict[str, Any]:
    """fp32, bf16 and fp16, with accumulation, clipping and a running average."""
    from recipes.finetune import finetune

    everything = {"gradient_accumulation": 2, "max_gradient_norm": 1.0, "ema_decay": 0.9}
    runs: dict[str, Any] = {
        "bf16, cached": {"mixed_precision": "bf16", "boundary_cache": {"enabled": True}},
        "bf16, accumulated, clipped, averaged": {"mixed_precision": "bf16"} | everything,
    }
    if not setting.dry:  # a CPU has no fp16 training, and has trained in fp32 for the other stages
        runs |= {
            "fp16, accumulated, clipped, averaged": {"mixed_precision": "fp16"} | everything,
            "fp32": {"mixed_precision": "no"},
        }
    found: dict[str, Any] = {}
    for place, (name, training) in enumerate(runs.items()):
        recipe = setting.recipe(training={"epochs": setting.of(1, 2)} | training)
        summary = finetune(recipe, setting.work / f"training-{place}", force=True)
        lines = (setting.work / f"training-{place}" / "metrics.jsonl").read_text("utf-8").splitlines()
        losses = [entry["loss"] for entry in map(json.loads, lines) if entry["split"] == "train" and "loss" in entry]
        found[name] = {key: summary.get(key) for key in SHOWN} | {"losses": losses, "test": summary["test"]["accuracy"]}
        if not losses or not all(map(math.isfinite, losses)):
            raise StageError(f"{name}: losses are {losses}", found)
    return found


def kill_and_resume(setting: Setting) -> dict[str, Any]:
    """A run that is killed within an epoch and goes on, beside one that is not."""
    from recipes.finetune import finetune

    recipe = setting.recipe(training={"epochs": 2, "mixed_precision": "bf16", "checkpoint_every": 2, "batch_size": 8})
    config = setting.work / "resume.yaml"
    config.write_text(recipe.as_yaml(), "utf-8")
    straight, killed = setting.work / "straight", setting.work / "killed"
    command = [sys.executable, str(ROOT / "recipes" / "finetune.py"), "--config", str(config), "--out"]
    finetune(recipe, straight, force=True)
    process = subprocess.Popen([*command, str(killed)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT)
    deadline = time.monotonic() + 120
    while not list(killed.glob("checkpoints/step-*[2-9]")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    at = sorted(path.name for path in killed.glob("checkpoints/step-*"))
    done = subprocess.run([*command, str(killed), "--resume"], capture_output=True, text=True, check=False, cwd=ROOT)
    found: dict[str, Any] = {"killed_at": at, "killed_in_time": not (killed / "summary.json").exists() or bool(at)}
    if done.returncode:
        raise StageError(f"--resume failed: {done.stderr[-2000:]}", found)
    summaries = [json.loads((folder / "summary.json").read_text("utf-8")) for folder in (straight, killed)]
    losses = [summary["train"]["loss"] for summary in summaries]
    found |= {"train_loss": losses, "steps": [summary["steps"] for summary in summaries]}
    if summaries[0]["steps"] != summaries[1]["steps"]:
        raise StageError("the resumed run made another number of steps", found)
    if abs(losses[1] / losses[0] - 1) > RESUMED_TOLERANCE:
        raise StageError(f"the resumed run ends at another loss: {losses}", found)
    return found


def processes(setting: Setting) -> dict[str, Any]:
    """DDP and FSDP 2 in a process group of one."""
    found: dict[str, Any] = {}
    kinds: dict[str, dict[str, str]] = {"ddp": {}, "fsdp2": FSDP}
    config = setting.work / "processes.yaml"
    precision = "bf16"
    config.write_text(setting.recipe(training={"mixed_precision": precision}).as_yaml(), "utf-8")
    for kind, variables in kinds.items():
        out = setting.work / kind
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=1"]
        script = [str(ROOT / "recipes" / "finetune.py"), "--config", str(config), "--out", str(out)]
        done = subprocess.run(
            [sys.executable, *launcher, *script],
            capture_output=True,
            text=True,
            check=False,
            cwd=ROOT,
            env=os.environ | variables,
        )
        if done.returncode:
            raise StageError(f"{kind}: {done.stdout[-1500:]}{done.stderr[-1500:]}", found)
        summary = json.loads((out / "summary.json").read_text("utf-8"))
        said = [line for line in (done.stdout + done.stderr).splitlines() if "process" in line]
        found[kind] = {key: summary.get(key) for key in SHOWN} | {"loss": summary["train"]["loss"], "said": said[:3]}
    difference = abs(found["fsdp2"]["loss"] / found["ddp"]["loss"] - 1)
    if difference > RESUMED_TOLERANCE:
        raise StageError(f"the same run sharded ends elsewhere: {difference:.1%}", found)
    return found


def images_a_second(setting: Setting) -> dict[str, Any]:
    """Training images a second with and without the boundary cache, in the last of some epochs."""
    from recipes.finetune import finetune

    found: dict[str, Any] = {}
    for last in setting.of((2,), (0, 2)):
        for cached in (False, True):
            name = f"{last} layers learn, {'cached' if cached else 'images read'}"
            training = {"epochs": setting.of(1, 3), "mixed_precision": "bf16", "boundary_cache": {"enabled": cached}}
            out = setting.work / f"speed-{last}-{cached}"
            summary = finetune(setting.recipe(training=training, last=last), out, force=True)
            entries = [json.loads(line) for line in (out / "metrics.jsonl").read_text("utf-8").splitlines()]
            epochs = [entry for entry in entries if entry["split"] == "train" and "images_per_second" in entry]
            found[name] = {
                "images_per_second": epochs[-1]["images_per_second"],
                "time_shares": summary["time_shares"],
                "caching_seconds": summary["seconds"]["caching"],
            }
    return found
