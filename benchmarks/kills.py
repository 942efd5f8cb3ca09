"""Kill runs with SIGKILL at random moments and while a checkpoint is being written; resume; compare every byte.

    python -m benchmarks.kills [--kills 30] [--seed 0]

A third of the kills waits for a checkpoint's half-written folder; the others come at a random
moment between the first file of the run folder and its end. One process and two, with the
boundary cache and without, take turns. Each killed run is resumed with the same command and
``--resume`` and must equal the run that was never stopped: weights, optimiser, metrics (their
times aside). Writes benchmarks/results/kills.json; takes about fifteen minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import yaml

from toolkit.data.digits import write_digits
from toolkit.files import sha256_of, write_json
from toolkit.runs.run_folder import RunFolder
from toolkit.runtime.machine import describe_machine

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "kills.json"
SCRIPT = ROOT / "recipes" / "finetune.py"


def recipe(data: Path, processes: int, *, cached: bool) -> dict[str, Any]:
    """Three epochs of thirteen steps; a step is four micro-batches, so that kills fall inside its window."""
    return {
        "data": {"path": str(data), "augment": ["crop"]},
        "model": {"encoder": "tiny-clip", "unfreeze_last": 1},
        "training": {
            "epochs": 3,
            "batch_size": 24,
            "learning_rate": 1e-3,
            "gradient_accumulation": 4 // processes,
            "checkpoint_every": 2,
            "boundary_cache": {"enabled": cached, "views": 2 if cached else 1},
        },
        "tracking": {"trackers": [], "log_every": 3},
    }


def start(config: Path, out: Path, processes: int, *, resume: bool) -> subprocess.Popen[bytes]:
    """Launch the recipe in a process group of its own."""
    launcher = (
        [] if processes == 1 else ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    )
    command = [sys.executable, *launcher, str(SCRIPT), "--config", str(config), "--out", str(out)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with out.with_suffix(".log").open("ab") as log:
        return subprocess.Popen(
            command + ["--resume"] * resume, stdout=log, stderr=log, start_new_session=True, env=environment
        )


def wait_for_start(process: subprocess.Popen[bytes], out: Path) -> None:
    """Wait for the run folder's first file."""
    while not (out / "recipe.yaml").exists():
        if process.poll() is not None:
            sys.exit(f"the run ended before it began:\n{out.with_suffix('.log').read_text()}")
        time.sleep(0.002)


def outcome_of(run: Path) -> dict[str, Any]:
    """Everything that must be equal: hashes of weights and optimiser, and the metrics without their times."""
    files = [run / "best" / "model.safetensors", *sorted(run.glob("checkpoints/*/*.safetensors"))]
    summary = json.loads((run / "summary.json").read_text())
    return {
        "files": {str(file.relative_to(run)): sha256_of(file) for file in files},
        "metrics": RunFolder(run).history(times=False),
        "test": summary["test"],
    }


def kill_all(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL to the launcher and to its workers, which have process groups of their own."""
    launcher = psutil.Process(process.pid)
    everyone = [launcher, *launcher.children(recursive=True)]
    for each in everyone:
        each.kill()
    process.wait()
    psutil.wait_procs(everyone)


def kill(process: subprocess.Popen[bytes], out: Path, moment: float | None) -> str | None:
    """Kill the group at a moment, or while a checkpoint is being written; what was going on, None if it had ended."""
    wait_for_start(process, out)
    began, seen = time.perf_counter(), 0
    wanted = random.randint(1, 12)  # which of the checkpoints
    while process.poll() is None:
        partial = list((out / "checkpoints").glob(".step-*.partial-*")) if (out / "checkpoints").exists() else []
        if moment is None and partial:
            seen += 1
            if seen == wanted:
                kill_all(process)
                left = [path.name for path in (out / "checkpoints").glob(".step-*")]
                return f"writing {left[0]}" if left else "just written"
            while any((out / "checkpoints").glob(".step-*.partial-*")) and process.poll() is None:
                pass
        elif moment is not None and time.perf_counter() - began > moment:
            kill_all(process)
            return f"after {moment:.2f} s"
    return None


def main() -> None:
    """Run, kill, resume, compare; exit with 1 if a single run differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    random.seed(arguments.seed)
    rows, straight, seconds = [], {}, {}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        write_digits(work / "digits")
        kinds = [(processes, cached) for cached in (False, True) for processes in (1, 2)]
        for kind in kinds:
            processes, cached = kind
            config = work / f"{processes}-{cached}.yaml"
            config.write_text(yaml.safe_dump(recipe(work / "digits", processes, cached=cached)))
            process = start(config, work / config.stem, processes, resume=False)
            wait_for_start(process, work / config.stem)
            began = time.perf_counter()
            assert process.wait() == 0, (work / f"{config.stem}.log").read_text()
            seconds[kind], straight[kind] = time.perf_counter() - began, outcome_of(work / config.stem)
        attempts = 0
        while len(rows) < arguments.kills:
            kind, writing = kinds[len(rows) % 4], len(rows) % 3 == 0
            processes, cached = kind
            config, out = work / f"{processes}-{cached}.yaml", work / f"killed-{attempts}"
            attempts += 1
            process = start(config, out, processes, resume=False)
            happened = kill(process, out, None if writing else random.uniform(0, seconds[kind]))
            if happened is None or (writing and "partial" not in happened):
                continue  # it had ended, or the checkpoint had: try again
            lines = (out / "metrics.jsonl").read_text().count("\n") if (out / "metrics.jsonl").exists() else 0
            again = start(config, out, processes, resume=True)
            code = again.wait()
            exact = code == 0 and outcome_of(out) == straight[kind]
            row = {"processes": processes, "boundary_cache": cached, "killed": happened, "lines_logged": lines}
            rows.append(row | {"while_writing_a_checkpoint": writing, "exact": exact, "exit_code": code})
            print(rows[-1], flush=True)
            write_results(rows, arguments.seed)
            if not exact:
                print(out.with_suffix(".log").read_text()[-3000:], flush=True)
    exact = sum(row["exact"] for row in rows)
    print(f"{exact} of {len(rows)} resumes exact")
    sys.exit(exact != len(rows))


def write_results(rows: list[dict[str, Any]], seed: int) -> None:
    """Write what is known so far."""
    counts = {
        "kills": len(rows),
        "while_writing_a_checkpoint": sum(row["while_writing_a_checkpoint"] for row in rows),
        "exact_resumes": sum(row["exact"] for row in rows),
    }
    write_json(RESULTS, {"machine": describe_machine(), "seed": seed} | counts | {"rows": rows})


if __name__ == "__main__":
    main()
