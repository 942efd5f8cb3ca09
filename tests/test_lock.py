from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from recipes.finetune import finetune
from toolkit.errors import ToolkitError
from toolkit.lock import lock
from toolkit.recipe.recipe import Recipe

HOLD = """
import sys, time
from pathlib import Path
from toolkit.lock import lock
with lock(Path(sys.argv[1]), what="another run is writing here"):
    print("held", flush=True)
    time.sleep(600)
"""
HOLD_WITH_A_CHILD = """
import os, sys, time
from pathlib import Path
from toolkit.lock import lock
with lock(Path(sys.argv[1]), what="another run is writing here"):
    if os.fork() == 0:
        for line in sys.stdin:
            print("child heard", line, end="", flush=True)
        os._exit(0)
    print("held", flush=True)
    time.sleep(600)
"""
COUNT = """
import sys, time
from pathlib import Path
from toolkit.lock import TakenError, lock
folder, times = Path(sys.argv[1]), int(sys.argv[2])
for _ in range(times):
    while True:
        try:
            with lock(folder, what="another counter counts"):
                count = int((folder / "count").read_text())
                time.sleep(0.001)
                (folder / "count").write_text(str(count + 1))
            break
        except TakenError:
            time.sleep(0.001)
"""


@contextmanager
def started(script: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def take(tmp_path: Path) -> Callable[[], None]:
    """Take the lock of a folder that is not there yet, and give it back."""

    def take() -> None:
        with lock(tmp_path / "deep" / "run", what="another run is writing here"):
            pass

    return take


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().rstrip("\n")


def test_a_second_process_cannot_take_it_until_the_first_gives_it_back(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "run"
    with lock(folder, what="another run is writing here"), started(HOLD, folder) as second:
        _, errors = second.communicate()
        assert second.returncode == 1
        assert "TakenError: another run is writing here already" in errors
        assert str(folder) in errors
    with started(HOLD, folder) as third:
        assert line_of(third) == "held"


@pytest.mark.parametrize("script", [HOLD, HOLD_WITH_A_CHILD], ids=["alone", "with_a_child_that_lives_on"])
def test_it_is_free_once_its_holder_was_killed(script: str, tmp_path: Path, take: Callable[[], None]) -> None:
    with started(script, tmp_path / "deep" / "run") as holder:
        assert line_of(holder) == "held"
        with pytest.raises(ToolkitError, match="another run is writing here already"):
            take()
        holder.kill()
        holder.wait()
        take()
        if script is HOLD_WITH_A_CHILD:
            assert holder.stdin is not None
            print("you live", file=holder.stdin, flush=True)
            assert line_of(holder) == "child heard you live"


def test_an_error_inside_gives_it_back(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), lock(tmp_path, what="another run is writing here"):
        raise ZeroDivisionError
    with started(HOLD, tmp_path) as other:
        assert line_of(other) == "held"


def test_processes_that_try_again_take_turns(tmp_path: Path) -> None:
    (tmp_path / "count").write_text("0")
    with started(COUNT, tmp_path, 40) as one, started(COUNT, tmp_path, 40) as two:
        for process in (one, two):
            _, errors = process.communicate()
            assert process.returncode == 0, errors
    assert (tmp_path / "count").read_text() == "80"


def test_a_run_waits_for_another_that_fills_the_same_cache(
    make_recipe: Callable[..., Recipe], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = {"enabled": True, "dir": tmp_path / "cache"}
    recipe = make_recipe(training={"epochs": 1, "boundary_cache": cache})
    finetune(recipe, tmp_path / "first")
    (folder,) = (tmp_path / "cache").iterdir()
    with started(HOLD, folder) as other:
        assert line_of(other) == "held"
        ends = threading.Timer(2, other.kill)
        ends.start()
        finetune(recipe, tmp_path / "second")
    assert "another run fills this cache: waiting for it" in capsys.readouterr().err
    assert json.loads((tmp_path / "second" / "summary.json").read_text())["seconds"]["caching"] > 1


def test_a_folder_that_cannot_be_made_is_the_users_to_mend(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ToolkitError, match="can't write here"), lock(tmp_path / "file" / "run", what="another run"):
        pass
