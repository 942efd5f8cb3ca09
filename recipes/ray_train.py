"""The recipe of ``finetune.py`` on a Ray cluster: the same YAML, the same run folder, the same bytes.

python recipes/ray_train.py --config recipes/configs/digits.yaml --out runs/digits --workers 2
python recipes/ray_train.py --config ... --out ... --workers 16 --address head:6379 --max-failures 3

Ray Train starts the processes and their group, which Accelerate joins; all else is ``finetune.py``'s. Run folder, data
and encoder lie where all nodes see them.
"""

from __future__ import annotations

import io
import os
import signal
import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Thread, current_thread, main_thread
from typing import Annotated, Any

import typer

from toolkit.command import run
from toolkit.errors import CheckFailed, Stopped, ToolkitError
from toolkit.recipe.origins import naming_origins
from toolkit.recipe.reading import leaves, load_recipe
from toolkit.recipe.recipe import Recipe
from toolkit.runtime.ray_cluster import connected, require_ray
from toolkit.user_paths import local_paths_only


@dataclass(frozen=True)
class Launch:
    """What every process is given."""

    recipe: Recipe
    out: Path
    folder: Path
    """That relative paths of the recipe are in."""
    resume: bool
    force: bool
    id: str
    """The same after a restart of the processes, which go on from the newest checkpoint then."""
    said: Any
    """A queue of Ray's, for the lines that the first process prints."""


class Lines(io.TextIOBase):
    """Where the first process prints to: each line goes to whoever launched it, who may not listen any more."""

    def __init__(self, queue: Any) -> None:
        self._queue, self._rest = queue, ""

    def write(self, text: str) -> int:
        """Send the lines that are complete."""
        from ray.exceptions import RayError

        *lines, self._rest = (self._rest + text).split("\n")
        with suppress(RayError):
            for line in lines:
                self._queue.put(line)
        return len(text)


def ray_train(
    recipe: Recipe,
    out: Path,
    *,
    workers: int,
    address: str | None = None,
    resume: bool = False,
    force: bool = False,
    max_failures: int = 0,
) -> dict[str, Any]:
    """Run a recipe on a Ray cluster; return the summary.

    Args:
        recipe: as for :func:`recipes.finetune.finetune`.
        out: the run folder.
        workers: processes; each has a GPU where the cluster has GPUs.
        address: of the cluster, ``host:port``; ``RAY_ADDRESS``, or a Ray of this machine, if None.
        resume: go on from the newest checkpoint there.
        force: remove the run that is there.
        max_failures: how often all processes start again, from the newest checkpoint, after one died.

    Raises:
        ToolkitError: Ray is not installed, no cluster answers or it is too small, or what the recipe raises.
        CheckFailed: a process died once more than that.
        Stopped: by Ctrl-C.
    """
    require_ray("recipes/ray_train.py", "ray.train")
    with (
        tempfile.TemporaryDirectory(prefix="clip-toolkit-ray-") as storage,
        connected(address),
        _printed() as said,
    ):
        from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer
        from ray.train.v2.api.exceptions import TrainingFailedError

        from toolkit.training.processes import PATIENCE

        gpus = _gpus(workers)
        launch = Launch(recipe, out.absolute(), Path.cwd(), resume, force, f"ray {uuid.uuid4().hex}", said)
        trainer = TorchTrainer(
            _work,
            train_loop_config={"launch": launch},
            scaling_config=ScalingConfig(num_workers=workers, use_gpu=gpus),
            torch_config=TorchConfig(backend="nccl" if gpus else "gloo", timeout_s=int(PATIENCE.total_seconds())),
            run_config=RunConfig(
                name="run",  # Ray's own notes, of which nothing is needed later
                storage_path=storage,
                failure_config=FailureConfig(max_failures=max_failures),
                logging_config=LoggingConfig(log_level="ERROR"),
            ),
        )
        try:
            with _ctrl_c_kept():
                answer = trainer.fit().return_value
        except (KeyboardInterrupt, SystemExit) as error:  # Ray makes the second of Ctrl-C
            raise Stopped("stopped; go on with the same command and --resume", signal.SIGINT) from error
        except TrainingFailedError as error:
            raise _in_words(error) from error
    if isinstance(answer, ToolkitError):
        raise answer
    return dict(answer)


