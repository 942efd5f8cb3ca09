"""The run folder: everything that a run leaves behind."""

from __future__ import annotations

import json
import platform
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from toolkit.errors import ToolkitError
from toolkit.files import explain_os_errors, recover_interrupted_writes, refuse_existing, sync, write_bytes, write_json
from toolkit.lock import LOCK, lock
from toolkit.models.tensor_files import difference, load_tensors, save_tensors
from toolkit.recipe.recipe import Recipe
from toolkit.runs.launch import Worker, launch_id
from toolkit.runtime.machine import describe_machine
from toolkit.strict_json import read_json
from toolkit.strict_yaml import read_yaml

LEFT_BY_A_START = re.compile(rf"{re.escape(LOCK)}|\.(recipe\.yaml|environment\.json)\.partial-.*")
TIMES = frozenset({"epoch_seconds", "images_per_second", "data_wait_share", "time_shares", "worker_seconds"})
"""Keys of ``metrics.jsonl`` that differ between two runs that compute the same."""
LIBRARIES = ("clip-toolkit", "torch", "transformers", "accelerate", "safetensors", "numpy", "pillow", "torchmetrics")


class RunFolder:
    """Paths and files of one run; see the README for the layout."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.best = path / "best"
        self.checkpoints = path / "checkpoints"
        self._metrics = path / "metrics.jsonl"
        self._counted = (0, 0)
        """Bytes of it whose lines were counted, and how many these are."""
        self._fine_tuned = path / "fine_tuned.safetensors"
        self._trunk = path / "trunk.json"

    def refuse_if_taken(self, *, replace: bool) -> None:
        """Raise if something else than a run is here, or a run that is not to be replaced or resumed.

        What a killed start leaves behind, the lock and half-written files of ours, doesn't count.
        """
        with explain_os_errors(self.path):
            there = self.path.is_dir()
        if there and all(LEFT_BY_A_START.fullmatch(child.name) for child in self.path.iterdir()):
            return
        refuse_existing(self.path, what="run", marker="recipe.yaml", replace=replace)

    def lock(self) -> AbstractContextManager[None]:
        """Keep other runs out of the folder until this one ends, however it ends."""
        return lock(self.path, what="another run is writing here")

    def prepare(
        self, recipe: Recipe, workers: Sequence[Worker], *, resume: bool, trunk: dict[str, Any] | None = None
    ) -> None:
        """Empty the folder unless a run goes on in it, and write the resolved recipe and the environment.

        Args:
            recipe: the resolved recipe.
            workers: the processes that share the run.
            resume: whether a run that is here goes on.
            trunk: what a trunk of the run's own says of itself, for :meth:`trunk`; a run that goes on keeps its.

        Raises:
            ToolkitError: a run is to be resumed that another recipe wrote, or nothing can be written here.
        """
        if resume and self.is_run() and not recipe.equals(self._resolved()):
            fix = f"resume with --config {self.path / 'recipe.yaml'} and no overrides, or start without --resume"
            raise ToolkitError("the run was started with another recipe", where=self.path / "recipe.yaml", fix=fix)
        with explain_os_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            for folder in (self.path, self.checkpoints):
                recover_interrupted_writes(folder)
            if not resume:
                for child in self.path.iterdir():
                    if child.name != LOCK:
                        shutil.rmtree(child) if child.is_dir() and not child.is_symlink() else child.unlink()
            write_bytes(self.path / "recipe.yaml", recipe.as_yaml().encode())
            settings = {
                "processes": len(workers),
                "torch_threads": torch.get_num_threads(),
                "tf32_convolutions": torch.backends.cudnn.allow_tf32,
                "workers": [worker.model_dump() for worker in workers],
                "launch": launch_id(),
            }
            write_json(self.path / "environment.json", environment() | settings)
            if trunk is not None and not self._trunk.exists():
                write_json(self._trunk, trunk)
            self._metrics.touch()

    def was_prepared_before(self, workers: Sequence[Worker]) -> bool:
        """Whether a launcher of any of these workers had started others before, which got as far as here."""
        try:
            written = read_json((self.path / "environment.json").read_bytes())
            others = [Worker.model_validate(other) for other in written["workers"]]
        except (OSError, ValueError, LookupError, TypeError):  # none, damaged, or of an earlier version
            return False
        return any(worker.follows(other) for worker in workers for other in others)

    def launch(self) -> str | None:
        """What a recipe that launches processes called the launch that prepared the folder; None if none did."""
        try:
            written = read_json((self.path / "environment.json").read_bytes())
        except (OSError, ValueError):
            return None
        return written.get("launch") if isinstance(written, dict) else None

    def chose_cache(self) -> bool | None:
        """Whether the run that was started here has a boundary cache; None where none was."""
        if not self.is_run():
            return None
        try:
            return self._resolved()["training"]["boundary_cache"]["enabled"] is True  # type: ignore[no-any-return]
        except (ToolkitError, LookupError, TypeError):
            return None  # damaged, which prepare() says

    def log(self, entry: dict[str, Any]) -> None:
        """Append one line to ``metrics.jsonl``."""
        with explain_os_errors(self._metrics), self._metrics.open("a", encoding="utf-8", newline="\n") as file:
            file.write(json.dumps(entry, allow_nan=False) + "\n")

    def lines_logged(self) -> int:
        """Whole lines in ``metrics.jsonl``, which are on the disk when this returns."""
        sync(self._metrics)
        start, lines = self._counted
        with self._metrics.open("rb") as file:
            file.seek(start)
            added = file.read()
        self._counted = (start + len(added), lines + added.count(b"\n"))
        return self._counted[1]

    def history(self, *, times: bool = True) -> list[dict[str, Any]]:
        """All lines of ``metrics.jsonl``, with or without what differs between equal runs."""
        entries = [json.loads(line) for line in self._metrics.read_text("utf-8").splitlines()]
        return entries if times else [{key: entry[key] for key in entry if key not in TIMES} for entry in entries]

    def keep_history(self, lines: int) -> None:
        """Drop all but the first ``lines`` lines; a resumed run writes the rest again."""
        kept = self._metrics.read_bytes().splitlines(keepends=True)[:lines]
        write_bytes(self._metrics, b"".join(kept))
        self._counted = (0, 0)

    def trunk(self) -> dict[str, Any] | None:
        """What the run's own trunk says of itself; None where none was prepared.

        Raises:
            ToolkitError: the file is damaged.
        """
        try:
            content = read_json(self._trunk.read_bytes())
            if not isinstance(content, dict):
                raise ValueError("it is no JSON object")
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            fix = "start the run anew, without --resume"
            raise ToolkitError(f"damaged description of the trunk: {error}", where=self._trunk, fix=fix) from error
        return content

    def fine_tuned(self, original: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
        """The encoder's weights before they were mixed with the original ones; None where nothing was mixed yet.

        Raises:
            ToolkitError: the file is damaged, or does not hold what ``original`` does.
        """
        try:
            weights = load_tensors(self._fine_tuned)
            wrong = difference(weights, original)
            if wrong:
                raise ValueError(wrong)
            return weights
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            fix = "start the run anew, without --resume"
            raise ToolkitError(f"damaged weights: {error}", where=self._fine_tuned, fix=fix) from error

    def keep_fine_tuned(self, weights: dict[str, Tensor]) -> None:
        """Write what :meth:`fine_tuned` gives, whole or not at all."""
        partial = self._fine_tuned.with_name(f".{self._fine_tuned.name}.partial-0")
        with explain_os_errors(self._fine_tuned):
            save_tensors(partial, weights)
            sync(partial)
            partial.replace(self._fine_tuned)

    def drop_fine_tuned(self) -> None:
        """Remove it, since ``best/`` is about to hold other fine-tuned weights."""
        self._fine_tuned.unlink(missing_ok=True)

    def is_run(self) -> bool:
        """Whether a run was started here."""
        return (self.path / "recipe.yaml").is_file()

    def _resolved(self) -> Any:
        """The resolved recipe, read."""
        try:
            return read_yaml(self.recipe_text())
        except ValueError as error:
            fix = "copy the run again, or start without --resume"
            raise ToolkitError(f"damaged recipe: {error}", where=self.path / "recipe.yaml", fix=fix) from error

    def recipe_text(self) -> str:
        """The resolved recipe as it was written.

        Raises:
            ToolkitError: no run here.
        """
        path = self.path / "recipe.yaml"
        if not self.is_run():
            raise ToolkitError(
                "no run folder: recipe.yaml is missing", where=self.path, fix="give a folder that finetune.py wrote"
            )
        return path.read_text("utf-8")


def environment() -> dict[str, Any]:
    """Machine, command line and library versions."""
    return {
        "command": sys.argv,
        "python": platform.python_version(),
        "libraries": {name: _version(name) for name in LIBRARIES},
        "machine": describe_machine(),
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
