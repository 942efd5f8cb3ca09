"""The acceptance on a GPU, in stages that each write JSON and go on after a failure.

    make gpu                                     or   python -m benchmarks.gpu [--only NAME,NAME] [--out DIR]
    make gpu GPU=--dry                           every stage rehearsed on a CPU at small size, in under two minutes
    make gpu GPU="--wheels DIR" PYTHON=python3   on a machine of other versions, with what it lacks as wheels in DIR

Correctness comes first, so that a time that runs out takes speed alone. A stage that fails, hangs or kills its process
is written down as failed and the next one starts in a fresh process. Where the machine's packages are outside
pyproject.toml's ranges, that is written down (``set_aside`` of the first stage) and not refused. Where a call may not
last so long, ``--only`` takes the stages apart, and ``--work DIR`` keeps what they share. Exit code 1 if one failed.
Takes about 25 minutes on an H100; writes benchmarks/results/gpu/, summary.json and table.md last.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.stages import SECONDS, STAGES
from benchmarks.gpu.table import write_table

ROOT = Path(__file__).parents[2]
RESULTS = Path(__file__).parents[1] / "results" / "gpu"
DRY_RESULTS = Path("gpu-dry")
PATIENCE = 5
"""Times its limit that a rehearsed stage may take, beside whatever else runs on a machine without a GPU."""


def main() -> int:
    """Run the stages; 1 if one of them failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry", action="store_true", help="rehearse on the CPU at small size")
    parser.add_argument("--only", help=f"of {', '.join(STAGES)}")
    parser.add_argument("--out", type=Path, help="folder of the JSON; benchmarks/results/gpu, or gpu-dry here")
    parser.add_argument("--work", type=Path, help="folder that keeps encoders, runs and bundles for the next call")
    parser.add_argument("--wheels", type=Path, help="folder of wheels to put before the machine's packages")
    given = parser.parse_args()
    wanted = given.only.split(",") if given.only else list(STAGES)
    unknown = set(wanted) - set(STAGES)
    if unknown:
        parser.error(f"no stage {', '.join(sorted(unknown))}; there are {', '.join(STAGES)}")
    out = (given.out or (DRY_RESULTS if given.dry else RESULTS)).absolute()
    out.mkdir(parents=True, exist_ok=True)
    for name in wanted:
        (out / f"{name}.json").unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix="clip-toolkit-gpu-") as own:
        work = (given.work or Path(own)).absolute()
        work.mkdir(parents=True, exist_ok=True)
        paths = [str(ROOT)]
        if given.wheels:
            paths.insert(0, str(installed(given.wheels, work / "site")))
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")])}
        run_stages(wanted, out, work, dry=given.dry, environment=environment)
    records = {name: json.loads((out / f"{name}.json").read_text("utf-8")) for name in wanted}
    summary = {name: {key: record[key] for key in ("ok", "seconds", "error")} for name, record in records.items()}
    (out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n", "utf-8")
    write_table(records, out / "table.md")
    print((out / "table.md").read_text("utf-8"))
    return int(not all(record["ok"] for record in records.values()))


def installed(wheels: Path, site: Path) -> Path:
    """Wheels in a folder of their own, which stands before the machine's packages; nothing is fetched for them."""
    files = sorted(map(str, wheels.glob("*.whl")))
    options = ["--quiet", "--no-index", "--no-deps", "--no-compile", "--upgrade", "--target", str(site)]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, *files], check=True)
    return site


def run_stages(wanted: Sequence[str], out: Path, work: Path, *, dry: bool, environment: dict[str, str]) -> None:
    """Run stages in a process that goes on from one to the next, and in a fresh one after each that fails."""
    left = list(wanted)
    while left:
        options = ["--dry"] if dry else []
        command = [sys.executable, "-m", "benchmarks.gpu.worker", *options, str(out), str(work), *left]
        started = time.monotonic()
        with (work / "log").open("w+", encoding="utf-8") as log:
            worker = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=ROOT, env=environment)
            reason = followed(worker, left, out, started, patience=PATIENCE if dry else 1)
            log.seek(0)
            last = "\n".join(log.read().splitlines()[-30:])
        if reason is not None:
            failed(left.pop(0), out, f"{reason}\n{last}", time.monotonic() - started)


def followed(
    worker: subprocess.Popen[bytes], left: list[str], out: Path, started: float, *, patience: int
) -> str | None:
    """Take the stages that a worker has done from ``left``; what ended the first of the others, if anything did."""
    told = False
    while True:
        ended = worker.poll() is not None
        while left and (out / f"{left[0]}.json").exists():
            record: dict[str, Any] = json.loads((out / f"{left[0]}.json").read_text("utf-8"))
            told = not record["ok"]
            print(f"{left.pop(0):16} {'ok' if record['ok'] else 'FAILED'} in {record['seconds']:.0f} s", flush=True)
            started = time.monotonic()
        if ended or not left:
            worker.wait()
            return (
                None if not left or (told and worker.returncode == 1) else f"the process ended with {worker.returncode}"
            )
        limit = patience * SECONDS[left[0]]
        if time.monotonic() - started > limit:
            worker.kill()
            worker.wait()
            return f"it took more than {limit} s"
        time.sleep(0.2)


def failed(name: str, out: Path, reason: str, seconds: float) -> None:
    """Write the record of a stage that could not write its own."""
    print(f"{name:16} FAILED: {reason.splitlines()[0]}", flush=True)
    record = {"stage": name, "ok": False, "seconds": seconds, "error": reason, "found": {}}
    (out / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    sys.exit(main())