def _in_words(error: Exception) -> ToolkitError | CheckFailed:
    """What made a training fail: a mistake of the user's, else a process that died, else one whose recipe raised.

    Of several, that of the lowest rank; the others fail of it, as they wait for that process.
    """

    def order(failure: tuple[int, Exception]) -> tuple[bool, bool, int]:
        rank, cause = failure
        died = type(cause).__module__.partition(".")[0] == "ray"  # it is Ray that says so
        return not isinstance(cause, ToolkitError), not died, rank

    failures: dict[int, Exception] = getattr(error, "worker_failures", {})
    rank, cause = min(failures.items(), key=order, default=(None, error))
    if isinstance(cause, ToolkitError):
        return cause
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    reason = ": ".join([type(cause).__name__, *lines[-1:]]).rstrip(".")
    who = "Ray Train" if rank is None else f"process {rank}"
    return CheckFailed(f"{who} failed: {reason}; go on with --resume")


@contextmanager
def _ctrl_c_kept() -> Iterator[None]:
    """Have Ctrl-C do afterwards what it did before: Ray Train leaves a handler of its own behind."""
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        if current_thread() is main_thread() and before is not None:  # in others Ray sets none; None is C's
            signal.signal(signal.SIGINT, before)


def _gpus(workers: int) -> bool:
    """Whether processes have GPUs.

    Raises:
        ToolkitError: there are not as many GPUs, or cores, as processes.
    """
    import ray

    there = ray.cluster_resources()
    kind = "GPU" if there.get("GPU") else "CPU"
    if there.get(kind, 0) < workers:
        what = f"{workers} workers need as many {kind}s, and the Ray cluster has {there.get(kind, 0):.0f}"
        raise ToolkitError(what, where="--workers", fix="lower it, or add nodes")
    return kind == "GPU"


@contextmanager
def _printed() -> Iterator[Any]:
    """A queue whose lines come out here; what else Ray's processes say stands in Ray's logs.

    It is on this node, as Ray Train's own controller is, so that only an end of this node ends it, and takes no
    worker's place. Where it ends all the same, nothing more is printed, and the training goes on.
    """
    import ray
    from ray.exceptions import RayError
    from ray.util.queue import Queue
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    queue = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})

    def print_lines() -> None:
        with suppress(RayError):
            while (line := queue.get()) is not None:
                sys.stderr.write(f"{line}\n")

    thread = Thread(target=print_lines, daemon=True)
    thread.start()
    try:
        yield queue
    finally:
        with suppress(RayError):
            queue.put(None)
            thread.join()
            queue.shutdown()


def _work(config: dict[str, Launch]) -> Any:
    """What each process does; Ray has set RANK, WORLD_SIZE and MASTER_ADDR, and has them meet.

    Returns:
        The summary, or a mistake that all processes know of: Ray would start them again if it were raised.
    """
    from recipes.finetune import finetune
    from toolkit.runs.launch import LAUNCH
    from toolkit.runs.run_folder import RunFolder

    launch = config["launch"]
    with suppress(OSError):  # a node may lack it, where the recipe's paths are absolute
        os.chdir(launch.folder)
    os.environ[LAUNCH] = launch.id
    resume = launch.resume or RunFolder(launch.out).launch() == launch.id
    try:
        with redirect_stderr(Lines(launch.said)) if os.environ["RANK"] == "0" else nullcontext():
            return finetune(launch.recipe, launch.out, resume=resume, force=launch.force)
    except ToolkitError as error:
        if not error.everywhere:  # others may still wait for this process
            raise
        return error


def main(
    config: Annotated[Path, typer.Option(help="Recipe, such as recipes/configs/digits.yaml.")],
    out: Annotated[Path, typer.Option(help="Run folder to write, where all nodes see it.")],
    workers: Annotated[int, typer.Option(min=1, help="Processes; each has a GPU where the cluster has GPUs.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="section.key=value")] = None,
    address: Annotated[
        str | None,
        typer.Option(help="host:port of the Ray cluster.", show_default="RAY_ADDRESS, or a Ray of this machine"),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint in OUT.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Remove the run that is in OUT already and start anew.")
    ] = False,
    max_failures: Annotated[int, typer.Option(min=0, help="Restarts after a process died.")] = 0,
) -> None:
    """Fine-tune on a Ray cluster, and print where the run lies and what to type next."""
    recipe = load_recipe(config, overrides or ())
    with naming_origins(config, overrides or (), leaves(recipe)):
        summary = ray_train(
            recipe, out, workers=workers, address=address, resume=resume, force=force, max_failures=max_failures
        )
    from toolkit.training.setup import print_summary

    print_summary(summary, out)


if __name__ == "__main__":
    app = typer.Typer(name="ray_train.py", add_completion=False, pretty_exceptions_enable=False)
    app.command()(local_paths_only(main))
    run(app)
