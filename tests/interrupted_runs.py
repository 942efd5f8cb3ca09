"""What must be equal between a run that was interrupted and one that was not, and how to make the first."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from toolkit.files import sha256_of
from toolkit.runs.run_folder import RunFolder
from toolkit.training.checkpoints import checkpoints_in

EVERY_STEP = {"checkpoint_every": 1, "keep_last": 1000}


def outcome_of(run: Path) -> dict[str, Any]:
    """All that must be equal between two runs: hashes of weights and moments, and the metrics without times."""
    files = [run / "best" / "model.safetensors", *sorted(run.glob("checkpoints/*/*.safetensors"))]
    return {
        "files": {str(file.relative_to(run)): sha256_of(file) for file in files},
        "metrics": RunFolder(run).history(times=False),
        "test": json.loads((run / "summary.json").read_text())["test"],
    }


def cut_back(run: Path, step: int, to: Path) -> None:
    """What lay on the disk when a run was killed after ``step``, with later metrics, other best weights and no end."""
    shutil.copytree(run, to)
    summary = json.loads((to / "summary.json").read_text())
    if step < summary["best_epoch"] * summary["steps"] // summary["epochs"]:
        (to / "best" / "model.safetensors").write_bytes(b"of an earlier epoch")
    for checkpoint in checkpoints_in(to / "checkpoints"):
        if int(checkpoint.name[5:]) > step:
            shutil.rmtree(checkpoint)
    (to / "summary.json").unlink()
    with (to / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 3, "split": "tr')
